"""How the tensors of a network lie in planes: layouts, memory, and sums that a convolution writes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from ....workloads.layers import CONV_OPS, WINDOW_OPS
from ....workloads.network import INPUT, Network
from .phases import phases_of, pools_whole_maps
from .planes import LANES, Floats, PlaneLayout, aligned


def fused_sums(network: Network) -> dict[str, str]:
    """Convolution -> the sum of two tensors that it can write itself: its only reader, with the other term ready before."""
    readers: dict[str, list[str]] = {}
    position = {INPUT: -1} | {layer.name: index for index, layer in enumerate(network.layers)}
    by_name = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        for source in layer.sources:
            readers.setdefault(source, []).append(layer.name)
    fused: dict[str, str] = {}
    for layer in network.layers:
        if layer.op != "add" or len(layer.sources) != 2 or layer.sources[0] == layer.sources[1]:
            continue
        later = max(layer.sources, key=lambda name: position[name])
        product = by_name.get(later)
        if product is not None and product.op in CONV_OPS and product.activation == "none" and len(readers[later]) == 1:
            fused[later] = layer.name
    return fused


def layouts(network: Network, input_shape: tuple[int, ...]) -> dict[str, PlaneLayout]:
    """Layout of every tensor. Tensors of one size share a halo, the widest that any layer between or into them needs."""
    shapes: dict[str, tuple[int, int, int]] = {INPUT: (*input_shape, 1, 1)[:3]}  # type: ignore[dict-item]
    for layer in network.layers:
        if layer.op == "concat":
            shapes[layer.name] = (sum(shapes[s][0] for s in layer.sources), *shapes[layer.sources[0]][1:])
        elif layer.op in ("add", "mul"):
            shapes[layer.name] = max((shapes[s] for s in layer.sources), key=lambda shape: shape[1] * shape[2])
        else:
            vectors = layer.gemm.m if layer.op == "linear" and layer.gemm is not None else 1
            shapes[layer.name] = (layer.K, layer.P, layer.Q) if vectors == 1 else (vectors, layer.K, 1)
    halos: dict[tuple[int, int], int] = {}
    for layer in network.layers:
        if layer.op in WINDOW_OPS and not pools_whole_maps(layer):
            size = (layer.P, layer.Q)
            in_place = layer.op in CONV_OPS and layer.stride == 1 and size == (layer.H, layer.W)
            reach = phases_of(layer).reach
            needed = max(reach) if in_place else reach.halo
            halos[size] = max(halos.get(size, 0), needed)
    found = {}
    for name, (channels, height, width) in shapes.items():
        halo = halos.get((height, width), 0)
        found[name] = PlaneLayout(channels, height, width, halo)
    return found


class Shared(NamedTuple):
    """Planes whose memory another geometry has used since the last image: their halos must be made zero."""

    memory: Floats
    layout: PlaneLayout
    names: Sequence[str]


class Placement(NamedTuple):
    """Where the tensors of a network lie.

    ``buffers``: per tensor its planes; ``phases``: per layer that packs its input the planes of its phases; ``shared``: by
    the tensor that is written there first.
    """

    buffers: dict[str, Floats]
    phases: dict[str, Floats]
    shared: dict[str, Shared]


@dataclass
class _Planes:
    """Tensors of one geometry that follow each other in one place, used from step ``first`` to step ``last``.

    ``layout``: of the tensor with the most channels. Planes of one geometry keep their halos in the same places.
    """

    layout: PlaneLayout
    names: list[str]
    first: int
    last: int
    offset: int = -1

    @property
    def end(self) -> int:
        """Elements from the arena's start to where the next planes may begin."""
        return self.offset + -(-self.layout.size // LANES) * LANES

    def takes(self, layout: PlaneLayout, step: int) -> bool:
        """True if a tensor that is first written at ``step`` can follow in this place."""
        return self.last < step and replace(self.layout, channels=0) == replace(layout, channels=0)

    def follow(self, name: str, layout: PlaneLayout, last: int) -> None:
        """Add a tensor that is needed up to step ``last``."""
        self.names.append(name)
        self.layout = max(self.layout, layout, key=lambda one: one.channels)
        self.last = max(self.last, last)

    def meets(self, other: _Planes) -> bool:
        """True if both are used at some step."""
        return self.first <= other.last and other.first <= self.last

    def shares(self, other: _Planes) -> bool:
        """True if both have memory in common."""
        return self is not other and self.offset < other.end and other.offset < self.end


def place(
    network: Network,
    found: Mapping[str, PlaneLayout],
    fused: Mapping[str, str],
    packed: Mapping[str, PlaneLayout] = MappingProxyType({}),
) -> Placement:
    """All tensors in one arena, which stays in the caches: memory serves again once a tensor has had its last reader.

    First by another tensor of the same geometry, whose halos are zero already; then by planes of any geometry. The network's
    input keeps its place. ``fused``: see :func:`fused_sums`; a sum is written where its product would have been.
    ``packed``: per layer the planes that it copies its input to, needed while it runs.
    """
    planes = _planes(network, found, fused)
    steps = {layer.name: index for index, layer in enumerate(network.layers, start=1)}
    passing = [_Planes(layout, [name], steps[name], steps[name]) for name, layout in packed.items()]
    every = planes + passing
    _spread_out(every)
    arena = aligned(max(each.end for each in every))

    def part(planes: _Planes, layout: PlaneLayout) -> Floats:
        return arena[planes.offset : planes.offset + layout.size]

    return Placement(
        {name: part(each, found[name]) for each in planes for name in each.names},
        {name: part(each, each.layout) for each in passing for name in each.names},
        {
            each.names[0]: Shared(part(each, each.layout), each.layout, each.names)
            for each in planes
            if each.layout.halo and any(each.shares(other) for other in every)
        },
    )


def _planes(network: Network, found: Mapping[str, PlaneLayout], fused: Mapping[str, str]) -> list[_Planes]:
    """Tensors of one geometry that are not needed at the same time share their planes."""
    names = [INPUT, *(layer.name for layer in network.layers)]
    last = {name: index for index, name in enumerate(names)}
    for index, layer in enumerate(network.layers, start=1):
        last |= dict.fromkeys(layer.sources, index)
    last[INPUT] = last[names[-1]] = len(names)
    last |= {product: last[total] for product, total in fused.items()}
    products = {total: product for product, total in fused.items()}
    planes: list[_Planes] = []
    for index, name in enumerate(names):
        layout = found[name]
        if name in products:
            next(each for each in planes if products[name] in each.names).names.append(name)
            continue
        free = [each for each in planes if each.takes(layout, index)]
        if free:
            min(free, key=lambda one: abs(one.layout.channels - layout.channels)).follow(name, layout, last[name])
        else:
            planes.append(_Planes(layout, [name], index, last[name]))
    return planes


def _spread_out(planes: Sequence[_Planes]) -> None:
    """Offsets, largest planes first, each at the lowest place free for as long as they are used (greedy by size: Pisarchyk
    and Lee, arXiv 2001.03288)."""
    placed: list[_Planes] = []
    for each in sorted(planes, key=lambda one: -one.layout.size):
        rivals = sorted((other for other in placed if other.meets(each)), key=lambda other: other.offset)
        each.offset = 0
        for other in rivals:
            if each.shares(other):
                each.offset = other.end
        placed.append(each)
