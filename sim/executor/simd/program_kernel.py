# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Steps of a program that threads follow together, without the interpreter between them: its lock is handed from thread to
thread through the operating system, which takes longer than a small layer (measured: 25 us a step against 1.5)."""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .machine_kernel import release, take_run
from .vectors_kernel import _I32, _I64, REVISION, address, read_i64

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
        """For image of ``images``, (N, C, H, W): copy it to ``inside``, do all steps alone, copy ``outcome`` to ``outputs``,
        (N, K, P, Q). Returns as ``follow``; the arguments that it shares are the same."""
        _ = revision
        for image in range(len(images)):
            _copy(images[image], inside)
            visits[:, 0] = 0
            tasks[:, 0] = CLOSED
            tasks[0, 0] = 0
            reached = follow(calls, tasks, visits, asleep, 0, len(calls))
            if reached < len(calls):
                return reached
            _copy(outcome, outputs[image])
        return len(calls)

    return njit(nogil=True, cache=True)(follow_images)


@njit(inline="always")
def _copy(source, target):
    for c in range(source.shape[0]):
        for y in range(source.shape[1]):
            for x in range(source.shape[2]):
                target[c, y, x] = source[c, y, x]


@njit(inline="always")
def enter(visits, step):
    """Come to a step, before its first task is taken."""
    take_run(address(visits) + 8 * APART * step, CAME)


@njit(inline="always")
def leave(tasks, visits, step):
    """Go from a step: -1 if it has tasks left; 1 if all are done, and the next step is open now; 0 if others are at some."""
    before = take_run(address(visits) + 8 * APART * step, 1)
    counter = address(tasks) + 8 * APART * step
    if read_i64(counter, 0) < tasks[step, 1]:  # not before the visit has ended: who ends the last one must see it
        return -1
    if before // CAME != before % CAME + 1:
        return 0
    if step + 1 < len(tasks):
        release(counter + 8 * APART, CLOSED)
    return 1


def _ends(revision):
    def begin(tasks, visits, step):
        """Come to a step of one task and take it: the number taken."""
        _ = revision
        enter(visits, step)
        return take_run(address(tasks) + 8 * APART * step, 1)

    def finish(tasks, visits, step):
        """:func:`leave`, from the interpreter."""
        _ = revision
        return leave(tasks, visits, step)

    return tuple(njit(nogil=True, cache=True)(each) for each in (begin, finish))


follow = _follower(REVISION)
follow_images = _repeater(REVISION)
begin, finish = _ends(REVISION)
