"""Vector operations of the DRAM controller: what is compiled does what the plain Python says, lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim import dram_lanes_kernel as lanes
from numba import njit

DEPTH, FAR, KEY_SHIFT, LANES = lanes.DEPTH, lanes.FAR, lanes.KEY_SHIFT, lanes.LANES
SEEDS = st.integers(0, 2**32 - 1)


@njit
def compiled_scan(s: Any, gates: int, since: int, stride: int, clock: int, chosen: int) -> Any:
    return lanes.scan(s, gates, since, stride, clock, chosen)


@njit
def compiled_delay(s: Any, at: int, near: int, ours: int, near_until: int, our_until: int, others_until: int) -> None:
    lanes.delay(s, at, near, ours, near_until, our_until, others_until)


@njit
def compiled_put(s: Any, at: int, lane: int, value: int) -> None:
    lanes.put(s, at, lane, value)


@njit
def compiled_take(s: Any, at: int, lane: int) -> None:
    lanes.take(s, at, lane)


@njit
def compiled_matches(s: Any, at: int, key: int) -> int:
    return lanes.matches(s, at, key)


@njit
def compiled_lowest(mask: int) -> int:
    return lanes.lowest(mask)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 2**LANES - 1), st.sampled_from([LANES, 32]), st.integers(0, 60))
def test_scan(seed: int, chosen: int, stride: int, clock: int) -> None:
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 50, 8 * stride + 3)
    s[rng.random(s.size) < rng.choice([0.0, 0.7, 1.0])] = FAR
    arguments = 3, 3 + 4 * stride, stride, clock, chosen
    found = compiled_scan(s, *arguments)
    assert found == lanes.scan(s, *arguments)
    cycle, *masks, reads, writes, others = found
    times = np.maximum(s[3 : 3 + 4 * stride], s[3 + 4 * stride :]).reshape(4, stride)[:, :LANES]
    allowed = np.array([chosen >> lane & 1 for lane in range(LANES)], np.bool_)
    assert cycle == max(clock, int(np.where(allowed, times, FAR).min()))
    for kind, armed in ((0, 0), (1, reads), (2, writes), (3, 0)):
        for lane in np.flatnonzero(allowed):
            able = bool(times[kind, lane] <= cycle)
            assert masks[kind] >> lane & 1 == able
            # Who is not armed is counted among the others; an armed lane waits for nothing but its gate.
            assert armed >> lane & 1 or others <= times[kind, lane]
            assert not armed >> lane & 1 or s[3 + (4 + kind) * stride + lane] <= cycle


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 2**LANES - 1), st.integers(-1, 2**LANES - 1))
def test_delay(seed: int, near: int, ours: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 50, LANES + 4)
    until = [int(x) for x in rng.integers(0, 50, 3)]
    plain, found = before.copy(), before.copy()
    lanes.delay(plain, 2, near, ours, *until)
    compiled_delay(found, 2, near, ours, *until)
    np.testing.assert_array_equal(found, plain)
    for lane in range(LANES):
        wanted = until[0] if near >> lane & 1 else until[1] if ours >> lane & 1 else until[2]
        assert found[2 + lane] == max(before[2 + lane], wanted)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, DEPTH - 1), st.sampled_from([-1, 0, 17, FAR, 1 << 61]))
def test_put_and_take(seed: int, lane: int, value: int) -> None:
    before = np.random.default_rng(seed).integers(-1, FAR, DEPTH + 2)
    plain, found = before.copy(), before.copy()
    lanes.put(plain, 1, lane, value)
    compiled_put(found, 1, lane, value)
    np.testing.assert_array_equal(found, plain)
    assert found[1 + lane] == value
    lanes.take(plain, 1, lane)
    compiled_take(found, 1, lane)
    np.testing.assert_array_equal(found, plain)
    np.testing.assert_array_equal(found[1:-1], [*np.delete(before[1:-1], lane), -1])
    np.testing.assert_array_equal(found[[0, -1]], before[[0, -1]])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([4, 5, 6, 7]), max_size=DEPTH), st.integers(4, 7))
def test_matches_are_entries_with_the_key_whatever_their_slot(keys: list[int], key: int) -> None:
    queue = np.full(DEPTH, -1, np.int64)
    queue[: len(keys)] = [k << KEY_SHIFT | 8 * place for place, k in enumerate(keys)]
    found = compiled_matches(queue, 0, key)
    assert found == lanes.matches(queue, 0, key) == sum((k == key) << place for place, k in enumerate(keys))


@pytest.mark.parametrize("mask", [1, 2, 12, 1 << 15, (1 << 31) + (1 << 20)])
def test_lowest(mask: int) -> None:
    assert compiled_lowest(mask) == lanes.lowest(mask) == (mask & -mask).bit_length() - 1
