"""Networks, masks and designs that several test files share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from nestling.accel.design import Design, load_design
from nestling.traces.lowering import lower
from nestling.traces.trace import LayerTrace
from nestling.workloads.layers import Gemm, Layer, conv, linear, output_size
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network


def dilated(name: str, *, C: int, H: int, K: int, R: int, stride: int, padding: int, dilation: int) -> Layer:
    P = output_size(H, kernel=R, stride=stride, padding=padding, dilation=dilation)
    return Layer(
        name=name, op="conv", C=C, H=H, W=H, K=K, P=P, Q=P, R=R, S=R,
        stride=stride, padding=padding, dilation=dilation, sources=(INPUT,),
    )  # fmt: skip


def matmul(b: int, m: int, n: int, k: int) -> Layer:
    return Layer(name="product", op="matmul", gemm=Gemm(b, m, n, k), sources=(INPUT,))


#: One layer per shape that an array model may stumble over.
SHAPES: dict[str, Layer] = {
    "conv": conv("conv", INPUT, C=6, H=9, K=20, R=3, padding=1),
    "strided": conv("strided", INPUT, C=5, H=11, W=7, K=9, R=3, stride=2, padding=1),
    "pointwise": conv("pointwise", INPUT, C=17, H=6, K=33, R=1, relu_in=True),
    "dilated": dilated("dilated", C=3, H=12, K=4, R=3, stride=1, padding=2, dilation=2),
    "depthwise": conv("depthwise", INPUT, C=10, H=8, K=10, R=3, padding=1, groups=10),
    "grouped": conv("grouped", INPUT, C=12, H=7, K=18, R=3, padding=1, groups=3),
    "linear": linear("linear", INPUT, features_in=70, features_out=37, rows=19),
    "m=1": linear("m=1", INPUT, features_in=40, features_out=50),
    "n=1": linear("n=1", INPUT, features_in=33, features_out=1, rows=21),
    "k=1": linear("k=1", INPUT, features_in=1, features_out=23, rows=18),
    "one": linear("one", INPUT, features_in=1, features_out=1),
    "matmul": matmul(3, 18, 10, 21),
    "odd": conv("odd", INPUT, C=7, H=13, W=5, K=11, R=5, S=3, padding=2),
    "recurrent": Layer(
        name="recurrent", op="lstm_hh", K=44, gemm=Gemm(1, 1, 44, 11), repeat=3, sources=(INPUT,), weight_params=484
    ),
}


def random_keep(shape: tuple[int, ...], levels: int, rng: np.random.Generator) -> np.ndarray:
    """A nested pattern of uneven density: some rows are empty at every level."""
    keep = rng.integers(0, levels + 1, size=shape).astype(np.uint8)
    keep[rng.random(shape[0]) < 0.2] = 0
    return keep


def network(layer: Layer, *, levels: int = 4, seed: int = 0, keep: np.ndarray | None = None) -> Network:
    """``layer`` alone with a random (or the given) nested pattern; products of activations stay without weights."""
    if not layer.has_weights:
        return Network("net", (layer,))
    if keep is None:
        keep = random_keep(layer.weight_shape, levels, np.random.default_rng(seed))
    return Network("net", (layer,), {layer.name: NestedWeights(None, keep.astype(np.uint8), levels)})


def layer_trace(layer: Layer, **options: Any) -> LayerTrace:
    return lower(network(layer, **options)).layers[0]


_read = cache(load_design)  # reading YAML with line numbers takes longer than most tests


def design(name: str, changes: dict[str, Any] | None = None) -> Design:
    """A built-in design with some values replaced: ``{"buffers.weights.bytes": 4096}``."""
    values = _read(name).model_dump()
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        part = values
        for key in parents:
            part = part[key]
        part[last] = value
    return Design.model_validate(values)


def mixed_network(densities: Sequence[float] = (0.9, 0.5, 0.2, 0.05), *, seed: int = 3) -> Network:
    """Convolutions, a pooling, a depthwise layer, a residual sum and a classifier, with values and biases."""
    layers = (
        conv("stem", INPUT, C=3, H=12, K=8, R=3, padding=1, activation="relu"),
        conv("deep", "stem", C=8, H=12, K=8, R=3, padding=1, groups=8, relu_in=True),
        Layer(name="sum", op="add", C=8, H=12, W=12, K=8, P=12, Q=12, sources=("stem", "deep")),
        conv("point", "sum", C=8, H=12, K=20, R=1, stride=2, activation="relu"),
        linear("head", "point", features_in=720, features_out=10, relu_in=True),
    )
    rng = np.random.default_rng(seed)
    weights, biases = {}, {}
    for layer in layers:
        if layer.has_weights:
            order = rng.random(layer.weight_shape)
            keep = sum((order < d).astype(np.uint8) for d in densities)
            values = rng.standard_normal(layer.weight_shape).astype(np.float32)
            weights[layer.name] = NestedWeights(values, np.asarray(keep, np.uint8), len(densities), layer.name)
            biases[layer.name] = rng.standard_normal((len(densities), layer.K)).astype(np.float32)
    return Network("mixed", layers, weights, biases, source="test")
