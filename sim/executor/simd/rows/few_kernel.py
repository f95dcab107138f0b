# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"
"""Sparse matrix times 2 to 16 vectors: every non-zero meets one short register, a row of the packed operand.

X stands as (columns, width), width 4, 8 or 16 with zeros behind the vectors that there are. The columns are cut into windows
whose part of X stays in the first-level cache. What a level adds to the next sparser one is a stream of its own::

    for window of the columns:
        for row of a task's rows:
            4 registers of sums = added[row], or what the windows before gave; 0; 0; 0
            for stream up to the level:
                for 4, then 1 non-zeros of the row in the window: sums += value * X[column]
            out[row] = sums, after the last window clamped
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

from ..machine_kernel import flush_denormals, restore, take
from ..vectors_kernel import _FLOAT, _I32, _I64, REVISION, _at, _count, _function, address, read_f32, read_i64, read_u16

#: Vectors that a register takes.
WIDTHS = (4, 8, 16)


class Short(types.Type):
    """``count`` float32 in one register of that many lanes."""

    def __init__(self, count):
        self.count = count
        super().__init__(name=f"Short({count})")


@register_model(Short)
class _ShortModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _lanes(kind))


def _lanes(kind):
    return ir.VectorType(_FLOAT, kind.count)


def _splat(builder, value, kind):
    undefined = ir.Constant(_lanes(kind), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))


@intrinsic
def _filled(context, count, value):
    """A register with every lane = value."""
    kind = Short(_count(count))

    def code(context, builder, signature, args):
        return _splat(builder, args[1], kind)

    return kind(count, types.float32), code


@intrinsic
def _add_scaled(context, total, weight, base):
    """total + weight * the register at the address, fused."""

    def code(context, builder, signature, args):
        vector = _lanes(total)
        x = builder.load(_at(builder, args[2], ir.Constant(_I64, 0), vector), align=4 * total.count)
        fma = _function(builder, f"llvm.fma.v{total.count}f32", vector, [vector] * 3)
        return builder.call(fma, [_splat(builder, args[1], total), x, args[0]])

    return total(total, types.float32, types.int64), code


@intrinsic
def _plus(context, a, b):
    def code(context, builder, signature, args):
        return builder.fadd(*args)

    return a(a, a), code


@intrinsic
def _within(context, total, lowest, highest):
    """max(lowest, min(highest, lane)); NaN stays NaN."""

    def code(context, builder, signature, args):
        low, high = _splat(builder, args[1], total), _splat(builder, args[2], total)
        raised = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        return builder.select(builder.fcmp_ordered(">", raised, high), high, raised)

    return total(total, types.float32, types.float32), code


@intrinsic
def _read(context, count, base):
    kind = Short(_count(count))

    def code(context, builder, signature, args):
        return builder.load(_at(builder, args[1], ir.Constant(_I64, 0), _lanes(kind)), align=4 * kind.count)

    return kind(count, types.int64), code


@intrinsic
def _write(context, base, total):
    def code(context, builder, signature, args):
        builder.store(args[1], _at(builder, args[0], ir.Constant(_I64, 0), _lanes(total)), align=4 * total.count)
        return context.get_dummy_value()

    return types.void(types.int64, total), code


def _few(width, revision):
    """The kernel for up to ``width`` vectors."""
    pitch = 4 * width

    def run(tasks, step, x, out, rows, added, lowest, highest):
        """Tasks of ``step`` rows; x: (columns, width), out: (rows, width); rows: (values, byte offsets uint16 into a window
        of x, bytes per window, where each row starts (streams, windows, rows + 1), number of streams)."""
        _ = revision  # a part of the cache key
        state = flush_denormals()
        values, offsets, window_bytes, starts, streams = rows
        windows, count = starts.shape[1], starts.shape[2] - 1
        task = take(address(tasks))
        while task < tasks[1]:
            for window in range(windows):
                at = address(x) + window * window_bytes
                for row in range(task * step, min(count, (task + 1) * step)):
                    place = address(out) + pitch * row
                    a = _filled(width, added[row]) if window == 0 else _read(width, place)
                    b = c = d = _filled(width, np.float32(0))
                    for stream in range(streams):
                        left = starts[stream, window, row + 1] - starts[stream, window, row]
                        value = address(values) + 4 * starts[stream, window, row]
                        offset = address(offsets) + 2 * starts[stream, window, row]
                        while left >= 4:
                            four = read_i64(offset, 0)  # one load for four operands, which need loads themselves
                            a = _add_scaled(a, read_f32(value, 0), at + (four & 0xFFFF))
                            b = _add_scaled(b, read_f32(value, 4), at + ((four >> 16) & 0xFFFF))
                            c = _add_scaled(c, read_f32(value, 8), at + ((four >> 32) & 0xFFFF))
                            d = _add_scaled(d, read_f32(value, 12), at + ((four >> 48) & 0xFFFF))
                            value += 16
                            offset += 8
                            left -= 4
                        while left > 0:
                            a = _add_scaled(a, read_f32(value, 0), at + read_u16(offset, 0))
                            value += 4
                            offset += 2
                            left -= 1
                    total = _plus(_plus(a, b), _plus(c, d))
                    _write(place, _within(total, lowest, highest) if window == windows - 1 else total)
            task = take(address(tasks))
        restore(state)

    return njit(nogil=True, cache=True)(run)


#: Kernels by vectors per register.
KERNELS = {width: _few(width, REVISION) for width in WIDTHS}
