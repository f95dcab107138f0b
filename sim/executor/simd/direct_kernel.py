# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sparse products without windows, for low density or few output rows: sums stay in registers for a whole row.

Either straight from the planes (unaligned loads, nothing is copied), or with the whole tile of X copied first::

    for tile, for block of output rows:                       one task
        if packed: copy the tile's K rows of X to an aligned scratch (L2)
        for row of the block, fewest non-zeros first:
            sums (registers) = bias
            for level, sparsest first, up to the wanted one:  (the places of four streams in registers)
                for non-zero, two at a time: sums += value * X[offset] (small tiles: two sums in turn)
            + residual, clamp, zero the halo, store
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
    multiply_add,
    opaque,
    read_f32,
    read_i64,
    read_u16,
    read_u32,
    store,
    store_aligned,
    write_i64,
)
from .weights_kernel import load_two, multiply_add_one_of

#: Bytes of row numbers between a row and the one whose output and residual are asked for meanwhile: 3 rows.
AHEAD = 12
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32
#: Streams whose places are kept in registers (see ``windowed_kernel``); those of further levels are kept in memory.
IN_REGISTERS = 4
#: Vectors of a tile up to which every second non-zero has sums of its own (see ``windowed_kernel``).
TWO_SUMS = 7


def _segment(sums, others, split, source, values, offsets, at, count):
    """sums + the ``count`` non-zeros of one stream from number ``at`` on, every second one to ``others`` if ``split``;
    also the number of the one behind."""
    stop = opaque(at + count)
    while at < stop - 1:
        near = opaque(source + read_u32(offsets + 4 * at, 0))
        far = opaque(source + read_u32(offsets + 4 * at, 4))
        two = load_two(values + 4 * at)
        sums = multiply_add_one_of(sums, two, 0, near)
        if split:
            others = multiply_add_one_of(others, two, 1, far)
        else:
            sums = multiply_add_one_of(sums, two, 1, far)
        at = opaque(at + 2)
    if at < stop:
        near = opaque(source + read_u32(offsets + 4 * at, 0))
        sums = multiply_add(sums, read_f32(values + 4 * at, 0), near)
    return sums, others, stop


segment = njit(inline="always")(_segment)


def direct(vectors, further):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, work).

    ``further``: True for more levels than :data:`IN_REGISTERS`.

    As ``windowed_kernel.windowed``, with one window, 32-bit offsets (bytes from the tile's place in the planes, or into the
    scratch), and shape (rows M, reduction K, packed, blocks, levels stored, levels to run, has residual, lowest, highest).
    """
    tile_bytes = 64 * vectors
    split = vectors <= TWO_SUMS
    revision = REVISION

    def run(tasks, shape, streams, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, packed, blocks, stored, wanted, residual, lowest, highest = shape
        starts, _, rows, counts, offsets, values, bias = streams
        offsets, values = opaque(address(offsets)), opaque(address(values))
        x, reduction, out, origin, stride, masks, added = planes
        places = address(work[2])
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
            at0 = read_i64(base, 16)
            at1 = read_i64(base, 24) if wanted > 1 else 0
            at2 = read_i64(base, 32) if wanted > 2 else 0
            at3 = read_i64(base, 40) if wanted > 3 else 0
            if further:
                for level in range(IN_REGISTERS, wanted):
                    write_i64(places, 8 * level, read_i64(base, 16 + 8 * level))
            for i in range(first_row, read_i64(base, 8)):
                row = read_u32(address(rows), 4 * i)
                soon = 4 * stride * read_u32(address(rows), 4 * i + AHEAD)
                prefetch_write(vectors, target + soon)
                if residual:
                    prefetch_read(vectors, other + soon)
                total = filled(vectors, read_f32(address(bias), 4 * row))
                others = filled(vectors, np.float32(0))
                listed_at = address(counts) + 2 * i
                total, others, at0 = segment(total, others, split, source, values, offsets, at0, read_u16(listed_at, 0))
                if wanted > 1:
                    total, others, at1 = segment(
                        total, others, split, source, values, offsets, at1, read_u16(listed_at + 2 * M, 0)
                    )
                if wanted > 2:
                    total, others, at2 = segment(
                        total, others, split, source, values, offsets, at2, read_u16(listed_at + 4 * M, 0)
                    )
                if wanted > 3:
                    total, others, at3 = segment(
                        total, others, split, source, values, offsets, at3, read_u16(listed_at + 6 * M, 0)
                    )
                if further:
                    for level in range(IN_REGISTERS, wanted):
                        at, count = read_i64(places, 8 * level), read_u16(listed_at + 2 * M * level, 0)
                        total, others, at = segment(total, others, split, source, values, offsets, at, count)
                        write_i64(places, 8 * level, at)
                if split:
                    total = add_bundles(total, others)
                if residual:
                    total = add_from(total, opaque(other + 4 * stride * row))
                store(opaque(target + 4 * stride * row), keep_lanes(clamp(total, lowest, highest), lanes))
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: By vectors per tile, and whether there are further levels.
KERNELS = {
    (vectors, further): direct(vectors, further) for vectors in (1, 2, 4, 7, 8, 13, 14) for further in (False, True)
}
