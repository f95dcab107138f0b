"""Numba kernels of the storage formats: run and group statistics of ``keep``, and bit packing.

Plain arrays in, ``out`` written. The callers (``statistics``, ``bitpack``) check types, shapes and ranges. The interpreter's
lock is released, so that layers can be sized side by side.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _count_escapes(
    keep: NDArray[np.uint8], escapes: NDArray[np.int64], histogram: NDArray[np.int64], scratch: NDArray[np.int64]
) -> None:
    """Zero runs in front of every retained weight, for all levels at once.

    keep : uint8 (n,); escapes : int64 (levels, widths); histogram : int64 (levels + 1, short); both zero on entry.
    scratch : int64 (at least 2 * (levels + 1),), zero on entry; weights are taken in blocks of its size.
    Runs shorter than ``short`` are counted in ``histogram[level + 1]``, which the caller weighs by ``run >> k``; longer
    ones are rare (at most n / short), their ``run >> k`` is added to ``escapes[level, k]`` directly.
    """
    levels, widths = escapes.shape
    short = histogram.shape[1]
    block = scratch.size
    for level in range(levels):
        following = 0
        for start in range(0, keep.size, block):
            # First where the weights are, then the runs between them: neither loop branches on random data.
            found = 0
            for i in range(start, min(start + block, keep.size)):
                scratch[found] = i
                found += keep[i] > level
            for place in scratch[:found]:
                gap = place - following
                following = place + 1
                if gap < short:
                    histogram[level + 1, gap] += 1
                else:
                    for k in range(widths):
                        escapes[level, k] += gap >> k


def _count_stream_escapes(
    keep: NDArray[np.uint8], escapes: NDArray[np.int64], histogram: NDArray[np.int64], scratch: NDArray[np.int64]
) -> None:
    """The runs of ``_count_escapes`` in the streams of single levels; the same arguments.

    Stream l retains the weights with keep == l + 1, and its sequence leaves out the weights with keep > l + 1. The run
    in front of a retained weight is thus the number of weights with keep <= l since the previous one of its stream.
    Weights that no level retains take the same path, since a branch on random data costs more than their bookkeeping;
    they end up in ``histogram[0]``.
    """
    levels, widths = escapes.shape
    short = histogram.shape[1]
    below = scratch[: levels + 1]  # [v]: weights so far with keep < v
    before = scratch[levels + 1 : 2 * (levels + 1)]  # [v]: the same at the last weight with keep == v
    for i in range(keep.size):
        kept = keep[i]
        gap = below[kept] - before[kept]
        before[kept] = below[kept]
        for v in range(1, levels + 1):
            below[v] += kept < v
        if gap < short:
            histogram[kept, gap] += 1
        else:
            for k in range(widths):
                escapes[kept - 1, k] += gap >> k


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


# Callers bring the memory: without allocations and counted references kernels compile in half the time.
count_escapes = njit(cache=True, nogil=True, _nrt=False)(_count_escapes)
count_stream_escapes = njit(cache=True, nogil=True, _nrt=False)(_count_stream_escapes)
find_largest_occupancy = njit(cache=True, nogil=True, _nrt=False)(_find_largest_occupancy)
pack_fields = njit(cache=True, nogil=True)(_pack_fields)
unpack_fields = njit(cache=True, nogil=True)(_unpack_fields)
