# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse products over windows of the reduction axis, from level-ordered streams, with everything fused.

One tile is 16 * ``vectors`` output positions; the positions of a tile are consecutive in the padded planes::

    for tile, for block of output rows:                       one task
        for window of the reduction axis (about 28 KB of X):
            copy the window's rows of X to an aligned scratch  (im2col, fused; stays in L1)
            for row of the block, fewest non-zeros first:
                sums (registers) = bias in the first window, else the partial sums
                for level, sparsest first, up to the wanted one:  (the places of four streams in registers)
                    for non-zero, two at a time: sums += value * scratch[offset] (small tiles: two sums in turn)
                last window: + residual, clamp, zero the halo, store; else keep the partial sums

A level is a prefix: its streams are the first ones, and switching level changes how many of them are read.

A stream's place is one number that serves values and offsets. In a register it costs an addition per row; in memory every
row would wait for what the row before has stored, which short rows feel most (measured: 1.1 to 1.4 times their time).
"""

import numpy as np
from numba import njit

from .machine_kernel import flush_denormals, prefetch_read, prefetch_write, restore, take
from .vectors_kernel import (
    REVISION,
    add_bundles,
    add_from,
    address,
    clamp,
    filled,
    keep_lanes,
    load,
    load_aligned,
    multiply_add_aligned,
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)
from .weights_kernel import load_two, multiply_add_one_of_aligned

#: Bytes of row numbers between a row and the one whose sums, output and residual are asked for meanwhile: 3 rows.
AHEAD = 12
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32
#: Non-zeros between a row's first and the ones asked for then, per stream: values and offsets in turn.
STREAM_AHEAD = 64
#: Streams whose places are kept in registers; those of further levels are kept in memory.
IN_REGISTERS = 4
#: Vectors of a tile up to which every second non-zero has sums of its own: each waits for the one before, and few sums leave
#: the arithmetic idle meanwhile (measured: tiles of 2 vectors take 0.9 of the time, of 4 and 7 vectors 0.97).
TWO_SUMS = 7


def _segment(sums, others, split, turn, scratch, values, offsets, at, count):
    """sums + the ``count`` non-zeros of one stream from number ``at`` on, every second one to ``others`` if ``split``;
    also the number of the one behind."""
    stop = opaque(at + count)
    if turn & 1:
        prefetch_read(1, opaque(values + 4 * at) + 4 * STREAM_AHEAD)
    else:
        prefetch_read(1, opaque(offsets + 2 * at) + 2 * STREAM_AHEAD)
    while at < stop - 1:
        near = opaque(scratch + read_u16(offsets + 2 * at, 0))
        far = opaque(scratch + read_u16(offsets + 2 * at, 2))
        two = load_two(values + 4 * at)
        sums = multiply_add_one_of_aligned(sums, two, 0, near)
        if split:
            others = multiply_add_one_of_aligned(others, two, 1, far)
        else:
            sums = multiply_add_one_of_aligned(sums, two, 1, far)
        at = opaque(at + 2)  # or LLVM keeps pointers to values and to offsets, and reloads them for every stream
    if at < stop:
        near = opaque(scratch + read_u16(offsets + 2 * at, 0))
        sums = multiply_add_aligned(sums, read_f32(values + 4 * at, 0), near)
    return sums, others, stop


segment = njit(inline="always")(_segment)


def windowed(vectors, further):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, work).

    ``further``: True for more levels than :data:`IN_REGISTERS`.

    Threads that run it together take tasks from ``tasks``, int64 (next, tiles * blocks), tile-major. The other
    arguments are tuples of arrays and integers:

    * shape: (rows M, reduction K, window KW, blocks, levels stored, levels to run, has residual, lowest, highest)
    * streams: (starts, skips, rows, counts, offsets, values, bias), see ``streams.LevelStreams``
    * planes: (x, reduction offsets, out, first element, plane stride, masks, residual): bytes and elements as there
    * work: (scratch, partial sums, places of further streams) of this thread
    """
    tile_bytes = 64 * vectors
    split = vectors <= TWO_SUMS
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, KW, blocks, stored, wanted, residual, lowest, highest = shape
        starts, skips, rows, counts, offsets, values, bias = streams
        offsets, values = opaque(address(offsets)), opaque(address(values))
        x, reduction, out, origin, stride, masks, added = planes
        scratch, sums = address(work[0]), address(work[1])
        places = address(work[2])
        windows = (K + KW - 1) // KW
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // blocks
            block = task - tile * blocks
            source = address(x) + tile * tile_bytes
            target = address(out) + 4 * origin + tile * tile_bytes
            other = address(added) + 4 * origin + tile * tile_bytes
            lanes = address(masks) + 2 * vectors * tile
            reduce_at = address(reduction)
            base = address(starts) + 8 * block * (stored + 2)
            first_row = read_i64(base, 0)
            listed = read_i64(base, 8) - first_row
            row_at = address(rows) + 4 * first_row * windows
            at0 = read_i64(base, 16)
            at1 = read_i64(base, 24) if wanted > 1 else 0
            at2 = read_i64(base, 32) if wanted > 2 else 0
            at3 = read_i64(base, 40) if wanted > 3 else 0
            if further:
                for level in range(IN_REGISTERS, wanted):
                    write_i64(places, 8 * level, read_i64(base, 16 + 8 * level))
            count_at = address(counts) + 2 * first_row * windows
            level_step = 2 * M * windows
            for window in range(windows):
                width = min(KW, K - window * KW)
                to = scratch
                for _ in range(width):
                    prefetch_read(vectors, source + read_u32(reduce_at, COPY_AHEAD))
                    store_aligned(to, load(vectors, source + read_u32(reduce_at, 0)))
                    reduce_at += 4
                    to += tile_bytes
                begins, ends = window == 0, window == windows - 1
                skip = 0
                if not begins and not ends:
                    skip = read_u32(address(skips), 4 * ((block * windows + window) * stored + wanted - 1))
                for i in range(skip, listed):
                    row = read_u32(row_at, 4 * i)
                    later = read_u32(row_at, 4 * i + AHEAD)
                    prefetch_read(vectors, sums + tile_bytes * later)
                    if ends:
                        soon = 4 * stride * later
                        prefetch_write(vectors, target + soon)
                        if residual:
                            prefetch_read(vectors, other + soon)
                    partial = opaque(sums + row * tile_bytes)
                    if begins:
                        total = filled(vectors, read_f32(address(bias), 4 * row))
                    else:
                        total = load_aligned(vectors, partial)
                    others = filled(vectors, np.float32(0))
                    listed_at = count_at + 2 * i
                    total, others, at0 = segment(
                        total, others, split, i, scratch, values, offsets, at0, read_u16(listed_at, 0)
                    )
                    if wanted > 1:
                        count = read_u16(listed_at + level_step, 0)
                        total, others, at1 = segment(total, others, split, i, scratch, values, offsets, at1, count)
                    if wanted > 2:
                        count = read_u16(listed_at + 2 * level_step, 0)
                        total, others, at2 = segment(total, others, split, i, scratch, values, offsets, at2, count)
                    if wanted > 3:
                        count = read_u16(listed_at + 3 * level_step, 0)
                        total, others, at3 = segment(total, others, split, i, scratch, values, offsets, at3, count)
                    if further:
                        for level in range(IN_REGISTERS, wanted):
                            at, count = read_i64(places, 8 * level), read_u16(listed_at + level * level_step, 0)
                            total, others, at = segment(total, others, split, i, scratch, values, offsets, at, count)
                            write_i64(places, 8 * level, at)
                    if split:
                        total = add_bundles(total, others)
                    if ends:
                        if residual:
                            total = add_from(total, opaque(other + 4 * stride * row))
                        total = keep_lanes(clamp(total, lowest, highest), lanes)
                        store(opaque(target + 4 * stride * row), total)
                    else:
                        store_aligned(partial, total)
                row_at += 4 * listed
                count_at += 2 * listed
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: By vectors per tile, and whether there are further levels.
KERNELS = {
    (vectors, further): windowed(vectors, further) for vectors in (1, 2, 4, 7, 8, 13, 14) for further in (False, True)
}
