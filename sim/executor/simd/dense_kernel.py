# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Dense products on planes: what a level runs whose zeros are too few to skip.

``group`` rows share every vector of X that is loaded, so that the multiply-adds are the limit and not the loads::

    for tile, for block of row groups:                        one task
        for window of the reduction axis:
            copy the window's rows of X to an aligned scratch
            for group of rows:
                sums (group x vectors registers) = bias in the first window, else the partial sums
                for k in the window: sums += W[group, k] x scratch[k]       (outer product)
                keep the partial sums; last window: + residual, clamp, zero the halo, store row by row
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
    read_u32,
    store,
    store_aligned,
)

#: Rows that share a load, by vectors per tile: as many sums as fit 32 registers beside the operands.
GROUPS = {1: 12, 2: 12, 4: 6, 7: 3, 8: 2, 13: 1, 14: 1}
#: Bytes of reduction offsets between the operands being copied and the ones asked for meanwhile: 8 operands.
COPY_AHEAD = 32


def dense(vectors, group, revision):
    """The kernel for tiles of 16 * ``vectors`` positions: run(tasks, shape, weights, bias, planes, work).

    * tasks: int64 (next, tiles * blocks), tile-major; threads that run it together take tasks from it
    * shape: (rows M, reduction K, window KW, blocks, has residual, lowest, highest)
    * weights: float32 (groups, K, group), rows beyond M zero; bias: float32 (M,)
    * planes: (x, reduction offsets, out, first element, plane stride, masks, residual), as in ``windowed_kernel``
    * work: (scratch, partial sums) of this thread
    """
    tile_bytes = 64 * vectors
    sums_count = group * vectors

    def run(tasks, shape, weights, bias, planes, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, K, KW, blocks, residual, lowest, highest = shape
        x, reduction, out, origin, stride, masks, added = planes
        scratch, sums = address(work[0]), address(work[1])
        windows = (K + KW - 1) // KW
        groups = (M + group - 1) // group
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // blocks
            block = task - tile * blocks
            source = address(x) + tile * tile_bytes
            target = address(out) + 4 * origin + tile * tile_bytes
            other = address(added) + 4 * origin + tile * tile_bytes
            lanes = address(masks) + 2 * vectors * tile
            reduce_at = address(reduction)
            for window in range(windows):
                first = window * KW
                width = min(KW, K - first)
                to = scratch
                for _ in range(width):
                    prefetch_read(vectors, source + read_u32(reduce_at, COPY_AHEAD))
                    store_aligned(to, load(vectors, source + read_u32(reduce_at, 0)))
                    reduce_at += 4
                    to += tile_bytes
                for g in range(block * groups // blocks, (block + 1) * groups // blocks):
                    partial = sums + g * group * tile_bytes
                    rows = min(group, M - g * group)
                    if window == 0:
                        for r in range(rows):
                            start = filled(vectors, read_f32(address(bias), 4 * (g * group + r)))
                            store_aligned(partial + r * tile_bytes, start)
                    if window == windows - 1:
                        for r in range(rows):
                            prefetch_write(vectors, target + 4 * stride * (g * group + r))
                            if residual:
                                prefetch_read(vectors, other + 4 * stride * (g * group + r))
                    total = load_aligned(sums_count, partial)
                    weight = address(weights) + 4 * group * (g * K + first)
                    at = scratch
                    for _ in range(width):
                        total = outer_add(total, vectors, opaque(weight), opaque(at))
                        weight += 4 * group
                        at += tile_bytes
                    store_aligned(partial, total)
                    if window == windows - 1:
                        for r in range(rows):
                            line = load_aligned(vectors, partial + r * tile_bytes)
                            place = 4 * stride * (g * group + r)
                            if residual:
                                line = add_from(line, other + place)
                            store(target + place, keep_lanes(clamp(line, lowest, highest), lanes))
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


KERNELS = {vectors: dense(vectors, group, REVISION) for vectors, group in GROUPS.items()}
