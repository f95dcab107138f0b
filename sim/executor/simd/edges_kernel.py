# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Cells at the edges of rows: lanes outside a range are neither read nor written.

Masked loads and stores of LLVM: one instruction each where the machine has masks, lane by lane elsewhere.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lanes_kernel import _ONE, _first, _numbers, _spread
from .vectors_kernel import _I32, _I64, _MASK, _VECTOR, LANES, LINE, _at, _build, _function, _splat


def _between(builder, first, last, shift=0):
    """Lanes i with first <= i + shift < last."""
    lanes = _numbers(range(shift, shift + LANES))
    low, high = (_spread(builder, builder.trunc(bound, _I32)) for bound in (first, last))
    return builder.and_(builder.icmp_signed(">=", lanes, low), builder.icmp_signed("<", lanes, high))


def _masked_load(builder, base, place, mask, other):
    pointer = _VECTOR.as_pointer()
    load = _function(builder, "llvm.masked.load.v16f32.p0", _VECTOR, [pointer, _I32, _MASK, _VECTOR])
    return builder.call(
        load, [_at(builder, base, ir.Constant(_I64, place), _VECTOR), ir.Constant(_I32, 4), mask, other]
    )


@intrinsic
def cells_between(context, base, first, last, other):
    """Lane i: the float32 at base + 4 i for first <= i < last, else ``other``."""

    def code(context, builder, signature, args):
        mask = _between(builder, args[1], args[2])
        return _build(builder, _ONE, [_masked_load(builder, args[0], 0, mask, _splat(builder, args[3]))])

    return _ONE(types.int64, types.int64, types.int64, types.float32), code


@intrinsic
def every_second_between(context, base, first, last, other):
    """Lane i: the float32 at base + 8 i for first <= i < last, else ``other``."""

    def code(context, builder, signature, args):
        one = ir.Constant(_I64, 1)
        low, high = builder.shl(args[1], one), builder.sub(builder.shl(args[2], one), one)
        filler = _splat(builder, args[3])
        halves = [
            _masked_load(builder, args[0], LINE * i, _between(builder, low, high, LANES * i), filler) for i in (0, 1)
        ]
        return _build(builder, _ONE, [builder.shuffle_vector(*halves, _numbers(range(0, 2 * LANES, 2)))])

    return _ONE(types.int64, types.int64, types.int64, types.float32), code


@intrinsic
def store_first(context, base, count, bundle):
    """Store the lanes below ``count``."""

    def code(context, builder, signature, args):
        mask = _between(builder, ir.Constant(_I64, 0), args[1])
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, _VECTOR.as_pointer(), _I32, _MASK])
        store = _function(builder, "llvm.masked.store.v16f32.p0", kind.return_type, list(kind.args))
        place = _at(builder, args[0], ir.Constant(_I64, 0), _VECTOR)
        builder.call(store, [_first(builder, args[2]), place, ir.Constant(_I32, 4), mask])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, _ONE), code


@intrinsic
def larger(context, a, b):
    """Lane by lane the larger of two vectors; NaN if either is NaN."""

    def code(context, builder, signature, args):
        x, y = (_first(builder, value) for value in args)
        keep = builder.or_(builder.fcmp_unordered("uno", x, x), builder.fcmp_ordered(">=", x, y))
        return _build(builder, _ONE, [builder.select(keep, x, y)])

    return _ONE(_ONE, _ONE), code
