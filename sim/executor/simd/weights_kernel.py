# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Several weights by one load: a multiply-add with a 512-bit operand in memory takes the processor's load unit for a cycle,
as long as its arithmetic; one more load per weight to fill a register with it would add a tenth to that.

Where there are 512-bit registers the weights are repeated along one, and a shuffle, which uses neither unit, takes a weight
to all lanes. Elsewhere LLVM makes a load per weight that fills a register of it, as ``multiply_add`` does.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lanes_kernel import HAS_PERMUTES
from .vectors_kernel import _FLOAT, _I32, _I64, _VECTOR, LANES, LINE, Bundle, _at, _build, _count, _fma, _split

_SHUFFLE = ir.VectorType(_I32, LANES)


def _loader(count):
    kind = ir.VectorType(_FLOAT, count)

    @intrinsic
    def load_weights(context, base):
        def code(context, builder, signature, args):
            weights = builder.load(_at(builder, args[0], ir.Constant(_I64, 0), kind), align=4)
            lanes = ir.Constant(_SHUFFLE, [lane % count for lane in range(LANES)])
            vector = builder.shuffle_vector(weights, ir.Constant(kind, ir.Undefined), lanes)
            if HAS_PERMUTES:  # LLVM must not see the load behind the shuffles, or it makes several loads of it
                same = ir.FunctionType(_VECTOR, [_VECTOR])
                vector = builder.call(ir.InlineAsm(same, "", "=v,0", side_effect=False), [vector])
            return _build(builder, Bundle(1), [vector])

        return Bundle(1)(types.int64), code

    return load_weights


#: load_*(address): consecutive float32, repeated along one vector.
load_two = _loader(2)
load_four = _loader(4)


def _multiplier(align):
    @intrinsic
    def multiply_add_one_of(context, bundle, weights, which, base):
        number = _count(which)

        def code(context, builder, signature, args):
            vector = builder.extract_value(args[1], 0)
            lanes = ir.Constant(_SHUFFLE, [lane // 4 * 4 + number for lane in range(LANES)])
            factor = builder.shuffle_vector(vector, ir.Constant(_VECTOR, ir.Undefined), lanes)
            places = [_at(builder, args[3], ir.Constant(_I64, LINE * i), _VECTOR) for i in range(bundle.count)]
            operands = [builder.load(place, align=align) for place in places]
            totals = _split(builder, args[0], bundle.count)
            sums = [_fma(builder, factor, x, total) for x, total in zip(operands, totals, strict=True)]
            return _build(builder, bundle, sums)

        return bundle(bundle, weights, which, types.int64), code

    return multiply_add_one_of


#: multiply_add_one_of(sums, weights, which, address): sums + number ``which`` (a constant) of ``weights`` * the bundle at
#: the address, fused.
multiply_add_one_of = _multiplier(4)
multiply_add_one_of_aligned = _multiplier(LINE)
