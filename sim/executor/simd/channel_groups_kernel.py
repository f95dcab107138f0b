# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""N:M sparsity on planes: every row has the same number of non-zeros in a window, so that streams need no counts.

Rows stand in their own order, loops have constant lengths, and four 16-bit offsets come with one load::

    for tile, for block of output rows:                       one task
        for window of whole groups of M operands:
            copy the window's rows of X to an aligned scratch  (im2col, fused; stays in L1)
            for row of the block:
                sums (registers) = bias in the first window, else the partial sums
                for level, sparsest first, up to the wanted one:  (unrolled; the places of three streams in registers)
                    ask for a cache line of the stream that later rows need
                    for the window's count of non-zeros, four at a time: sums += value * scratch[offset]
                last window: + residual, clamp, zero the halo, store; else keep the partial sums

The reduction axis runs over (group of channels, kernel position, channel of the group). A level is a prefix: 1:8 are the
first streams of 2:8, those the first of 4:8.

The multiply-adds read an operand from the scratch every cycle, so that every other load costs time. That decides about a
level's price: a stream is one place, an index that serves values and offsets; it stays in a register; four offsets come
with one load and four values with another; and a row asks for one cache line of each stream, of values or of offsets.
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
from .weights_kernel import load_four, multiply_add_one_of_aligned

#: Rows between the one that is computed and the one whose output and residual are asked for meanwhile.
AHEAD = 3
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32
#: Non-zeros between a row's first and the ones asked for then, per stream: the processor's own prefetcher sees the streams
#: of several levels pass in turn and follows them badly (measured: up to 6 % of the time of 3 levels).
STREAM_AHEAD = 64
#: Streams whose places are kept in registers; those of further levels are kept in memory.
IN_REGISTERS = 3
#: Numbers of streams that kernels are made for; the last one stands for more, too.
LEVELS = (1, 2, 3, 4)
#: A further stream's place while a block runs, bytes: index of its next non-zero, non-zeros per row.
POINTERS = 16


def _segment(sums, row, scratch, values, offsets, at, count):
    """sums + the ``count`` non-zeros of one stream from number ``at`` on, in ``row``; also the number of the one behind."""
    stop = opaque(at + count)
    if row & 1:
        prefetch_read(1, opaque(values + 4 * at) + 4 * STREAM_AHEAD)
    else:
        prefetch_read(1, opaque(offsets + 2 * at) + 2 * STREAM_AHEAD)
    while at < stop - 3:
        places = read_i64(offsets + 2 * at, 0)
        four = load_four(values + 4 * at)
        a, b = opaque(scratch + (places & 65535)), opaque(scratch + (places >> 16 & 65535))
        c, d = opaque(scratch + (places >> 32 & 65535)), opaque(scratch + (places >> 48 & 65535))
        sums = multiply_add_one_of_aligned(sums, four, 0, a)
        sums = multiply_add_one_of_aligned(sums, four, 1, b)
        sums = multiply_add_one_of_aligned(sums, four, 2, c)
        sums = multiply_add_one_of_aligned(sums, four, 3, d)
        at = opaque(at + 4)  # or LLVM keeps pointers to values and to offsets, and reloads them for every stream
    while at < stop:
        near = opaque(scratch + read_u16(offsets + 2 * at, 0))
        sums = multiply_add_aligned(sums, read_f32(values + 4 * at, 0), near)
        at = opaque(at + 1)
    return sums, stop


segment = njit(inline="always")(_segment)


def uniform(vectors, levels):
    """The kernel for tiles of 16 * ``vectors`` positions and ``levels`` streams to run (the largest of :data:`LEVELS`: that
    many or more): run(tasks, shape, streams, planes, work).

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
        values, offsets = opaque(address(values)), opaque(address(offsets))
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
            at0 = read_i64(base, 16)
            at1 = read_i64(base, 24) if levels > 1 else 0
            at2 = read_i64(base, 32) if levels > 2 else 0
            for level in range(IN_REGISTERS, wanted if levels > IN_REGISTERS else 0):
                write_i64(pointers, POINTERS * level, read_i64(base, 16 + 8 * level))
            for window in range(windows):
                width = min(KW, K - window * KW)
                to = scratch
                for _ in range(width):
                    prefetch_read(vectors, source + read_u32(reduce_at, COPY_AHEAD))
                    store_aligned(to, load(vectors, source + read_u32(reduce_at, 0)))
                    reduce_at += 4
                    to += tile_bytes
                begins, ends = window == 0, window == windows - 1
                count_at = address(counts) + 2 * window * stored
                count0 = opaque(read_u16(count_at, 0))
                count1 = opaque(read_u16(count_at, 2)) if levels > 1 else 0
                count2 = opaque(read_u16(count_at, 4)) if levels > 2 else 0
                for level in range(IN_REGISTERS, wanted if levels > IN_REGISTERS else 0):
                    write_i64(pointers, POINTERS * level + 8, read_u16(count_at, 2 * level))
                partial = sums + tile_bytes * read_i64(base, 0)
                for row in range(read_i64(base, 0), read_i64(base, 8)):
                    if ends:
                        soon = 4 * stride * min(row + AHEAD, M - 1)
                        prefetch_write(vectors, target + soon)
                        if residual:
                            prefetch_read(vectors, other + soon)
                    if begins:
                        total = filled(vectors, read_f32(address(bias), 4 * row))
                    else:
                        total = load_aligned(vectors, partial)
                    total, at0 = segment(total, row, scratch, values, offsets, at0, count0)
                    if levels > 1:
                        total, at1 = segment(total, row, scratch, values, offsets, at1, count1)
                    if levels > 2:
                        total, at2 = segment(total, row, scratch, values, offsets, at2, count2)
                    if levels > IN_REGISTERS:
                        for level in range(IN_REGISTERS, wanted):
                            at = read_i64(pointers, POINTERS * level)
                            count = read_i64(pointers, POINTERS * level + 8)
                            total, at = segment(total, row, scratch, values, offsets, at, count)
                            write_i64(pointers, POINTERS * level, at)
                    if ends:
                        if residual:
                            total = add_from(total, opaque(other + 4 * stride * row))
                        total = keep_lanes(clamp(total, lowest, highest), lanes)
                        store(opaque(target + 4 * stride * row), total)
                    else:
                        store_aligned(partial, total)
                    partial = opaque(partial + tile_bytes)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {(vectors, levels): uniform(vectors, levels) for vectors in (1, 2, 4, 7, 8, 13, 14) for levels in LEVELS}
