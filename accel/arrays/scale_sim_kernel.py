"""Numba kernels: SCALE-Sim's fill-and-flush buffers, word by word in the order in which the array asks."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Generation of words that never miss; the real generations count from 1.
_ALWAYS = np.int32(2**31 - 1)


# A word is held if its mark is the current generation: emptying the buffer is one increment. `room` counts the distinct words
# until the buffer is full; the buffer's blocks matter only through their total.
def _streamed(moving, fixed, marks, outer_folds, inner_folds, lanes, inner_lanes, room_words):
    length, width = moving.size, fixed.size
    generation, room, misses = np.int32(1), room_words, 0
    for outer in range(outer_folds):
        for inner in range(inner_folds):
            base = (inner if inner_lanes else outer) * lanes
            used = min(lanes, width - base)
            for cycle in range(length + used - 1):
                # Lane l sees element cycle - l: a diagonal wavefront.
                for lane in range(max(0, cycle - length + 1), min(used, cycle + 1)):
                    word = moving[cycle - lane] + fixed[base + lane]
                    if marks[word] < generation:
                        marks[word] = generation
                        misses += 1
                        room -= 1
                        if room == 0:
                            room = room_words
                            generation += np.int32(1)
    return misses


def _stationary(along_rows, along_columns, marks, rows, columns, room_words):
    generation, room, misses = np.int32(1), room_words, 0
    for left in range(0, along_columns.size, columns):
        for top in range(0, along_rows.size, rows):
            for r in range(min(top + rows, along_rows.size) - 1, top - 1, -1):
                for c in range(left, min(left + columns, along_columns.size)):
                    word = along_rows[r] + along_columns[c]
                    if marks[word] < generation:
                        marks[word] = generation
                        misses += 1
                        room -= 1
                        if room == 0:
                            room = room_words
                            generation += np.int32(1)
    return misses


_streamed_compiled = njit(cache=True)(_streamed)
_stationary_compiled = njit(cache=True)(_stationary)


def streamed_misses(
    moving: NDArray[np.int64],
    fixed: NDArray[np.int64],
    absent: NDArray[np.bool_],
    *,
    folds: tuple[int, int],
    lanes: int,
    inner_lanes: bool,
    capacity: tuple[int, int],
) -> int:
    """Misses of an operand that streams through the array.

    Element (t, s) has the address ``moving[t] + fixed[s]``; s is spread over ``lanes`` and folded, t streams. ``folds``:
    (outer, inner) numbers of folds; ``inner_lanes``: the inner folds move along s (else the outer ones do).
    ``absent`` (addresses,): words that do not exist and never miss. ``capacity``: (words per block, blocks).
    """
    marks = _marks(moving, fixed, absent)
    words = capacity[0] * capacity[1]
    return int(_streamed_compiled(moving, fixed, marks, folds[0], folds[1], lanes, inner_lanes, words))


def stationary_misses(
    along_rows: NDArray[np.int64],
    along_columns: NDArray[np.int64],
    absent: NDArray[np.bool_],
    *,
    rows: int,
    columns: int,
    capacity: tuple[int, int],
) -> int:
    """Misses of an operand that is loaded into the PEs fold by fold, bottom row first, row folds inside column folds.

    Element (r, c) has the address ``along_rows[r] + along_columns[c]``; the other arguments as in `streamed_misses`.
    """
    marks = _marks(along_rows, along_columns, absent)
    return int(_stationary_compiled(along_rows, along_columns, marks, rows, columns, capacity[0] * capacity[1]))


def _marks(first: NDArray[np.int64], second: NDArray[np.int64], absent: NDArray[np.bool_]) -> NDArray[np.int32]:
    """One mark per address: 0 = never held."""
    if first.dtype != np.int64 or second.dtype != np.int64 or first.size == 0 or second.size == 0:
        raise ValueError("address parts must be non-empty int64 vectors")
    if int(first.min()) + int(second.min()) < 0 or int(first.max()) + int(second.max()) >= absent.size:
        raise ValueError(f"addresses outside 0..{absent.size - 1}")
    return np.where(absent, _ALWAYS, np.int32(0)).astype(np.int32)
