"""From tiling to tile table: who fetches what and when, against a walk over the nest with an ideal buffer."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.loopnest import Blocking, Nest
from nestling.accel.mapping import Capacity, Tiling, choose_tiling
from nestling.accel.schedule import TENSOR_ALIGNMENT, build_table, order_tiles
from nestling.accel.tiles import TileTable
from nestling.workloads.layers import linear

from .nest_oracle import nests, walk

sizes = st.integers(1, 4)
tilings = st.builds(
    Tiling, rows=sizes, columns=sizes, weights_outer=st.booleans(),
    weights_streamed=st.booleans(), inputs_streamed=st.booleans(),
)  # fmt: skip


def bounded(nest: Nest, tiling: Tiling) -> Tiling:
    """Runs no longer than the nest has blocks; a streamed operand goes block by block."""
    rows = 1 if tiling.weights_streamed else min(tiling.rows, nest.row_blocks)
    columns = 1 if tiling.inputs_streamed else min(tiling.columns, nest.column_blocks)
    return Tiling(rows, columns, tiling.weights_outer, tiling.weights_streamed, tiling.inputs_streamed)


def table_of(nest: Nest, tiling: Tiling, *, output_bits: int = 8) -> TileTable:
    order = order_tiles(nest, tiling)
    column = np.arange(order.row.size, dtype=np.int64)
    return build_table(
        order,
        load_beats=column,
        steps=column + 1,
        drain_words=np.full_like(column, 5),
        actions={"noise": column * 2},
        output_bits=output_bits,
    )


@settings(max_examples=120, deadline=None)
@given(nest=nests(), wanted=tilings)
def test_fetches_equal_those_of_an_ideal_buffer(nest: Nest, wanted: Tiling) -> None:
    tiling = bounded(nest, wanted)
    table, oracle, order = table_of(nest, tiling), walk(nest, tiling), order_tiles(nest, tiling)
    visited = zip(order.group.tolist(), order.row.tolist(), order.column.tolist(), order.k_tile.tolist(), strict=True)
    assert list(visited) == oracle.tiles
    assert table.weight_bytes.tolist() == oracle.weight_bytes
    assert table.input_bytes.tolist() == oracle.input_bytes


@settings(max_examples=80, deadline=None)
@given(nest=nests(), weights=st.integers(80, 900), inputs=st.integers(320, 1500))
def test_the_table_fetches_what_the_tiling_promised(nest: Nest, weights: int, inputs: int) -> None:
    tiling = choose_tiling(nest, Capacity(weights, inputs, 1 << 20), output_bits=8)
    table = table_of(nest, tiling)
    assert table.totals()["dram_read_bytes"] == tiling.dram_bytes


@settings(max_examples=80, deadline=None)
@given(nest=nests(), wanted=tilings, bits=st.sampled_from([8, 16, 5]))
def test_stores_and_drains_close_every_block_once(nest: Nest, wanted: Tiling, bits: int) -> None:
    tiling = bounded(nest, wanted)
    table, order = table_of(nest, tiling, output_bits=bits), order_tiles(nest, tiling)
    blocks = set()
    for i, (b, row, column, k) in enumerate(walk(nest, tiling).tiles):
        closes = k == nest.k_tiles - 1
        rows = min(nest.gemm.n, (row + 1) * nest.blocking.n) - row * nest.blocking.n
        columns = min(nest.gemm.m, (column + 1) * nest.blocking.m) - column * nest.blocking.m
        assert table.store_bytes[i] == (-(-rows * columns * bits // 8) if closes else 0)
        assert table.drain_words[i] == (5 if closes else 0)
        assert order.closes[i] == closes
        if closes:
            assert (b, row, column) not in blocks
            blocks.add((b, row, column))
    assert len(blocks) == nest.gemm.b * nest.row_blocks * nest.column_blocks
    if bits == 8:
        assert table.totals()["dram_write_bytes"] == nest.gemm.b * nest.gemm.m * nest.gemm.n


@settings(max_examples=80, deadline=None)
@given(nest=nests(), wanted=tilings)
def test_a_fetch_waits_for_the_supertile_before_the_previous_one(nest: Nest, wanted: Tiling) -> None:
    tiling = bounded(nest, wanted)
    table, supertiles = table_of(nest, tiling), walk(nest, tiling).supertiles
    streamed = tiling.weights_streamed or tiling.inputs_streamed
    last = {number: i for i, number in enumerate(supertiles)}
    for i, number in enumerate(supertiles):
        expected = max(-1, i - 2) if streamed else last.get(number - 2, -1)
        assert table.after[i] == expected


@settings(max_examples=80, deadline=None)
@given(nest=nests(), wanted=tilings)
def test_tensors_do_not_overlap_and_start_at_pages(nest: Nest, wanted: Tiling) -> None:
    table = table_of(nest, bounded(nest, wanted))
    order = order_tiles(nest, bounded(nest, wanted))
    regions = []
    for size, address in (
        (table.weight_bytes, table.weight_address),
        (table.input_bytes, table.input_address),
        (table.store_bytes, table.store_address),
    ):
        moved = size > 0
        if moved.any():
            regions.append((int(address[moved].min()), int((address + size)[moved].max())))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(regions))
    weights = int(nest.tile_weight_bytes.sum())
    base = -(-weights // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    start, stop = nest.footprint
    group_bytes = int(stop.max())
    for i in np.flatnonzero(table.input_bytes):
        offset = base + int(order.group[i]) * group_bytes
        assert offset + start[order.column[i]] <= table.input_address[i]
        assert table.input_address[i] + table.input_bytes[i] == offset + stop[order.column[i]]
    flat = np.cumsum(nest.tile_weight_bytes.reshape(-1)) - nest.tile_weight_bytes.reshape(-1)
    expected = flat.reshape(nest.tile_weight_bytes.shape)[order.group, order.row, order.k_tile]
    np.testing.assert_array_equal(table.weight_address, expected)


def test_stores_are_written_one_after_the_other() -> None:
    layer = linear("l", "input", features_in=9, features_out=7, rows=11)
    assert layer.gemm is not None
    nest = Nest(layer, layer.gemm, Blocking(n=2, m=3, k=4), np.full((1, 4, 3), 8, np.int64), 8)
    table = table_of(nest, Tiling(2, 1, False))
    ends = (table.store_address + table.store_bytes)[table.store_bytes > 0]
    starts = table.store_address[table.store_bytes > 0]
    np.testing.assert_array_equal(starts[1:], ends[:-1])
