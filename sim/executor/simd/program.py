"""A list of kernel calls that several threads follow together, each at its own pace and outside the interpreter: nobody
starts a step before the one before is done, but everybody may call its kernel early and wait inside."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np

from .native import natives
from .planes import Floats
from .program_kernel import APART, follow, follow_images, rewind
from .team import Call

#: The longest sleep between two looks at a step; who comes back to the interpreter wakes the sleepers before.
_SLEEP_S = 1e-3


class Program:
    """Steps with everything bound, for ``threads`` threads. Each runs :meth:`run`, once, after :meth:`rewind`.

    The arrays among the steps' arguments live as long as the program, and must stay where they are. All steps' counters
    stand in one array.
    """

    def __init__(self, steps: Sequence[Call], threads: int) -> None:
        self._tasks = np.zeros((len(steps), APART), np.int64)
        self._tasks[:, 1] = [step.tasks[1] for step in steps]
        self._visits = np.zeros((len(steps), APART), np.int64)
        self._steps = [step._replace(tasks=own[:2]) for step, own in zip(steps, self._tasks, strict=True)]
        self._natives = [natives(step, threads) for step in self._steps]
        numbers = [[each[thread].numbers for each in self._natives] for thread in range(threads)]
        self._calls = np.array(numbers, np.int64).reshape(threads, -1, 3)
        self._opened = Event()
        self._asleep = np.zeros(threads, np.int64)
        self._failed = False
        self.rewind()
        follow(self._calls[0], self._tasks, self._visits, self._asleep, 0, 0)  # is loaded or compiled here

    def run_images(self, images: Floats, inside: Floats, outcome: Floats, outputs: Floats) -> None:
        """All steps on one thread for each of ``images``, (N, elements), which go to ``inside``, (C, H, W); the ``outcome``,
        (K, P, Q), goes to ``outputs``, (N, elements)."""
        counters = self._tasks, self._visits, self._asleep
        self._check(follow_images(self._calls[0], *counters, images, place(inside), place(outcome), outputs))

    def rewind(self) -> None:
        """Make ready for a run; no thread may be running."""
        self._failed = False
        self._asleep[:] = 0
        rewind(self._tasks, self._visits)

    def run(self, thread: int) -> None:
        """Follow all steps as one of the threads. What fails in one thread ends all of them."""
        reached, behind = 0, len(self._steps)
        try:
            while reached < behind and not self._failed:
                counters = self._tasks, self._visits, self._asleep
                reached = self._check(follow(self._calls[thread], *counters, reached, behind))
                if self._asleep.any():
                    self._opened.set()
                if reached < behind and self._closed(reached):
                    self._sleep(reached, thread)
        except BaseException:
            self._failed = True
            raise
        finally:
            self._opened.set()

    def _check(self, reached: int) -> int:
        if reached < 0:
            kernel = self._steps[-1 - reached].kernel
            raise RuntimeError(
                f"kernel '{kernel.__module__}.{kernel.__name__}' failed in step {-1 - reached} of a program"
            )
        return reached

    def _closed(self, step: int) -> bool:
        return bool(self._tasks[step, 0] < 0)

    def _sleep(self, step: int, thread: int) -> None:
        self._asleep[thread] = 1
        self._opened.clear()
        if self._closed(step):  # else it was opened meanwhile
            self._opened.wait(_SLEEP_S)
        self._asleep[thread] = 0


def place(tensor: Floats) -> tuple[Any, ...]:
    """A tensor (channels, height, width) whose rows have their cells side by side: the first cell, the sizes, and bytes from
    channel to channel and row to row."""
    assert tensor.strides[2] == tensor.itemsize or tensor.shape[2] == 1
    return tensor[:1, 0, 0], *tensor.shape, *tensor.strides[:2]
