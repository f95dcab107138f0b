"""Densely connected networks: every layer of a block reads the outputs of all layers before it."""

from __future__ import annotations

from collections.abc import Callable

from ..layers import Layer
from .graph_builder import GraphBuilder, Tensor, input_image
from .model import Model, Parameter, class_count, image_size

#: Layers per block (Huang et al., CVPR 2017, table 1).
_BLOCKS_121 = (6, 12, 24, 16)
#: Depth 40 = 3 blocks of 12 layers, the first convolution, two transitions and the classifier.
_BLOCKS_40 = (12, 12, 12)
#: Channels between the 1x1 and the 3x3 convolution, per channel of growth.
_BOTTLENECK = 4


def densenet121(*, image: int, growth: int, initial: int, classes: int) -> tuple[Layer, ...]:
    """DenseNet-121 for ImageNet: bottleneck layers, transitions halve the channels."""
    graph = GraphBuilder()

    def layer(name: str, x: Tensor) -> Tensor:
        y = _preactivation(graph, f"{name}.conv1", x, K=_BOTTLENECK * growth, R=1)
        return _preactivation(graph, f"{name}.conv2", y, K=growth, R=3)

    x = graph.conv("conv0", input_image(image), K=initial, R=7, stride=2)
    x = graph.pool("pool0", x, R=3, stride=2, padding=1)
    for block, depth in enumerate(_BLOCKS_121, start=1):
        names = [f"block{block}.layer{number}" for number in range(1, depth + 1)]
        x = _dense_block(graph, f"block{block}", x, names, layer)
        if block < len(_BLOCKS_121):
            x = _preactivation(graph, f"trans{block}.conv", x, K=x.C // 2, R=1)
            x = graph.pool(f"trans{block}.pool", x, R=2, stride=2, kind="avg")
    x = graph.global_mean("gap", graph.batch_norm("norm5", x))
    graph.linear("classifier", x, classes)
    return graph.layers


def densenet40(*, image: int, growth: int, initial: int, classes: int) -> tuple[Layer, ...]:
    """DenseNet-40 for CIFAR: one 3x3 convolution per layer, transitions keep the channels."""
    graph = GraphBuilder()

    def layer(name: str, x: Tensor) -> Tensor:
        return _preactivation(graph, f"{name}.conv1", x, K=growth, R=3)

    x = graph.conv("conv1", input_image(image), K=initial, R=3, norm=None, activation="none")
    for block, depth in enumerate(_BLOCKS_40, start=1):
        x = _dense_block(graph, f"dense{block}", x, [f"dense{block}.{number}" for number in range(depth)], layer)
        if block < len(_BLOCKS_40):
            x = _preactivation(graph, f"trans{block}.conv1", x, K=x.C, R=1)
            x = graph.pool(f"trans{block}.pool", x, R=2, stride=2, kind="avg")
    x = graph.global_mean("gap", graph.batch_norm("bn", x))
    graph.linear("fc", x, classes)
    return graph.layers


def _preactivation(graph: GraphBuilder, name: str, x: Tensor, *, K: int, R: int) -> Tensor:
    """A convolution whose batch normalisation and ReLU stand in front of it."""
    return graph.conv(name, x, K=K, R=R, norm="before", activation="none")


def _dense_block(
    graph: GraphBuilder, name: str, x: Tensor, layers: list[str], layer: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """Layer after layer, each on the concatenation of the block's input and all outputs so far."""
    parts = [x]
    for layer_name in layers:
        joined = graph.concat(f"{layer_name}.concat", parts) if len(parts) > 1 else x
        parts.append(layer(layer_name, joined))
    return graph.concat(f"{name}.out", parts)


def _growth(default: int) -> Parameter:
    return Parameter(default=default, lowest=1, highest=128, meaning="channels that each layer adds (k)")


def _initial(default: int) -> Parameter:
    return Parameter(default=default, lowest=2, highest=512, meaning="channels of the first convolution")


def _cifar(initial: int, source: str) -> Model:
    return Model(
        densenet40,
        f"Huang et al., CVPR 2017; {source}",
        {
            "image": image_size(32, lowest=8),
            "growth": _growth(12),
            "initial": _initial(initial),
            "classes": class_count(10),
        },
    )


MODELS = {
    "densenet121": Model(
        densenet121,
        "Huang et al., CVPR 2017; shapes and parameters as in torchvision and Keras",
        {
            "image": image_size(224),
            "growth": _growth(32),
            "initial": _initial(64),
            "classes": class_count(1000),
        },
    ),
    "densenet40_cifar": _cifar(24, "24 first channels, as in Liu et al., Network Slimming, ICCV 2017"),
    "densenet40_cifar_init16": _cifar(16, "16 first channels, as in the paper"),
}
