"""Numba kernel: cycles of Eyeriss v2 PEs that each skip zero inputs and zero weights, on actual masks."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _pe_cycles(inputs, weights, pes, depth, positions, clusters, macs, per_pixel):
    groups, m, k = inputs.shape
    virtual = weights.shape[2]
    row_blocks = virtual // pes
    block = positions * clusters
    column_blocks = (m + block - 1) // block
    k_tiles = (k + depth - 1) // depth
    cycles = np.zeros((groups, row_blocks, column_blocks, k_tiles), np.int64)
    work = np.zeros((groups, row_blocks, column_blocks, k_tiles), np.int64)
    found = np.zeros(virtual, np.int32)
    busy = np.zeros((k_tiles, virtual), np.int64)
    for b in range(groups):
        for first in range(0, m, positions):
            column = first // block
            busy[:, :] = 0
            for p in range(first, min(m, first + positions)):
                for tile in range(k_tiles):
                    found[:] = 0
                    for j in range(tile * depth, min(k, (tile + 1) * depth)):
                        if inputs[b, p, j]:
                            for v in range(virtual):
                                found[v] += weights[b, j, v]
                    for row in range(row_blocks):
                        slowest = 0
                        for v in range(row * pes, (row + 1) * pes):
                            work[b, row, column, tile] += found[v]
                            spent = (found[v] + macs - 1) // macs
                            busy[tile, v] += spent
                            if spent > slowest:
                                slowest = spent
                        if per_pixel:
                            for v in range(row * pes, (row + 1) * pes):
                                busy[tile, v] += slowest - (found[v] + macs - 1) // macs
            for tile in range(k_tiles):
                for v in range(virtual):
                    row = v // pes
                    if busy[tile, v] > cycles[b, row, column, tile]:
                        cycles[b, row, column, tile] = busy[tile, v]
    return cycles, work


_pe_cycles_compiled = njit(cache=True)(_pe_cycles)


def pe_cycles(
    inputs: NDArray[np.bool_],
    weights: NDArray[np.int32],
    *,
    pes: int,
    depth: int,
    positions: int,
    clusters: int,
    macs: int,
    per_pixel: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cycles and multiply-accumulates per (group, row block, column block, k tile), int64.

    ``inputs``: bool (groups, positions m, k), where the input is non-zero. ``weights``: int32 (groups, k, row blocks * pes),
    non-zero weights of each PE at each reduction index. A cluster of ``pes`` PEs works on ``positions`` output positions, one
    after the other; ``clusters`` of them share a column block. A PE spends ceil(non-zero products / macs) cycles on a
    position. ``per_pixel``: all PEs of a cluster wait for the slowest after every position, otherwise only at the tile's end.
    """
    if inputs.ndim != 3 or weights.ndim != 3 or inputs.shape[2] != weights.shape[1]:
        raise ValueError(f"inputs {inputs.shape} and weights {weights.shape} do not share groups and reduction")
    if weights.shape[2] % pes or min(pes, depth, positions, clusters, macs) < 1:
        raise ValueError(f"{weights.shape[2]} weight columns do not divide among {pes} PEs")
    result: tuple[NDArray[np.int64], NDArray[np.int64]] = _pe_cycles_compiled(
        np.ascontiguousarray(inputs),
        np.ascontiguousarray(weights, dtype=np.int32),
        pes, depth, positions, clusters, macs, per_pixel,
    )  # fmt: skip
    return result
