"""A fixed set of workers (one per thread, each with its own memory) that items are handed to."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

W = TypeVar("W")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Generic[W]):
    """Lends each of ``workers`` to one caller at a time."""

    def __init__(self, workers: Sequence[W]) -> None:
        self._count = len(workers)
        self._free: queue.SimpleQueue[W] = queue.SimpleQueue()
        for worker in workers:
            self._free.put(worker)

    @contextmanager
    def borrowed(self) -> Iterator[W]:
        """One worker, given back at the end."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def each(self, work: Callable[[W, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``work`` on every item, on all workers at once; results come in the order of the items."""

        def with_worker(item: Item) -> Result:
            with self.borrowed() as worker:
                return work(worker, item)

        if self._count == 1:
            yield from map(with_worker, items)
            return
        with ThreadPoolExecutor(self._count) as pool:
            yield from pool.map(with_worker, items)
