"""The level-ordered file: modes of its streams, what each level adds, and streams that contradict themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.traces.formats import FORMATS, sizes_by_format, streams_per_level
from nestling.workloads.errors import InputError

from .test_formats_layout import Case, ceil_log2, level_ordered_oracle, stream_oracles, to_bits, unsigned

ENTRY = FORMATS["level_ordered"]
ALL, BITMAP, ROWS, RUNS = range(4)


def case_of(keep: np.ndarray, level: int, *, levels: int, value_bits: int) -> Case:
    rng = np.random.default_rng(3)
    values = rng.integers(-(2 ** (value_bits - 1)), 2 ** (value_bits - 1), keep.shape)
    return values.tolist(), keep.tolist(), level, levels, value_bits


def to_bytes(text: str) -> bytes:
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def encode(case: Case) -> bytes:
    values, keep, level, levels, value_bits = case
    return ENTRY.encode(
        np.array(values), np.array(keep, dtype=np.uint8), level=level, levels=levels, value_bits=value_bits
    )


def random_keep(shape: tuple[int, int], counts: list[int]) -> np.ndarray:
    """``counts[s]`` random weights with keep == s + 1, the rest 0."""
    keep = np.zeros(shape, dtype=np.uint8)
    fill = np.repeat(np.arange(1, len(counts) + 1, dtype=np.uint8), counts)
    keep.reshape(-1)[np.random.default_rng(5).permutation(keep.size)[: fill.size]] = fill
    return keep


# --- modes -----------------------------------------------------------------------------------------------------------

ONE_ROW = np.zeros((40, 64), dtype=np.uint8)
ONE_ROW[7, 30] = 1
FAR = np.zeros((1, 9000), dtype=np.uint8)
FAR[0, [0, 1500, 4000, 4001, 8999]] = [1, 2, 1, 2, 1]

#: name -> keep, levels, modes of the streams, densest first. Worked out by hand from the sizes in the docstring.
PATTERNS: dict[str, tuple[np.ndarray, int, list[int]]] = {
    "every weight": (np.full((3, 5), 1, np.uint8), 1, [ALL]),
    "every weight, at every level": (np.full((3, 5), 8, np.uint8), 8, [ALL] * 8),
    "no weight": (np.zeros((8, 8), np.uint8), 2, [ROWS, ROWS]),
    "no weight and no position": (np.zeros((0, 8), np.uint8), 8, [ALL] * 8),
    "dense over half": (random_keep((20, 30), [300, 300]), 2, [ALL, BITMAP]),
    "half over an eighth": (random_keep((40, 50), [750, 250]), 2, [BITMAP, RUNS]),
    "an empty level between": (random_keep((30, 30), [400, 0, 100]), 3, [BITMAP, ROWS, RUNS]),
    "a level with nothing left to add": (random_keep((30, 30), [0, 800, 100]), 3, [ALL, ALL, RUNS]),
    "one weight in few rows": (ONE_ROW.reshape(4, 640), 1, [ROWS]),
    "one weight in many rows": (ONE_ROW, 1, [RUNS]),
    "runs beyond the histogram": (FAR, 2, [RUNS, RUNS]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_each_stream_takes_the_smallest_mode(name: str) -> None:
    keep, levels, modes = PATTERNS[name]
    values = np.zeros(keep.shape, dtype=np.int64)
    whole = to_bits(ENTRY.encode(values, keep, level=0, levels=levels, value_bits=5))
    start, found = 0, []
    for nbytes in streams_per_level(keep, levels, value_bits=5)[::-1]:
        found.append(int(whole[start : start + 2], 2))
        start += 8 * int(nbytes)
    assert found[::-1] == modes
    assert start == len(whole)


@pytest.mark.parametrize("name", [name for name, (keep, _, _) in PATTERNS.items() if keep.size])
def test_patterns_equal_the_documented_layout(name: str) -> None:
    keep, levels, _ = PATTERNS[name]
    for level in {0, levels - 1}:
        case = case_of(keep, level, levels=levels, value_bits=5)
        assert to_bits(encode(case)) == level_ordered_oracle(case)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 12),
    densities=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    modes=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_reader_takes_any_mode(
    rows: int, columns: int, densities: tuple[float, float], modes: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    nested = rng.random((rows, columns)) < densities[0]
    keep = (nested.astype(np.uint8) + (nested & (rng.random((rows, columns)) < densities[1]))).astype(np.uint8)
    case = case_of(keep, 0, levels=2, value_bits=3)
    text = ""
    for count, mode in zip((2, 1), modes, strict=True):
        streams = stream_oracles(case, count)
        text += streams.get(mode, streams[BITMAP])  # not every stream can be written as ALL
        text += "0" * (-len(text) % 8)
    values, mask = ENTRY.decode(to_bytes(text), keep.shape, level=0, levels=2, value_bits=3)
    np.testing.assert_array_equal(values, np.where(keep > 0, case[0], 0))
    np.testing.assert_array_equal(mask, keep > 0)


# --- bytes of each level's stream ------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(0, 40)),
    levels=st.sampled_from([1, 2, 3, 8]),
    value_bits=st.integers(1, 16),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_prefixes_are_sums_of_streams(
    shape: tuple[int, int], levels: int, value_bits: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keep = np.where(rng.random(shape) < density, rng.integers(0, levels + 1, shape), 0).astype(np.uint8)
    streams = streams_per_level(keep, levels, value_bits=value_bits)
    assert (streams.dtype, streams.shape) == (np.int64, (levels,))
    bits = sizes_by_format(keep, levels, value_bits=value_bits, allowed=["level_ordered"])["level_ordered"]
    values = np.zeros(shape, dtype=np.int64)
    for level in range(levels):
        encoded = ENTRY.encode(values, keep, level=level, levels=levels, value_bits=value_bits)
        assert sum(streams[level:].tolist()) == len(encoded)
        assert bits[level] == 8 * len(encoded)
        m = int((keep == level + 1).sum())
        remaining = int((keep <= level + 1).sum())
        longest = 2 + remaining + m * value_bits  # a bitmap is always possible
        assert -(-(2 + m * value_bits) // 8) <= streams[level] <= -(-longest // 8)


def test_streams_check_their_arguments() -> None:
    keep = np.full((2, 2), 3, dtype=np.uint8)
    with pytest.raises(InputError, match="keep reaches 3, but there are 2 levels"):
        streams_per_level(keep, 2, value_bits=8)
    with pytest.raises(InputError, match="value_bits = 0; allowed are 1 to 16"):
        streams_per_level(keep, 3, value_bits=0)


# --- streams that contradict themselves ------------------------------------------------------------------------------


def run_stream(k: int, unary: str, fields: str, *, remaining: int) -> str:
    return unsigned(RUNS, 2) + unsigned(k, 4) + unsigned(len(unary), ceil_log2(remaining + 1)) + unary + fields


def rows_stream(column: int) -> str:
    """One weight of value 1 (2 bits) in a 1 x 9 matrix: count and row end 1, column, value, padding."""
    return unsigned(ROWS, 2) + "0001" + "1" + unsigned(column, 4) + "01" + "000"


BROKEN = {
    "a run leads outside the matrix": run_stream(3, "01", "001" + "01", remaining=9),
    "15 run bits for 9 positions": unsigned(RUNS, 2) + "0000" + "1111" + "1" * 15,
    "two levels store the same weight": rows_stream(4) + rows_stream(4),
    "a column index lies outside the matrix": rows_stream(9),
}


@pytest.mark.parametrize("message", BROKEN)
def test_contradictions_are_reported(message: str) -> None:
    data = to_bytes(BROKEN[message]) + bytes(4)
    with pytest.raises(InputError, match=message):
        ENTRY.decode(data, (1, 9), level=0, levels=2, value_bits=2)


def test_the_same_streams_without_the_contradiction_are_read() -> None:
    text = rows_stream(4) + run_stream(3, "1", "110" + "11", remaining=8)  # the sixth unfilled of 0-3 and 5-8 is 7
    values, mask = ENTRY.decode(to_bytes(text), (1, 9), level=0, levels=2, value_bits=2)
    assert values.tolist() == [[0, 0, 0, 0, 1, 0, 0, -1, 0]]
    assert np.flatnonzero(mask).tolist() == [4, 7]
