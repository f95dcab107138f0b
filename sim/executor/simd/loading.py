"""Kernels made ready before they are needed: loaded from Numba's cache or compiled, and called without looking at types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from .team import Call

#: Called with (kernels ready, kernels in total).
Progress = Callable[[int, int], None]
Step = TypeVar("Step")


class Loaded(NamedTuple):
    """Kernels that this process had not used before: how many there were, and how many of them had to be compiled."""

    kernels: int
    compiled: int


def silent(done: int, total: int) -> None:
    """Progress that is not shown."""


def load_kernels(steps: Iterable[object], progress: Progress = silent) -> Loaded:
    """Load every kernel of the calls among ``steps`` that is not in memory yet: each is called with no task left.

    ``progress`` is called before the first kernel and after each one; never if all are there already.
    """
    new: dict[tuple[int, Any], Call] = {}
    for step in steps:
        if isinstance(step, Call) and hasattr(step.kernel, "overloads"):
            types = argument_types(step)
            if types not in step.kernel.overloads:
                new.setdefault((id(step.kernel), types), step)
    misses = 0
    for done, ((_, types), call) in enumerate(new.items()):
        progress(done, len(new))
        call.tasks[0] = call.tasks[1]
        call.run(0)
        misses += call.kernel.stats.cache_misses.get(types, 0)
    if new:
        progress(len(new), len(new))
    return Loaded(len(new), misses)


def bound(step: Step) -> Step:
    """A call whose kernel is what Numba compiled for just these arguments; everything else as it is.

    Numba looks at the type of every argument in every call, which for tuples of arrays takes longer than the rest of the
    call; the arguments of a call never change.
    """
    if not isinstance(step, Call) or not hasattr(step.kernel, "overloads"):
        return step
    compiled = step.kernel.overloads.get(argument_types(step))
    return step if compiled is None else step._replace(kernel=compiled.entry_point)


def argument_types(call: Call) -> tuple[Any, ...]:
    """Numba's type of every argument."""
    arguments = (call.tasks, *call.arguments, *(call.extras[0] if call.extras else ()))
    return tuple(call.kernel.typeof_pyval(argument) for argument in arguments)
