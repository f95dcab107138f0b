# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""N:M sparsity on planes: every row has the same number of non-zeros in a window, so that streams need no counts.

Rows stand in their own order, loops have constant lengths, and four 16-bit offsets come with one load::

    for tile, for block of output rows:                       one task
        for window of whole groups of M operands:
            copy the window's rows of X to an aligned scratch  (im2col, fused; stays in L1)
            for row of the block:
                sums (registers) = bias in the first window, else the partial sums
                for level, sparsest first, up to the wanted one:
                    for the window's count of non-zeros, four at a time: sums += value * scratch[offset]
                last window: + residual, clamp, zero the halo, store; else keep the partial sums

The reduction axis runs over (group of channels, kernel position, channel of the group). A level is a prefix: 1:8 are the
first streams of 2:8, those the first of 4:8.
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
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)

#: Rows between the one that is computed and the one whose output and residual are asked for meanwhile.
AHEAD = 3
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32
#: Bytes of values between a row's last and the ones asked for then: the processor's own prefetcher sees the streams of
#: several levels pass one load in turn and follows none of them (measured: 3 to 10 % of the time of 3 levels).
STREAM_AHEAD = 128
#: A stream's place while a block runs, bytes: next value, next offset, bytes of values per row.
POINTERS = 24


def uniform(vectors):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, work).

    Arguments as for ``windowed_kernel.windowed``, but streams are (starts, counts, offsets, values, bias) with counts
    uint16 (windows, levels stored): non-zeros of every row.
    """
    tile_bytes = 64 * vectors
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, KW, blocks, stored, wanted, residual, lowest, highest = shape
        starts, counts, offsets, values, bias = streams
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
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, POINTERS * level, address(values) + 4 * segment)
                write_i64(pointers, POINTERS * level + 8, address(offsets) + 2 * segment)
            for window in range(windows):
                width = min(KW, K - window * KW)
                to = scratch
                for _ in range(width):
                    prefetch_read(vectors, source + read_u32(reduce_at, COPY_AHEAD))
                    store_aligned(to, load(vectors, source + read_u32(reduce_at, 0)))
                    reduce_at += 4
                    to += tile_bytes
                begins, ends = window == 0, window == windows - 1
                for level in range(wanted):
                    count = read_u16(address(counts), 2 * (window * stored + level))
                    write_i64(pointers, POINTERS * level + 16, 4 * count)
                for row in range(read_i64(base, 0), read_i64(base, 8)):
                    partial = opaque(sums + row * tile_bytes)
                    if ends:
                        soon = 4 * stride * min(row + AHEAD, M - 1)
                        prefetch_write(vectors, target + soon)
                        if residual:
                            prefetch_read(vectors, other + soon)
                    if begins:
                        total = filled(vectors, read_f32(address(bias), 4 * row))
                    else:
                        total = load_aligned(vectors, partial)
                    for level in range(wanted):
                        value = read_i64(pointers, POINTERS * level)
                        offset = read_i64(pointers, POINTERS * level + 8)
                        stop = value + read_i64(pointers, POINTERS * level + 16)
                        while value < stop - 12:
                            four = read_i64(offset, 0)
                            a, b = opaque(scratch + (four & 65535)), opaque(scratch + (four >> 16 & 65535))
                            c, d = opaque(scratch + (four >> 32 & 65535)), opaque(scratch + (four >> 48 & 65535))
                            total = multiply_add_aligned(total, read_f32(value, 0), a)
                            total = multiply_add_aligned(total, read_f32(value, 4), b)
                            total = multiply_add_aligned(total, read_f32(value, 8), c)
                            total = multiply_add_aligned(total, read_f32(value, 12), d)
                            value += 16
                            offset += 8
                        while value < stop:
                            near = opaque(scratch + read_u16(offset, 0))
                            total = multiply_add_aligned(total, read_f32(value, 0), near)
                            value += 4
                            offset += 2
                        prefetch_read(2, value + STREAM_AHEAD)
                        prefetch_read(1, offset + STREAM_AHEAD // 2)
                        write_i64(pointers, POINTERS * level, value)
                        write_i64(pointers, POINTERS * level + 8, offset)
                    if ends:
                        if residual:
                            total = add_from(total, opaque(other + 4 * stride * row))
                        total = keep_lanes(clamp(total, lowest, highest), lanes)
                        store(opaque(target + 4 * stride * row), total)
                    else:
                        store_aligned(partial, total)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {vectors: uniform(vectors) for vectors in (1, 2, 4, 7, 8, 13, 14)}
