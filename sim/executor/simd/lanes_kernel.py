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
    _count,
    _fma,
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
    numbers = (builder.extract_element(lanes, ir.Constant(_I32, lane)) for lane in range(LANES))
    return _picked_at(builder, base, (builder.zext(number, _I64) for number in numbers))


@intrinsic
def gather(context, index_bytes, base, indices):
    """16 elements of the float32 array at ``base``; ``indices``: address of 16 unsigned numbers of 2 or 4 bytes."""
    bits = 8 * _count(index_bytes)

    def code(context, builder, signature, args):
        return _build(builder, _ONE, [_picked_at(builder, args[1], _unpacked(builder, args[2], bits))])

    return _ONE(index_bytes, types.int64, types.int64), code


def _unpacked(builder, base, bits):
    """16 indices, read in words of 64 bits: a load per index would take the loads that the elements need."""
    for word in range(LANES * bits // 64):
        several = builder.load(_at(builder, base, ir.Constant(_I64, 8 * word), _I64), align=1)
        for shift in range(0, 64, bits):
            shifted = builder.lshr(several, ir.Constant(_I64, shift))
            yield builder.and_(shifted, ir.Constant(_I64, (1 << bits) - 1))


def _picked_at(builder, base, numbers):
    """Elements of a float32 array, by 16 int64: quarters first, which a processor fills on its own."""
    start = builder.inttoptr(base, _FLOAT.as_pointer())
    quarter = ir.VectorType(_FLOAT, 4)
    parts = [ir.Constant(quarter, ir.Undefined)] * 4
    for lane, number in enumerate(numbers):
        value = builder.load(builder.gep(start, [number], source_etype=_FLOAT), align=4)
        parts[lane // 4] = builder.insert_element(parts[lane // 4], value, ir.Constant(_I32, lane % 4))
    while len(parts) > 1:
        both = ir.VectorType(_I32, 2 * parts[0].type.count)
        parts = [
            builder.shuffle_vector(a, b, _numbers(range(both.count), both))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


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
