"""From a loop nest and its tiling to the tile table's memory columns: who fetches what, when, from which address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError
from .loopnest import Int64Array, Nest, ceil_div
from .mapping import Tiling
from .tiles import TileTable

#: Tensors start at DRAM page boundaries (4 KiB): a modelling choice, DESIGN.md section 4.
TENSOR_ALIGNMENT = 4096
#: A tile table of this size takes some 5 GB; larger layers are refused rather than exhausting the memory.
MAX_TILES = 30_000_000


@dataclass(frozen=True, eq=False)
class TileOrder:
    """Loop indices of every tile in execution order, each int64 (tiles,); ``tiling`` says what they came from."""

    nest: Nest
    tiling: Tiling
    group: Int64Array
    row: Int64Array
    column: Int64Array
    k_tile: Int64Array
    supertile: Int64Array

    @property
    def closes(self) -> NDArray[np.bool_]:
        """True where the tile is the last one of its output block."""
        return np.asarray(self.k_tile == self.nest.k_tiles - 1)


def order_tiles(nest: Nest, tiling: Tiling) -> TileOrder:
    """Enumerate the nest's tiles in execution order.

    Raises
    ------
    InputError
        for a layer of more than ``MAX_TILES`` tiles.
    """
    tiles = nest.gemm.b * nest.row_blocks * nest.column_blocks * nest.k_tiles
    if tiles > MAX_TILES:
        raise InputError(
            f"layer '{nest.layer.name}' needs {tiles:,} tiles; at most {MAX_TILES:,} are simulated: use larger tiles or a "
            "larger array"
        )
    row_supertiles = ceil_div(nest.row_blocks, tiling.rows)
    column_supertiles = ceil_div(nest.column_blocks, tiling.columns)
    outer, inner = (row_supertiles, column_supertiles) if tiling.weights_outer else (column_supertiles, row_supertiles)
    grid = np.indices((nest.gemm.b, outer, inner, tiling.rows, tiling.columns, nest.k_tiles), dtype=np.int64)
    group, out, inn, r, c, k_tile = grid.reshape(6, -1)
    row_super, column_super = (out, inn) if tiling.weights_outer else (inn, out)
    row = row_super * tiling.rows + r
    column = column_super * tiling.columns + c
    supertile = (group * outer + out) * inner + inn
    real = (row < nest.row_blocks) & (column < nest.column_blocks)
    if not real.all():  # the last supertile of a loop may be ragged
        group, row, column, k_tile, supertile = (x[real] for x in (group, row, column, k_tile, supertile))
    return TileOrder(nest, tiling, group, row, column, k_tile, supertile)


def build_table(
    order: TileOrder,
    *,
    steps: Int64Array,
    actions: Mapping[str, Int64Array],
    output_bits: int,
    load_beats: Int64Array | None = None,
    drain_words: Int64Array | None = None,
) -> TileTable:
    """The tile table of ``order``; the array model supplies what happens inside the array.

    ``load_beats``, ``drain_words``: none by default, for arrays that work straight from the buffers. ``drain_words`` counts
    only where a tile closes its block. ``output_bits``: width of a finished output element in DRAM.
    """
    nothing = np.zeros_like(order.row)
    weight_bytes, weight_address = _weight_fetch(order)
    weight_region = _aligned(int(order.nest.tile_weight_bytes.sum()))
    input_bytes, input_address, input_region = _input_fetch(order)
    store_bytes, store_address = _stores(order, output_bits)
    return TileTable(
        weight_bytes=weight_bytes,
        input_bytes=input_bytes,
        weight_address=weight_address,
        input_address=input_address + weight_region,
        store_bytes=store_bytes,
        store_address=store_address + weight_region + input_region,
        load_beats=nothing if load_beats is None else load_beats,
        steps=steps,
        drain_words=nothing if drain_words is None else np.where(order.closes, drain_words, 0),
        after=_release(order),
        actions=actions,
    )


def _aligned(size: int) -> int:
    return ceil_div(size, TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT


def _weight_fetch(order: TileOrder) -> tuple[Int64Array, Int64Array]:
    """Weights of a row block are fetched by the first column block that uses them while they are resident."""
    nest, tiling = order.nest, order.tiling
    per_tile = nest.tile_weight_bytes
    starts = (np.cumsum(per_tile) - per_tile.reshape(-1)).reshape(per_tile.shape)
    index = (order.group, order.row, order.k_tile)
    if tiling.weights_streamed:
        return per_tile[index], starts[index]
    stays = tiling.weights_outer or ceil_div(nest.row_blocks, tiling.rows) == 1
    first = order.column == 0 if stays else order.column % tiling.columns == 0
    return np.where(first, per_tile[index], 0), starts[index]


def _input_fetch(order: TileOrder) -> tuple[Int64Array, Int64Array, int]:
    """Inputs of a column block are fetched by the first row block that uses them; all k at its first k tile."""
    nest, tiling = order.nest, order.tiling
    per_block = nest.input_bytes(tiling.columns)
    _, stop = nest.footprint
    group_bytes = int(stop.max(initial=0))
    address = order.group * group_bytes + (stop - per_block)[order.column]
    stays = not tiling.weights_outer or ceil_div(nest.column_blocks, tiling.columns) == 1
    if tiling.inputs_streamed:
        first = order.k_tile == 0
    else:
        first = (order.k_tile == 0) & (order.row == 0 if stays else order.row % tiling.rows == 0)
    return np.where(first, per_block[order.column], 0), address, _aligned(group_bytes * nest.gemm.b)


def _stores(order: TileOrder, output_bits: int) -> tuple[Int64Array, Int64Array]:
    elements = order.nest.rows_used()[order.row] * order.nest.columns_used()[order.column]
    size = np.where(order.closes, -(-elements * output_bits // 8), 0)
    return size, np.cumsum(size) - size


def _release(order: TileOrder) -> Int64Array:
    """Double buffering: a supertile's fetches wait until the one before the previous is computed."""
    tiles = np.arange(order.row.size, dtype=np.int64)
    if order.tiling.weights_streamed or order.tiling.inputs_streamed:
        return np.maximum(tiles - 2, -1)
    last = np.flatnonzero(np.diff(order.supertile, append=np.int64(-1)))
    number = np.searchsorted(last, tiles)  # running number of the tile's supertile
    return np.where(number >= 2, last[np.maximum(number - 2, 0)], -1)
