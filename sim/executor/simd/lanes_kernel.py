# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Lanes as operands: gathers, permutes, expansions and sums across a vector, for products with a single vector.

Every operation is plain LLVM vector code: where a machine lacks the instruction LLVM writes it out lane by lane.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors_kernel import (
    _FLOAT,
    _I8,
    _I32,
    _I64,
    _VECTOR,
    LANES,
    MACHINE,
    Bundle,
    _at,
    _build,
    _fma,
    _function,
)

#: True if the processor that is compiled for permutes 16 lanes by a register; a part of Numba's cache key already.
HAS_PERMUTES = "+avx512f" in MACHINE[2].split(",")
_INDICES = ir.VectorType(_I32, LANES)
_ONE = Bundle(1)


def _numbers(values, kind=_INDICES):
    return ir.Constant(kind, list(values))


def _first(builder, value):
    return builder.extract_value(value, 0)


def _spread(builder, number):
    undefined = ir.Constant(_INDICES, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _numbers([0] * LANES))


def _picked(builder, base, lanes):
    """Elements of a float32 array, by a vector of indices."""
    start = builder.inttoptr(base, _FLOAT.as_pointer())
    vector = ir.Constant(_VECTOR, ir.Undefined)
    for lane in range(LANES):
        number = builder.zext(builder.extract_element(lanes, ir.Constant(_I32, lane)), _I64)
        value = builder.load(builder.gep(start, [number], source_etype=_FLOAT), align=4)
        vector = builder.insert_element(vector, value, ir.Constant(_I32, lane))
    return vector


def _gatherer(bits):
    @intrinsic
    def gather(context, base, indices):
        def code(context, builder, signature, args):
            kind = ir.VectorType(ir.IntType(bits), LANES)
            index = builder.load(_at(builder, args[1], ir.Constant(_I64, 0), kind), align=1)
            return _build(builder, _ONE, [_picked(builder, args[0], index)])

        return _ONE(types.int64, types.int64), code

    return gather


#: gather_*(address of float32, address of 16 indices): the 16 elements.
gather_u16 = _gatherer(16)
gather_u32 = _gatherer(32)


@intrinsic
def fused(context, total, a, b):
    """total + a * b, lane by lane, rounded once."""

    def code(context, builder, signature, args):
        t, x, y = (_first(builder, value) for value in args)
        return _build(builder, _ONE, [_fma(builder, x, y, t)])

    return _ONE(_ONE, _ONE, _ONE), code


@intrinsic
def first_lanes(context, count, changed, kept):
    """Lanes below ``count`` from ``changed``, the others from ``kept``."""

    def code(context, builder, signature, args):
        limit = _spread(builder, builder.trunc(args[0], _I32))
        inside = builder.icmp_signed("<", _numbers(range(LANES)), limit)
        chosen = builder.select(inside, _first(builder, args[1]), _first(builder, args[2]))
        return _build(builder, _ONE, [chosen])

    return _ONE(types.int64, _ONE, _ONE), code


@intrinsic
def across(context, bundle):
    """Sum of 16 lanes, pairwise: halves are added to halves."""

    def code(context, builder, signature, args):
        vector = _first(builder, args[0])
        width = LANES
        while width > 1:
            width //= 2
            moved = [(lane + width) % LANES for lane in range(LANES)]
            vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, _numbers(moved)))
        return builder.extract_element(vector, ir.Constant(_I32, 0))

    return types.float32(_ONE), code


@intrinsic
def scatter(context, base, indices, bundle):
    """Store 16 lanes at elements of a float32 array; ``indices``: address of 16 uint32."""

    def code(context, builder, signature, args):
        index = builder.load(_at(builder, args[1], ir.Constant(_I64, 0), _INDICES), align=4)
        vector = _first(builder, args[2])
        start = builder.inttoptr(args[0], _FLOAT.as_pointer())
        for lane in range(LANES):
            number = builder.zext(builder.extract_element(index, ir.Constant(_I32, lane)), _I64)
            value = builder.extract_element(vector, ir.Constant(_I32, lane))
            builder.store(value, builder.gep(start, [number], source_etype=_FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, _ONE), code


@intrinsic
def powers(context, base, lowest):
    """16 codes (int8: 0, or sign * (p - lowest + 1)) as the numbers 0 or +-2^p, made from their bits."""

    def code(context, builder, signature, args):
        narrow = builder.load(_at(builder, args[0], ir.Constant(_I64, 0), ir.VectorType(_I8, LANES)), align=1)
        codes = builder.sext(narrow, _INDICES)
        zero = _numbers([0] * LANES)
        negative = builder.icmp_signed("<", codes, zero)
        size = builder.select(negative, builder.sub(zero, codes), codes)
        first = builder.add(builder.trunc(args[1], _I32), ir.Constant(_I32, 126))  # exponents are biased by 127
        bits = builder.shl(builder.add(size, _spread(builder, first)), _numbers([23] * LANES))
        signed = builder.or_(bits, builder.and_(codes, _numbers([-(1 << 31)] * LANES)))
        kept = builder.select(builder.icmp_signed("==", codes, zero), zero, signed)
        return _build(builder, _ONE, [builder.bitcast(kept, _VECTOR)])

    return _ONE(types.int64, types.int64), code


@intrinsic
def operands_2_of_4(context, base, positions):
    """Lane i gets element 4 * (i // 2) + position i of the 32 at ``base``; ``positions``: address of 16 2-bit numbers.

    On AVX-512 one permute of two registers; elsewhere lane by lane from memory.
    """
    permutes = HAS_PERMUTES

    def code(context, builder, signature, args):
        word = builder.load(_at(builder, args[1], ir.Constant(_I64, 0), _I32), align=1)
        shifted = builder.lshr(_spread(builder, word), _numbers(range(0, 2 * LANES, 2)))
        groups = _numbers([4 * (lane // 2) for lane in range(LANES)])
        lanes = builder.or_(builder.and_(shifted, _numbers([3] * LANES)), groups)
        if permutes:
            low, high = (
                builder.load(_at(builder, args[0], ir.Constant(_I64, 64 * i), _VECTOR), align=4) for i in (0, 1)
            )
            kind = [_VECTOR, _INDICES, _VECTOR]
            permute = _function(builder, "llvm.x86.avx512.vpermi2var.ps.512", _VECTOR, kind)
            return _build(builder, _ONE, [builder.call(permute, [low, lanes, high])])
        return _build(builder, _ONE, [_picked(builder, args[0], lanes)])

    return _ONE(types.int64, types.int64), code


@intrinsic
def table_of_16(context, table, codes):
    """The table's numbers for 16 codes of 4 bits; ``codes``: address of 4 bytes for the even lanes and 4 for the odd ones,
    the first lane in the lowest bits: one spread of 8 bytes and one shift bring every lane its code."""
    permutes = HAS_PERMUTES

    def code(context, builder, signature, args):
        pairs = ir.VectorType(_I64, LANES // 2)
        undefined = ir.Constant(pairs, ir.Undefined)
        word = builder.load(_at(builder, args[1], ir.Constant(_I64, 0), _I64), align=1)
        first = builder.insert_element(undefined, word, ir.Constant(_I32, 0))
        spread = builder.shuffle_vector(first, undefined, _numbers([0] * 8, ir.VectorType(_I32, LANES // 2)))
        shifts = _numbers([4 * (lane // 2) for lane in range(LANES)])
        lanes = builder.lshr(builder.bitcast(spread, _INDICES), shifts)
        numbers = _first(builder, args[0])
        if permutes:
            permute = _function(builder, "llvm.x86.avx512.permvar.sf.512", _VECTOR, [_VECTOR, _INDICES])
            return _build(builder, _ONE, [builder.call(permute, [numbers, lanes])])
        lanes = builder.and_(lanes, _numbers([15] * LANES))  # the permute looks at these bits only
        vector = ir.Constant(_VECTOR, ir.Undefined)
        for lane in range(LANES):
            index = builder.extract_element(lanes, ir.Constant(_I32, lane))
            value = builder.extract_element(numbers, index)
            vector = builder.insert_element(vector, value, ir.Constant(_I32, lane))
        return _build(builder, _ONE, [vector])

    return _ONE(_ONE, types.int64), code
