# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Row groups that keep the same weights, without windows: for layers in groups, few rows, or low density.

X is read where it lies (unaligned, nothing is copied): every load is shared by the rows of a group, so that what a load
costs matters less than for single rows::

    for tile, for block of row groups:                        one task
        for group of rows, fewest positions first:
            sums (group x vectors registers) = bias
            for level, sparsest first, up to the wanted one:
                for position: sums += values[group] x X[offset]                (outer product)
            + residual, clamp, zero the halo, store row by row
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

#: Rows between the group that is computed and the one whose output and residual are asked for meanwhile.
AHEAD = 4
#: Bytes of values between a group's last and the ones asked for then, as in ``channel_groups_kernel``.
STREAM_AHEAD = 128


def direct_blocks(vectors, group):
    """The kernel for tiles of 16 * ``vectors`` positions and ``group`` rows: run(tasks, shape, streams, planes, work).

    Arguments as for ``blocks_kernel.windowed_blocks`` with one window and 32-bit offsets (bytes from the tile's place in
    the planes); of shape the reduction and the window are not used, of work only the sums of one group.
    """
    tile_bytes = 64 * vectors
    sums_count = group * vectors
    value_bytes = 4 * group
    ahead = 4 * max(1, AHEAD // group)
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, groups, _, _, blocks, stored, wanted, residual, lowest, highest = shape
        starts, _, rows, counts, offsets, values, bias = streams
        x, _, out, origin, stride, masks, added = planes
        sums, pointers = address(work[1]), address(work[2])
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // blocks
            block = task - tile * blocks
            source = address(x) + tile * tile_bytes
            target = address(out) + 4 * origin + tile * tile_bytes
            other = address(added) + 4 * origin + tile * tile_bytes
            lanes = address(masks) + 2 * vectors * tile
            base = address(starts) + 8 * block * (stored + 2)
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, 16 * level, address(values) + value_bytes * segment)
                write_i64(pointers, 16 * level + 8, address(offsets) + 4 * segment)
            for i in range(read_i64(base, 0), read_i64(base, 8)):
                row = group * read_u32(address(rows), 4 * i)
                present = min(group, M - row)
                soon = group * read_u32(address(rows), 4 * i + ahead)
                for r in range(group):
                    prefetch_write(vectors, target + 4 * stride * (soon + r))
                    if residual:
                        prefetch_read(vectors, other + 4 * stride * (soon + r))
                for r in range(present):
                    store_aligned(sums + r * tile_bytes, filled(vectors, read_f32(address(bias), 4 * (row + r))))
                total = load_aligned(sums_count, sums)
                for level in range(wanted):
                    value = read_i64(pointers, 16 * level)
                    offset = read_i64(pointers, 16 * level + 8)
                    stop = value + value_bytes * read_u16(address(counts), 2 * (level * groups + i))
                    while value < stop - value_bytes:
                        near = opaque(source + read_u32(offset, 0))
                        far = opaque(source + read_u32(offset, 4))
                        total = outer_add(total, vectors, opaque(value), near)
                        total = outer_add(total, vectors, opaque(value + value_bytes), far)
                        value += 2 * value_bytes
                        offset += 8
                    if value < stop:
                        total = outer_add(total, vectors, opaque(value), opaque(source + read_u32(offset, 0)))
                        value += value_bytes
                        offset += 4
                    prefetch_read(2, value + STREAM_AHEAD)
                    prefetch_read(1, offset + STREAM_AHEAD // 2)
                    write_i64(pointers, 16 * level, value)
                    write_i64(pointers, 16 * level + 8, offset)
                store_aligned(sums, total)
                for r in range(present):
                    line = load_aligned(vectors, sums + r * tile_bytes)
                    place = 4 * stride * (row + r)
                    if residual:
                        line = add_from(line, opaque(other + place))
                    store(opaque(target + place), keep_lanes(clamp(line, lowest, highest), lanes))
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {(group, v): direct_blocks(v, group) for group, widths in WIDTHS.items() for v in widths}
