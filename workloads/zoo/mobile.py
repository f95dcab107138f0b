"""Networks of depthwise convolutions: MobileNet V1 and V2 with their width multiplier, EfficientNet-B0."""

from __future__ import annotations

from dataclasses import dataclass

from ..layers import Layer
from .graph_builder import GraphBuilder, Tensor, input_image
from .model import Model, class_count, image_size, width_multiplier

#: Filters and stride of the thirteen separable convolutions (Howard et al., table 1).
_V1_LAYERS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Stage:
    """A run of inverted residual blocks; only the first has the stride. ``expansion``: inner channels per input channel."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int = 3


#: Sandler et al., table 2.
_V2_STAGES = (
    _Stage(1, 16, 1, 1), _Stage(6, 24, 2, 2), _Stage(6, 32, 3, 2), _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1), _Stage(6, 160, 3, 2), _Stage(6, 320, 1, 1),
)  # fmt: skip
#: Tan & Le, table 1.
_B0_STAGES = (
    _Stage(1, 16, 1, 1), _Stage(6, 24, 2, 2), _Stage(6, 40, 2, 2, kernel=5), _Stage(6, 80, 3, 2),
    _Stage(6, 112, 3, 1, kernel=5), _Stage(6, 192, 4, 2, kernel=5), _Stage(6, 320, 1, 1),
)  # fmt: skip
_HEAD = 1280
#: Channels of the squeeze layer per channel of the block's input: 1 / _SQUEEZE.
_SQUEEZE = 4


def scaled_channels(channels: int, width: float) -> int:
    """``channels * width`` as the nearest multiple of 8, at least 8, and never more than a tenth below the product.

    Source: the rounding rule of MobileNet V2's authors, which torchvision and Keras follow.
    """
    exact = channels * width
    nearest = max(8, 8 * int(exact / 8 + 0.5))
    return nearest if nearest >= 0.9 * exact else nearest + 8


def mobilenet_v1(*, image: int, width: float, classes: int) -> tuple[Layer, ...]:
    """MobileNet V1; scaled channel counts are rounded down (Keras' ``alpha``)."""
    graph = GraphBuilder()
    x = graph.conv("conv1", input_image(image), K=int(32 * width), R=3, stride=2)
    for number, (filters, stride) in enumerate(_V1_LAYERS, start=1):
        x = graph.depthwise(f"conv_dw_{number}", x, R=3, stride=stride)
        x = graph.conv(f"conv_pw_{number}", x, K=int(filters * width), R=1)
    graph.linear("fc", graph.global_mean("gap", x), classes)
    return graph.layers


def mobilenet_v2(*, image: int, width: float, classes: int) -> tuple[Layer, ...]:
    """MobileNet V2; the last convolution never shrinks below 1280 channels."""
    graph = GraphBuilder()
    x = graph.conv("conv_stem", input_image(image), K=scaled_channels(32, width), R=3, stride=2, activation="relu6")
    block = 0
    for stage in _V2_STAGES:
        channels = scaled_channels(stage.channels, width)
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            name = f"block{block}"
            y = _expanded(graph, name, x, stage, stride=stride, activation="relu6")
            x = _projected(graph, name, y, x, channels=channels, stride=stride)
            block += 1
    x = graph.conv("conv_head", x, K=scaled_channels(_HEAD, max(1.0, width)), R=1, activation="relu6")
    graph.linear("fc", graph.global_mean("gap", x), classes)
    return graph.layers


def efficientnet_b0(*, image: int, classes: int) -> tuple[Layer, ...]:
    """EfficientNet-B0: inverted residual blocks with squeeze and excitation and SiLU."""
    graph = GraphBuilder()
    x = graph.conv("conv_stem", input_image(image), K=32, R=3, stride=2, activation="silu")
    block = 0
    for stage in _B0_STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            name = f"block{block}"
            y = _expanded(graph, name, x, stage, stride=stride, activation="silu")
            y = _excited(graph, name, y, squeezed=max(1, x.C // _SQUEEZE))
            x = _projected(graph, name, y, x, channels=stage.channels, stride=stride)
            block += 1
    x = graph.conv("conv_head", x, K=_HEAD, R=1, activation="silu")
    graph.linear("fc", graph.global_mean("gap", x), classes)
    return graph.layers


def _expanded(graph: GraphBuilder, name: str, x: Tensor, stage: _Stage, *, stride: int, activation: str) -> Tensor:
    """The wide inside of a block: a 1x1 convolution (left out without expansion) and a depthwise one."""
    if stage.expansion != 1:
        x = graph.conv(f"{name}.conv_pw", x, K=stage.expansion * x.C, R=1, activation=activation)
    return graph.depthwise(f"{name}.conv_dw", x, R=stage.kernel, stride=stride, activation=activation)


def _excited(graph: GraphBuilder, name: str, x: Tensor, *, squeezed: int) -> Tensor:
    """Each channel times a factor in 0..1 that two small convolutions compute from all channel means."""
    mean = graph.global_mean(f"{name}.se.gap", x)
    y = graph.conv(f"{name}.se.reduce", mean, K=squeezed, R=1, bias=True, norm=None, activation="silu")
    y = graph.conv(f"{name}.se.expand", y, K=x.C, R=1, bias=True, norm=None, activation="sigmoid")
    return graph.scale(f"{name}.se.mul", x, y)


def _projected(graph: GraphBuilder, name: str, y: Tensor, x: Tensor, *, channels: int, stride: int) -> Tensor:
    """Back to few channels without an activation; the block's input is added where the shapes agree."""
    y = graph.conv(f"{name}.conv_pwl", y, K=channels, R=1, activation="none")
    return graph.add(f"{name}.add", y, x) if stride == 1 and x.C == y.C else y


def _v2(width: float, source: str) -> Model:
    return Model(
        mobilenet_v2,
        f"Sandler et al., CVPR 2018; {source}",
        {"image": image_size(224), "width": width_multiplier(width), "classes": class_count(1000)},
    )


MODELS = {
    "mobilenet_v1": Model(
        mobilenet_v1,
        "Howard et al., arXiv:1704.04861; shapes and parameters as in timm",
        {"image": image_size(224), "width": width_multiplier(1.0), "classes": class_count(1000)},
    ),
    "mobilenet_v2": _v2(1.0, "shapes and parameters as in torchvision and Keras"),
    "mobilenet_v2_140": _v2(1.4, "width 1.4, as in torchvision and timm"),
    "efficientnet_b0": Model(
        efficientnet_b0,
        "Tan & Le, ICML 2019; shapes and parameters as in torchvision and Keras",
        {"image": image_size(224), "classes": class_count(1000)},
    ),
}
