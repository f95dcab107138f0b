"""Synthetic layers that every kernel can be measured on: fixed shapes and densities, random values, of no user's network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .....workloads.layers import Layer, conv, linear, output_size
from .....workloads.nesting import NestedWeights
from .....workloads.network import INPUT, Network
from ..network import Chooser
from ..planes import PlaneLayout
from ..prior import likely_plan
from ..product import Choice, LayerPlan, windowed

#: Densities of one store of nested levels, densest first, and of a store of a single level.
NESTED, SINGLE = (0.5, 0.25, 0.12, 0.05), (0.2,)
#: Products (rows, input channels, kernel, vectors of positions, about): few and many rows, short and long sums, operands and
#: partial sums within the first-level cache and beyond it; the last one has nothing to do.
PRODUCTS = (
    (64, 72, 1, 14), (48, 24, 3, 14), (64, 64, 3, 14), (160, 320, 1, 14), (272, 136, 1, 49), (24, 640, 1, 14),
    (96, 80, 3, 14), (512, 64, 1, 14), (320, 96, 3, 4), (128, 1536, 1, 14), (1, 1, 1, 14),
)  # fmt: skip
#: Rows of their maps: with a halo of one cell, a row of n - 1 cells is n cells of memory, and 16 rows n vectors.
_HEIGHT = 16
#: Tensors (channels, side of the map) that kernels without weights work on; the last one exceeds the inner caches.
TENSORS = ((1, 4), (16, 14), (64, 28), (24, 56), (96, 8), (48, 112))
#: Fully connected layers (inputs, outputs).
VECTORS = ((16, 4), (256, 128), (1024, 512), (4096, 64), (10_000, 96))
#: Chains of convolutions (input channels, rows, kernel, side of the map, stride): a few microseconds each, and from wide
#: maps to small ones with many weights. All maps have room for tiles of 4 or of 7 vectors.
CHAINS = (
    ((8, 16, 3, 28, 1), (16, 16, 3, 28, 1), (16, 16, 3, 28, 1), (16, 40, 3, 28, 2), (40, 40, 3, 14, 1), (40, 72, 1, 14, 2),
     (72, 56, 3, 7, 1)),
    ((48, 192, 1, 56, 1), (192, 48, 1, 56, 1), (48, 192, 1, 56, 1), (192, 96, 3, 56, 2), (96, 384, 1, 28, 1),
     (384, 96, 1, 28, 1), (96, 256, 3, 28, 2), (256, 256, 3, 14, 1), (256, 512, 1, 14, 2), (512, 256, 3, 7, 1)),
)  # fmt: skip
#: Scratch bytes of the windows that are measured.
WINDOWS = (14 << 10, 28 << 10)
#: Names of products, see ``work.kernel_name``, and those that need structured masks.
_NAME = re.compile(r"(windowed|direct|packed|dense|blocks|channels) (?:(\d+)x)?(\d+)( windows)?")
_STRUCTURED = ("blocks", "channels")
#: Other kernels that a chain holds; the rest are measured by themselves only.
CHAINED = ("rows", "phases", "pool")
#: Input channels of the N:M groups that are measured.
CHANNELS = 8
_ACTIVATIONS = ("silu", "gelu", "sigmoid", "tanh")


@dataclass(frozen=True)
class Case:
    """A network of a few layers, and how its convolutions are to be run."""

    network: Network
    choose: Chooser = likely_plan


class _Kernel(NamedTuple):
    """A product's name in parts: "blocks 4x2 windows" has groups of 4 rows and tiles of 2 vectors."""

    family: str
    group: int
    width: int
    windows: bool


def _product(kernel: str) -> _Kernel | None:
    """None for what is no product that is known here."""
    found = _NAME.fullmatch(kernel)
    if found is None:
        return None
    family, group, width, windows = found.groups()
    return _Kernel(family, int(group or 1), int(width), bool(windows))


def _all_products(kernels: Collection[str]) -> list[_Kernel]:
    return [product for product in map(_product, sorted(kernels)) if product is not None]


def cases(kernel: str) -> Iterator[Case]:
    """Networks that hold calls of ``kernel``, among others; none for a kernel that is not known here."""
    family, _, variant = kernel.partition(" ")
    product = _product(kernel)
    if product is not None:
        yield from _products(product)
    elif family == "rows":
        yield from (Case(pruned([linear("l", INPUT, features_in=i, features_out=o)], NESTED)) for i, o in VECTORS)
    else:
        for channels, side in TENSORS:
            layers = _moving(family, variant, channels, side)
            if layers:
                yield Case(pruned(layers, SINGLE))


def chains(kernels: Collection[str], known: Collection[str] = ()) -> Iterator[Case]:
    """Whole networks: small layers, whose time is mostly calls, and layers whose weights and tensors exceed the inner caches.

    A pair for each product among ``kernels``, which runs wherever its tiles fit; elsewhere one of the others or of the
    ``known`` ones does, so that no kernel is compiled for the chains alone. The likely ones run where none is given.
    """
    products = _all_products(kernels)
    sparse_first = sorted(_all_products({*kernels, *known}), key=lambda product: product.family == "dense")
    others = [product for product in sparse_first if product.family not in _STRUCTURED]
    pooled = "pool" in kernels
    for product in products:
        for sizes in CHAINS:
            yield Case(_chain(sizes, *_structure(product), pooled=pooled), _chooser((product, *others)))
    if not products and any(kernel.partition(" ")[0] in CHAINED for kernel in kernels):
        yield from (Case(_chain(sizes, pooled=pooled), _chooser(others)) for sizes in CHAINS)


@cache
def _chain(
    sizes: tuple[tuple[int, int, int, int, int], ...], shared: int = 1, grouped: int = 0, *, pooled: bool
) -> Network:
    """Pooling where wanted, convolutions with a residual over the third, and a fully connected layer. ``shared``,
    ``grouped``: see :func:`pruned`."""
    wide, side = sizes[0][0], sizes[0][3]
    layers = [replace(_strided(wide, 2 * side, 2), name="pool", P=side, Q=side, padding=1)] if pooled else []
    for i, (channels, rows, kernel, height, stride) in enumerate(sizes):
        source = layers[-1].name if layers else INPUT
        layer = conv(f"c{i}", source, C=channels, H=height, K=rows, R=kernel, stride=stride, padding=kernel // 2)
        layers.append(layer if i == 2 else replace(layer, activation="relu"))
        if i == 2:
            layers.append(_layer("sum", "add", ("c0", "c2"), rows, height))
    last = layers[-1]
    layers.append(linear("rows", last.name, features_in=last.K * last.P * last.Q, features_out=64))
    return pruned(layers, (0.25, 0.05), rows=shared, channels=grouped)


def pruned(layers: Sequence[Layer], densities: Sequence[float], *, rows: int = 1, channels: int = 0) -> Network:
    """Normal weights, dropped level by level at random: one by one, ``rows`` rows together, or equally many of every
    ``channels`` input channels (at least one)."""
    random = np.random.default_rng(0)
    weights = {}
    for layer in layers:
        if layer.has_weights:
            values = random.standard_normal(layer.weight_shape, np.float32)
            scores = random.random(values[::rows].shape, np.float32)
            if channels:
                keep = _kept_per_group(scores, densities, channels)
            else:
                leaders = sum((scores < density).astype(np.uint8) for density in densities)
                keep = np.repeat(leaders, rows, axis=0)[: len(values)]
            weights[layer.name] = NestedWeights(values=values, keep=keep, levels=len(densities), name=layer.name)
    return Network("synthetic", tuple(layers), weights=weights)


def _kept_per_group(scores: NDArray[np.float32], densities: Sequence[float], channels: int) -> NDArray[np.uint8]:
    keep = np.zeros(scores.shape, np.uint8)
    for first in range(0, scores.shape[1], channels):
        part = scores[:, first : first + channels]
        rank = (-part).argsort(axis=1).argsort(axis=1)
        keep[:, first : first + channels] = sum(
            (rank < max(1, round(d * part.shape[1]))).astype(np.uint8) for d in densities
        )
    return keep


def _products(kernel: _Kernel) -> Iterator[Case]:
    rows, channels = _structure(kernel)
    for filters, inputs, taps, wanted in PRODUCTS:
        columns = kernel.width * max(1, round(wanted / kernel.width)) - taps // 2  # whole tiles
        if columns < taps:
            columns += kernel.width * taps
        layer = conv("p", INPUT, C=inputs, H=_HEIGHT, W=columns, K=filters, R=taps, padding=taps // 2)
        for densities in (NESTED, SINGLE):
            network = pruned([layer], densities, rows=rows, channels=channels)
            for size in WINDOWS if kernel.family in ("windowed", "channels") else WINDOWS[:1]:
                yield Case(network, _chooser((kernel,), window_bytes=size))


def _structure(kernel: _Kernel) -> tuple[int, int]:
    """Rows that share positions, and channels of an N:M group, that the masks must have for a kernel."""
    return kernel.group, CHANNELS if kernel.family == "channels" else 0


def _chooser(kernels: Sequence[_Kernel], *, window_bytes: int = WINDOWS[-1]) -> Chooser:
    """The first kernel whose tiles the planes have room for; the likely one if there is none."""

    def choose(layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> LayerPlan:
        fits = (kernel for kernel in kernels if kernel.width in target.vectors)
        kernel = next(fits, None)
        if kernel is None:
            return likely_plan(layer, weights, source, target)
        return _plan(kernel, window_bytes, weights.levels)

    return choose


def _plan(kernel: _Kernel, window_bytes: int, levels: int) -> LayerPlan:
    """``kernel`` at every level, with windows of at most ``window_bytes`` where it has windows."""
    family, group, width, windows = kernel
    window = windowed(width, window_bytes).window
    if family == "dense":
        return LayerPlan(Choice("direct", width), width, tuple(range(levels)))
    if family == "blocks":
        return LayerPlan(Choice("blocks", width, window if windows else 0, group))
    if family == "channels":
        return LayerPlan(Choice("channels", width, max(1, window // CHANNELS) * CHANNELS, CHANNELS))
    if family == "windowed":
        return LayerPlan(Choice("windowed", width, window))
    return LayerPlan(Choice("direct" if family == "direct" else "packed", width))


def _moving(family: str, variant: str, channels: int, side: int) -> list[Layer]:
    """Layers whose program holds a kernel without weights; none where the family is not known."""
    first = _layer("m", "maxpool", (INPUT,), channels, side)
    whole = replace(_layer("m", "avgpool", (INPUT,), channels, side), R=side, S=side, P=1, Q=1)
    gated = _ACTIVATIONS[int(variant)] if family == "gate" else "none"
    stride = int(variant or 3) if family == "phases" else 2
    found: dict[str, list[Layer]] = {
        "phases": [conv("c", INPUT, C=channels, H=side, K=8, R=3, stride=stride)],
        "pool": [_strided(channels, side, 3 if variant == "phases" else 2)],
        "maps": [whole],
        "add": [first, _layer("a", "add", (INPUT, "m"), channels, side)],
        "multiply": [first, _layer("p", "mul", (INPUT, "m"), channels, side)],
        "scale": [whole, _layer("s", "mul", (INPUT, "m"), channels, side)],
        "gate": [replace(_layer("a", "add", (INPUT, "m"), channels, side), activation=gated)],
        "join": [first, replace(_layer("j", "concat", (INPUT, "m"), channels, side), C=2 * channels, K=2 * channels)],
    }
    layers = found.get(family, [])
    return [first, *layers] if family == "gate" else layers


def _layer(name: str, op: str, sources: tuple[str, ...], channels: int, side: int) -> Layer:
    sizes: dict[str, Any] = {"C": channels, "K": channels, "H": side, "W": side, "P": side, "Q": side}
    return Layer(name=name, op=op, sources=sources, **sizes)


def _strided(channels: int, side: int, stride: int) -> Layer:
    """Pooling over 3 x 3 windows."""
    out = output_size(side, kernel=3, stride=stride)
    return replace(_layer("m", "maxpool", (INPUT,), channels, side), R=3, S=3, P=out, Q=out, stride=stride)
