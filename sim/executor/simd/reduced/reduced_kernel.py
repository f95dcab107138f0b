# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Windowed sparse products in reduced formats, from level-ordered streams: the nest of ``windowed_kernel``, where a window's
sums may be of another format than the sums between windows::

    for tile, for block of output rows:                       one task
        partial sums of the block's rows = bias
        for window of the reduction axis:
            copy the window's rows of X to an aligned scratch, converted once for all rows
            for row of the block, fewest non-zeros first:
                sums (registers) = 0
                for level, sparsest first, up to the wanted one:
                    for non-zero: sums += value * scratch[offset]
                partial sums += sums;  last window: finish and store

Exactness of int8. Operands and values lie in -128..127, so a product's magnitude is at most 2^14. A window has at most 1024
operands, so every sum inside it is a whole number of magnitude at most 1024 * 2^14 = 2^24, which float32 holds exactly: each
fused multiply-add is exact. Between windows sums are int32, exact while they fit; who makes the streams checks both limits.
"""

from numba import njit

from ..machine_kernel import flush_denormals, prefetch_read, prefetch_write, restore, take
from ..vectors_kernel import (
    REVISION,
    address,
    filled,
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store_aligned,
    write_i64,
)
from .formats_kernel import (
    CODE_MASK,
    CODED,
    INPUT_BYTES,
    OUTPUT_BYTES,
    VALUE_BYTES,
    add_product,
    copy_operand,
    finish,
    merged,
    row_bytes,
    window_sums,
)

#: Bytes of row numbers between a row and the one whose sums and output are asked for meanwhile: 3 rows.
AHEAD = 12
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32


def windowed(fmt, vectors):
    """The kernel of a format for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, epilogue, work).

    Threads that run it together take tasks from ``tasks``, int64 (next, tiles * blocks), tile-major.

    * shape: (rows M, reduction K, window KW, blocks, levels stored, levels to run)
    * streams: (starts, skips, rows, counts, offsets, values, table, bias), see ``streams.LevelStreams`` and ``reduced``
    * planes: (x, reduction offsets in bytes, out, first element, plane stride in elements, masks, residual)
    * epilogue: (has residual, scale of each row, zero point, lowest, highest), see ``formats_kernel.finish``
    * work: (scratch, partial sums, stream pointers) of this thread
    """
    revision = REVISION
    x_bytes, out_bytes = INPUT_BYTES[fmt] * 16 * vectors, OUTPUT_BYTES[fmt]
    copy_bytes, sum_bytes, value_bytes = row_bytes(fmt, vectors), 64 * vectors, VALUE_BYTES[fmt]
    code_mask = CODE_MASK if fmt == CODED else 0
    x_lines = (x_bytes + 63) // 64
    out_lines = (out_bytes * 16 * vectors + 63) // 64

    def run(tasks, shape, streams, planes, epilogue, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, KW, blocks, stored, wanted = shape
        starts, skips, rows, counts, offsets, values, table, bias = streams
        x, reduction, out, origin, stride, masks, added = planes
        residual, scales, zero, lowest, highest = epilogue
        scratch, sums, pointers = address(work[0]), address(work[1]), address(work[2])
        numbers = address(table)
        windows = (K + KW - 1) // KW
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // blocks
            block = task - tile * blocks
            source = address(x) + tile * x_bytes
            target = address(out) + out_bytes * (origin + tile * 16 * vectors)
            other = address(added) + out_bytes * (origin + tile * 16 * vectors)
            lanes = address(masks) + 2 * vectors * tile
            reduce_at = address(reduction)
            base = address(starts) + 8 * block * (stored + 2)
            first_row = read_i64(base, 0)
            listed = read_i64(base, 8) - first_row
            row_at = address(rows) + 4 * first_row * windows
            count_at = address(counts) + 2 * first_row * windows
            level_step = 2 * M * windows
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, 16 * level, address(values) + value_bytes * segment)
                write_i64(pointers, 16 * level + 8, address(offsets) + 2 * segment)
            for i in range(listed):
                row = read_u32(row_at, 4 * i)
                store_aligned(sums + row * sum_bytes, filled(vectors, read_f32(address(bias), 4 * row)))
            for window in range(windows):
                to = scratch
                for _ in range(min(KW, K - window * KW)):
                    prefetch_read(x_lines, source + read_u32(reduce_at, COPY_AHEAD))
                    copy_operand(fmt, vectors, to, source + read_u32(reduce_at, 0))
                    reduce_at += 4
                    to += copy_bytes
                ends = window == windows - 1
                skip = 0
                if not ends:
                    skip = read_u32(address(skips), 4 * ((block * windows + window) * stored + wanted - 1))
                for i in range(skip, listed):
                    row = read_u32(row_at, 4 * i)
                    later = read_u32(row_at, 4 * i + AHEAD)
                    prefetch_read(vectors, sums + sum_bytes * later)
                    if ends:
                        prefetch_write(out_lines, target + out_bytes * stride * later)
                    partial = opaque(sums + row * sum_bytes)
                    total = window_sums(fmt, vectors, partial)
                    for level in range(wanted):
                        value = read_i64(pointers, 16 * level)
                        offset = read_i64(pointers, 16 * level + 8)
                        stop = offset + 2 * read_u16(count_at + level * level_step, 2 * i)
                        while offset < stop - 2:
                            one, two = read_u16(offset, 0), read_u16(offset, 2)
                            near, far = opaque(scratch + (one & ~code_mask)), opaque(scratch + (two & ~code_mask))
                            total = add_product(fmt, total, numbers, value, one & code_mask, near)
                            total = add_product(fmt, total, numbers, value + value_bytes, two & code_mask, far)
                            value += 2 * value_bytes
                            offset += 4
                        if offset < stop:
                            one = read_u16(offset, 0)
                            near = opaque(scratch + (one & ~code_mask))
                            total = add_product(fmt, total, numbers, value, one & code_mask, near)
                            value += value_bytes
                            offset += 2
                        write_i64(pointers, 16 * level, value)
                        write_i64(pointers, 16 * level + 8, offset)
                    added_up = merged(fmt, vectors, total, partial)
                    if ends:
                        place = out_bytes * stride * row
                        scale = read_f32(address(scales), 4 * row)
                        finish(
                            fmt, added_up, target + place, lanes, other + place, residual, scale, zero, lowest, highest
                        )
                    else:
                        store_aligned(partial, added_up)
                row_at += 4 * listed
                count_at += 2 * listed
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by format and vectors per tile.
KERNELS = {(fmt, vectors): windowed(fmt, vectors) for fmt in VALUE_BYTES for vectors in (1, 2, 4, 7, 8, 13, 14)}


def _picker(revision):
    def pick(tasks, x, sources, step, out, fill):
        """out[i] = x[sources[i]], or ``fill`` where the source is negative; a task is ``step`` elements."""
        _ = revision  # a part of the cache key
        task = take(address(tasks))
        while task < tasks[1]:
            for i in range(task * step, min(len(sources), (task + 1) * step)):
                out[i] = x[sources[i]] if sources[i] >= 0 else fill
            task = take(address(tasks))

    return njit(nogil=True, cache=True)(pick)


pick = _picker(REVISION)
