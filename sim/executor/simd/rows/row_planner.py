"""Measuring which formats run a matrix fastest over all levels on this machine, for products with one vector."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from .....workloads.nesting import NestedWeights
from ..planner import PROMISING, REPEATS
from ..team import Call
from .fully_connected import RowProduct
from .nm_rows import pattern_of
from .row_formats import Formats, likely_formats
from .row_parts import Entries, entries_of

#: Ratio of two CPU times up to which they count as equal: runs on a busy machine scatter by about as much.
SCATTER = 1.1
_FREE = (np.float32(-np.inf), np.float32(np.inf))


def measured_formats(weights: NestedWeights) -> Formats:
    """The candidate with the least geometric mean of CPU times over the levels, one thread, least of several runs; the
    likely one unless another is faster by more than such measurements scatter."""
    bias = np.zeros(weights.shape[0], np.float32)
    calls: dict[Formats, list[list[Call]]] = {}
    for formats in candidates(entries_of(weights)):
        product = RowProduct(weights, formats=formats)
        product.inputs[:] = 1
        calls[formats] = [product.calls(level, bias, _FREE) for level in range(weights.levels)]
    times = {formats: np.full(weights.levels, np.inf) for formats in calls}
    for repeats in REPEATS:
        best = min(_mean(each) for each in times.values())
        for _ in range(repeats):
            for formats, levels in calls.items():
                if not np.isfinite(best) or _mean(times[formats]) <= PROMISING * best:
                    times[formats] = np.minimum(times[formats], [_cpu_seconds(each) for each in levels])
    fastest = min(times, key=lambda formats: _mean(times[formats]))
    likely = next(iter(times))
    return likely if _mean(times[likely]) <= SCATTER * _mean(times[fastest]) else fastest


def candidates(entries: Entries) -> list[Formats]:
    """The likely formats first; then masks for all streams from each one's density on, with and without exact patterns."""
    rows, columns = entries.shape
    streams = [entries.of({stream}) for stream in range(entries.levels)]
    density = [len(stream.value) / (rows * columns) for stream in streams]
    exact = [pattern_of(stream.mask()) is not None for stream in streams]
    found: list[Formats] = [likely_formats(entries)]
    for limit in (*sorted(set(density)), 2.0):
        plain: Formats = tuple("mask" if d >= limit else "index" for d in density)
        found += [plain, tuple("pattern" if p else f for p, f in zip(exact, plain, strict=True))]
    return list(dict.fromkeys(found))


def _mean(seconds: np.typing.NDArray[np.float64]) -> float:
    return float(np.exp(np.log(np.maximum(seconds, 1e-9)).mean()))


def _cpu_seconds(calls: Sequence[Call]) -> float:
    """Of the second run in a row: the caches hold a candidate's own streams then, not its rivals'."""
    start = 0.0
    for _ in range(2):
        start = time.thread_time()
        for call in calls:
            call.tasks[0] = 0
            call.run(0)
    return time.thread_time() - start
