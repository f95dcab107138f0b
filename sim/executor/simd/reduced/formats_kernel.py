# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""What a number format changes in a product, as operations that take the format as a compile-time constant.

Loop nests stand once and serve every format: they copy operands, start sums, add one product, merge a window's sums with
the partial ones, and finish a row. A ``Bundle`` is 512-bit registers; what their bits mean (float32, 32 halves, int32)
only these operations know.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..vectors_kernel import (
    _FLOAT,
    _I8,
    _I16,
    _I32,
    _I64,
    _MASK,
    _VECTOR,
    LANES,
    LINE,
    MACHINE,
    Bundle,
    _at,
    _build,
    _count,
    _fma,
    _function,
    _splat,
    _split,
)

#: Formats. CODED: float32 operands, values by a code into a table. HALF: fp16 products and sums inside a window, float32
#: between windows. INT32: int8 operands and values, int32 outputs. INT8: the same with outputs brought back to int8.
#: BF16: bfloat16 operands and values, float32 sums.
CODED, HALF, INT32, INT8, BF16 = range(5)
#: Bytes per element of the input and output planes.
INPUT_BYTES = {CODED: 4, HALF: 4, INT32: 1, INT8: 1, BF16: 4}
OUTPUT_BYTES = {CODED: 4, HALF: 4, INT32: 4, INT8: 1, BF16: 4}
#: Bytes per value in a windowed product's streams; codes share their 16 bits with the offset, whose low 6 bits are free.
VALUE_BYTES = {CODED: 0, HALF: 2, INT32: 1, INT8: 1}
CODE_MASK = 63

_FEATURES = MACHINE[2].split(",")
#: True if halves are multiplied and added natively; elsewhere each step goes through float32 and is rounded back.
NATIVE_HALF = "+avx512fp16" in _FEATURES or "+fullfp16" in _FEATURES
#: True if halves and float32 are converted by instructions.
CONVERTS_HALF = NATIVE_HALF or MACHINE[0] in ("aarch64", "arm64") or "+f16c" in _FEATURES or "+avx512f" in _FEATURES
_INTEGERS = ir.VectorType(_I32, LANES)
_BYTES = ir.VectorType(_I8, LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)
_WIDE_HALVES = ir.VectorType(ir.HalfType(), 2 * LANES)


def row_bytes(fmt: int, vectors: int) -> int:
    """Bytes of one operand's copy in the scratch of a windowed product: whole cache lines."""
    return 64 * (-(-vectors // 2) if fmt == HALF else vectors)


def _load(builder, base, offset, kind, align):
    return builder.load(_at(builder, base, ir.Constant(_I64, offset), kind), align=align)


def _store(builder, value, base, offset, align):
    builder.store(value, _at(builder, base, ir.Constant(_I64, offset), value.type), align=align)


def _same(kind, number):
    return ir.Constant(kind, [number] * kind.count)


def _halves_of(builder, vector, part):
    """16 of the 32 halves in a register's bits, as float32."""
    lanes = ir.Constant(_INTEGERS, list(range(part * LANES, (part + 1) * LANES)))
    wide = builder.bitcast(vector, _WIDE_HALVES)
    return builder.fpext(builder.shuffle_vector(wide, wide, lanes), _VECTOR)


def _join_halves(builder, low, high):
    """Two vectors of float32, rounded to halves, as the bits of one register."""
    lanes = ir.Constant(ir.VectorType(_I32, 2 * LANES), list(range(2 * LANES)))
    narrow = [builder.fptrunc(part, _HALVES) for part in (low, high)]
    return builder.bitcast(builder.shuffle_vector(*narrow, lanes), _VECTOR)


@intrinsic
def copy_operand(context, fmt, count, to, source):
    """Copy ``count`` vectors of an operand to the aligned scratch, in the format that products are made in."""
    kind, vectors = _count(fmt), _count(count)

    def code(context, builder, signature, args):
        for i in range(vectors):
            if kind in (INT32, INT8):
                narrow = _load(builder, args[3], LANES * i, _BYTES, 1)
                whole = builder.sitofp(builder.sext(narrow, _INTEGERS), _VECTOR)
                _store(builder, whole, args[2], LINE * i, LINE)
            elif kind == HALF:
                half = builder.fptrunc(_load(builder, args[3], LINE * i, _VECTOR, 4), _HALVES)
                _store(builder, half, args[2], LINE // 2 * i, LINE // 2)
            else:
                _store(builder, _load(builder, args[3], LINE * i, _VECTOR, 4), args[2], LINE * i, LINE)
        return context.get_dummy_value()

    return types.void(fmt, count, types.int64, types.int64), code


@intrinsic
def window_sums(context, fmt, count, partial):
    """What a window's sums of a row start from: zeros, or the partial sums themselves where they are of one format."""
    kind, vectors = _count(fmt), _count(count)
    made = Bundle(-(-vectors // 2) if kind == HALF else vectors)

    def code(context, builder, signature, args):
        if kind == CODED:
            return _build(builder, made, [_load(builder, args[2], LINE * i, _VECTOR, LINE) for i in range(vectors)])
        return _build(builder, made, [_same(_VECTOR, 0.0)] * made.count)

    return made(fmt, count, types.int64), code


@intrinsic
def add_product(context, fmt, total, table, value, word, operand):
    """total + value * operand, fused. ``value``: address of the value; ``word``: offset and code of the non-zero."""
    kind = _count(fmt)

    def factor_of(builder, args):
        if kind == HALF:
            return _load(builder, args[3], 0, ir.HalfType(), 2)
        index = args[4]
        if kind != CODED:
            index = builder.zext(_load(builder, args[3], 0, _I8, 1), _I64)
        start = builder.inttoptr(args[2], _FLOAT.as_pointer())
        return builder.load(builder.gep(start, [index], source_etype=_FLOAT), align=4)

    def code(context, builder, signature, args):
        factor = factor_of(builder, args)
        vectors = []
        for i, sums in enumerate(_split(builder, args[1], total.count)):
            x = _load(builder, args[5], LINE * i, _VECTOR, LINE)
            if kind == HALF:
                vectors.append(_half_step(builder, factor, x, sums))
            else:
                vectors.append(_fma(builder, _splat(builder, factor), x, sums))
        return _build(builder, total, vectors)

    return total(fmt, total, types.int64, types.int64, types.int64, types.int64), code


def _half_step(builder, factor, x, sums):
    """sums + factor * x for 32 halves in registers of 512 bits."""
    if NATIVE_HALF:
        undefined = ir.Constant(_WIDE_HALVES, ir.Undefined)
        first = builder.insert_element(undefined, factor, ir.Constant(_I32, 0))
        many = builder.shuffle_vector(first, undefined, _same(ir.VectorType(_I32, 2 * LANES), 0))
        fma = _function(builder, f"llvm.fma.v{2 * LANES}f16", _WIDE_HALVES, [_WIDE_HALVES] * 3)
        operands = [builder.bitcast(part, _WIDE_HALVES) for part in (x, sums)]
        return builder.bitcast(builder.call(fma, [many, *operands]), _VECTOR)
    wide = _splat(builder, builder.fpext(factor, _FLOAT))
    parts = [_fma(builder, wide, _halves_of(builder, x, p), _halves_of(builder, sums, p)) for p in (0, 1)]
    return _join_halves(builder, *parts)


@intrinsic
def merged(context, fmt, count, total, partial):
    """A window's sums and the partial sums before it, in the format of partial sums: float32, or the bits of int32."""
    kind, vectors = _count(fmt), _count(count)
    made = Bundle(vectors)

    def code(context, builder, signature, args):
        sums = _split(builder, args[2], total.count)
        if kind == CODED:
            return args[2]
        before = [_load(builder, args[3], LINE * i, _VECTOR, LINE) for i in range(vectors)]
        if kind == HALF:
            wide = [_halves_of(builder, sums[i // 2], i % 2) for i in range(vectors)]
            return _build(builder, made, [builder.fadd(a, b) for a, b in zip(before, wide, strict=True)])
        whole = [builder.fptosi(vector, _INTEGERS) for vector in sums]  # exact: whole numbers up to 2^24
        added = [builder.add(builder.bitcast(a, _INTEGERS), b) for a, b in zip(before, whole, strict=True)]
        return _build(builder, made, [builder.bitcast(vector, _VECTOR) for vector in added])

    return made(fmt, count, total, types.int64), code


@intrinsic
def finish(context, fmt, sums, target, lanes, other, residual, scale, zero, lowest, highest):
    """Write a row's sums to ``target``, with what follows a product fused.

    float32: + the vectors at ``other`` if ``residual``, clamp. INT8: round(clamp(sums * scale)) + zero, halves to even.
    Lanes whose bit at ``lanes`` (one uint16 per vector) is 0 are halo and become zero, or ``zero`` for INT8.
    """
    kind = _count(fmt)
    step = OUTPUT_BYTES[kind] * LANES

    def code(context, builder, signature, args):
        for i, vector in enumerate(_split(builder, args[1], sums.count)):
            bits = builder.bitcast(_load(builder, args[3], 2 * i, _I16, 2), _MASK)
            if kind == INT32:
                made, halo = builder.bitcast(vector, _INTEGERS), _same(_INTEGERS, 0)
            elif kind == INT8:
                made, halo = _requantised(builder, vector, args[6:])
            else:
                added = builder.fadd(vector, _load(builder, args[4], LINE * i, _VECTOR, 4))
                made = _clamped(builder, builder.select(args[5], added, vector), args[8:])
                halo = _same(_VECTOR, 0.0)
            _store(builder, builder.select(bits, made, halo), args[2], step * i, OUTPUT_BYTES[kind])
        return context.get_dummy_value()

    number = types.float32
    addresses = (types.int64, types.int64, types.int64)
    return types.void(fmt, sums, *addresses, types.boolean, number, types.int64, number, number), code


def _clamped(builder, vector, bounds):
    low, high = (_splat(builder, bound) for bound in bounds)
    raised = builder.select(builder.fcmp_ordered("<", vector, low), low, vector)
    return builder.select(builder.fcmp_ordered(">", raised, high), high, raised)


def _requantised(builder, vector, numbers):
    """int8 outputs and halo: the order of operations is ONNX QLinearConv's, float32 times a factor per row."""
    scale, zero, *bounds = numbers
    number = builder.fmul(builder.sitofp(builder.bitcast(vector, _INTEGERS), _VECTOR), _splat(builder, scale))
    rint = _function(builder, f"llvm.rint.v{LANES}f32", _VECTOR, [_VECTOR])
    whole = builder.fptosi(builder.call(rint, [_clamped(builder, number, bounds)]), _INTEGERS)
    undefined = ir.Constant(_INTEGERS, ir.Undefined)
    first = builder.insert_element(undefined, builder.trunc(zero, _I32), ir.Constant(_I32, 0))
    zeros = builder.shuffle_vector(first, undefined, _same(_INTEGERS, 0))
    return builder.trunc(builder.add(whole, zeros), _BYTES), builder.trunc(zeros, _BYTES)
