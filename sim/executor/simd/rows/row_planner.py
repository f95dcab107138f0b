"""Measuring which formats run a matrix fastest over all levels on this machine, for products with one vector.

What was measured for a network's layers is kept for later processes, see ``kept``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from .....workloads.network import Network
from ..kept import kept_file, read_table, write_table
from ..planner import PROMISING, REPEATS, Progress
from ..team import Call
from .fully_connected import RowProduct
from .nm_rows import few_numbers, pattern_of
from .row_formats import Format, Formats, likely_formats
from .row_parts import Entries, entries_of

#: Ratio of two CPU times up to which they count as equal: runs on a busy machine scatter by about as much.
SCATTER = 1.1
_FREE = (np.float32(-np.inf), np.float32(np.inf))


class RowPlanner:
    """Chooses formats of fully connected layers. ``choose`` is a ``row_formats.RowChooser``; what was never measured gets
    the likely ones.

    Parameters
    ----------
    folder : where choices are kept; default: the user's cache folder. It need not be writable.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = kept_file("rows", folder)
        self._formats = read_table(self._file, _formats)

    @property
    def measured(self) -> int:
        """Layers whose formats were measured."""
        return len(self._formats)

    def choose(self, entries: Entries) -> Formats:
        """The measured formats of a matrix, or the likely ones."""
        return (self._known(entries) if self._formats else None) or likely_formats(entries)

    def tune(self, network: Network, progress: Progress = lambda done, total: None) -> bool:
        """Measure every fully connected layer with one vector that was not measured yet, one thread, and keep the formats.

        Returns False if they could not be written (they hold for this object all the same).
        """
        todo: dict[str, NestedWeights] = {}
        for layer in network.layers:
            if runs_by_rows(layer):
                entries = entries_of(network.weights[layer.name])
                if self._known(entries) is None:
                    todo.setdefault(row_key(entries), network.weights[layer.name])
        for done, (key, weights) in enumerate(todo.items(), start=1):
            self._formats[key] = measured_formats(weights)
            progress(done, len(todo))
        return not todo or write_table(self._file, self._formats, _formats)

    def _known(self, entries: Entries) -> Formats | None:
        """What was kept for a matrix, if it could have been measured: files hold what others wrote."""
        kept = self._formats.get(row_key(entries))
        return kept if kept is not None and kept in candidates(entries) else None


def runs_by_rows(layer: Layer) -> bool:
    """True for a fully connected layer that multiplies one vector: any number more has one format only."""
    return layer.op == "linear" and (layer.gemm is None or layer.gemm.m == 1)


def row_key(entries: Entries) -> str:
    """What the formats depend on: the matrix's size, every stream's density (to 1 %), its exact pattern, and whether its
    values are few enough for codes."""
    size = entries.shape[0] * entries.shape[1]
    streams: list[Any] = []
    for stream in range(entries.levels):
        own = entries.of({stream})
        pattern = pattern_of(own.mask())
        codes = pattern is not None and few_numbers(own.value)
        streams.append([round(len(own.value) / size, 2), pattern, codes])
    return json.dumps([*entries.shape, streams])


def _formats(kept: Any) -> Formats:
    """Formats as JSON has them; ValueError or TypeError for anything else."""
    found: Formats = tuple(kept)
    if not set(found) <= set(get_args(Format)):
        raise ValueError(f"no such formats: {found}")
    return found


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
