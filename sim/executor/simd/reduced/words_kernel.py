# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Products of packed words: 32 bits hold two bfloat16 or four int8 of consecutive operands, and one instruction multiplies
all of them and adds up.

bfloat16 pairs: AVX512-BF16's ``vdpbf16ps``; elsewhere each half is widened to float32, and two fused multiply-adds follow
one another as that instruction defines them, the odd operand's first (Intel Software Developer's Manual, volume 2): the
bits are the same. int8 quads: AVX512-VNNI's ``vpdpbusd`` on operands + 128, which are unsigned; elsewhere int32
multiplications, which give the same sums.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..vectors_kernel import _I32, _I64, _VECTOR, LANES, LINE, Bundle, _at, _build, _count, _fma, _function, _split
from .formats_kernel import (
    _BYTES,
    _FEATURES,
    _INTEGERS,
    BF16,
    INT8,
    INT32,
    _load,
    _same,
    _store,
)

#: Instructions that the processor compiled for has; a part of Numba's cache key already.
HAS_BF16 = "+avx512bf16" in _FEATURES
HAS_VNNI = "+avx512vnni" in _FEATURES
#: Operands per word.
OPERANDS = {BF16: 2, INT32: 4, INT8: 4}
#: What is added to int8 operands, so that they are unsigned.
OFFSET = 128
_HIGH = -(1 << 16)  # the upper half of a word


def _spread(builder, number):
    undefined = ir.Constant(_INTEGERS, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _same(_INTEGERS, 0))


def _rounded(builder, vector):
    """Bits of float32 whose upper halves are the nearest bfloat16, halves to even; NaN stays a quiet NaN."""
    bits = builder.bitcast(vector, _INTEGERS)
    odd = builder.and_(builder.lshr(bits, _same(_INTEGERS, 16)), _same(_INTEGERS, 1))
    near = builder.add(builder.add(bits, _same(_INTEGERS, 0x7FFF)), odd)
    quiet = builder.or_(bits, _same(_INTEGERS, 0x400000))
    return builder.select(builder.fcmp_unordered("uno", vector, vector), quiet, near)


@intrinsic
def pack_words(context, fmt, count, to, source, operands, mask):
    """``count`` vectors of words from the two or four operands whose offsets (uint32) begin at ``operands``.

    ``mask`` keeps the bits of operands that exist: a reduction that is no multiple of them ends in zeros.
    """
    kind, vectors = _count(fmt), _count(count)

    def pair(builder, at, i):
        even, odd = (_rounded(builder, _load(builder, base, LINE * i, _VECTOR, 4)) for base in at)
        low = builder.lshr(even, _same(_INTEGERS, 16))
        return builder.or_(low, builder.and_(odd, _same(_INTEGERS, _HIGH)))

    def quad(builder, at, i):
        word = _same(_INTEGERS, OFFSET * 0x01010101 - (1 << 32))  # flipping the sign bit adds 128
        for place, base in enumerate(at):
            wide = builder.zext(_load(builder, base, LANES * i, _BYTES, 1), _INTEGERS)
            word = builder.xor(word, builder.shl(wide, _same(_INTEGERS, 8 * place)))
        return word

    def code(context, builder, signature, args):
        kept = _spread(builder, builder.trunc(args[5], _I32))
        at = []
        for place in range(OPERANDS[kind]):
            offset = builder.load(_at(builder, args[4], ir.Constant(_I64, 4 * place), _I32), align=4)
            at.append(builder.add(args[3], builder.zext(offset, _I64)))
        for i in range(vectors):
            word = pair(builder, at, i) if kind == BF16 else quad(builder, at, i)
            _store(builder, builder.and_(word, kept), args[2], LINE * i, LINE)
        return context.get_dummy_value()

    return types.void(fmt, count, types.int64, types.int64, types.int64, types.int64), code


@intrinsic
def row_starts(context, count, group, base):
    """``group`` rows of ``count`` vectors, each filled with the row's 32-bit number at ``base``."""
    vectors, rows = _count(count), _count(group)
    made = Bundle(vectors * rows)

    def code(context, builder, signature, args):
        numbers = [_load(builder, args[2], 4 * row, _I32, 4) for row in range(rows)]
        filled = [builder.bitcast(_spread(builder, number), _VECTOR) for number in numbers]
        return _build(builder, made, [vector for vector in filled for _ in range(vectors)])

    return made(count, group, types.int64), code


def _widened(builder, words):
    """Odd and even bfloat16 of each word, as float32."""
    odd = builder.and_(words, _same(_INTEGERS, _HIGH))
    even = builder.shl(words, _same(_INTEGERS, 16))
    return [builder.bitcast(half, _VECTOR) for half in (odd, even)]


def _add_pairs(builder, total, x, weight):
    if HAS_BF16:
        dot = _function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _VECTOR, [_VECTOR, _INTEGERS, _INTEGERS])
        return builder.call(dot, [total, x, weight])
    for a, b in zip(_widened(builder, x), _widened(builder, weight), strict=True):
        total = _fma(builder, a, b, total)
    return total


def _add_quads(builder, total, x, weight):
    if HAS_VNNI:
        dot = _function(builder, "llvm.x86.avx512.vpdpbusd.512", _INTEGERS, [_INTEGERS] * 3)
        return builder.call(dot, [total, x, weight])
    for place in range(4):
        unsigned = builder.and_(builder.lshr(x, _same(_INTEGERS, 8 * place)), _same(_INTEGERS, 255))
        signed = builder.ashr(builder.shl(weight, _same(_INTEGERS, 24 - 8 * place)), _same(_INTEGERS, 24))
        total = builder.add(total, builder.mul(unsigned, signed))
    return total


@intrinsic
def add_words(context, fmt, sums, count, weights, base):
    """sums[r] + weights[r] * the ``count`` vectors of words at ``base``; a row's word stands one line after the former's."""
    kind, vectors = _count(fmt), _count(count)

    def code(context, builder, signature, args):
        words = [_load(builder, args[4], LINE * i, _INTEGERS, LINE) for i in range(vectors)]
        made = []
        for place, total in enumerate(_split(builder, args[1], sums.count)):
            row, i = divmod(place, vectors)
            if i == 0:
                weight = _spread(builder, _load(builder, args[3], LINE * row, _I32, 4))
            if kind == BF16:
                made.append(_add_pairs(builder, total, words[i], weight))
            else:
                whole = _add_quads(builder, builder.bitcast(total, _INTEGERS), words[i], weight)
                made.append(builder.bitcast(whole, _VECTOR))
        return _build(builder, sums, made)

    return sums(fmt, sums, count, types.int64, types.int64), code
