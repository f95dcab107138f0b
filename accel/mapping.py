"""Which supertiles the buffers hold, in which order: exhaustive search by DRAM energy, latency or their product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..workloads.errors import InputError
from .loopnest import Nest, ceil_div
from .strict import Strict


class PinnedTiling(Strict):
    """A tiling the user insists on: blocks per supertile and which operand stays (see :class:`Tiling`)."""

    rows: Annotated[int, Field(gt=0)]
    columns: Annotated[int, Field(gt=0)]
    weights_outer: bool


class MappingPolicy(Strict):
    """What the search minimises, and layers (by name) whose tiling is given."""

    objective: Literal["energy", "latency", "edp"] = "energy"
    pinned: dict[str, PinnedTiling] = Field(default_factory=dict)


@dataclass(frozen=True)
class Capacity:
    """Bytes of the on-chip buffers for weights, inputs and outputs (partial sums), and what the search needs to know.

    ``dram_bytes_per_cycle`` at the fastest operating point and ``dram_pj_per_byte`` weigh traffic against time;
    ``mac_pj`` prices the work that no tiling changes.
    """

    weight_bytes: int
    input_bytes: int
    output_bytes: int
    objective: str = "energy"
    dram_bytes_per_cycle: float = 1.0
    dram_pj_per_byte: float = 1.0
    mac_pj: float = 0.0
    pinned: Mapping[str, PinnedTiling] = field(default_factory=dict, hash=False, compare=False)


@dataclass(frozen=True)
class Tiling:
    """How blocks gather into supertiles.

    ``rows``/``columns``: row and column blocks per supertile. ``weights_outer``: row supertiles are the outer loop, so their
    weights stay while all inputs pass. A streamed operand does not fit even once: it is fetched anew for every use.
    ``dram_bytes``: operand bytes read from DRAM over the whole layer.
    """

    rows: int
    columns: int
    weights_outer: bool
    weights_streamed: bool = False
    inputs_streamed: bool = False
    dram_bytes: int = 0


def compulsory_bytes(nest: Nest) -> int:
    """Operand bytes of a buffer without limits: every weight once, and the inputs in the run length that brings the fewest
    (all blocks, unless short runs can leave out rows that a stride skips)."""
    inputs = min(int(nest.input_bytes(columns).sum()) for columns in _powers(nest.column_blocks))
    return int(nest.tile_weight_bytes.sum()) + inputs * nest.gemm.b


def choose_tiling(nest: Nest, capacity: Capacity, *, output_bits: int) -> Tiling:
    """The best supertile and loop order for the capacity's objective; among equals the largest supertile, weights outer.

    Exhaustive over powers of two (and "everything") blocks per supertile and both orders; equal problems are solved once.
    ``energy`` minimises DRAM traffic, the only energy a tiling changes; ``latency`` the sum over supertiles of
    max(compute, fetch), one MAC per cycle and array position; ``edp`` the product of that latency and DRAM + MAC energy.

    Raises
    ------
    InputError
        if a single tile's operands or one output block exceed a buffer (the layer is too large for any tiling), or a
        pinned tiling does not fit.
    """
    _check_single_tile(nest, capacity, output_bits)
    pin = capacity.pinned.get(nest.layer.name)
    if pin is not None:
        return _pinned(nest, capacity, pin)
    return _search(_Problem(nest, capacity))


class _Problem:
    """A search problem that compares by what determines its answer, so that equal layers share one."""

    def __init__(self, nest: Nest, capacity: Capacity) -> None:
        self.nest, self.capacity = nest, capacity
        arrays = (nest.tile_weight_bytes, *nest.footprint)
        self.key = (nest.gemm, nest.blocking, capacity, nest.tile_weight_bytes.shape, *(a.tobytes() for a in arrays))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Problem) and self.key == other.key


@dataclass(frozen=True)
class _Option:
    """One run length of one operand: blocks per supertile (0 = streamed), supertiles, and bytes of one pass."""

    blocks: int
    supertiles: int
    pass_bytes: int


@lru_cache(maxsize=1024)
def _search(problem: _Problem) -> Tiling:
    """Evaluate every (row option, column option, order) at once and take the best."""
    nest, capacity = problem.nest, problem.capacity
    rows, columns = _row_options(nest, capacity.weight_bytes), _column_options(nest, capacity.input_bytes)
    grid = _Grid.of(rows, columns)
    traffic = _traffic(nest, grid)
    cost = _cost(nest, capacity, grid, traffic)
    size = np.multiply.outer([r.blocks or 1 for r in rows], [c.blocks or 1 for c in columns])
    # Last key first: cost, then traffic, then the largest supertile; equal ones keep their order, weights outer first.
    keys = [np.broadcast_to(key, traffic.shape).reshape(-1) for key in (-size, traffic, cost)]
    outer, r, c = np.unravel_index(np.lexsort(keys)[0], traffic.shape)
    return _tiling(rows[r], columns[c], weights_outer=bool(outer == 0), dram_bytes=int(traffic[outer, r, c]))


@dataclass(frozen=True, eq=False)
class _Grid:
    """Row options x column options as arrays of shape (row options, 1) and (1, column options)."""

    row_bytes: NDArray[np.int64]
    row_supertiles: NDArray[np.int64]
    rows_streamed: NDArray[np.int64]
    column_bytes: NDArray[np.int64]
    column_supertiles: NDArray[np.int64]
    columns_streamed: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[_Option], columns: list[_Option]) -> _Grid:
        row = np.array([(o.pass_bytes, o.supertiles, o.blocks == 0) for o in rows], dtype=np.int64)
        column = np.array([(o.pass_bytes, o.supertiles, o.blocks == 0) for o in columns], dtype=np.int64)
        return cls(*(part[:, None] for part in row.T), *(part[None, :] for part in column.T))


def _traffic(nest: Nest, grid: _Grid) -> NDArray[np.int64]:
    """Operand bytes from DRAM, int64 (2 orders, row options, column options); order 0 = weights outer.

    The outer operand is read once. The inner one is read once per outer supertile, unless all of it stays on chip. A
    streamed operand is read for every use.
    """
    once = np.ones(np.broadcast_shapes(grid.row_bytes.shape, grid.column_bytes.shape), dtype=np.int64)
    weight_passes = np.stack([once, once * np.where(grid.row_supertiles == 1, 1, grid.column_supertiles)])
    input_passes = np.stack([once * np.where(grid.column_supertiles == 1, 1, grid.row_supertiles), once])
    weight_passes = np.where(grid.rows_streamed, nest.column_blocks, weight_passes)
    input_passes = np.where(grid.columns_streamed, nest.row_blocks, input_passes)
    return np.asarray(grid.row_bytes * weight_passes + grid.column_bytes * input_passes, dtype=np.int64)


def _cost(nest: Nest, capacity: Capacity, grid: _Grid, traffic: NDArray[np.int64]) -> NDArray[np.float64]:
    """The objective of every candidate, shape of ``traffic``."""
    if capacity.objective == "energy":
        return traffic.astype(np.float64)
    # The outer operand of a supertile arrives with its first inner one; the rest of the traffic is spread evenly.
    outer_bytes = np.stack(np.broadcast_arrays(grid.row_bytes, grid.column_bytes))
    outer_count = np.stack(np.broadcast_arrays(grid.row_supertiles, grid.column_supertiles)) * nest.gemm.b
    supertiles = grid.row_supertiles * grid.column_supertiles * nest.gemm.b
    compute = nest.gemm.macs / (nest.blocking.n * nest.blocking.m) / supertiles
    later = (traffic - outer_bytes) / supertiles
    first = later + outer_bytes / outer_count
    rate = capacity.dram_bytes_per_cycle
    latency = outer_count * np.maximum(compute, first / rate)
    latency = latency + (supertiles - outer_count) * np.maximum(compute, later / rate)
    if capacity.objective == "latency":
        return np.asarray(latency)
    return np.asarray(latency * (traffic * capacity.dram_pj_per_byte + nest.gemm.macs * capacity.mac_pj))


def _pinned(nest: Nest, capacity: Capacity, pin: PinnedTiling) -> Tiling:
    """The user's tiling, if the buffers can hold it."""
    rows = {o.blocks: o for o in _row_options(nest, capacity.weight_bytes, runs=[min(pin.rows, nest.row_blocks)])}
    columns = {
        o.blocks: o for o in _column_options(nest, capacity.input_bytes, runs=[min(pin.columns, nest.column_blocks)])
    }
    if 0 in rows or 0 in columns:
        operand = "weight" if 0 in rows else "input"
        raise InputError(
            f"layer '{nest.layer.name}': the pinned tiling (rows {pin.rows}, columns {pin.columns}) does not fit the "
            f"{operand} buffer; pin fewer blocks or enlarge the buffer"
        )
    row, column = next(iter(rows.values())), next(iter(columns.values()))
    traffic = _traffic(nest, _Grid.of([row], [column]))[0 if pin.weights_outer else 1, 0, 0]
    return _tiling(row, column, weights_outer=pin.weights_outer, dram_bytes=int(traffic))


def _row_options(nest: Nest, capacity: int, runs: list[int] | None = None) -> list[_Option]:
    blocks, total = nest.tile_weight_bytes.sum(axis=2), int(nest.tile_weight_bytes.sum())
    options = [
        _Option(rows, ceil_div(nest.row_blocks, rows), total)
        for rows in runs or _powers(nest.row_blocks)
        if _copies(nest, rows, nest.row_blocks) * np.add.reduceat(blocks, range(0, nest.row_blocks, rows), axis=1).max()
        <= capacity
    ]
    return options or [_Option(0, nest.row_blocks, total)]


def _column_options(nest: Nest, capacity: int, runs: list[int] | None = None) -> list[_Option]:
    options = []
    for columns in runs or _powers(nest.column_blocks):
        fetched = nest.input_bytes(columns)
        held = np.add.reduceat(fetched, range(0, nest.column_blocks, columns)).max()
        if _copies(nest, columns, nest.column_blocks) * held <= capacity:
            supertiles = ceil_div(nest.column_blocks, columns)
            options.append(_Option(columns, supertiles, int(fetched.sum()) * nest.gemm.b))
    return options or [_Option(0, nest.column_blocks, int(nest.input_bytes(1).sum()) * nest.gemm.b)]


def _copies(nest: Nest, run: int, blocks: int) -> int:
    """A run is double-buffered unless it is everything there is: the next group's operands arrive early, too."""
    return 1 if run == blocks and nest.gemm.b == 1 else 2


def _powers(blocks: int) -> list[int]:
    return [*(1 << i for i in range(blocks.bit_length()) if 1 << i < blocks), blocks]


def _tiling(row: _Option, column: _Option, *, weights_outer: bool, dram_bytes: int) -> Tiling:
    return Tiling(
        rows=row.blocks or 1,
        columns=column.blocks or 1,
        weights_outer=weights_outer,
        weights_streamed=row.blocks == 0,
        inputs_streamed=column.blocks == 0,
        dram_bytes=dram_bytes,
    )


def _check_single_tile(nest: Nest, capacity: Capacity, output_bits: int) -> None:
    positions = min(nest.blocking.m, nest.gemm.m)
    depth = min(nest.blocking.k, nest.gemm.k)
    start, stop = nest.footprint
    window = ceil_div(int((stop - start).max(initial=0)) * depth, nest.gemm.k)  # overlapping windows share input rows
    input_bytes = min(ceil_div(positions * depth * nest.activation_bits, 8), window)
    output_block_bits = positions * min(nest.blocking.n, nest.gemm.n) * output_bits
    needs = (
        ("weight", 2 * int(nest.tile_weight_bytes.max(initial=0)), capacity.weight_bytes),
        ("input", 2 * input_bytes, capacity.input_bytes),
        ("output", ceil_div(output_block_bits, 8), capacity.output_bytes),
    )
    for name, need, available in needs:
        if need > available:
            raise InputError(
                f"layer '{nest.layer.name}' is too large for any tiling: one tile needs {need} bytes of the {name} "
                f"buffer, which has {available}; enlarge that buffer or shrink the array in the design file"
            )
