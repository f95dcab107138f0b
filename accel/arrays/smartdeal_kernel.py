"""Numba kernels: coefficient rows per block of filters, and what pairs of coefficient and activation rows take."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: What is counted per tile: cycles; multiplications started; terms of the bit-serial ones; activations read from the buffer;
#: coefficient rows read (once per filter that keeps them); coefficients rebuilt into weights; additions of partial sums.
COUNTS = ("cycles", "issued", "terms", "fetched", "rows_read", "coefficients", "tree_adds")


class RowCounts(NamedTuple):
    """Per block of filters: ``union`` uint8 (groups, blocks, rows), levels at which any filter keeps the row; ``filters``
    and ``coefficients`` int32 (levels, groups, blocks, rows), filters that keep it and their non-zero coefficients."""

    union: NDArray[np.uint8]
    filters: NDArray[np.int32]
    coefficients: NDArray[np.int32]


class PairTables(NamedTuple):
    """What one activation row costs with one coefficient row, per run of outputs of one line: int32 (groups, sources,
    height, runs) each. ``cycles`` 0 = not selected; ``issued`` and ``terms`` for one filter; ``fetched`` activations."""

    cycles: NDArray[np.int32]
    issued: NDArray[np.int32]
    terms: NDArray[np.int32]
    fetched: NDArray[np.int32]


def _row_counts(keep, levels, block):
    groups, filters, rows, columns = keep.shape
    blocks = (filters + block - 1) // block
    union = np.zeros((groups, blocks, rows), np.uint8)
    kept = np.zeros((levels, groups, blocks, rows), np.int32)
    coefficients = np.zeros((levels, groups, blocks, rows), np.int32)
    for g in range(groups):
        for n in range(filters):
            b = n // block
            for row in range(rows):
                most = np.uint8(0)
                for column in range(columns):
                    entry = keep[g, n, row, column]
                    most = max(most, entry)
                    for level in range(entry):
                        coefficients[level, g, b, row] += 1
                for level in range(most):
                    kept[level, g, b, row] += 1
                union[g, b, row] = max(union[g, b, row], most)
    return union, kept, coefficients


def _dealt(histogram, lines):
    """Time of pairs dealt to the lines from the longest on: every batch of ``lines`` takes as long as its first."""
    time = done = 0
    for cycles in range(histogram.size - 1, 0, -1):
        count = histogram[cycles]
        if count:
            batches = (done + count + lines - 1) // lines - (done + lines - 1) // lines
            time += batches * cycles
            done += count
    return time, done


def _deal_levels(histogram, lines, slowest, tree_adds, width):
    """Deal every level's pairs: row u of the histogram holds those that exactly u levels have."""
    levels = slowest.size
    for level in range(levels - 1, -1, -1):
        if level < levels - 1:
            histogram[level + 1] += histogram[level + 2]
        time, pairs = _dealt_compiled(histogram[level + 1], lines)
        slowest[level] = max(slowest[level], time)
        tree_adds[level] += max(0, min(pairs, lines) - 1) * width


def _pair_work(cycles, issued, terms, fetched, union, filters, stored, coefficients, source, offset, columns, widths,
               stride, lines, together, per_tile, column_blocks):  # fmt: skip
    levels, groups, blocks, rows = filters.shape
    heights, runs = columns.shape
    k_tiles = (rows + per_tile - 1) // per_tile
    counts = np.zeros((7, levels, groups, blocks, column_blocks, k_tiles), np.int64)
    histogram = np.zeros((levels + 1, cycles.max() + 1), np.int64)
    slowest = np.zeros(levels, np.int64)
    for first in range(0, groups, together):
        last = min(first + together, groups) - 1
        for b in range(blocks):
            for k in range(k_tiles):
                for e in range(heights):
                    for f in range(runs):
                        slowest[:] = 0
                        column = columns[e, f]
                        for g in range(first, last + 1):
                            histogram[:] = 0
                            for row in range(k * per_tile, min(rows, (k + 1) * per_tile)):
                                keep = union[g, b, row]
                                at = source[row]
                                h = e * stride + offset[row]
                                took = cycles[g, at, h, f]
                                if keep == 0 or took == 0:
                                    continue
                                histogram[keep, took] += 1
                                for level in range(keep):
                                    n = filters[level, g, b, row]
                                    counts[1, level, g, b, column, k] += n * issued[g, at, h, f]
                                    counts[2, level, g, b, column, k] += n * terms[g, at, h, f]
                                    counts[3, level, g, b, column, k] += fetched[g, at, h, f]
                                    counts[4, level, g, b, column, k] += stored[level, g, b, row]
                                    counts[5, level, g, b, column, k] += coefficients[level, g, b, row]
                            _deal_levels_compiled(histogram, lines, slowest, counts[6, :, g, b, column, k], widths[f])
                        for level in range(levels):
                            counts[0, level, last, b, column, k] += slowest[level]
    return counts


_row_counts_compiled = njit(cache=True, nogil=True)(_row_counts)
_dealt_compiled = njit(cache=True, nogil=True)(_dealt)
_deal_levels_compiled = njit(cache=True, nogil=True)(_deal_levels)
_pair_work_compiled = njit(cache=True, nogil=True)(_pair_work)


def row_counts(keep: NDArray[np.uint8], *, levels: int, block: int) -> RowCounts:
    """Coefficient rows per ``block`` of filters; ``keep``: uint8 (groups, filters, rows, columns), levels per coefficient."""
    return RowCounts(*_row_counts_compiled(np.ascontiguousarray(keep), levels, block))


def pair_work(
    tables: PairTables,
    selected: RowCounts,
    stored: RowCounts,
    *,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    columns: NDArray[np.int64],
    widths: NDArray[np.int64],
    stride: int,
    lines: int,
    together: int,
    per_tile: int,
    column_blocks: int,
) -> NDArray[np.int64]:
    """``COUNTS`` of every tile, int64 (counts, levels, groups, blocks, column blocks, k tiles).

    Parameters
    ----------
    selected, stored : rows the index selector lets through, and rows there are to read and to rebuild.
    rows : per coefficient row its source in the tables, and how many lines below the output's first line it starts.
    columns : int64 (output lines, runs), the column block each run is counted in. ``widths``: outputs of every run.
    lines : lines that share the pairs of a tile. ``together``: groups on the array at once; the last carries the cycles.
    per_tile : coefficient rows of a k tile.
    """
    work: NDArray[np.int64] = _pair_work_compiled(
        *tables, selected.union, selected.filters, stored.filters, stored.coefficients, *rows, columns, widths,
        stride, lines, together, per_tile, column_blocks,
    )  # fmt: skip
    return work
