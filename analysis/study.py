"""What one run of nestling found out: the input of every table, figure and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..accel.host_cpu import HostCpu
from ..sim.results import Result
from ..traces.trace import Trace


@dataclass(frozen=True, eq=False)
class LevelExecution:
    """What the CPU executor measured at one level.

    ``accuracy``: fraction of ``images`` answered correctly, None without labelled images. ``macs``: the executor's own
    count, equal to the trace's. ``max_error``: largest deviation from a dense NumPy reference, relative. Latencies are wall
    time, ``cpu_median_s`` is the CPU time of the same inferences, ``cpu_predicted_s`` what the host CPU's model expects.
    """

    level: int
    accuracy: float | None
    images: int
    macs: int
    latency_median_s: float | None
    latency_p10_s: float | None
    latency_p90_s: float | None
    max_error: float | None
    cpu_median_s: float | None = None
    cpu_predicted_s: float | None = None


@dataclass(frozen=True, eq=False)
class Execution:
    """A network run on the CPU. ``notes``: what a reader should know of these measurements; ``host``: this machine."""

    levels: Sequence[LevelExecution] = ()
    notes: Sequence[str] = ()
    host: HostCpu | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """One network on one or more designs.

    ``results``: one per design and operating point. ``executions``: empty if the network cannot be executed.
    ``storage``: format -> bytes of the whole network's weights per level. ``command``: the command line that made it.
    ``skipped``: design -> why it cannot run this network. ``execution_notes``, ``host``: see :class:`Execution`.
    """

    network: str
    source: str
    params: int
    results: Sequence[Result]
    executions: Sequence[LevelExecution]
    storage: Mapping[str, Sequence[int]]
    trace: Trace
    command: str
    version: str
    seed: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    execution_notes: Sequence[str] = ()
    host: HostCpu | None = None


def execution_at(study: Study, level: int) -> LevelExecution | None:
    """The measurement of a level, None where the level was not executed."""
    return next((x for x in study.executions if x.level == level), None)


def design_labels(study: Study) -> list[str]:
    """One distinct name per result: the design's, with the operating point where a design stands there twice."""
    designs = Counter(result.design.name for result in study.results)
    labels: list[str] = []
    for result in study.results:
        label = result.design.name
        if designs[label] > 1:
            label = f"{label} @ {result.point.name}"
        while label in labels:
            label += "'"
        labels.append(label)
    return labels


def labelled(study: Study) -> list[tuple[str, Result]]:
    """The results, each with its label."""
    return list(zip(design_labels(study), study.results, strict=True))
