"""What the steps of a program have to do, counted exactly: the input of the host CPU's model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from .....accel.host_cpu import LANES, Work
from .....workloads.layers import Layer
from .....workloads.network import INPUT
from .. import dense_kernel, gate_kernel, packing_kernel, pooling_kernel
from ..network import PlaneNetwork
from ..planes import PlaneLayout
from ..product import Choice, Product
from ..streams import LevelStreams
from ..team import Call
from .reduced_work import reduced_name, reduced_work

_LINE = 4 * LANES
#: Bytes of a non-zero in a fully connected layer: value and 16-bit column.
_ROW_BYTES = 6


class Unit(NamedTuple):
    """Steps of one layer that are counted together; ``work``: None for a kernel that is not counted here."""

    layer: str
    steps: tuple[Call | Callable[[], None], ...]
    work: Work | None


def units(runner: PlaneNetwork, level: int) -> list[Unit]:
    """The program of one image at a level, in order: every step by itself, the steps of a fully connected layer together."""
    layers = {layer.name: layer for layer in runner.network.layers}
    found: list[Unit] = []
    for name, steps in groupby(runner.steps(level), key=lambda step: step[0]):
        layer, own = layers[name], tuple(step for _, step in steps)
        if layer.op == "linear":
            found += [Unit(name, (step,), cleared(step)) for step in own if _clears(step)]
            found.append(Unit(name, tuple(x for x in own if not _clears(x)), _linear(runner, layer, level)))
        else:
            found += [Unit(name, (step,), _step_work(runner, layer, step, level=level)) for step in own]
    return found


def level_work(runner: PlaneNetwork, level: int) -> list[tuple[str, Work | None]]:
    """The work of every unit with its layer; first the image that is copied to its planes, last the output."""
    last = runner.network.layers[-1].name
    inside = [(unit.layer, unit.work) for unit in units(runner, level)]
    ends = copied("copy in", runner.input_shape), copied("copy out", runner.tensor(last).shape)
    return [(INPUT, ends[0]), *inside, (last, ends[1])]


def network_bytes(works: Iterable[Work | None]) -> int:
    """Bytes that one image touches at a level: all weights, and the tensors of the largest layer (memory is used again)."""
    known = [work for work in works if work is not None]
    largest = max((work.input_bytes + work.output_bytes for work in known), default=0)
    return largest + sum(work.stream_bytes for work in known)


def _step_work(runner: PlaneNetwork, layer: Layer, step: Call, *, level: int) -> Work | None:
    """The work of one step, with the useful FLOP of a product: two per retained weight and output position."""
    if not step.extras:  # only products have scratch memory
        count = _COUNTS.get(step.kernel)
        return None if count is None else count(step)
    product, plan = runner.products[layer.name], runner.plans[layer.name]
    reduced = reduced_name(plan, level)
    if reduced is not None:
        work = reduced_work(reduced, layer, product.planes, step)
    elif level in plan.dense_levels:
        work = dense_work(product.planes, step)
    else:
        assert isinstance(product, Product)  # what has no reduced name
        work = sparse_work(product, step, level=level)
    nonzeros = int(runner.network.weights[layer.name].nonzeros[level])
    return replace(work, useful_flop=2 * nonzeros * layer.P * layer.Q)


def _linear(runner: PlaneNetwork, layer: Layer, level: int) -> Work | None:
    """A fully connected layer from its weights alone: several kernels may share it, each with another format. None for
    several vectors."""
    if layer.gemm is not None and layer.gemm.m > 1:
        return None
    weights = runner.network.weights[layer.name]
    nonzeros, (rows, columns) = int(weights.nonzeros[level]), (weights.shape[0], weights.keep[0].size)
    return Work(
        "rows",
        useful_flop=2 * nonzeros,
        multiply_adds=-(-nonzeros // LANES),
        visits=rows,
        copies=-(-(rows + columns) // LANES),
        operand_bytes=4 * columns,
        stream_bytes=_ROW_BYTES * nonzeros,
        input_bytes=4 * columns,
        output_bytes=4 * rows,
    )


def copied(kernel: str, shape: tuple[int, ...]) -> Work:
    """A tensor that is copied as it is."""
    elements = int(np.prod(shape))
    return Work(kernel, copies=-(-elements // LANES), input_bytes=4 * elements, output_bytes=4 * elements)


def sparse_work(product: Product, step: Call, *, level: int) -> Work:
    """A sparse product from its streams. ``useful_flop`` is left to the caller, who knows the weights."""
    choice, streams = product.choice, product.streams
    wanted = streams.levels - level
    group = choice.group if choice.kind == "blocks" else 1  # rows that share a position
    tiles = product.target.tiles(choice.vectors)
    each = tiles * choice.vectors
    visits, listed = _visits(streams, wanted), streams.counts.size // streams.levels
    positions = int(streams.counts.reshape(streams.levels, -1)[:wanted].sum(dtype=np.int64))
    copies = choice.kind == "packed" or choice.window > 0
    ends = product.layer.K * each * (2 if _adds(step) else 1)
    per_position = 4 * group + streams.offsets.itemsize
    return Work(
        kernel_name(choice),
        multiply_adds=positions * group * each,
        visits=visits * group * each,
        segments=visits * wanted * tiles,
        copies=product.reduction.size * each if copies else 0,
        stores=ends,
        operand_bytes=(choice.window or product.reduction.size // product.layer.groups) * choice.vectors * _LINE,
        sums_bytes=product.layer.K * choice.vectors * _LINE if streams.skips.shape[1] > 1 else 0,
        stream_bytes=positions * per_position + listed * (streams.rows.itemsize + wanted * streams.counts.itemsize),
        passes=tiles,
        input_bytes=4 * product.planes.size,
        output_bytes=ends * _LINE,
    )


def kernel_name(choice: Choice) -> str:
    """What a choice's cost depends on; the size of a window does not change the cost per unit of work."""
    group = f"{choice.group}x" if choice.kind == "blocks" else ""
    return f"{choice.kind} {group}{choice.vectors}" + (" windows" if choice.kind == "blocks" and choice.window else "")


def _visits(streams: LevelStreams, wanted: int) -> int:
    """Rows (or groups of rows) per tile over all windows: every one in the first and last window, elsewhere those with
    non-zeros."""
    windows: int = streams.skips.shape[1]
    rows = int((streams.starts[:, 1] - streams.starts[:, 0]).sum())
    empty = int(np.sum(streams.skips[:, 1:-1, wanted - 1], dtype=np.int64))
    return rows * windows - empty


def _adds(step: Call) -> bool:
    """True if a product adds a residual: one that is no residual is given its own output."""
    planes = step.arguments[-1]
    out, residual = planes[2], planes[-1]
    return bool(residual is not out)


def dense_work(planes: PlaneLayout, step: Call) -> Work:
    """A dense product from the arguments of its call, see ``dense_kernel``; ``planes``: what it reads."""
    (rows, reduction, window, blocks, *_), weights, *_ = step.arguments
    vectors = next(v for v, kernel in dense_kernel.KERNELS.items() if kernel is step.kernel)
    tiles = int(step.tasks[1]) // blocks
    each = tiles * vectors
    computed = weights.size // reduction  # rows, rounded up to whole groups
    ends = rows * each * (2 if _adds(step) else 1)
    return Work(
        f"dense {vectors}",
        multiply_adds=weights.size * each,
        visits=computed * -(-reduction // window) * each,
        copies=reduction * each,
        stores=ends,
        operand_bytes=window * vectors * _LINE,
        sums_bytes=computed * vectors * _LINE,
        stream_bytes=weights.nbytes,
        passes=tiles,
        input_bytes=4 * planes.size,
        output_bytes=ends * _LINE,
    )


def _clears(step: Call) -> bool:
    return step.kernel is packing_kernel.clear


def cleared(call: Call) -> Work:
    """Halos of planes made zero, and the gaps between the rows of their first channels."""
    _, (channels, height, width, pitch, lead, _), gaps = call.arguments
    elements = 2 * channels * lead + gaps * height * (pitch - width)
    lines = channels + gaps * height
    return Work("clear", visits=lines, copies=-(-elements // LANES), output_bytes=4 * elements)


def _phases(call: Call) -> Work:
    x, source, _, target, phases, step, reach, _ = call.arguments
    channels, (_, rows, columns, *_) = source[0], target
    above, below, left, right = reach
    lines = channels * len(phases) * (rows + above + below)
    cells = columns + left + right
    copied = lines * (-(-cells // LANES) if step <= 2 else cells)
    name = f"phases {step}" if step <= 2 else "phases"
    return Work(name, visits=lines, copies=copied, input_bytes=x.nbytes, output_bytes=4 * lines * cells)


def _pool(call: Call) -> Work:
    _, taps, step, _, _, masks, _ = call.arguments
    vectors = int(call.tasks[1]) * len(masks)
    return Work("pool phases", multiply_adds=vectors * len(taps), visits=vectors, input_bytes=int(call.tasks[1]) * step,
                output_bytes=vectors * _LINE)  # fmt: skip


def _pool_windows(call: Call) -> Work:
    x, source, _, target, (rows, columns, *_), _ = call.arguments
    vectors = source[0] * target[1] * -(-target[2] // LANES)
    return Work("pool", multiply_adds=vectors * rows * columns, visits=vectors, input_bytes=x.nbytes,
                output_bytes=vectors * _LINE)  # fmt: skip


def _pool_maps(call: Call) -> Work:
    _, (channels, height, width, pitch, *_), *_, factor = call.arguments
    if factor == 0:  # cell by cell
        cells = channels * height * width
        return Work("largest of maps", multiply_adds=cells, visits=channels, input_bytes=4 * cells)
    vectors = channels * -(-height * pitch // LANES)
    return Work("maps", multiply_adds=vectors, visits=channels, input_bytes=vectors * _LINE)


def _elementwise(name: str, tensors: int, call: Call) -> Work:
    """A sum or product of two tensors, or one tensor scaled by channel."""
    masks = call.arguments[4]
    vectors = int(call.tasks[1]) * len(masks)
    return Work(name, multiply_adds=vectors, visits=int(call.tasks[1]), input_bytes=tensors * vectors * _LINE,
                output_bytes=vectors * _LINE)  # fmt: skip


def _joined(call: Call) -> Work:
    """One of the tensors that a concatenation copies."""
    *_, (channels, *_), masks = call.arguments
    vectors = channels * len(masks)
    return Work("join", copies=vectors, input_bytes=vectors * _LINE, output_bytes=vectors * _LINE)


def _gate(call: Call) -> Work:
    _, (channels, *_), masks, which = call.arguments
    vectors = channels * len(masks)
    return Work(f"gate {which}", multiply_adds=vectors, visits=channels, input_bytes=vectors * _LINE,
                output_bytes=vectors * _LINE)  # fmt: skip


_COUNTS: Mapping[Any, Callable[[Call], Work]] = {
    packing_kernel.clear: cleared,
    packing_kernel.pack_phases: _phases,
    packing_kernel.pool: _pool,
    packing_kernel.pool_maps: _pool_maps,
    **dict.fromkeys(pooling_kernel.KERNELS.values(), _pool_windows),
    packing_kernel.add: partial(_elementwise, "add", 2),
    packing_kernel.scale: partial(_elementwise, "scale", 1),
    packing_kernel.multiply: partial(_elementwise, "multiply", 2),
    packing_kernel.copy: _joined,
    gate_kernel.gate: _gate,
}
