# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Lanes of rows that are stored without their zeros: expansion by a mask, operands by positions, values by either.

Where the machine lacks the instruction LLVM writes the lanes out one by one; results are the same.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..lanes_kernel import _INDICES, _ONE, HAS_PERMUTES, _first, _numbers, _picked, _picked_at, _spread
from ..vectors_kernel import _I16, _I32, _I64, _MASK, _VECTOR, LANES, LINE, _at, _build, _count, _fma, _function


@intrinsic
def within(context, value, lowest, highest):
    """max(lowest, min(highest, value)); NaN stays NaN."""

    def code(context, builder, signature, args):
        raised = builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[1], args[0])
        return builder.select(builder.fcmp_ordered(">", raised, args[2]), args[2], raised)

    return types.float32(types.float32, types.float32, types.float32), code


@intrinsic
def popcount(context, word):
    """Number of ones of an int64."""

    def code(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), code


@intrinsic
def expanded(context, base, mask):
    """Consecutive float32 from an address on, spread to the lanes whose bit is 1; the other lanes hold anything.

    ``mask``: int64, lane 0 in the lowest of 16 bits. 64 bytes are read, whatever the mask.
    """
    expands = HAS_PERMUTES

    def code(context, builder, signature, args):
        if not expands:
            return _build(builder, _ONE, [_picked_at(builder, args[0], _ranks(builder, args[1]))])
        packed = builder.load(_at(builder, args[0], ir.Constant(_I64, 0), _VECTOR), align=4)
        expand = _function(builder, "llvm.x86.avx512.mask.expand.v16f32", _VECTOR, [_VECTOR, _VECTOR, _MASK])
        zeros = ir.Constant(_VECTOR, [0.0] * LANES)
        return _build(builder, _ONE, [builder.call(expand, [packed, zeros, _mask(builder, args[1])])])

    return _ONE(types.int64, types.int64), code


def _ranks(builder, mask):
    """For every lane the number of ones below it: without a branch, since bits of pruned weights cannot be predicted."""
    rank = ir.Constant(_I64, 0)
    for lane in range(LANES):
        yield rank
        bit = builder.and_(builder.lshr(mask, ir.Constant(_I64, lane)), ir.Constant(_I64, 1))
        rank = builder.add(rank, bit)


def _mask(builder, word):
    return builder.bitcast(builder.trunc(word, _I16), _MASK)


@intrinsic
def fused_where(context, mask, total, a, b):
    """total + a * b in the lanes whose bit is 1, total in the others: what was pruned meets no operand."""

    def code(context, builder, signature, args):
        t, x, y = (_first(builder, value) for value in args[1:])
        return _build(builder, _ONE, [builder.select(_mask(builder, args[0]), _fma(builder, x, y, t), t)])

    return _ONE(types.int64, _ONE, _ONE, _ONE), code


@intrinsic
def operands_of(context, vectors, group, base, positions):
    """Lane i gets element ``group`` * (i // kept) + position i of the 16 * ``vectors`` at ``base``, kept = group / vectors.

    ``positions``: address of 16 numbers, of 2 bits for groups of 4 and 4 bits for larger ones (see :func:`_places`).
    On AVX-512 permutes of two registers, of which the upper bits choose one; elsewhere lane by lane from memory.
    """
    count, size = _count(vectors), _count(group)
    permutes = HAS_PERMUTES

    def code(context, builder, signature, args):
        firsts = _numbers([size * (lane * count // size) for lane in range(LANES)])
        lanes = builder.or_(_places(builder, args[3], 2 if size == 4 else 4), firsts)
        if not permutes:
            return _build(builder, _ONE, [_picked(builder, args[2], lanes)])
        x = [builder.load(_at(builder, args[2], ir.Constant(_I64, LINE * i), _VECTOR), align=4) for i in range(count)]
        kind = [_VECTOR, _INDICES, _VECTOR]
        permute = _function(builder, "llvm.x86.avx512.vpermi2var.ps.512", _VECTOR, kind)
        found = [builder.call(permute, [a, lanes, b]) for a, b in zip(x[::2], x[1::2], strict=True)]
        bit = 2 * LANES  # the permute looks at the bits below
        while len(found) > 1:
            inside = builder.and_(lanes, _numbers([bit] * LANES))
            upper = builder.icmp_unsigned("!=", inside, _numbers([0] * LANES))
            found = [builder.select(upper, b, a) for a, b in zip(found[::2], found[1::2], strict=True)]
            bit *= 2
        return _build(builder, _ONE, found)

    return _ONE(vectors, group, types.int64, types.int64), code


def _places(builder, base, bits):
    """16 numbers of 2 bits from 4 bytes, the first in the lowest bits; of 4 bits from 8 bytes, even lanes first."""
    if bits == 2:
        word = _spread(builder, builder.load(_at(builder, base, ir.Constant(_I64, 0), _I32), align=1))
        shifted = builder.lshr(word, _numbers(range(0, 2 * LANES, 2)))
    else:
        shifted = _nibbles(builder, base)
    return builder.and_(shifted, _numbers([(1 << bits) - 1] * LANES))


def _nibbles(builder, base):
    """One spread of 8 bytes and one shift bring every lane its 4 bits, other bits above them."""
    pairs = ir.VectorType(_I64, LANES // 2)
    undefined = ir.Constant(pairs, ir.Undefined)
    word = builder.load(_at(builder, base, ir.Constant(_I64, 0), _I64), align=1)
    first = builder.insert_element(undefined, word, ir.Constant(_I32, 0))
    spread = builder.shuffle_vector(first, undefined, _numbers([0] * 8, ir.VectorType(_I32, LANES // 2)))
    shifts = _numbers([4 * (lane // 2) for lane in range(LANES)])
    return builder.lshr(builder.bitcast(spread, _INDICES), shifts)


@intrinsic
def numbers_at(context, value_bytes, table, values):
    """16 numbers from an address: float32 of 64 bytes, or ``table``'s for 8 bytes of 4-bit codes.

    Of codes, 4 bytes are for the even lanes and 4 for the odd ones, the first lane in the lowest bits.
    """
    permutes, size = HAS_PERMUTES, _count(value_bytes)

    def code(context, builder, signature, args):
        if size == LINE:
            return _build(builder, _ONE, [builder.load(_at(builder, args[2], ir.Constant(_I64, 0), _VECTOR), align=4)])
        lanes, numbers = _nibbles(builder, args[2]), _first(builder, args[1])
        if permutes:  # which looks at the lowest 4 bits only
            permute = _function(builder, "llvm.x86.avx512.permvar.sf.512", _VECTOR, [_VECTOR, _INDICES])
            return _build(builder, _ONE, [builder.call(permute, [numbers, lanes])])
        return _build(builder, _ONE, [_looked_up(builder, numbers, builder.and_(lanes, _numbers([15] * LANES)))])

    return _ONE(value_bytes, _ONE, types.int64), code


def _looked_up(builder, numbers, lanes):
    vector = ir.Constant(_VECTOR, ir.Undefined)
    for lane in range(LANES):
        index = builder.extract_element(lanes, ir.Constant(_I32, lane))
        value = builder.extract_element(numbers, index)
        vector = builder.insert_element(vector, value, ir.Constant(_I32, lane))
    return vector
