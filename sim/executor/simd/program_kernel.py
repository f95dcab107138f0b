# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Steps of a program that threads follow together, without the interpreter between them: its lock is handed from thread to
thread through the operating system, which takes longer than a small layer (measured: 25 us a step against 1.5)."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .machine_kernel import release, take_run
from .vectors_kernel import _I32, _I64, LANES, REVISION, address, load, read_f32, read_i64, store, write_f32

#: int64 elements between the counters of two steps: a cache line, so that threads at different steps do not disturb
#: each other.
APART = 8
#: The next task of a step that may not begin yet.
CLOSED = -(1 << 62)
#: What a thread that comes to a step adds to its visits.
CAME = 1 << 32
#: What a kernel returns that has not failed: Numba's codes of a value and of None.
_WORKED = (0, -2)


@intrinsic
def _invoke(context, caller, kernel, arguments):
    """The status of a kernel, see ``native.Native``."""

    def code(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [_I64, _I64])
        status = builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return builder.sext(status, _I64)

    return types.int64(types.int64, types.int64, types.int64), code


def _follower(revision):
    def follow(calls, tasks, visits, asleep, first, behind):
        """Do steps ``first`` up to ``behind`` as one of several threads. Returns the first step that is not done: ``behind``,
        one that it could not begin (others are long at the step before), one that it has opened while others sleep, or
        -1 - step for a kernel that failed.

        ::

            for step: run its kernel, which takes tasks as soon as they may begin
                      if no task is left and nobody is at one: open the next step

        Nobody waits for a thread that is at none: who comes late finds no task and follows.

        ``calls``: int64 (steps, 3), see ``native.Native``; ``tasks``, ``visits``: int64 (steps, APART): (next task, tasks in
        total) of each step, threads that came to it * 2**32 + threads that went; ``asleep``: int64 (threads,), 1 for those
        that wait.
        """
        _ = revision  # a part of the cache key
        for step in range(first, behind):
            enter(visits, step)
            status = _invoke(calls[step, 0], calls[step, 1], calls[step, 2])
            if status != _WORKED[0] and status != _WORKED[1]:
                return -1 - step
            opened = leave(tasks, visits, step)
            if opened < 0:
                return step
            if opened:
                for thread in range(len(asleep)):
                    if read_i64(address(asleep), 8 * thread):
                        return step + 1
        return behind

    return njit(nogil=True, cache=True)(follow)


def _repeater(revision):
    def follow_images(calls, tasks, visits, asleep, images, inside, outcome, outputs):
        """For image of ``images``, float32 (N, elements): copy it to ``inside``, do all steps alone, copy ``outcome`` to
        ``outputs``, (N, elements). Returns as ``follow``; the arguments that it shares are the same.

        ``inside``, ``outcome``: places of tensors, see ``program.place``: one type for any layout, so one compilation.
        """
        _ = revision
        for image in range(len(images)):
            _copy(address(images) + image * images.strides[0], inside, 1)
            rewind(tasks, visits)
            reached = follow(calls, tasks, visits, asleep, 0, len(calls))
            if reached < len(calls):
                return reached
            _copy(address(outputs) + image * outputs.strides[0], outcome, 0)
        return len(calls)

    return njit(nogil=True, cache=True)(follow_images)


@njit(inline="always")
def _copy(plain, place, inwards):
    first, channels, height, width, channel_bytes, row_bytes = place
    whole = width - width % LANES
    for c in range(channels):
        for y in range(height):
            planes = address(first) + c * channel_bytes + y * row_bytes
            at, to = (plain, planes) if inwards else (planes, plain)
            for x in range(0, whole, LANES):
                store(to + 4 * x, load(1, at + 4 * x))
            for x in range(whole, width):
                write_f32(to, 4 * x, read_f32(at, 4 * x))
            plain += 4 * width


def _rewinder(revision):
    def rewind(tasks, visits):
        """Close every step but the first; nobody may be at any."""
        _ = revision
        for step in range(len(tasks)):
            visits[step, 0] = 0
            tasks[step, 0] = 0 if step == 0 else CLOSED

    return njit(cache=True)(rewind)


@njit(inline="always")
def enter(visits, step):
    """Come to a step, before its first task is taken."""
    take_run(address(visits) + 8 * APART * step, CAME)


@njit(inline="always")
def leave(tasks, visits, step):
    """Go from a step: -1 if it had tasks left; 1 if all are done, and the next step is open now; 0 if others are at some.

    First the tasks, then the visits: who saw that all are taken and that everybody who came has gone knows that all are
    done. The other way round somebody could come, take the last task, and be overlooked. Whoever took the last task sees
    that none is left, and who is told -1 comes again, so that one of them opens the next step.
    """
    counter = address(tasks) + 8 * APART * step
    left = read_i64(counter, 0) < tasks[step, 1]
    before = take_run(address(visits) + 8 * APART * step, 1)
    if left:
        return -1
    if before // CAME != before % CAME + 1:
        return 0
    if step + 1 < len(tasks):
        release(counter + 8 * APART, CLOSED)
    return 1


follow = _follower(REVISION)
rewind = _rewinder(REVISION)
follow_images = _repeater(REVISION)
