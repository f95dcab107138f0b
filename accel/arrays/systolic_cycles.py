"""Cycles of a systolic array's folds under three conventions; pure functions of numbers and arrays.

``scale_sim``: the folds of SCALE-Sim (Samajdar et al., ISPASS 2020; version 3.0.0): T + R + C - 2 for output stationary, R
more where an operand is loaded first. Edge folds cost as much as full ones.

``stonne``: the output-stationary mesh of STONNE (Muñoz-Martínez et al., IISWC 2021): a fold that uses p rows and q columns
takes k + p + q + 3 cycles, one less where p or q is 1. Edge folds are cheaper.

``double_buffered``: the PEs hold a second stationary operand, so that the next fold's is shifted in (R cycles, one row per
cycle) while this one streams, as in the TPU (Jouppi et al., ISCA 2017, section 2: a second weight tile hides the cycles
it takes to shift a tile in). Derivation: inputs enter as a diagonal wavefront, PE (r, c) meets the first one r + c cycles
after the fold starts and switches to its second register there; a shift that starts with the fold passes row r of column
c at that same cycle, so the registers are free in time and full R cycles later. The next fold may therefore
start max(T, R) cycles after this one. Only the first fold waits for its operand (R) and only the last one for its drain:

    cycles = R + sum over all folds but the last of max(T, R) + T of the last + R + C - 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ..loopnest import block_sizes

Int64Array = NDArray[np.int64]


def full_fold_cycles(streamed: Int64Array, *, rows: int, columns: int, preload: bool) -> Int64Array:
    """SCALE-Sim: cycles of folds that stream ``streamed`` elements; ``preload``: an operand is shifted in first."""
    return np.asarray(streamed + (rows + columns - 2) + (rows if preload else 0), dtype=np.int64)


def trimmed_fold_cycles(streamed: Int64Array, *, rows_used: Int64Array, columns_used: Int64Array) -> Int64Array:
    """STONNE, output stationary: cycles of folds that use part of the array. All arrays have the same shape."""
    single = (rows_used == 1) | (columns_used == 1)
    return np.asarray(streamed + rows_used + columns_used + 3 - single, dtype=np.int64)


def double_buffered_cycles(streamed: Int64Array, *, rows: int, columns: int) -> Int64Array:
    """Cycles of consecutive folds, shape (folds,), when the next stationary operand is shifted in behind this one's stream.

    Their sum is the formula above: the first fold carries its load, the last one its drain.
    """
    cycles = np.maximum(streamed, rows).astype(np.int64)
    if cycles.size:
        cycles[-1] = streamed[-1] + rows + columns - 2
        cycles[0] += rows
    return cycles


@dataclass(frozen=True)
class MeshRun:
    """A product on STONNE's output-stationary mesh; words are elements."""

    cycles: int
    folds: int
    multiplications: int
    filter_reads: int
    input_reads: int
    output_writes: int


def mesh_run(*, m: int, n: int, k: int, rows: int, columns: int) -> MeshRun:
    """STONNE's counts of a product of m x k inputs and k x n filters: m on the rows of the mesh, n on its columns.

    Raises
    ------
    InputError
        for a dimension or a side of the mesh below 1.
    """
    if min(m, n, k, rows, columns) < 1:
        raise InputError(f"a product of m={m}, n={n}, k={k} on {rows}x{columns} PEs: all must be at least 1")
    rows_used, columns_used = block_sizes(m, rows)[:, None], block_sizes(n, columns)[None, :]
    streamed = np.full((rows_used.size, columns_used.size), k, dtype=np.int64)
    cycles = trimmed_fold_cycles(streamed, rows_used=rows_used, columns_used=columns_used)
    return MeshRun(
        cycles=int(cycles.sum()),
        folds=cycles.size,
        multiplications=m * n * k,
        filter_reads=n * k * rows_used.size,
        input_reads=m * k * columns_used.size,
        output_writes=m * n,
    )
