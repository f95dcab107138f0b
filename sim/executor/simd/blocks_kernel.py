# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse products whose rows keep the same weights in groups: one load of X feeds a multiply-add of every row of a group.

Streams are those of ``streams.LevelStreams`` with groups of ``group`` rows where single rows stood, and ``group`` values
per position (see ``structure.block_streams``)::

    for tile, for block of row groups:                        one task
        for window of the reduction axis:
            copy the window's rows of X to an aligned scratch  (im2col, fused; stays in L1)
            for group of rows, fewest positions first:
                sums (group x vectors registers) = bias in the first window, else the partial sums
                for level, sparsest first, up to the wanted one:
                    for position: sums += values[group] x scratch[offset]      (outer product)
                keep the partial sums; last window: + residual, clamp, zero the halo, store row by row

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
    opaque,
    outer_add,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)

#: Rows of a group -> vectors per tile: sums that fit 32 registers beside operands and factors.
WIDTHS = {2: (1, 2, 4, 7, 8), 4: (1, 2, 4), 8: (1, 2)}
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32

#: Rows between the group that is computed and the one whose output and residual are asked for meanwhile.
AHEAD = 4
#: Bytes of values between a group's last and the ones asked for then, as in ``channel_groups_kernel``.
STREAM_AHEAD = 128


def windowed_blocks(vectors, group):
    """The kernel for tiles of 16 * ``vectors`` positions and ``group`` rows: run(tasks, shape, streams, planes, work).

    Arguments as for ``windowed_kernel.windowed``, but rows, counts and starts count groups, values are float32
    (positions, group), zero for rows beyond M, and shape is (rows M, groups, reduction K, window KW, blocks, levels
    stored, levels to run, has residual, lowest, highest).
    """
    tile_bytes = 64 * vectors
    sums_count = group * vectors
    value_bytes = 4 * group
    ahead = 4 * max(1, AHEAD // group)
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, groups, K, KW, blocks, stored, wanted, residual, lowest, highest = shape
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
            first = read_i64(base, 0)
            listed = read_i64(base, 8) - first
            group_at = address(rows) + 4 * first * windows
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, 16 * level, address(values) + value_bytes * segment)
                write_i64(pointers, 16 * level + 8, address(offsets) + 2 * segment)
            count_at = address(counts) + 2 * first * windows
            level_step = 2 * groups * windows
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
                    row = group * read_u32(group_at, 4 * i)
                    present = min(group, M - row)
                    partial = opaque(sums + row * tile_bytes)
                    if begins:
                        for r in range(present):
                            start = filled(vectors, read_f32(address(bias), 4 * (row + r)))
                            store_aligned(partial + r * tile_bytes, start)
                    if ends:
                        soon = group * read_u32(group_at, 4 * i + ahead)
                        for r in range(group):
                            prefetch_write(vectors, target + 4 * stride * (soon + r))
                            if residual:
                                prefetch_read(vectors, other + 4 * stride * (soon + r))
                    total = load_aligned(sums_count, partial)
                    for level in range(wanted):
                        value = read_i64(pointers, 16 * level)
                        offset = read_i64(pointers, 16 * level + 8)
                        stop = value + value_bytes * read_u16(count_at + level * level_step, 2 * i)
                        while value < stop - value_bytes:
                            near = opaque(scratch + read_u16(offset, 0))
                            far = opaque(scratch + read_u16(offset, 2))
                            total = outer_add(total, vectors, opaque(value), near)
                            total = outer_add(total, vectors, opaque(value + value_bytes), far)
                            value += 2 * value_bytes
                            offset += 4
                        if value < stop:
                            near = opaque(scratch + read_u16(offset, 0))
                            total = outer_add(total, vectors, opaque(value), near)
                            value += value_bytes
                            offset += 2
                        prefetch_read(2, value + STREAM_AHEAD)
                        prefetch_read(1, offset + STREAM_AHEAD // 2)
                        write_i64(pointers, 16 * level, value)
                        write_i64(pointers, 16 * level + 8, offset)
                    store_aligned(partial, total)
                    if ends:
                        for r in range(present):
                            line = load_aligned(vectors, partial + r * tile_bytes)
                            place = 4 * stride * (row + r)
                            if residual:
                                line = add_from(line, opaque(other + place))
                            store(opaque(target + place), keep_lanes(clamp(line, lowest, highest), lanes))
                group_at += 4 * listed
                count_at += 2 * listed
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {(group, v): windowed_blocks(v, group) for group, widths in WIDTHS.items() for v in widths}
