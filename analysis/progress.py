"""Small things every command needs before it loads anything heavy: progress, threads, densities."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

from ..workloads.errors import InputError

#: Called with (stage, done, total); total 0 = unknown.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Progress for callers that show none."""


def counted(progress: Progress, stage: str, total: int) -> Callable[[str], None]:
    """A per-item callback that reports (stage, items so far, total)."""
    done = 0

    def step(_: str) -> None:
        nonlocal done
        done += 1
        progress(stage, done, total)

    return step


def available_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_densities(text: str) -> list[float]:
    """``"0.5,0.25,0.13"`` -> [0.5, 0.25, 0.13]; InputError names the part that is not a number."""
    densities = []
    for part in text.split(","):
        try:
            densities.append(float(part))
        except ValueError:
            raise InputError(f"--levels: '{part}' is not a number; an example is --levels 0.5,0.25,0.13") from None
    if not all(map(math.isfinite, densities)):
        raise InputError(f"--levels: '{text}' contains a value that is not finite")
    return densities
