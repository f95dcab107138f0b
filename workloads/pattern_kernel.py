"""Numba kernel: nested masks with exact counts, drawn without replacement in one pass."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _draw_keep(size, quota, seed):
    """Selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S) extended to nested levels.

    Element i falls into class c (kept by exactly c levels) with probability (weights of that class still to place) / elements
    left, so every class gets exactly its quota and every arrangement is equally likely. Random bits: splitmix64 as a
    counter-based generator. Every level is looked at for every element: a branch on random data would cost more.
    """
    levels = quota.size
    ends = np.empty(
        levels, np.int64
    )  # [l]: elements still to place that level l prunes; their tickets are 0..ends[l]-1
    for level in range(levels):
        ends[level] = size - quota[level]
    keep = np.empty(size, np.uint8)
    state = np.uint64(seed)
    for i in range(size):
        state += np.uint64(0x9E3779B97F4A7C15)
        z = state
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        # 53 uniform bits scaled to 0..left-1; layers are far below 2^53 weights, so the bias is below 2^-20.
        ticket = np.int64(np.float64(z >> np.uint64(11)) * 2.0**-53 * np.float64(size - i))
        kept = 0
        for level in range(levels):
            above = ticket >= ends[level]
            kept += above
            ends[level] -= not above
        keep[i] = kept
    return keep


_compiled = njit(cache=True, nogil=True)(_draw_keep)


def draw_keep(size: int, quota: NDArray[np.int64], seed: np.uint64) -> NDArray[np.uint8]:
    """Keep map of ``size`` weights: level l retains exactly ``quota[l]`` of them, nested, uniformly drawn.

    ``quota``: int64 (levels,), not increasing, at most ``size``.
    """
    with np.errstate(
        over="ignore"
    ):  # the pure-Python path of this wrap-around arithmetic warns, the compiled one does not
        keep: NDArray[np.uint8] = _compiled(size, quota, seed)
    return keep
