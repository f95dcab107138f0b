"""Numba kernels of the storage formats: run and group statistics of ``keep``, and bit packing.

Plain arrays in, ``out`` written. The callers (``statistics``, ``bitpack``) check types, shapes and ranges.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _count_escapes(keep: NDArray[np.uint8], escapes: NDArray[np.int64], histogram: NDArray[np.int64]) -> None:
    """Sum of ``gap >> k`` over the zero runs in front of every retained weight, for all levels and widths at once.

    keep : uint8 (n,); escapes : int64 (levels, widths); histogram : int64 (levels, short); both zero on entry.
    Runs shorter than ``short`` go through the histogram; longer ones are rare (at most n / short) and summed directly.
    """
    levels, widths = escapes.shape
    short = histogram.shape[1]
    following = np.zeros(levels, dtype=np.int64)
    for i in range(keep.size):
        for level in range(keep[i]):
            gap = i - following[level]
            following[level] = i + 1
            if gap < short:
                histogram[level, gap] += 1
            else:
                for k in range(widths):
                    escapes[level, k] += gap >> k
    for level in range(levels):
        for gap in range(1, short):
            runs = histogram[level, gap]
            if runs > 0:
                for k in range(widths):
                    escapes[level, k] += runs * (gap >> k)


def _find_largest_occupancy(keep: NDArray[np.uint8], group: int, largest: NDArray[np.int64]) -> None:
    """Largest number of retained weights in any group of ``group`` neighbouring columns.

    keep : uint8 (rows, columns); largest : int64 (levels,), zeros on entry. A level whose groups are full is not
    searched further, which makes unstructured patterns cheap.
    """
    rows, columns = keep.shape
    for level in range(largest.size):
        threshold = np.uint8(level)
        best = 0
        for row in range(rows):
            if best == min(group, columns):
                break
            for start in range(0, columns, group):
                count = 0
                for column in range(start, min(start + group, columns)):
                    count += keep[row, column] > threshold
                best = max(best, count)
        largest[level] = best


def _pack_fields(fields: NDArray[np.uint64], width: int, position: int, out: NDArray[np.uint8]) -> None:
    """Write each field's ``width`` low bits, highest first, from bit ``position`` of ``out`` (uint8, zero on entry)."""
    for i in range(fields.size):
        left = width
        while left > 0:
            room = 8 - (position & 7)
            taken = min(room, left)
            chunk = (fields[i] >> np.uint64(left - taken)) & np.uint64((1 << taken) - 1)
            out[position >> 3] |= np.uint8(chunk << np.uint64(room - taken))
            position += taken
            left -= taken


def _unpack_fields(data: NDArray[np.uint8], position: int, width: int, out: NDArray[np.uint64]) -> None:
    """Read ``out.size`` fields (uint64) of ``width`` bits, highest first, from bit ``position`` of ``data``."""
    for i in range(out.size):
        left = width
        value = np.uint64(0)
        while left > 0:
            room = 8 - (position & 7)
            taken = min(room, left)
            chunk = (np.uint64(data[position >> 3]) >> np.uint64(room - taken)) & np.uint64((1 << taken) - 1)
            value = (value << np.uint64(taken)) | chunk
            position += taken
            left -= taken
        out[i] = value


count_escapes = njit(cache=True)(_count_escapes)
find_largest_occupancy = njit(cache=True)(_find_largest_occupancy)
pack_fields = njit(cache=True)(_pack_fields)
unpack_fields = njit(cache=True)(_unpack_fields)
