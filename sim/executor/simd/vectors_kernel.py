# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Explicit SIMD for Numba: bundles of vector registers as values, raw addresses, fused multiply-add.

A ``Bundle(count)`` is ``count`` vectors of 16 float32, held in registers while a loop runs; one call acts on all of them,
so that a kernel is an ordinary loop nest and nothing is generated as text. LLVM splits the 16 lanes into what the machine
has: one 512-bit register, two of 256 bits, or four of 128 bits. That is the portable path and the fast one at once.

Addresses are int64 and offsets are bytes: NumPy indexing inside a hot loop costs wrap-around code and keeps LLVM from
folding loads into the arithmetic.
"""

import hashlib
import platform
from pathlib import Path

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

#: What kernels must have in their closure: Numba keys its cache by a kernel's own file and closure, not by
#: the files of the intrinsics that it calls.
_INTRINSICS = (
    "vectors_kernel.py",
    "lanes_kernel.py",
    "machine_kernel.py",
    "rows/sparse_lanes_kernel.py",
    "reduced/formats_kernel.py",
    "reduced/words_kernel.py",
    "edges_kernel.py",
    "curves_kernel.py",
    "weights_kernel.py",
)
_SOURCES = b"".join((Path(__file__).parent / name).read_bytes() for name in _INTRINSICS)
REVISION = int(hashlib.sha256(_SOURCES).hexdigest()[:15], 16)
#: False under NUMBA_DISABLE_JIT: intrinsics have no plain Python form.
COMPILES = not config.DISABLE_JIT
#: Processor and features that kernels are compiled for.
MACHINE = (
    platform.machine(),
    llvm.get_host_cpu_name() if config.CPU_NAME is None else config.CPU_NAME,
    llvm.get_host_cpu_features().flatten() if config.CPU_FEATURES is None else config.CPU_FEATURES,
)
#: float32 lanes of one vector: a 512-bit register, and one cache line.
LANES = 16
LINE = 64

_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Bundle(types.Type):
    """``count`` vectors of 16 float32 each."""

    def __init__(self, count):
        self.count = count
        super().__init__(name=f"Bundle({count})")


@register_model(Bundle)
class _BundleModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.ArrayType(_VECTOR, kind.count))


def _count(argument):
    """The compile-time value of a literal integer argument."""
    if not isinstance(argument, types.IntegerLiteral):
        raise TypingError("the number of vectors must be a compile-time constant")
    return argument.literal_value


def _at(builder, address, offset, kind):
    pointer = builder.gep(builder.inttoptr(address, _I8.as_pointer()), [offset], source_etype=_I8)
    return builder.bitcast(pointer, kind.as_pointer())


def _wide(builder, value):
    return value if value.type.width == 64 else builder.sext(value, _I64)


def _function(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _fma(builder, a, b, c):
    return builder.call(_function(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [_VECTOR] * 3), [a, b, c])


def _splat(builder, value):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _build(builder, kind, vectors):
    value = ir.Constant(ir.ArrayType(_VECTOR, kind.count), ir.Undefined)
    for i, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, i)
    return value


def _split(builder, value, count):
    return [builder.extract_value(value, i) for i in range(count)]


@intrinsic
def address(context, array):
    """Address of an array's first element."""

    def code(context, builder, signature, args):
        return builder.ptrtoint(context.make_array(signature.args[0])(context, builder, args[0]).data, _I64)

    return types.int64(array), code


@intrinsic
def opaque(context, value):
    """The same address, but LLVM cannot see how it was computed: loads keep the form [register + constant]."""

    def code(context, builder, signature, args):
        kind = ir.FunctionType(_I64, [_I64])
        return builder.call(ir.InlineAsm(kind, "", "=r,0", side_effect=False), args)

    return types.int64(types.int64), code


@intrinsic
def filled(context, count, value):
    """A bundle with every lane = value."""
    kind = Bundle(_count(count))

    def code(context, builder, signature, args):
        return _build(builder, kind, [_splat(builder, args[1])] * kind.count)

    return kind(count, types.float32), code


def _loader(align):
    @intrinsic
    def load(context, count, base):
        kind = Bundle(_count(count))

        def code(context, builder, signature, args):
            vectors = [
                builder.load(_at(builder, args[1], ir.Constant(_I64, LINE * i), _VECTOR), align=align)
                for i in range(kind.count)
            ]
            return _build(builder, kind, vectors)

        return kind(count, types.int64), code

    return load


#: load(count, address): ``count`` vectors from consecutive memory; the aligned form needs a multiple of 64 bytes.
load = _loader(4)
load_aligned = _loader(LINE)


def _storer(align):
    @intrinsic
    def store(context, base, bundle):
        def code(context, builder, signature, args):
            for i, vector in enumerate(_split(builder, args[1], signature.args[1].count)):
                builder.store(vector, _at(builder, args[0], ir.Constant(_I64, LINE * i), _VECTOR), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, bundle), code

    return store


store = _storer(4)
store_aligned = _storer(LINE)


def _multiplier(align):
    @intrinsic
    def multiply_add(context, bundle, weight, base):
        def code(context, builder, signature, args):
            factor = _splat(builder, args[1])
            vectors = [
                _fma(
                    builder,
                    factor,
                    builder.load(_at(builder, args[2], ir.Constant(_I64, LINE * i), _VECTOR), align=align),
                    total,
                )
                for i, total in enumerate(_split(builder, args[0], bundle.count))
            ]
            return _build(builder, bundle, vectors)

        return bundle(bundle, types.float32, types.int64), code

    return multiply_add


#: multiply_add(sums, weight, address): sums + weight * the bundle at the address, fused.
multiply_add = _multiplier(4)
multiply_add_aligned = _multiplier(LINE)


def _reader(kind, numba_kind, extend=""):
    @intrinsic
    def read(context, base, offset):
        def code(context, builder, signature, args):
            value = builder.load(_at(builder, args[0], _wide(builder, args[1]), kind), align=1)
            return getattr(builder, extend)(value, _I64) if extend else value

        return numba_kind(types.int64, offset), code

    return read


#: read_*(address, byte offset): one element.
read_f32 = _reader(_FLOAT, types.float32)
read_u16 = _reader(_I16, types.int64, "zext")
read_u32 = _reader(_I32, types.int64, "zext")


def _with_memory(operation):
    @intrinsic
    def combine(context, bundle, base):
        def code(context, builder, signature, args):
            places = [_at(builder, args[1], ir.Constant(_I64, LINE * i), _VECTOR) for i in range(bundle.count)]
            pairs = zip(places, _split(builder, args[0], bundle.count), strict=True)
            combined = [getattr(builder, operation)(builder.load(place, align=4), vector) for place, vector in pairs]
            return _build(builder, bundle, combined)

        return bundle(bundle, types.int64), code

    return combine


#: *_from(bundle, address): a bundle plus, or times, the bundle at the address.
add_from = _with_memory("fadd")
times_from = _with_memory("fmul")


@intrinsic
def clamp(context, bundle, lowest, highest):
    """max(lowest, min(highest, bundle)) lane by lane; NaN stays NaN."""

    def code(context, builder, signature, args):
        low, high = _splat(builder, args[1]), _splat(builder, args[2])
        vectors = []
        for vector in _split(builder, args[0], bundle.count):
            raised = builder.select(builder.fcmp_ordered("<", vector, low), low, vector)
            vectors.append(builder.select(builder.fcmp_ordered(">", raised, high), high, raised))
        return _build(builder, bundle, vectors)

    return bundle(bundle, types.float32, types.float32), code


@intrinsic
def keep_lanes(context, bundle, masks):
    """Zero the lanes whose bit is 0; ``masks``: address of one uint16 per vector, lane 0 in the lowest bit."""

    def code(context, builder, signature, args):
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        vectors = []
        for i, vector in enumerate(_split(builder, args[0], bundle.count)):
            bits = builder.load(_at(builder, args[1], ir.Constant(_I64, 2 * i), _I16), align=2)
            vectors.append(builder.select(builder.bitcast(bits, _MASK), vector, zero))
        return _build(builder, bundle, vectors)

    return bundle(bundle, types.int64), code


def _writer(kind, numba_kind, align):
    @intrinsic
    def write(context, base, offset, value):
        def code(context, builder, signature, args):
            builder.store(args[2], _at(builder, args[0], _wide(builder, args[1]), kind), align=align)
            return context.get_dummy_value()

        return types.void(types.int64, offset, numba_kind), code

    return write


#: write_*(address, offset, value): store one number at address + byte offset.
write_i64 = _writer(_I64, types.int64, 8)
write_f32 = _writer(_FLOAT, types.float32, 4)
read_i64 = _reader(_I64, types.int64)


@intrinsic
def larger_from(context, bundle, base):
    """Lane by lane the larger of a bundle and the bundle at the address; NaN if either is NaN."""

    def code(context, builder, signature, args):
        vectors = []
        for i, vector in enumerate(_split(builder, args[0], bundle.count)):
            other = builder.load(_at(builder, args[1], ir.Constant(_I64, LINE * i), _VECTOR), align=4)
            is_nan = builder.fcmp_unordered("uno", vector, vector)
            keep = builder.or_(is_nan, builder.fcmp_ordered(">=", vector, other))
            vectors.append(builder.select(keep, vector, other))
        return _build(builder, bundle, vectors)

    return bundle(bundle, types.int64), code


@intrinsic
def times(context, bundle, factor):
    """A bundle times one number."""

    def code(context, builder, signature, args):
        number = _splat(builder, args[1])
        return _build(builder, bundle, [builder.fmul(v, number) for v in _split(builder, args[0], bundle.count)])

    return bundle(bundle, types.float32), code


@intrinsic
def load_every_second(context, base):
    """One vector of elements 0, 2, ..., 30 from the address on."""

    def code(context, builder, signature, args):
        low, high = (builder.load(_at(builder, args[0], ir.Constant(_I64, LINE * i), _VECTOR), align=4) for i in (0, 1))
        picked = ir.Constant(ir.VectorType(_I32, LANES), list(range(0, 2 * LANES, 2)))
        return _build(builder, Bundle(1), [builder.shuffle_vector(low, high, picked)])

    return Bundle(1)(types.int64), code


@intrinsic
def add_bundles(context, a, b):
    """Lane by lane sum of two bundles of one size."""

    def code(context, builder, signature, args):
        pairs = zip(_split(builder, args[0], a.count), _split(builder, args[1], a.count), strict=True)
        return _build(builder, a, [builder.fadd(x, y) for x, y in pairs])

    return a(a, a), code


@intrinsic
def outer_add(context, sums, count, weights, base):
    """sums[r] + weights[r] * the ``count`` vectors at ``base``, for every row r; ``sums``: rows x count vectors."""
    width = _count(count)

    def code(context, builder, signature, args):
        operands = [
            builder.load(_at(builder, args[3], ir.Constant(_I64, LINE * i), _VECTOR), align=4) for i in range(width)
        ]
        totals = _split(builder, args[0], sums.count)
        vectors = []
        for row in range(sums.count // width):
            weight = builder.load(_at(builder, args[2], ir.Constant(_I64, 4 * row), _FLOAT), align=4)
            factor = _splat(builder, weight)
            vectors += [_fma(builder, factor, x, totals[row * width + i]) for i, x in enumerate(operands)]
        return _build(builder, sums, vectors)

    return sums(sums, count, types.int64, types.int64), code
