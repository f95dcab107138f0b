# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""What kernels ask of the machine beside arithmetic: denormals as zeros, tasks shared by threads, prefetches."""

import platform

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors_kernel import _I8, _I32, _I64, LINE, _at, _count, _function, address

#: x86 has a register that makes denormals zero; elsewhere they are computed as they are.
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
#: Looks at a counter whose tasks may not begin yet: 20 to 60 us, by how long the processor pauses after each.
PATIENCE = 1500
#: Larger than any number of tasks.
NO_TASK = (1 << 63) - 1
#: Runs of neighbouring channels that threads share: enough for several to finish at about the same time.
RUNS = 32
_FLUSH = 0x8040  # flush results to zero, take operands as zero (Intel SDM, volume 1, 10.2.3)


@intrinsic
def flush_denormals(context):
    """Treat denormals as zeros in this thread; returns the former state for :func:`restore`. No effect beside x86."""

    def code(context, builder, signature, args):
        if not _X86:
            return ir.Constant(_I64, 0)
        slot = cgutils.alloca_once(builder, _I32)
        _mode(builder, "st", slot)
        before = builder.load(slot)
        builder.store(builder.or_(before, ir.Constant(_I32, _FLUSH)), slot)
        _mode(builder, "ld", slot)
        return builder.zext(before, _I64)

    return types.int64(), code


@intrinsic
def restore(context, state):
    """Put back the floating-point state that :func:`flush_denormals` returned."""

    def code(context, builder, signature, args):
        if _X86:
            slot = cgutils.alloca_once(builder, _I32)
            builder.store(builder.trunc(args[0], _I32), slot)
            _mode(builder, "ld", slot)
        return context.get_dummy_value()

    return types.void(types.int64), code


def _mode(builder, direction, slot):
    pointer = builder.bitcast(slot, _I8.as_pointer())
    builder.call(_function(builder, f"llvm.x86.sse.{direction}mxcsr", ir.VoidType(), [_I8.as_pointer()]), [pointer])


@intrinsic
def take_run(context, counter, count):
    """Fetch the int64 at an address and add ``count`` to it, atomically: the next tasks of several threads.

    While it is negative the tasks may not begin yet: :data:`PATIENCE` looks later :data:`NO_TASK` is returned.
    """

    def code(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        look, wait, go, done = (builder.append_basic_block(name) for name in ("look", "wait", "go", "done"))
        entry = builder.block
        builder.branch(look)
        builder.position_at_end(look)
        looks = builder.phi(_I64)
        looks.add_incoming(ir.Constant(_I64, 0), entry)
        closed = builder.icmp_signed("<", builder.load_atomic(pointer, "acquire", 8), ir.Constant(_I64, 0))
        builder.cbranch(closed, wait, go)
        builder.position_at_end(wait)
        if _X86:
            builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        more = builder.add(looks, ir.Constant(_I64, 1))
        looks.add_incoming(more, wait)
        builder.cbranch(builder.icmp_signed("<", more, ir.Constant(_I64, PATIENCE)), look, done)
        builder.position_at_end(go)
        taken = builder.atomic_rmw("add", pointer, args[1], "acq_rel")
        builder.branch(done)
        builder.position_at_end(done)
        task = builder.phi(_I64)
        task.add_incoming(ir.Constant(_I64, NO_TASK), wait)
        task.add_incoming(taken, go)
        return task

    return types.int64(types.int64, types.int64), code


@njit(inline="always")
def take(counter):
    """One task, see :func:`take_run`."""
    return take_run(counter, 1)


@njit(inline="always")
def take_channel(tasks, before):
    """This thread's next task after ``before`` (-1 at first) of ``tasks``, int64 (next, in total), where a task is short.

    Tasks are taken in up to :data:`RUNS` runs of neighbours: a counter that two threads change at every channel, and lines
    that one asks for and the other writes, cost more than the channels (measured: 4 times one thread's time for 7x7).
    """
    run = max(1, tasks[1] // RUNS)
    if before >= 0 and (before + 1) % run:
        return before + 1
    return take_run(address(tasks), run)


@intrinsic
def release(context, counter, closed):
    """Let the tasks of a counter that is ``closed`` begin: everything that this thread wrote is seen by whoever takes one."""

    def code(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        builder.cmpxchg(pointer, args[1], ir.Constant(_I64, 0), "acq_rel", "acquire")
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


def _prefetcher(write):
    @intrinsic
    def prefetch(context, count, base):
        lines = _count(count)
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])

        def code(context, builder, signature, args):
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            flags = [ir.Constant(_I32, flag) for flag in (write, 3, 1)]  # keep in all caches; data
            for i in range(lines):
                builder.call(hint, [_at(builder, args[1], ir.Constant(_I64, LINE * i), _I8), *flags])
            return context.get_dummy_value()

        return types.void(count, types.int64), code

    return prefetch


#: prefetch_*(count, address): ask for ``count`` cache lines, to be read or written soon; any address is allowed.
prefetch_read = _prefetcher(0)
prefetch_write = _prefetcher(1)
