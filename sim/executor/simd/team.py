"""Threads that run one kernel call together, task by task: outputs do not depend on who takes which task."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Seconds after which a caller looks whether all have ended if their signal was lost with an interrupt.
_LOOK_S = 0.1
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
    """``threads`` threads, the caller being the first. Idle ones sleep; a job returns when every thread has done it, even if
    the caller is interrupted meanwhile (Ctrl-C): what a thread works on must not be used before."""

    def __init__(self, threads: int) -> None:
        self._others = threads - 1
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._jobs: list[SimpleQueue[_Task | None]] = [SimpleQueue() for _ in range(self._others)]
        for index, jobs in enumerate(self._jobs, start=1):
            Thread(target=_work, args=(index, jobs), daemon=True).start()
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
        if os.getpid() != self._process:
            self._start()  # a fork has copied no thread
        task = _Task(job, [], SimpleQueue())
        for jobs in self._jobs:
            jobs.put(task)
        try:
            job(0)
        finally:
            interrupt = self._wait(task)
        failures = [failure for failure in (interrupt, *task.ended) if failure is not None]
        if failures:
            raise failures[0]

    def _wait(self, task: _Task) -> KeyboardInterrupt | None:
        """Return when the other threads have ended, with what the user has pressed meanwhile."""
        interrupt = None
        while True:
            try:
                while len(task.ended) < len(self._jobs):
                    with suppress(Empty):
                        task.signal.get(timeout=_LOOK_S)
                return interrupt
            except KeyboardInterrupt as pressed:
                interrupt = pressed


class _Task(NamedTuple):
    """A job; how it ended in each thread (None: well); and a signal each time it has."""

    job: Job
    ended: list[BaseException | None]
    signal: SimpleQueue[None]


def _work(index: int, jobs: SimpleQueue[_Task | None]) -> None:
    while (task := jobs.get()) is not None:
        ended: BaseException | None = None
        try:
            task.job(index)
        except BaseException as failure:  # handed to the caller, who waits for it
            ended = failure
        task.ended.append(ended)
        task.signal.put(None)
        del task, ended  # or this thread would keep alive what the job belongs to


def _stop(jobs: Sequence[SimpleQueue[_Task | None]]) -> None:
    for queue in jobs:
        queue.put(None)
