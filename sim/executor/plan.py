"""The planner: every decision about how a network is executed, taken once, before the first image.

For each layer: is it supported, which kernel runs it, over which planes, in tiles of how many output rows; for the
network: where each tensor lives in one arena, and how many images go through a layer before the next one starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ...workloads.errors import InputError
from ...workloads.layers import CONV_OPS, Layer, output_size
from ...workloads.network import INPUT, Network
from . import kernels
from .geometry import LINE, Planes, Window, planes_of, round_up, window_of

#: (channels, height, width), or (rows, features) for a stack of row vectors.
Shape = tuple[int, ...]
Kernel = Literal["convolve", "row_products", "pool", "add", "mul", "concat"]

OPERATORS = frozenset({"conv", "dwconv", "linear", "maxpool", "avgpool", "add", "mul", "concat"})
ACTIVATION_CODES: Mapping[str, int] = {
    "none": kernels.NONE,
    "relu": kernels.RELU,
    "relu6": kernels.RELU6,
    "silu": kernels.SILU,
    "gelu": kernels.GELU,
    "sigmoid": kernels.SIGMOID,
    "tanh": kernels.TANH,
}
#: Sums of one tile (4 KB) stay in the first-level cache beside the input planes they are made from.
TILE_ELEMENTS = 1024
#: Tensors of all images in flight should fit a private second-level cache (512 KB is common).
ARENA_BYTES = 1 << 19
MAX_IMAGES = 16


class Slot(NamedTuple):
    """Place of one tensor: ``size`` elements per image at ``offset`` elements per image into the arena."""

    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer, ready to run. ``rows`` counts the row vectors of a linear layer; ``tile_rows`` output rows per run."""

    layer: Layer
    kernel: Kernel
    inputs: tuple[Slot, ...]
    shapes: tuple[Shape, ...]
    output: Slot
    activation: int
    rows: int = 1
    tile_rows: int = 1
    planes: Planes | None = None
    window: Window | None = None

    @property
    def weighted(self) -> bool:
        return self.layer.has_weights


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in execution order and the memory they need (elements; arena per image, scratch and run per thread)."""

    steps: tuple[Step, ...]
    input_shape: Shape
    input: Slot
    output: Slot
    arena_size: int
    scratch_size: int
    run_size: int
    images: int


def make_plan(network: Network) -> Plan:
    """Plan the execution of a network.

    Raises
    ------
    InputError
        listing every layer that the executor cannot run and why.
    """
    problems = [f"layer '{layer.name}': {p}" for layer in network.layers for p in _unsupported(layer)]
    if problems:
        raise InputError([f"network '{network.name}' cannot be executed: {p}" for p in problems])
    shapes = _tensor_shapes(network)
    slots, arena_size = _place_tensors(network, shapes)
    steps = tuple(_make_step(layer, shapes, slots) for layer in network.layers)
    planes = [step.planes for step in steps if step.planes is not None]
    return Plan(
        steps=steps,
        input_shape=shapes[INPUT],
        input=slots[INPUT],
        output=slots[network.layers[-1].name],
        arena_size=arena_size,
        scratch_size=max((p.size for p in planes if p.packed), default=0),
        run_size=max((s.planes.run_size(s.tile_rows) for s in steps if s.planes is not None), default=0),
        images=max(1, min(MAX_IMAGES, ARENA_BYTES // (4 * arena_size))),
    )


def rows_of_tile(planes: Planes) -> int:
    """Output rows of one channel whose sums are formed together."""
    return max(1, min(planes.out_height, (TILE_ELEMENTS - planes.out_width) // planes.pitch + 1))


def _unsupported(layer: Layer) -> list[str]:
    """What keeps a layer from being executed, whatever its inputs are."""
    if layer.op not in OPERATORS:
        return [f"operator '{layer.op}' is not supported; supported are {', '.join(sorted(OPERATORS))}"]
    problems = []
    if layer.activation not in ACTIVATION_CODES:
        allowed = ", ".join(sorted(ACTIVATION_CODES))
        problems.append(f"activation '{layer.activation}' is not supported; supported are {allowed}")
    if layer.repeat != 1:
        problems.append(f"repeat = {layer.repeat}; only layers that run once per image are supported")
    if layer.op == "linear" and layer.gemm is not None and (layer.gemm.b != 1 or layer.gemm.n != layer.K):
        problems.append(f"GEMM view {layer.gemm}; supported is one product (b = 1) with n = K = {layer.K} outputs")
    many = layer.op in {"add", "mul", "concat"}
    if len(layer.sources) != 1 and not many:
        problems.append(f"reads {len(layer.sources)} tensors; '{layer.op}' reads one (join them with add or concat)")
    if many and not layer.sources:
        problems.append("reads no tensor")
    return problems


def _tensor_shapes(network: Network) -> dict[str, Shape]:
    """Shape of every tensor, the input's included, from the first layer that states it."""
    shapes = {INPUT: _input_shape(network)}
    problems = []
    for layer in network.layers:
        sources = [shapes[source] for source in layer.sources]
        problem = _mismatch(layer, sources)
        if problem:
            problems.append(f"network '{network.name}' cannot be executed: layer '{layer.name}': {problem}")
        shapes[layer.name] = _output_shape(layer, sources)
    if problems:
        raise InputError(problems)
    return shapes


def _input_shape(network: Network) -> Shape:
    # Never empty: the first layer has a source, and nothing but the input stands before it.
    readers = [layer for layer in network.layers if INPUT in layer.sources]
    spatial = [layer for layer in readers if layer.op in CONV_OPS | {"maxpool", "avgpool"}]
    if spatial:
        return spatial[0].C, spatial[0].H, spatial[0].W
    gemm = readers[0].gemm
    if gemm is not None:
        return (gemm.k, 1, 1) if gemm.m == 1 else (gemm.m, gemm.k)
    first = readers[0]
    copies = len(first.sources) if first.op == "concat" and set(first.sources) == {INPUT} else 1
    return first.K // copies, first.P, first.Q


def _mismatch(layer: Layer, sources: list[Shape]) -> str:
    """What is wrong with the shapes that a layer reads; empty if nothing is."""
    if layer.op in CONV_OPS or layer.op in {"maxpool", "avgpool"}:
        needed = (layer.C, layer.H, layer.W)
        if sources[0] != needed:
            return f"reads a tensor of shape {sources[0]}, needs (C, H, W) = {needed}"
        return "" if layer.op in CONV_OPS else _pool_mismatch(layer)
    if layer.op == "linear" and layer.gemm is not None:
        rows, features = layer.gemm.m, layer.gemm.k
        fits = sources[0] == (rows, features) if rows > 1 else int(np.prod(sources[0])) == features
        return "" if fits else f"reads a tensor of shape {sources[0]}, needs {rows} row(s) of {features} features"
    return _join_mismatch(layer, sources)


def _pool_mismatch(layer: Layer) -> str:
    if layer.K != layer.C:
        return f"K = {layer.K}, but pooling keeps its C = {layer.C} channels"
    for size, kernel, found, axis in ((layer.H, layer.R, layer.P, "P"), (layer.W, layer.S, layer.Q, "Q")):
        taps = np.arange(found)[:, None] * layer.stride - layer.padding + np.arange(kernel) * layer.dilation
        if not ((taps >= 0) & (taps < size)).any(axis=1).all():
            return f"{axis} = {found} places a window outside the input"
        expected = output_size(size, kernel=kernel, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
        if layer.op == "avgpool" and found != expected:
            return f"{axis} = {found}, but the output size formula gives {expected}"
    return ""


def _join_mismatch(layer: Layer, sources: list[Shape]) -> str:
    found = _output_shape(layer, sources)
    if len(found) == 3 and found != (layer.K, layer.P, layer.Q):
        return f"its inputs {sources} give {found}, but it declares (K, P, Q) = {(layer.K, layer.P, layer.Q)}"
    if layer.op == "concat":
        fits = all(len(shape) == 3 and shape[1:] == found[1:] for shape in sources)
    elif layer.op == "mul":
        fits = all(shape in (found, (found[0], 1, 1)) for shape in sources)
    else:
        fits = all(shape == found for shape in sources)
    return "" if fits else f"cannot join tensors of shapes {sources}"


def _output_shape(layer: Layer, sources: list[Shape]) -> Shape:
    if layer.op == "linear" and layer.gemm is not None:
        return (layer.gemm.n, 1, 1) if layer.gemm.m == 1 else (layer.gemm.m, layer.gemm.n)
    if layer.op == "concat":
        return sum(shape[0] for shape in sources), *sources[0][1:]
    if layer.op in {"add", "mul"}:
        return max(sources, key=lambda shape: int(np.prod(shape)))
    return layer.K, layer.P, layer.Q


def _place_tensors(network: Network, shapes: Mapping[str, Shape]) -> tuple[dict[str, Slot], int]:
    """Give every tensor a place in one arena; a place is free again after the tensor's last reader.

    First fit in execution order. Returns the slots and the size of the arena (elements per image).
    """
    names = [INPUT, *(layer.name for layer in network.layers)]
    last_use = {name: index for index, name in enumerate(names)}
    for index, layer in enumerate(network.layers, start=1):
        last_use |= dict.fromkeys(layer.sources, index)
    last_use[names[-1]] = len(names)
    slots: dict[str, Slot] = {}
    live: list[str] = []
    end = 0
    for index, name in enumerate(names):
        live = sorted((other for other in live if last_use[other] >= index), key=lambda other: slots[other].offset)
        size = int(np.prod(shapes[name]))
        offset = 0
        for other in live:
            if offset + size <= slots[other].offset:
                break
            offset = max(offset, round_up(slots[other].offset + slots[other].size, LINE))
        slots[name] = Slot(offset, size)
        live.append(name)
        end = max(end, round_up(offset + size, LINE))
    return slots, end


def _make_step(layer: Layer, shapes: Mapping[str, Shape], slots: Mapping[str, Slot]) -> Step:
    kernel: Kernel
    planes = window = None
    rows = tile_rows = 1
    if layer.op in CONV_OPS:
        planes = planes_of(layer)
        # One output position and no padding: a row of weights meets the input tensor as it lies there.
        kernel = "row_products" if layer.P == layer.Q == 1 and not planes.packed else "convolve"
        tile_rows = rows_of_tile(planes)
    elif layer.op == "linear" and layer.gemm is not None:
        kernel, rows = "row_products", layer.gemm.m
    elif layer.op in {"maxpool", "avgpool"}:
        kernel, window = "pool", window_of(layer)
    else:
        kernel = "add" if layer.op == "add" else "mul" if layer.op == "mul" else "concat"
    return Step(
        layer=layer,
        kernel=kernel,
        inputs=tuple(slots[source] for source in layer.sources),
        shapes=tuple(shapes[source] for source in layer.sources),
        output=slots[layer.name],
        activation=ACTIVATION_CODES[layer.activation],
        rows=rows,
        tile_rows=tile_rows,
        planes=planes,
        window=window,
    )
