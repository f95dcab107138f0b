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
    """Operand bytes of a buffer without limits: every weight and every input element once."""
    return int(nest.tile_weight_bytes.sum()) + int(nest.input_bytes(nest.column_blocks).sum()) * nest.gemm.b


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


def _candidates(nest: Nest, capacity: Capacity) -> Iterator[Tiling]:
    for rows in _row_options(nest, capacity.weight_bytes) or [0]:
        for columns in _column_options(nest, capacity.input_bytes) or [0]:
            for weights_outer in (True, False):
                yield _with_traffic(nest, rows=rows, columns=columns, weights_outer=weights_outer)


def _row_options(nest: Nest, capacity: int) -> list[int]:
    blocks = nest.tile_weight_bytes.sum(axis=2)
    return [
        rows
        for rows in _powers(nest.row_blocks)
        if _copies(rows, nest.row_blocks) * np.add.reduceat(blocks, _starts(nest.row_blocks, rows), axis=1).max()
        <= capacity
    ]


def _column_options(nest: Nest, capacity: int) -> list[int]:
    return [
        columns
        for columns in _powers(nest.column_blocks)
        if _copies(columns, nest.column_blocks)
        * np.add.reduceat(nest.input_bytes(columns), _starts(nest.column_blocks, columns)).max()
        <= capacity
    ]


def _starts(blocks: int, run: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(0, blocks, run, dtype=np.int64)


def _copies(run: int, blocks: int) -> int:
    """A run is double-buffered unless it is everything there is."""
    return 1 if run == blocks else 2


def _powers(blocks: int) -> list[int]:
    return [*(1 << i for i in range(blocks.bit_length()) if 1 << i < blocks), blocks]


def _with_traffic(nest: Nest, *, rows: int, columns: int, weights_outer: bool) -> Tiling:
    row_supertiles = ceil_div(nest.row_blocks, rows or 1)
    column_supertiles = ceil_div(nest.column_blocks, columns or 1)
    weight_passes = 1 if weights_outer or row_supertiles == 1 else column_supertiles
    input_passes = 1 if not weights_outer or column_supertiles == 1 else row_supertiles
    if rows == 0:
        weight_passes = nest.column_blocks
    if columns == 0:
        input_passes = nest.row_blocks
    weights = int(nest.tile_weight_bytes.sum()) * weight_passes
    inputs = int(nest.input_bytes(columns or 1).sum()) * nest.gemm.b * input_passes
    return Tiling(
        rows=rows or 1,
        columns=columns or 1,
        weights_outer=weights_outer,
        weights_streamed=rows == 0,
        inputs_streamed=columns == 0,
        dram_bytes=weights + inputs,
    )


def _check_single_tile(nest: Nest, capacity: Capacity, output_bits: int) -> None:
    positions = min(nest.blocking.m, nest.gemm.m)
    input_bits = positions * min(nest.blocking.k, nest.gemm.k) * nest.activation_bits
    output_block_bits = positions * min(nest.blocking.n, nest.gemm.n) * output_bits
    needs = (
        ("weight", 2 * int(nest.tile_weight_bytes.max(initial=0)), capacity.weight_bytes),
        ("input", 2 * ceil_div(input_bits, 8), capacity.input_bytes),
        ("output", ceil_div(output_block_bits, 8), capacity.output_bytes),
    )
    for name, need, available in needs:
        if need > available:
            raise InputError(
                f"layer '{nest.layer.name}' is too large for any tiling: one tile needs {need} bytes of the {name} "
                f"buffer, which has {available}; enlarge that buffer or shrink the array in the design file"
            )
