"""How the tensors of a network lie in planes: layouts, buffers, and sums that a convolution writes itself."""

from __future__ import annotations

from collections.abc import Mapping

from ....workloads.layers import CONV_OPS, WINDOW_OPS
from ....workloads.network import INPUT, Network
from .phases import phases_of, pools_whole_maps
from .planes import Floats, PlaneLayout


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


def place(network: Network, found: Mapping[str, PlaneLayout], fused: Mapping[str, str]) -> dict[str, Floats]:
    """A buffer per tensor; one whose tensor has had its last reader serves again for a tensor of the same layout.

    ``fused``: see :func:`fused_sums`; a sum is written where its product would have been.
    """
    names = [INPUT, *(layer.name for layer in network.layers)]
    product_of = {total: product for product, total in fused.items()}
    last = {name: index for index, name in enumerate(names)}
    for index, layer in enumerate(network.layers, start=1):
        last |= dict.fromkeys(layer.sources, index)
    last[names[-1]] = len(names)
    free: dict[PlaneLayout, list[Floats]] = {}
    buffers: dict[str, Floats] = {}
    live: list[str] = []
    for index, name in enumerate(names):
        for gone in [x for x in live if last[x] < index]:
            live.remove(gone)
            if gone not in fused:
                free.setdefault(found[gone], []).append(buffers[gone])
        if name in product_of:
            buffers[name] = buffers[product_of[name]]
        else:
            spare = free.get(found[name], [])
            buffers[name] = spare.pop() if spare else found[name].new()
        live.append(name)
    return buffers
