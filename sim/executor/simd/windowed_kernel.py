# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse products over windows of the reduction axis, from level-ordered streams, with everything fused.

One tile is 16 * ``vectors`` output positions; the positions of a tile are consecutive in the padded planes::

    for tile, for block of output rows:                       one task
        for window of the reduction axis (about 28 KB of X):
            copy the window's rows of X to an aligned scratch  (im2col, fused; stays in L1)
            for row of the block, fewest non-zeros first:
                sums (registers) = bias in the first window, else the partial sums
                for level, sparsest first, up to the wanted one:
                    for non-zero: sums += value * scratch[offset]
                last window: + residual, clamp, zero the halo, store; else keep the partial sums

A level is a prefix: its streams are the first ones, and switching level changes the loop bound only.
"""

from numba import njit

from .machine_kernel import flush_denormals, prefetch_read, prefetch_write, restore, take
from .vectors_kernel import (
    REVISION,
    add_from,
    address,
    clamp,
    filled,
    keep_lanes,
    load,
    load_aligned,
    multiply_add_aligned,
    multiply_add_two_aligned,
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)

#: Bytes of row numbers between a row and the one whose sums, output and residual are asked for meanwhile: 3 rows.
AHEAD = 12
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32


def windowed(vectors):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, work).

    Threads that run it together take tasks from ``tasks``, int64 (next, tiles * blocks), tile-major. The other
    arguments are tuples of arrays and integers:

    * shape: (rows M, reduction K, window KW, blocks, levels stored, levels to run, has residual, lowest, highest)
    * streams: (starts, skips, rows, counts, offsets, values, bias), see ``streams.LevelStreams``
    * planes: (x, reduction offsets, out, first element, plane stride, masks, residual): bytes and elements as there
    * work: (scratch, partial sums, stream pointers) of this thread
    """
    tile_bytes = 64 * vectors
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, KW, blocks, stored, wanted, residual, lowest, highest = shape
        starts, skips, rows, counts, offsets, values, bias = streams
        x, reduction, out, origin, stride, masks, added = planes
        scratch, sums = address(work[0]), address(work[1])
        pointers = address(work[2])
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
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, 16 * level, address(values) + 4 * segment)
                write_i64(pointers, 16 * level + 8, address(offsets) + 2 * segment)
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
                    for level in range(wanted):
                        value = read_i64(pointers, 16 * level)
                        offset = read_i64(pointers, 16 * level + 8)
                        stop = value + 4 * read_u16(count_at + level * level_step, 2 * i)
                        while value < stop - 4:
                            near = opaque(scratch + read_u16(offset, 0))
                            far = opaque(scratch + read_u16(offset, 2))
                            total = multiply_add_two_aligned(total, value, near, far)
                            value += 8
                            offset += 4
                        if value < stop:
                            near = opaque(scratch + read_u16(offset, 0))
                            total = multiply_add_aligned(total, read_f32(value, 0), near)
                            value += 4
                            offset += 2
                        write_i64(pointers, 16 * level, value)
                        write_i64(pointers, 16 * level + 8, offset)
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


KERNELS = {vectors: windowed(vectors) for vectors in (1, 2, 4, 7, 8, 13, 14)}
