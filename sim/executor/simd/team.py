"""Threads that run one kernel call together, task by task: outputs do not depend on who takes which task."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Called with the number of the thread.
Job = Callable[[int], None]


class Call(NamedTuple):
    """One kernel call: kernel(tasks, *arguments, *extra of the thread); ``tasks``: int64 (next task, tasks in total).

    ``shared``: False for calls so short that waking a thread costs more than it saves.
    """

    kernel: Any
    tasks: NDArray[np.int64]
    arguments: tuple[Any, ...]
    extras: Sequence[tuple[Any, ...]] = ()
    shared: bool = True

    def run(self, thread: int) -> None:
        """Take tasks until none is left."""
        extra = self.extras[thread] if self.extras else ()
        self.kernel(self.tasks, *self.arguments, *extra)


def call(kernel: Any, count: int, *arguments: Any, extras: Sequence[tuple[Any, ...]] = ()) -> Call:
    """A call of ``count`` tasks."""
    return Call(kernel, np.array([0, count], np.int64), arguments, extras)


class Team:
    """``threads`` threads, the caller being the first. Idle ones sleep; a job returns when every thread has done it."""

    def __init__(self, threads: int) -> None:
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._jobs: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(threads - 1)]
        for index, jobs in enumerate(self._jobs, start=1):
            Thread(target=_work, args=(index, jobs, self._done), daemon=True).start()
        self._close = weakref.finalize(self, _stop, self._jobs)

    def run(self, call: Call) -> None:
        """Run one call on all threads, or on the caller's alone if it is not shared."""
        call.tasks[0] = 0
        if call.shared and self._jobs:
            self.together(call.run)
        else:
            call.run(0)

    def together(self, job: Job) -> None:
        """Call job(thread) in every thread."""
        for jobs in self._jobs:
            jobs.put(job)
        try:
            job(0)
        finally:
            failures = [failure for failure in (self._done.get() for _ in self._jobs) if failure is not None]
        if failures:
            raise failures[0]


def _work(index: int, jobs: SimpleQueue[Job | None], done: SimpleQueue[BaseException | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job(index)
        except BaseException as failure:  # handed to the caller, who waits for it
            done.put(failure)
        else:
            done.put(None)
        del job  # or this thread would keep alive what the job belongs to


def _stop(jobs: Sequence[SimpleQueue[Job | None]]) -> None:
    for queue in jobs:
        queue.put(None)
