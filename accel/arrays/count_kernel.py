"""Numba kernels: what array models need to know of a keep map, for every level in one pass."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _count_blocks(keep, groups, levels, block_n, block_k):
    rows, depth = keep.shape
    n = rows // groups
    row_blocks = (n + block_n - 1) // block_n
    k_tiles = (depth + block_k - 1) // block_k
    counts = np.zeros((levels, groups, row_blocks, k_tiles), np.int64)
    histogram = np.zeros(256, np.int64)
    for b in range(groups):
        for row in range(n):
            block = row // block_n
            for tile in range(k_tiles):
                histogram[: levels + 1] = 0
                for j in range(tile * block_k, min(depth, (tile + 1) * block_k)):
                    histogram[keep[b * n + row, j]] += 1
                kept = 0
                for level in range(levels - 1, -1, -1):
                    kept += histogram[level + 1]
                    counts[level, b, block, tile] += kept
    return counts


def _group_steps(keep, groups, levels, block_n, taps, channels, group, lanes):
    rows = keep.shape[0]
    n = rows // groups
    row_blocks = (n + block_n - 1) // block_n
    per_tap = (channels + group - 1) // group
    steps = np.zeros((levels, groups, row_blocks, taps * per_tap), np.int32)
    nonzeros = np.zeros((levels, groups, row_blocks, taps * per_tap), np.int32)
    histogram = np.zeros(256, np.int64)
    for b in range(groups):
        for row in range(n):
            block = row // block_n
            for tap in range(taps):
                for part in range(per_tap):
                    histogram[: levels + 1] = 0
                    for c in range(part * group, min(channels, (part + 1) * group)):
                        histogram[keep[b * n + row, c * taps + tap]] += 1
                    g = tap * per_tap + part
                    kept = 0
                    for level in range(levels - 1, -1, -1):
                        kept += histogram[level + 1]
                        nonzeros[level, b, block, g] += kept
                        needed = (kept + lanes - 1) // lanes
                        if needed > steps[level, b, block, g]:
                            steps[level, b, block, g] = needed
    return steps, nonzeros


def _count_taps(keep, level):
    rows, taps = keep.shape
    counts = np.zeros(taps, np.int64)
    for row in range(rows):
        for tap in range(taps):
            counts[tap] += keep[row, tap] > level
    return counts


_count_taps_compiled = njit(cache=True, nogil=True)(_count_taps)
_count_blocks_compiled = njit(cache=True, nogil=True)(_count_blocks)
_group_steps_compiled = njit(cache=True, nogil=True)(_group_steps)


def count_blocks(keep: NDArray[np.uint8], *, groups: int, levels: int, block_n: int, block_k: int) -> NDArray[np.int64]:
    """Non-zeros of every (row block, k tile), shape (levels, groups, row blocks, k tiles).

    ``keep``: uint8 (groups*n, k), C-contiguous.
    """
    counts: NDArray[np.int64] = _count_blocks_compiled(_contiguous(keep), groups, levels, block_n, block_k)
    return counts


def group_steps(
    keep: NDArray[np.uint8], *, groups: int, levels: int, block_n: int, taps: int, group: int, lanes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Steps and non-zeros of every group of ``group`` input channels at one kernel tap, per row block.

    A group costs ceil(non-zeros of its fullest row / lanes) steps. ``keep``: uint8 (groups*n, channels*taps), reduction order
    (c, r, s). Group index = tap * ceil(channels/group) + part. Both results have shape (levels, groups, row blocks, groups
    of the reduction).
    """
    channels = keep.shape[1] // taps
    result: tuple[NDArray[np.int32], NDArray[np.int32]] = _group_steps_compiled(
        _contiguous(keep), groups, levels, block_n, taps, channels, group, lanes
    )
    return result


def count_taps(keep: NDArray[np.uint8], *, taps: int, level: int) -> NDArray[np.int64]:
    """Weights that ``level`` retains at each kernel tap, int64 (taps,). ``keep``: uint8 (rows, channels*taps), reduction
    order (c, r, s)."""
    counts: NDArray[np.int64] = _count_taps_compiled(_contiguous(keep).reshape(-1, taps), level)
    return counts


def _contiguous(keep: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if keep.dtype != np.uint8 or keep.ndim != 2:
        raise ValueError(f"keep map must be a uint8 matrix, found {keep.dtype} with {keep.ndim} dimensions")
    return np.ascontiguousarray(keep)
