"""A list of steps that several threads follow together, each at its own pace: nobody starts a step before all have left
the one before, but everybody may call its kernel early and wait inside, where no interpreter lock is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from threading import Event

import numpy as np
from numpy.typing import NDArray

from .native import Native, native
from .planes import Floats
from .program_kernel import APART, CLOSED, begin, finish, follow, follow_images
from .team import Call

#: The longest sleep between two looks at a step; who comes back to the interpreter wakes the sleepers before.
_SLEEP_S = 1e-3


class Program:
    """Steps with everything bound, for ``threads`` threads. Each runs :meth:`run`, once, after :meth:`rewind`.

    Kernel calls that follow one another are one piece of machine code for the interpreter; a plain function is run by one
    thread while the others wait. All steps' counters stand in one array, so that a run begins with one store.
    """

    def __init__(self, steps: Sequence[Call | Callable[[], None]], threads: int) -> None:
        self._threads = threads
        self._tasks = np.zeros((len(steps), APART), np.int64)
        self._visits = np.zeros((len(steps), APART), np.int64)
        self._steps = [_on(step, tasks) for step, tasks in zip(steps, self._tasks, strict=True)]
        self._pieces = _pieces(self._steps)
        self._natives = [
            [native(step, thread) if isinstance(step, Call) else None for step in self._steps]
            for thread in range(threads)
        ]
        self._calls = [_numbers(natives) for natives in self._natives]
        self._opened = Event()
        self._asleep = np.zeros(threads, np.int64)
        self._failed = False

    @property
    def native(self) -> bool:
        """True if one thread needs the interpreter for nothing between the first step and the last."""
        return self._threads == 1 and len(self._pieces) == 1 and isinstance(self._steps[0], Call)

    def run_images(self, images: Floats, inside: Floats, outcome: Floats, outputs: Floats) -> None:
        """All steps for each of ``images``, (N, C, H, W), which go to ``inside``; the ``outcome`` goes to ``outputs``,
        (N, K, P, Q). Only where :attr:`native`."""
        counters = self._tasks, self._visits, self._asleep
        self._check(follow_images(self._calls[0], *counters, images, inside, outcome, outputs))

    def rewind(self) -> None:
        """Make ready for a run; no thread may be running."""
        self._failed = False
        self._visits[:] = 0
        self._tasks[:, 0] = CLOSED
        self._tasks[:1, 0] = 0

    def run(self, thread: int) -> None:
        """Follow all steps as one of the threads. What fails in one thread ends all of them."""
        try:
            for first, behind in self._pieces:
                reached = first
                while reached < behind and not self._failed:
                    reached = self._further(reached, behind, thread)
        except BaseException:
            self._failed = True
            raise
        finally:
            self._opened.set()

    def _further(self, first: int, behind: int, thread: int) -> int:
        """The first step that is still to do after some of those from ``first`` to ``behind``."""
        step = self._steps[first]
        if isinstance(step, Call):
            counters = self._tasks, self._visits, self._asleep
            reached = self._check(follow(self._calls[thread], *counters, first, behind))
        else:
            reached = self._plain(first, step)
        if self._asleep.any():
            self._opened.set()
        if reached < behind:
            self._sleep(reached, thread)
        return reached

    def _check(self, reached: int) -> int:
        if reached < 0:
            raise RuntimeError(f"step {-1 - reached} of a program failed in {self._steps[-1 - reached]}")
        return reached

    def _plain(self, index: int, step: Callable[[], None]) -> int:
        """A function, if no other thread has begun it."""
        if begin(self._tasks, self._visits, index) == 0:
            step()
        return index if finish(self._tasks, self._visits, index) < 0 else index + 1

    def _sleep(self, index: int, thread: int) -> None:
        self._asleep[thread] = 1
        self._opened.clear()
        if self._tasks[index, 0] < 0:  # else it was opened meanwhile
            self._opened.wait(_SLEEP_S)
        self._asleep[thread] = 0


def _on(step: Call | Callable[[], None], tasks: NDArray[np.int64]) -> Call | Callable[[], None]:
    """The step on these counters; a plain function is one task."""
    if not isinstance(step, Call):
        tasks[1] = 1
        return step
    tasks[1] = step.tasks[1]
    return step._replace(tasks=tasks[:2])


def _pieces(steps: Sequence[Call | Callable[[], None]]) -> list[tuple[int, int]]:
    """First step and the one behind the last of every run of kernel calls, and of every plain function."""
    found = []
    for of_calls, members in groupby(enumerate(steps), key=lambda item: isinstance(item[1], Call)):
        numbers = [number for number, _ in members]
        found += [(numbers[0], numbers[-1] + 1)] if of_calls else [(number, number + 1) for number in numbers]
    return found


def _numbers(natives: Sequence[Native | None]) -> NDArray[np.int64]:
    """int64 (steps, 3): the numbers of each call, zeros for plain functions."""
    return np.array([(0, 0, 0) if one is None else one.numbers for one in natives], np.int64).reshape(-1, 3)
