# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""The bfloat16 products of ``words_blocks_kernel`` on AMX tiles: the same blocks and the same packed words::

for tile of 16 * vectors positions, for part of the block rows:      one task
    pack the tile's operands as words
    for block row:
        sums (one matrix tile per vector) = 0
        for kept block up to the wanted level:
            load the block (16 rows x 16 words); for vector: load 16 words of it, multiply, add up
        store the tiles; + bias, finish and store row by row
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..machine_kernel import flush_denormals, restore, take
from ..vectors_kernel import (
    _I8,
    _I32,
    _I64,
    _VECTOR,
    LINE,
    REVISION,
    _at,
    _count,
    _function,
    add_bundles,
    address,
    filled,
    load_aligned,
    read_f32,
    read_i64,
    read_u32,
)
from .formats_kernel import _FEATURES, _INTEGERS, BF16, _load, _same, _store, finish
from .words_kernel import _add_pairs, _spread, pack_words

#: Bytes of a block of weights, row after row.
BLOCK_BYTES = 16 * LINE
#: Vectors per tile of positions that kernels exist for: as many sums as leave tiles for the operands.
VECTORS = (1, 2, 4)
#: Matrix tiles: sums come first, then a block of weights and one of operands.
WEIGHTS, OPERAND, TILES = 4, 5, 6
#: True if the processor compiled for has the tiles; elsewhere they are memory, and slow: the same kernel can be tested.
NATIVE = "+amx-tile" in _FEATURES and "+amx-bf16" in _FEATURES
#: Bytes of a thread's tile memory: the configuration, then the tiles (used where they are not native).
STATE_BYTES = LINE + TILES * 16 * LINE


def _tile_call(builder, name, tiles, *memory):
    kinds = [_I8] * len(tiles) + [value.type for value in memory]
    numbers = [ir.Constant(_I8, tile) for tile in tiles]
    builder.call(_function(builder, f"llvm.x86.{name}", ir.VoidType(), kinds), [*numbers, *memory])


def _memory(builder, base, vector=0):
    return _at(builder, base, ir.Constant(_I64, LINE * vector), _I8)


def _line(builder, state, tile, row):
    """Address of a row of a tile kept in memory; ``row``: an LLVM number."""
    first = builder.add(state, ir.Constant(_I64, LINE * (1 + 16 * tile)))
    return builder.add(first, builder.mul(row, ir.Constant(_I64, LINE)))


@intrinsic
def configure(context, state):
    """Set the tiles' shapes from the first 64 bytes of the tile memory at ``state``."""

    def code(context, builder, signature, args):
        if NATIVE:
            _tile_call(builder, "ldtilecfg", (), _memory(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def release(context):
    """Give the tiles back."""

    def code(context, builder, signature, args):
        if NATIVE:
            _tile_call(builder, "tilerelease", ())
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def clear_tiles(context, count, state):
    """The first ``count`` tiles = 0."""
    vectors = _count(count)

    def code(context, builder, signature, args):
        for i in range(vectors):
            if NATIVE:
                _tile_call(builder, "tilezero", (i,))
                continue
            with cgutils.for_range(builder, ir.Constant(_I64, 16)) as loop:
                _store(builder, _same(_VECTOR, 0.0), _line(builder, args[1], i, loop.index), 0, LINE)
        return context.get_dummy_value()

    return types.void(count, types.int64), code


@intrinsic
def add_tiles(context, count, block, base, step, state):
    """Tile i += the block of weights (16 lines) times 16 words, ``step`` bytes apart, of vector i at ``base``."""
    vectors = _count(count)

    def native(builder, block, base, step):
        _tile_call(builder, "tileloadd64", (WEIGHTS,), _memory(builder, block), ir.Constant(_I64, LINE))
        for i in range(vectors):
            _tile_call(builder, "tileloadd64", (OPERAND,), _memory(builder, base, i), step)
            _tile_call(builder, "tdpbf16ps", (i, WEIGHTS, OPERAND))

    def in_memory(builder, block, base, step, state):
        for i in range(vectors):
            with cgutils.for_range(builder, ir.Constant(_I64, 16)) as loop:
                line = _line(builder, state, i, loop.index)
                weights = builder.add(block, builder.mul(loop.index, ir.Constant(_I64, LINE)))
                total = _load(builder, line, 0, _VECTOR, LINE)
                for word in range(16):
                    at = builder.add(base, builder.mul(step, ir.Constant(_I64, word)))
                    weight = _spread(builder, _load(builder, weights, 4 * word, _I32, 4))
                    total = _add_pairs(builder, total, _load(builder, at, LINE * i, _INTEGERS, LINE), weight)
                _store(builder, total, line, 0, LINE)

    def code(context, builder, signature, args):
        if NATIVE:
            native(builder, *args[1:4])
        else:
            in_memory(builder, *args[1:])
        return context.get_dummy_value()

    return types.void(count, types.int64, types.int64, types.int64, types.int64), code


@intrinsic
def store_tiles(context, count, base, step, state):
    """Write the first ``count`` tiles side by side: 16 rows, ``step`` bytes apart."""
    vectors = _count(count)

    def code(context, builder, signature, args):
        for i in range(vectors):
            if NATIVE:
                _tile_call(builder, "tilestored64", (i,), _memory(builder, args[1], i), args[2])
                continue
            with cgutils.for_range(builder, ir.Constant(_I64, 16)) as loop:
                row = _load(builder, _line(builder, args[3], i, loop.index), 0, _VECTOR, LINE)
                _store(builder, row, builder.add(args[1], builder.mul(loop.index, args[2])), LINE * i, LINE)
        return context.get_dummy_value()

    return types.void(count, types.int64, types.int64, types.int64), code


def tile_blocks(vectors):
    """The kernel for tiles of 16 * ``vectors`` positions; arguments as for ``words_blocks_kernel.words_blocks``, and work:
    (packed words, a block row's sums, tile memory beginning with the configuration) of this thread."""
    revision = REVISION
    row_bytes = 64 * vectors

    def run(tasks, shape, streams, planes, epilogue, work):
        _ = revision  # a part of the cache key
        mode = flush_denormals()
        M, words, last_bits, block_rows, parts = shape
        starts, ends, columns, blocks, bias = streams
        x, reduction, out, origin, stride, masks, added = planes
        residual, scales, zero, lowest, highest = epilogue
        scratch, sums = address(work[0]), address(work[1])
        state = address(work[2])
        configure(state)
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // parts
            part = task - tile * parts
            source = address(x) + tile * row_bytes
            target = address(out) + 4 * origin + tile * row_bytes
            other = address(added) + 4 * origin + tile * row_bytes
            lanes = address(masks) + 2 * vectors * tile
            operand, to = address(reduction), scratch
            for _ in range(words - 1):
                pack_words(BF16, vectors, to, source, operand, -1)
                operand += 8
                to += row_bytes
            pack_words(BF16, vectors, to, source, operand, last_bits)
            for block_row in range(part * block_rows // parts, (part + 1) * block_rows // parts):
                clear_tiles(vectors, state)
                for block in range(read_i64(address(starts), 8 * block_row), read_i64(address(ends), 8 * block_row)):
                    at = scratch + 16 * row_bytes * read_u32(address(columns), 4 * block)
                    add_tiles(vectors, address(blocks) + BLOCK_BYTES * block, at, row_bytes, state)
                store_tiles(vectors, sums, row_bytes, state)
                for row in range(16 * block_row, min(16 * block_row + 16, M)):
                    line = load_aligned(vectors, sums + (row - 16 * block_row) * row_bytes)
                    total = add_bundles(filled(vectors, read_f32(address(bias), 4 * row)), line)
                    place = 4 * stride * row
                    scale = read_f32(address(scales), 4 * row)
                    finish(BF16, total, target + place, lanes, other + place, residual, scale, zero, lowest, highest)
            task = take(address(tasks))
        release()
        restore(mode)

    return njit(nogil=True, cache=True)(run)


#: Kernels by vectors per tile.
KERNELS = {vectors: tile_blocks(vectors) for vectors in VECTORS}
