"""A list of steps that several threads follow together, each at its own pace: nobody starts a step before all have left
the one before, but everybody may call its kernel early and wait inside, where no interpreter lock is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Event

import numpy as np
from numpy.typing import NDArray

from .program_kernel import APART, hold, leave
from .team import Call

#: A step whose tasks may not begin yet.
_CLOSED = -(1 << 62)
#: The longest sleep between two looks at a step; who opens a step wakes its sleepers before.
_SLEEP_S = 1e-3


class Program:
    """Steps with everything bound, for ``threads`` threads. Each runs :meth:`run`, once, after :meth:`rewind`.

    All steps' counters stand in one array, so that a run begins with one store.
    """

    def __init__(self, steps: Sequence[Call | Callable[[], None]], threads: int) -> None:
        self._threads = threads
        self._tasks = np.zeros((len(steps), APART), np.int64)
        self._arrived = np.zeros((len(steps), APART), np.int64)
        self._calls = [_on(step, tasks) for step, tasks in zip(steps, self._tasks, strict=True)]
        self._alone = (
            [_alone(step, call) for step, call in zip(steps, self._calls, strict=True)] if threads == 1 else []
        )
        self._opened = Event()
        self._failed = False

    def rewind(self) -> None:
        """Make ready for a run; no thread may be running."""
        if self._threads == 1:
            self._tasks[:, 0] = 0
            return
        self._failed = False
        self._arrived[:] = 0
        self._tasks[:, 0] = _CLOSED
        self._tasks[:1, 0] = 0

    def run(self, thread: int) -> None:
        """Follow all steps as one of the threads. What fails in one thread ends all of them."""
        if self._threads == 1:
            for step in self._alone:
                step()
            return
        try:
            for index, call in enumerate(self._calls):
                self._step(index, call, thread)
                if self._failed:
                    return
        except BaseException:
            self._failed = True
            raise

    def _step(self, index: int, call: Call, thread: int) -> None:
        call.run(thread)
        taken, total = self._tasks[index, :2]
        while taken < total and not self._failed:
            self._opened.clear()
            if self._tasks[index, 0] < 0:  # else it was opened meanwhile
                self._opened.wait(_SLEEP_S)
            call.run(thread)
            taken = self._tasks[index, 0]
        if leave(self._tasks, self._arrived, index, self._threads):
            self._opened.set()


def _on(step: Call | Callable[[], None], tasks: NDArray[np.int64]) -> Call:
    """The step as a call on these counters."""
    if not isinstance(step, Call):
        step = Call(_once, np.array([0, 1], np.int64), (step,))
    tasks[1] = step.tasks[1]
    return step._replace(tasks=tasks[:2])


def _alone(step: Call | Callable[[], None], call: Call) -> Callable[[], None]:
    """A step for one thread, which holds the interpreter lock between kernels: arguments are put together beforehand, and a
    plain function needs no counter."""
    if not isinstance(step, Call):
        return step
    return partial(call.kernel, call.tasks, *call.arguments, *(call.extras[0] if call.extras else ()))


def _once(tasks: NDArray[np.int64], function: Callable[[], None]) -> None:
    """A plain function is one task."""
    if hold(tasks) == 0:
        function()
