"""Numba kernel: how far the PEs of Cambricon-X have come after every tile of a reduction."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _filter_progress(keep, groups, levels, block_n, block_k, lanes):
    rows, depth = keep.shape
    n = rows // groups
    row_blocks = (n + block_n - 1) // block_n
    k_tiles = (depth + block_k - 1) // block_k
    cycles = np.zeros((levels, groups, row_blocks, k_tiles), np.int64)
    nonzeros = np.zeros((levels, groups, row_blocks, k_tiles), np.int64)
    histogram = np.zeros(256, np.int64)
    done = np.zeros(levels, np.int64)
    for b in range(groups):
        for row in range(n):
            block = row // block_n
            done[:] = 0
            for tile in range(k_tiles):
                histogram[: levels + 1] = 0
                for j in range(tile * block_k, min(depth, (tile + 1) * block_k)):
                    histogram[keep[b * n + row, j]] += 1
                kept = 0
                for level in range(levels - 1, -1, -1):
                    kept += histogram[level + 1]
                    done[level] += kept
                    nonzeros[level, b, block, tile] += kept
                    reached = (done[level] + lanes - 1) // lanes
                    if reached > cycles[level, b, block, tile]:
                        cycles[level, b, block, tile] = reached
    return cycles, nonzeros


_filter_progress_compiled = njit(cache=True)(_filter_progress)


def filter_progress(
    keep: NDArray[np.uint8], *, groups: int, levels: int, block_n: int, block_k: int, lanes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cycles until the slowest filter of a block of ``block_n`` is done with each k tile, and the tile's non-zeros.

    A filter is one sequence of non-zeros, ``lanes`` a cycle: ceil(non-zeros so far / lanes). Both int64 (levels, groups, row
    blocks, k tiles). ``keep``: uint8 (groups * filters, reduction); level l keeps what is > l.
    """
    if keep.dtype != np.uint8 or keep.ndim != 2:
        raise ValueError(f"keep map must be a uint8 matrix, found {keep.dtype} with {keep.ndim} dimensions")
    cycles: NDArray[np.int64]
    nonzeros: NDArray[np.int64]
    cycles, nonzeros = _filter_progress_compiled(np.ascontiguousarray(keep), groups, levels, block_n, block_k, lanes)
    return cycles, nonzeros
