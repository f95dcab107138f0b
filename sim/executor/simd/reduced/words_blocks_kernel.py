# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Products of packed words, dense or block-sparse: blocks of 16 rows by 16 words (32 bfloat16 or 64 int8 columns)::

    for tile, for part of the block rows:                     one task
        pack the tile's operands as words, K / 2 or K / 4 rows of scratch  (stays in L2)
        for block row, for group of its 16 rows:
            sums (group x vectors registers) = bias
            for kept block, sparsest level first, up to the wanted one:
                for word: sums += weights[group, word] x scratch[word]     (outer product of words)
            finish and store row by row

A block row's blocks stand sparsest level first: a level is a prefix of every block row.
"""

from numba import njit

from ..machine_kernel import flush_denormals, prefetch_read, restore, take
from ..vectors_kernel import REVISION, address, load_aligned, opaque, read_f32, read_i64, read_u32, store_aligned
from .formats_kernel import INPUT_BYTES, OUTPUT_BYTES, finish
from .words_kernel import OPERANDS, add_words, pack_words, row_starts

#: Rows and words of a block; bytes of one, row after row.
ROWS = WORDS = 16
BLOCK_BYTES = 4 * ROWS * WORDS
#: Rows that share a load, by vectors per tile: divisors of 16 with as many sums as fit 32 registers beside the operands.
GROUPS = {1: 16, 2: 8, 4: 4, 7: 2, 8: 2, 13: 1, 14: 1}
#: Bytes between the weights being read and the ones asked for meanwhile: 4 blocks.
AHEAD = 4 * BLOCK_BYTES


def words_blocks(fmt, vectors):
    """The kernel of a format for tiles of 16 * ``vectors`` positions: run(tasks, shape, streams, planes, epilogue, work).

    Threads that run it together take tasks from ``tasks``, int64 (next, tiles * parts), tile-major.

    * shape: (rows M, words, bits of the last word's operands, block rows, parts)
    * streams: (first block and end at the level of each block row, int64; block columns, uint32; blocks, uint32 (number,
      16 rows, 16 words); 32-bit start of each row, a multiple of 16 of them)
    * planes: (x, reduction offsets in bytes, out, first element, plane stride in elements, masks, residual)
    * epilogue: (has residual, scale of each row, zero point, lowest, highest), see ``formats_kernel.finish``
    * work: (packed words, a group's sums) of this thread; words beyond the reduction are zero
    """
    revision = REVISION
    group = GROUPS[vectors]
    x_bytes, out_bytes, row_bytes = INPUT_BYTES[fmt] * 16 * vectors, OUTPUT_BYTES[fmt], 64 * vectors
    operand_step = 4 * OPERANDS[fmt]

    def run(tasks, shape, streams, planes, epilogue, work):
        _ = revision  # a part of the cache key
        state = flush_denormals()
        M, words, last_bits, block_rows, parts = shape
        starts, ends, columns, blocks, bias = streams
        x, reduction, out, origin, stride, masks, added = planes
        residual, scales, zero, lowest, highest = epilogue
        scratch, sums = address(work[0]), address(work[1])
        task = take(address(tasks))
        while task < tasks[1]:
            tile = task // parts
            part = task - tile * parts
            source = address(x) + tile * x_bytes
            target = address(out) + out_bytes * (origin + tile * 16 * vectors)
            other = address(added) + out_bytes * (origin + tile * 16 * vectors)
            lanes = address(masks) + 2 * vectors * tile
            operand, to = address(reduction), scratch
            for _ in range(words - 1):
                pack_words(fmt, vectors, to, source, operand, -1)
                operand += operand_step
                to += row_bytes
            pack_words(fmt, vectors, to, source, operand, last_bits)
            for block_row in range(part * block_rows // parts, (part + 1) * block_rows // parts):
                begin, end = read_i64(address(starts), 8 * block_row), read_i64(address(ends), 8 * block_row)
                for first in range(16 * block_row, min(16 * block_row + 16, M), group):
                    total = row_starts(vectors, group, address(bias) + 4 * first)
                    weight = address(blocks) + BLOCK_BYTES * begin + 64 * (first - 16 * block_row)
                    for block in range(begin, end):
                        prefetch_read(group, weight + AHEAD)
                        at = scratch + 16 * row_bytes * read_u32(address(columns), 4 * block)
                        for _ in range(16):
                            total = add_words(fmt, total, vectors, opaque(weight), opaque(at))
                            weight += 4
                            at += row_bytes
                        weight += BLOCK_BYTES - 64
                    store_aligned(sums, total)
                    for row in range(first, min(first + group, M)):
                        line = load_aligned(vectors, sums + (row - first) * row_bytes)
                        place = out_bytes * stride * row
                        scale = read_f32(address(scales), 4 * row)
                        finish(fmt, line, target + place, lanes, other + place, residual, scale, zero, lowest, highest)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by format and vectors per tile.
KERNELS = {(fmt, vectors): words_blocks(fmt, vectors) for fmt in OPERANDS for vectors in GROUPS}
