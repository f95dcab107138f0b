"""Numba kernel: the random numbers that the C library of GNU hands out, which decide where reference matrices are zero."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: The additive feedback generator (TYPE_3 of random(3)): x^31 + x^3 + 1, the first 310 outputs thrown away.
_DEGREE, _SEPARATION, _DISCARDED = 31, 3, 310


def _random(seed, numbers):
    start = _DEGREE + _SEPARATION
    words = np.zeros(start + _DISCARDED + numbers.size, np.uint32)
    word = np.int64(max(seed, 1))
    for i in range(_DEGREE):
        words[i] = word
        word = (16807 * word) % 2147483647
    for i in range(_DEGREE, start):
        words[i] = words[i - _DEGREE]  # the rear pointer starts at the first word, the front pointer three words on
    for i in range(start, words.size):
        words[i] = words[i - _DEGREE] + words[i - _SEPARATION]
    for i in range(numbers.size):
        numbers[i] = words[start + _DISCARDED + i] >> np.uint32(1)


def _zeros(numbers, first, percent, kept):
    place = first
    for i in range(kept.size):
        kept[i] = numbers[place] % 100 > percent
        place += 2 if kept[i] else 1  # a non-zero draws its value, too
    return place


_random_compiled = njit(cache=True)(_random)
_zeros_compiled = njit(cache=True)(_zeros)


def glibc_random(count: int, *, seed: int = 1) -> NDArray[np.int64]:
    """The first ``count`` numbers of glibc's rand() after srand(seed); int64, each below 2^31."""
    numbers = np.zeros(count, dtype=np.int64)
    _random_compiled(seed, numbers)
    return numbers


def random_masks(
    shapes: tuple[tuple[int, int], ...], percents: tuple[int, ...], *, seed: int = 1
) -> tuple[NDArray[np.bool_], ...]:
    """Non-zeros of random matrices drawn one after the other, row by row, as STONNE draws them.

    An element is zero if rand() % 100 <= its percentage (so a share of (percent + 1) / 100); a non-zero draws once more for
    its value. Bool arrays of the given shapes.
    """
    numbers = glibc_random(2 * sum(rows * columns for rows, columns in shapes), seed=seed)
    place, masks = 0, []
    for shape, percent in zip(shapes, percents, strict=True):
        mask = np.zeros(shape, dtype=np.bool_)
        place = _zeros_compiled(numbers, place, percent, mask.reshape(-1))
        masks.append(mask)
    return tuple(masks)
