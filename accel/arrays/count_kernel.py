"""Numba kernels: what array models need to know of a keep map, for every level in one pass."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _count_blocks(keep, block_n, block_k, counts, histogram):
    rows, depth = keep.shape
    levels, groups, _, k_tiles = counts.shape
    n = rows // groups
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


def _group_steps(keep, block_n, taps, group, lanes, steps, nonzeros, histogram):
    levels, groups, _, parts = steps.shape
    n, channels, per_tap = keep.shape[0] // groups, keep.shape[1] // taps, parts // taps
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


def _count_taps(keep, level, counts):
    rows, taps = keep.shape
    for row in range(rows):
        for tap in range(taps):
            counts[tap] += keep[row, tap] > level


# Callers bring the memory: without allocations and counted references kernels compile in half the time.
_OPTIONS = {"cache": True, "nogil": True, "_nrt": False}
_count_taps_compiled = njit(**_OPTIONS)(_count_taps)
_count_blocks_compiled = njit(**_OPTIONS)(_count_blocks)
_group_steps_compiled = njit(**_OPTIONS)(_group_steps)


def count_blocks(keep: NDArray[np.uint8], *, groups: int, levels: int, block_n: int, block_k: int) -> NDArray[np.int64]:
    """Non-zeros of every (row block, k tile), shape (levels, groups, row blocks, k tiles).

    ``keep``: uint8 (groups*n, k), C-contiguous.
    """
    keep = _contiguous(keep)
    rows, depth = keep.shape
    counts = np.zeros((levels, groups, -(-(rows // groups) // block_n), -(-depth // block_k)), np.int64)
    _count_blocks_compiled(keep, block_n, block_k, counts, np.zeros(256, np.int64))
    return counts


def group_steps(
    keep: NDArray[np.uint8], *, groups: int, levels: int, block_n: int, taps: int, group: int, lanes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Steps and non-zeros of every group of ``group`` input channels at one kernel tap, per row block.

    A group costs ceil(non-zeros of its fullest row / lanes) steps. ``keep``: uint8 (groups*n, channels*taps), reduction order
    (c, r, s). Group index = tap * ceil(channels/group) + part. Both results have shape (levels, groups, row blocks, groups
    of the reduction).
    """
    keep = _contiguous(keep)
    rows, channels = keep.shape[0] // groups, keep.shape[1] // taps
    shape = (levels, groups, -(-rows // block_n), taps * -(-channels // group))
    steps, nonzeros = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    _group_steps_compiled(keep, block_n, taps, group, lanes, steps, nonzeros, np.zeros(256, np.int64))
    return steps, nonzeros


def count_taps(keep: NDArray[np.uint8], *, taps: int, level: int) -> NDArray[np.int64]:
    """Weights that ``level`` retains at each kernel tap, int64 (taps,). ``keep``: uint8 (rows, channels*taps), reduction
    order (c, r, s)."""
    counts = np.zeros(taps, np.int64)
    _count_taps_compiled(_contiguous(keep).reshape(-1, taps), level, counts)
    return counts


def _contiguous(keep: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if keep.dtype != np.uint8 or keep.ndim != 2:
        raise ValueError(f"keep map must be a uint8 matrix, found {keep.dtype} with {keep.ndim} dimensions")
    return np.ascontiguousarray(keep)
