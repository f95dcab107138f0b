# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""What threads that follow one program do between its steps."""

from numba import njit

from .machine_kernel import release, take
from .vectors_kernel import REVISION, address

#: int64 elements between the counters of two steps: a cache line, so that threads at different steps do not disturb
#: each other.
APART = 8


def _leaver(revision):
    def leave(tasks, arrived, step, threads):
        """Say that this thread has finished ``step``; the last one opens the next step and is told True.

        ``tasks``, ``arrived``: int64 (steps, APART): the next task of each step, threads that have finished it.
        """
        _ = revision  # a part of the cache key
        last = take(address(arrived) + 8 * APART * step) == threads - 1
        if last and step + 1 < len(tasks):
            release(address(tasks) + 8 * APART * (step + 1))
        return last

    return njit(cache=True)(leave)


def _holder(revision):
    def hold(tasks):
        """Take one task."""
        _ = revision
        return take(address(tasks))

    return njit(nogil=True, cache=True)(hold)


leave = _leaver(REVISION)
hold = _holder(REVISION)
