"""Vector operations on the state of a DRAM channel: what the banks wait for, one lane per bank, and queues of one vector.

Each function is written twice: in plain Python, which says what it does, and as LLVM vector instructions, which is what
compiled callers get. Sixteen 64-bit lanes are two registers with AVX-512; LLVM splits them for lesser processors. Rows are
only written as whole vectors of the width in which they are read: a processor forwards a store to a later load of the same
place at once, but a wide load of a place just written in part has to wait until the store has left its buffer.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

#: Banks that one scan covers; entries of a bank queue; bits of an entry that hold its slot; later than every cycle.
LANES, DEPTH, KEY_SHIFT, FAR = 16, 8, 12, 1 << 60
_WORD, _BIT = ir.IntType(64), ir.IntType(1)


def _splat(builder, word, width):
    one = builder.insert_element(ir.Constant(ir.VectorType(_WORD, width), ir.Undefined), word, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))


def _lane_numbers(width):
    return ir.Constant(ir.VectorType(_WORD, width), list(range(width)))


def _place(context, builder, signature, arguments, width):
    """Pointer to the vector at ``arguments[1]`` of the array ``arguments[0]``."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.VectorType(_WORD, width).as_pointer())


def _larger(builder, a, b):
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _smaller(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _least(builder, vector):
    """Least element, by halves."""
    width = vector.type.count
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(k, k + width))) for k in (0, width)]
        low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector = _smaller(builder, low, high)
    return builder.extract_element(vector, ir.IntType(32)(0))


def _bits(builder, flags):
    """A vector of flags as a mask."""
    return builder.zext(builder.bitcast(flags, ir.IntType(flags.type.count)), _WORD)


def _flags(builder, mask, width):
    """The lowest bits of a mask as a vector of flags."""
    return builder.bitcast(builder.trunc(mask, ir.IntType(width)), ir.VectorType(_BIT, width))


def scan(s, gates, since, stride, clock, lanes):
    """First cycle from ``clock`` on in which one of four kinds of command can issue in one of ``lanes``, and where then.

    Kind k of lane b can from cycle max(s[gates + k * stride + b], s[since + k * stride + b]) on. Kinds 1 and 2 are column
    commands; those that wait for their gate alone when that cycle comes are armed.

    Returns
    -------
    cycle; per kind the mask of lanes that can issue then; masks of lanes armed for kinds 1 and 2; first cycle in which
    anything else than an armed command can issue.
    """
    masks, armed, others = [], {}, FAR
    times = [
        [max(int(s[gates + k * stride + b]), int(s[since + k * stride + b])) if lanes >> b & 1 else FAR
         for b in range(LANES)] for k in range(4)
    ]  # fmt: skip
    best = max(clock, min(min(row) for row in times))
    for k, row in enumerate(times):
        masks.append(sum((time <= best) << b for b, time in enumerate(row)))
        armed[k] = sum((k in (1, 2) and int(s[since + k * stride + b]) <= best) << b for b in range(LANES))
        others = min(others, *(FAR if armed[k] >> b & 1 else time for b, time in enumerate(row)))
    return best, *masks, armed[1], armed[2], others


@intrinsic
def _scan(typing_context, s, gates, since, stride, clock, lanes):
    def generate(context, builder, signature, arguments):
        s, gates, since, stride, clock, lanes = arguments
        chosen, far, times, bank_times = _flags(builder, lanes, LANES), _splat(builder, _WORD(FAR), LANES), [], []
        for kind in range(4):
            at = [builder.add(row, builder.mul(stride, _WORD(kind))) for row in (gates, since)]
            gate, bank = (builder.load(_place(context, builder, signature, (s, row), LANES), align=8) for row in at)
            times.append(builder.select(chosen, _larger(builder, gate, bank), far))
            bank_times.append(bank)
        rows = _smaller(builder, times[0], times[3])
        best = _least(builder, _smaller(builder, rows, _smaller(builder, times[1], times[2])))
        limit = _splat(builder, _larger(builder, best, clock), LANES)
        masks = [_bits(builder, builder.icmp_signed("<=", time, limit)) for time in times]
        armed = [builder.icmp_signed("<=", bank_times[kind], limit) for kind in (1, 2)]
        columns = [builder.select(flags, far, time) for flags, time in zip(armed, times[1:3], strict=True)]
        others = _least(builder, _smaller(builder, rows, _smaller(builder, *columns)))
        results = [_larger(builder, best, clock), *masks, *(_bits(builder, flags) for flags in armed), others]
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(types.int64, 8)(s, *[types.int64] * 5), generate


@overload(scan, inline="always")
def _scan_compiled(s, gates, since, stride, clock, lanes):
    def call(s, gates, since, stride, clock, lanes):
        return _scan(s, gates, since, stride, clock, lanes)

    return call


def delay(s, at, near, ours, near_until, our_until, others_until):
    """Raise LANES words to at least ``near_until`` in the mask ``near``, else ``our_until`` in ``ours``, else the last."""
    for b in range(LANES):
        until = near_until if near >> b & 1 else our_until if ours >> b & 1 else others_until
        s[at + b] = max(int(s[at + b]), until)


@intrinsic
def _delay(typing_context, s, at, near, ours, near_until, our_until, others_until):
    def generate(context, builder, signature, arguments):
        pointer = _place(context, builder, signature, arguments, LANES)
        near, ours = (_flags(builder, mask, LANES) for mask in arguments[2:4])
        near_until, our_until, others_until = (_splat(builder, until, LANES) for until in arguments[4:])
        until = builder.select(near, near_until, builder.select(ours, our_until, others_until))
        builder.store(_larger(builder, builder.load(pointer, align=8), until), pointer, align=8)
        return context.get_dummy_value()

    return types.void(s, *[types.int64] * 6), generate


@overload(delay, inline="always")
def _delay_compiled(s, at, near, ours, near_until, our_until, others_until):
    def call(s, at, near, ours, near_until, our_until, others_until):
        return _delay(s, at, near, ours, near_until, our_until, others_until)

    return call


def put(s, at, lane, value):
    """Write one lane of the vector of DEPTH lanes at ``at``."""
    s[at + lane] = value


@intrinsic
def _put(typing_context, s, at, lane, value):
    def generate(context, builder, signature, arguments):
        # A selection of old and new would become a masked store, from which processors do not forward.
        pointer, value = _place(context, builder, signature, arguments, DEPTH), _splat(builder, arguments[3], DEPTH)
        here = builder.icmp_signed("==", _lane_numbers(DEPTH), _splat(builder, arguments[2], DEPTH))
        least = builder.select(here, value, _splat(builder, _WORD(-(1 << 62)), DEPTH))
        most = builder.select(here, value, _splat(builder, _WORD(1 << 62), DEPTH))
        changed = _larger(builder, _smaller(builder, builder.load(pointer, align=8), most), least)
        builder.store(changed, pointer, align=8)
        return context.get_dummy_value()

    return types.void(s, *[types.int64] * 3), generate


@overload(put, inline="always")
def _put_compiled(s, at, lane, value):
    def call(s, at, lane, value):
        return _put(s, at, lane, value)

    return call


def matches(s, at, key):
    """Mask of the entries with a key in the queue of DEPTH lanes at ``at``; an entry is key << KEY_SHIFT | slot, or -1."""
    return sum((int(s[at + lane]) >> KEY_SHIFT == key) << lane for lane in range(DEPTH))


@intrinsic
def _matches(typing_context, s, at, key):
    def generate(context, builder, signature, arguments):
        entries = builder.load(_place(context, builder, signature, arguments, DEPTH), align=8)
        keys = builder.ashr(entries, _splat(builder, _WORD(KEY_SHIFT), DEPTH))
        return _bits(builder, builder.icmp_signed("==", keys, _splat(builder, arguments[2], DEPTH)))

    return types.int64(s, *[types.int64] * 2), generate


@overload(matches, inline="always")
def _matches_compiled(s, at, key):
    def call(s, at, key):
        return _matches(s, at, key)

    return call


def take(s, at, lane):
    """Take a lane out of the vector of DEPTH lanes at ``at``; what is behind it moves up, the last lane becomes -1."""
    for k in range(lane, DEPTH - 1):
        s[at + k] = s[at + k + 1]
    s[at + DEPTH - 1] = -1


@intrinsic
def _take(typing_context, s, at, lane):
    def generate(context, builder, signature, arguments):
        pointer = _place(context, builder, signature, arguments, DEPTH)
        vector, empty = builder.load(pointer, align=8), _splat(builder, _WORD(-1), DEPTH)
        steps = ir.Constant(ir.VectorType(ir.IntType(32), DEPTH), list(range(1, DEPTH + 1)))
        behind = builder.icmp_signed(">=", _lane_numbers(DEPTH), _splat(builder, arguments[2], DEPTH))
        moved = builder.select(behind, builder.shuffle_vector(vector, empty, steps), vector)
        builder.store(moved, pointer, align=8)
        return context.get_dummy_value()

    return types.void(s, *[types.int64] * 2), generate


@overload(take, inline="always")
def _take_compiled(s, at, lane):
    def call(s, at, lane):
        return _take(s, at, lane)

    return call


@intrinsic
def _trailing_zeros(typing_context, mask):
    """The processor's instruction that counts trailing zeros; undefined for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), generate


def lowest(mask):
    """Index of the lowest set bit of a mask."""
    return int(mask & -mask).bit_length() - 1


@overload(lowest, inline="always")
def _lowest(mask):
    return lambda mask: _trailing_zeros(mask) & 63
