"""Work on several layers at once, answers in order: the same answers for any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..workloads.errors import InputError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def in_order(
    function: Callable[[_Item], _Answer], items: Iterable[_Item], *, workers: int = 1
) -> Iterator[_Answer]:  # fmt: skip
    """``function`` of every item, in the order of the items; at most a few items per worker are under way.

    Threads: kernels, hashing and compression release the interpreter's lock, and nothing is copied between processes.

    Raises
    ------
    InputError
        for fewer than one worker; and whatever ``function`` raises.
    """
    if workers < 1:
        raise InputError(f"workers = {workers}; at least 1 is needed")
    if workers == 1:
        yield from map(function, items)
        return
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=workers, backend="threading", return_as="generator")
    yield from pool(delayed(function)(item) for item in items)
