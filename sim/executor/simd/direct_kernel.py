# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse products without windows, for low density or few output rows: sums stay in registers for a whole row.

Either straight from the planes (unaligned loads, nothing is copied), or with the whole tile of X copied first::

    for tile, for block of output rows:                       one task
        if packed: copy the tile's K rows of X to an aligned scratch (L2)
        for row of the block, fewest non-zeros first:
            sums (registers) = bias
            for level, sparsest first, up to the wanted one:
                for non-zero: sums += value * X[offset]
            + residual, clamp, zero the halo, store
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
    multiply_add,
    multiply_add_two,
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)

#: Bytes of row numbers between a row and the one whose output and residual are asked for meanwhile: 3 rows.
AHEAD = 12
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32


def direct(vectors):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, work).

    As ``windowed_kernel.windowed``, with one window, 32-bit offsets (bytes from the tile's place in the planes, or into the
    scratch), and shape (rows M, reduction K, packed, blocks, levels stored, levels to run, has residual, lowest, highest).
    """
    tile_bytes = 64 * vectors
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, packed, blocks, stored, wanted, residual, lowest, highest = shape
        starts, _, rows, counts, offsets, values, bias = streams
        x, reduction, out, origin, stride, masks, added = planes
        pointers = address(work[2])
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // blocks
            block = task - tile * blocks
            source = address(x) + tile * tile_bytes
            if packed:
                to = address(work[0])
                for k in range(K):
                    prefetch_read(vectors, source + read_u32(address(reduction), 4 * k + COPY_AHEAD))
                    store_aligned(to, load(vectors, source + read_u32(address(reduction), 4 * k)))
                    to += tile_bytes
                source = address(work[0])
            target = address(out) + 4 * origin + tile * tile_bytes
            other = address(added) + 4 * origin + tile * tile_bytes
            lanes = address(masks) + 2 * vectors * tile
            base = address(starts) + 8 * block * (stored + 2)
            first_row = read_i64(base, 0)
            for level in range(wanted):
                segment = read_i64(base, 16 + 8 * level)
                write_i64(pointers, 16 * level, address(values) + 4 * segment)
                write_i64(pointers, 16 * level + 8, address(offsets) + 4 * segment)
            for i in range(first_row, read_i64(base, 8)):
                row = read_u32(address(rows), 4 * i)
                soon = 4 * stride * read_u32(address(rows), 4 * i + AHEAD)
                prefetch_write(vectors, target + soon)
                if residual:
                    prefetch_read(vectors, other + soon)
                total = filled(vectors, read_f32(address(bias), 4 * row))
                for level in range(wanted):
                    value = read_i64(pointers, 16 * level)
                    offset = read_i64(pointers, 16 * level + 8)
                    stop = value + 4 * read_u16(address(counts), 2 * (level * M + i))
                    while value < stop - 4:
                        near = opaque(source + read_u32(offset, 0))
                        far = opaque(source + read_u32(offset, 4))
                        total = multiply_add_two(total, value, near, far)
                        value += 8
                        offset += 8
                    if value < stop:
                        total = multiply_add(total, read_f32(value, 0), opaque(source + read_u32(offset, 0)))
                        value += 4
                        offset += 4
                    write_i64(pointers, 16 * level, value)
                    write_i64(pointers, 16 * level + 8, offset)
                if residual:
                    total = add_from(total, opaque(other + 4 * stride * row))
                store(opaque(target + 4 * stride * row), keep_lanes(clamp(total, lowest, highest), lanes))
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {vectors: direct(vectors) for vectors in (1, 2, 4, 7, 8, 13, 14)}
