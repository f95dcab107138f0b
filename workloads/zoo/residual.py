"""Residual networks: ResNet-18, -34 and -50 for ImageNet, ResNet-164 (pre-activation) for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..layers import Layer
from .graph_builder import GraphBuilder, Tensor, input_image
from .model import Model, class_count, image_size

#: Inner width of the four stages (He et al., CVPR 2016, table 1).
_WIDTHS = (64, 128, 256, 512)
#: Outputs of a bottleneck block per inner channel.
_EXPANSION = 4
_PREACTIVATION_WIDTHS = (16, 32, 64)
_PREACTIVATION_BLOCKS = 18


def resnet(*, blocks: Sequence[int], bottleneck: bool, stride_on: int, image: int, classes: int) -> tuple[Layer, ...]:
    """ResNet for ImageNet.

    Parameters
    ----------
    blocks : per stage.
    bottleneck : 1x1-3x3-1x1 blocks instead of 3x3-3x3.
    stride_on : which convolution of a stage's first block halves the image: 1, or 2 for bottlenecks of version 1.5.
    """
    graph = GraphBuilder()
    x = graph.conv("conv1", input_image(image), K=64, R=7, stride=2)
    x = graph.pool("maxpool", x, R=3, stride=2, padding=1)
    for stage, (width, count) in enumerate(zip(_WIDTHS, blocks, strict=True)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"layer{stage + 1}.{block}"
            if bottleneck:
                x = _bottleneck(graph, name, x, width=width, stride=stride, stride_on=stride_on)
            else:
                x = _basic_block(graph, name, x, width=width, stride=stride)
    graph.linear("fc", graph.global_mean("gap", x), classes)
    return graph.layers


def _basic_block(graph: GraphBuilder, name: str, x: Tensor, *, width: int, stride: int) -> Tensor:
    y = graph.conv(f"{name}.conv1", x, K=width, R=3, stride=stride)
    y = graph.conv(f"{name}.conv2", y, K=width, R=3, activation="none")
    return _rectified_sum(graph, name, y, x, stride=stride)


def _bottleneck(graph: GraphBuilder, name: str, x: Tensor, *, width: int, stride: int, stride_on: int) -> Tensor:
    strides = (stride, 1) if stride_on == 1 else (1, stride)
    y = graph.conv(f"{name}.conv1", x, K=width, R=1, stride=strides[0])
    y = graph.conv(f"{name}.conv2", y, K=width, R=3, stride=strides[1])
    y = graph.conv(f"{name}.conv3", y, K=_EXPANSION * width, R=1, activation="none")
    return _rectified_sum(graph, name, y, x, stride=stride)


def _rectified_sum(graph: GraphBuilder, name: str, y: Tensor, x: Tensor, *, stride: int) -> Tensor:
    """The block's result plus its input, which a 1x1 convolution fits where the shapes differ."""
    if stride != 1 or x.C != y.C:
        x = graph.conv(f"{name}.downsample", x, K=y.C, R=1, stride=stride, activation="none")
    return graph.add(f"{name}.add", y, x, activation="relu")


def resnet_preactivation(*, image: int, classes: int) -> tuple[Layer, ...]:
    """ResNet-164: three stages of 18 bottlenecks, batch normalisation and ReLU in front of every convolution."""
    graph = GraphBuilder()
    x = graph.conv("conv1", input_image(image), K=16, R=3, norm=None, activation="none")
    for stage, width in enumerate(_PREACTIVATION_WIDTHS):
        for block in range(_PREACTIVATION_BLOCKS):
            x = _preactivation_block(graph, f"layer{stage + 1}.{block}", x, width=width, first=(stage, block))
    x = graph.batch_norm("bn", x)
    graph.linear("fc", graph.global_mean("gap", x), classes)
    return graph.layers


def _preactivation_block(graph: GraphBuilder, name: str, x: Tensor, *, width: int, first: tuple[int, int]) -> Tensor:
    """``first``: numbers of stage and block; a stage's first block changes the shape."""
    stage, block = first
    stride = 2 if stage > 0 and block == 0 else 1
    conv = partial(graph.conv, norm="before", activation="none")
    y = conv(f"{name}.conv1", x, K=width, R=1)
    y = conv(f"{name}.conv2", y, K=width, R=3, stride=stride)
    y = conv(f"{name}.conv3", y, K=_EXPANSION * width, R=1)
    if block == 0:
        x = graph.conv(f"{name}.downsample", x, K=y.C, R=1, stride=stride, norm=None, activation="none")
    return graph.add(f"{name}.add", y, x)


def _imagenet(source: str, *, blocks: Sequence[int], bottleneck: bool = False, stride_on: int = 1) -> Model:
    return Model(
        partial(resnet, blocks=blocks, bottleneck=bottleneck, stride_on=stride_on),
        f"He et al., CVPR 2016; {source}",
        {"image": image_size(224), "classes": class_count(1000)},
    )


MODELS = {
    "resnet18": _imagenet("shapes and parameters as in torchvision", blocks=(2, 2, 2, 2)),
    "resnet34": _imagenet("shapes and parameters as in torchvision", blocks=(3, 4, 6, 3)),
    "resnet50": _imagenet(
        "version 1.5 (stride on the 3x3), as in torchvision", blocks=(3, 4, 6, 3), bottleneck=True, stride_on=2
    ),
    "resnet50_v1": _imagenet("stride on the 1x1, shapes as in Keras", blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet164_cifar": Model(
        resnet_preactivation,
        "He et al., ECCV 2016, in the form of Liu et al., Network Slimming, ICCV 2017",
        {"image": image_size(32, lowest=8), "classes": class_count(10)},
    ),
}
