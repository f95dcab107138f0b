"""Streams and planes: what was put in comes out; level l is a prefix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.planes import LANES, VECTORS, PlaneLayout, aligned, usable_vectors
from nestling.sim.executor.simd.rows.fully_connected import RowProduct
from nestling.sim.executor.simd.streams import AHEAD, LevelStreams, direct_streams, windowed_streams
from nestling.sim.executor.simd.team import Call, Team, call
from nestling.workloads.errors import InputError
from nestling.workloads.nesting import NestedWeights


@st.composite
def nested_matrices(draw: st.DrawFn) -> NestedWeights:
    rows, columns, levels = draw(st.integers(1, 40)), draw(st.integers(1, 90)), draw(st.sampled_from((1, 2, 3, 8)))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    keep = random.integers(0, levels + 1, (rows, columns)).astype(np.uint8)
    keep[random.random(keep.shape) < draw(st.sampled_from((0.0, 0.5, 0.95, 1.0)))] = 0
    values = random.standard_normal((rows, columns)).astype(np.float32)
    return NestedWeights(values=values, keep=keep, levels=levels)


def decoded(streams: LevelStreams, level: int) -> np.ndarray:
    """The dense matrix of a level, read from the first streams only, the way a kernel walks."""
    matrix = np.zeros((streams.rows_total, streams.reduction), np.float32)
    windows = -(-streams.reduction // streams.window)
    step = 4 * LANES * streams.vectors
    for first, last, *segments in streams.starts:
        for stream in range(streams.levels - level):
            at = segments[stream]
            for window in range(windows):
                for i in range(
                    first * windows + window * (last - first), first * windows + (window + 1) * (last - first)
                ):
                    count = int(streams.counts[stream, i])
                    columns = streams.offsets[at : at + count].astype(np.int64) // step + window * streams.window
                    matrix[streams.rows[i], columns] = streams.values[at : at + count]
                    at += count
    return matrix


@settings(deadline=None, max_examples=80)
@given(nested_matrices(), st.integers(1, 100), st.integers(1, 5), st.booleans())
def test_streams_hold_every_level(weights: NestedWeights, window: int, blocks: int, whole_rows: bool) -> None:
    if whole_rows:
        places = np.arange(weights.shape[1], dtype=np.uint32)[None] * np.uint32(4 * LANES * 2)
        streams = direct_streams(weights, places, vectors=2, blocks=blocks)
    else:
        streams = windowed_streams(weights, window=window, vectors=2, blocks=blocks)
    for level in range(weights.levels):
        np.testing.assert_array_equal(decoded(streams, level), weights.dense(level))
    assert len(streams.values) == weights.nonzeros[0] + 1
    assert not streams.rows[-AHEAD:].any()
    covered = np.concatenate([np.arange(first, last) for first, last in streams.starts[:, :2]])
    np.testing.assert_array_equal(covered, np.arange(weights.shape[0]))


@settings(deadline=None, max_examples=40)
@given(nested_matrices(), st.integers(1, 100))
def test_skipped_rows_have_nothing_to_add(weights: NestedWeights, window: int) -> None:
    streams = windowed_streams(weights, window=window, vectors=1)
    windows = -(-streams.reduction // window)
    listed = streams.counts.reshape(streams.levels, windows, -1).cumsum(axis=0)
    for w in range(windows):
        for stream in range(streams.levels):
            skipped = int(streams.skips[0, w, stream])
            assert not listed[stream, w, :skipped].any()
            assert listed[stream, w, skipped:].all()


def test_patterns_without_values_are_refused() -> None:
    pattern = NestedWeights(values=None, keep=np.ones((2, 3), np.uint8), levels=1, name="fc")
    for make in (lambda: windowed_streams(pattern, window=3, vectors=1), lambda: RowProduct(pattern)):
        with pytest.raises(InputError, match="fc: no weight values"):
            make()


@given(st.integers(1, 3), st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_planes_are_aligned_apart_and_long_enough(channels: int, height: int, width: int, halo: int) -> None:
    layout = PlaneLayout(channels, height, width, halo)
    tensor = np.random.default_rng(0).standard_normal((channels, height, width)).astype(np.float32)
    buffer = layout.new()
    layout.view(buffer)[:] = tensor
    np.testing.assert_array_equal(layout.view(buffer), tensor)
    assert buffer.ctypes.data % 64 == 0
    assert layout.lead % LANES == 0
    assert layout.stride // LANES % 2 == 1
    for vectors in layout.vectors:
        written = layout.tiles(vectors) * vectors * LANES
        assert layout.positions <= written
        assert layout.lead + written <= layout.stride
        bits = np.unpackbits(layout.masks(vectors).view(np.uint8), bitorder="little")
        inside = buffer[layout.lead : layout.lead + written] != 0
        np.testing.assert_array_equal(bits[: layout.positions] & inside[: layout.positions], inside[: layout.positions])
        assert int(bits.sum()) == height * width
    corner = layout.offset(channels - 1, height - 1, width - 1) // 4
    assert buffer[corner] == tensor[-1, -1, -1]
    assert layout.offset(0, -halo, -halo) >= 0


@given(st.integers(1, 20_000))
def test_usable_widths_waste_little(positions: int) -> None:
    waste = {v: -(-positions // (LANES * v)) * v for v in VECTORS}
    usable = usable_vectors(positions)
    assert usable
    assert all(waste[v] <= 1.12 * min(waste.values()) for v in usable)


def test_aligned_arrays() -> None:
    for kind in (np.float32, np.int64, np.uint16):
        array = aligned(37, kind)
        assert array.dtype == kind
        assert array.size == 37
        assert array.ctypes.data % 64 == 0


def test_a_failing_thread_is_reported_and_the_team_lives_on() -> None:
    def fails(tasks: np.ndarray, index: int) -> None:
        if index:
            raise RuntimeError("broken")

    team = Team(3)
    with pytest.raises(RuntimeError, match="broken"):
        team.run(Call(fails, np.zeros(2, np.int64), (), ((0,), (1,), (1,))))
    done: list[int] = []
    team.run(call(lambda tasks, index: done.append(index), 3, extras=((0,), (1,), (2,))))
    assert sorted(done) == [0, 1, 2]
