"""Which supertiles the buffers hold, in which order: the tiling with the least DRAM traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..workloads.errors import InputError
from .loopnest import Nest, ceil_div


@dataclass(frozen=True)
class Capacity:
    """Bytes of the on-chip buffers for weights, inputs and outputs (partial sums)."""

    weight_bytes: int
    input_bytes: int
    output_bytes: int


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
    """The supertile and loop order with the least DRAM traffic; among equals the largest supertile, weights outer first.

    Exhaustive over powers of two (and "everything") blocks per supertile and both orders.

    Raises
    ------
    InputError
        if a single tile's operands or one output block exceed a buffer: the layer is too large for any tiling.
    """
    _check_single_tile(nest, capacity, output_bits)
    candidates = _candidates(nest, capacity)
    return min(candidates, key=lambda t: (t.dram_bytes, -t.rows * t.columns, not t.weights_outer))


@dataclass(frozen=True)
class _Option:
    """One run length of one operand: blocks per supertile (0 = streamed), supertiles, and bytes of one pass."""

    blocks: int
    supertiles: int
    pass_bytes: int


def _candidates(nest: Nest, capacity: Capacity) -> Iterator[Tiling]:
    rows, columns = _row_options(nest, capacity.weight_bytes), _column_options(nest, capacity.input_bytes)
    for row in rows:
        for column in columns:
            for weights_outer in (True, False):
                yield _tiling(nest, row, column, weights_outer)


def _row_options(nest: Nest, capacity: int) -> list[_Option]:
    blocks, total = nest.tile_weight_bytes.sum(axis=2), int(nest.tile_weight_bytes.sum())
    options = [
        _Option(rows, ceil_div(nest.row_blocks, rows), total)
        for rows in _powers(nest.row_blocks)
        if _copies(nest, rows, nest.row_blocks) * np.add.reduceat(blocks, range(0, nest.row_blocks, rows), axis=1).max()
        <= capacity
    ]
    return options or [_Option(0, nest.row_blocks, total)]


def _column_options(nest: Nest, capacity: int) -> list[_Option]:
    options = []
    for columns in _powers(nest.column_blocks):
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


def _tiling(nest: Nest, row: _Option, column: _Option, weights_outer: bool) -> Tiling:
    weight_passes = 1 if weights_outer or row.supertiles == 1 else column.supertiles
    input_passes = 1 if not weights_outer or column.supertiles == 1 else row.supertiles
    if row.blocks == 0:
        weight_passes = nest.column_blocks
    if column.blocks == 0:
        input_passes = nest.row_blocks
    return Tiling(
        rows=row.blocks or 1,
        columns=column.blocks or 1,
        weights_outer=weights_outer,
        weights_streamed=row.blocks == 0,
        inputs_streamed=column.blocks == 0,
        dram_bytes=row.pass_bytes * weight_passes + column.pass_bytes * input_passes,
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
