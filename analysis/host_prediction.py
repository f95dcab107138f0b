"""Predicted CPU time of every level beside what was measured: the host CPU's model against the executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..accel.host_cpu import HostCpu
from ..sim.executor.simd.host.host import host_cpu, peak_share
from ..sim.executor.simd.host.work import level_work, network_bytes
from ..sim.executor.simd.network import PlaneNetwork
from ..workloads.network import Network
from .fitted_table import Column, FittedTable
from .progress import Progress, silent

if TYPE_CHECKING:
    from .study import Execution, LevelExecution

#: What single images are measured on.
TITLE = "this CPU, batch 1, one thread"
#: Share of the measured peak below which a note says so.
BUSY = 0.85
#: What a prediction is and is not.
NOTE = (
    "Predicted from exact counts (non-zeros, positions, bytes) and this machine's measured peaks, bandwidths and kernel "
    "costs; these are calibrated on synthetic layers, never on the network shown. Errors refer to the median CPU time. "
    "Energy of this CPU is not modelled."
)


@dataclass(frozen=True)
class HostPredictions:
    """Predicted CPU seconds of one image by level; ``notes``: why there are none, or what else to know."""

    seconds: dict[int, float]
    notes: tuple[str, ...] = ()
    host: HostCpu | None = None


def predicted_levels(
    runner: PlaneNetwork | None, levels: Sequence[int], *, progress: Progress = silent
) -> HostPredictions:
    """Predict what one image costs at each level on planes; measures this machine first where that was not done yet.

    ``runner``: None if single images do not run on planes: nothing is predicted then.
    """
    if runner is None:
        return HostPredictions({}, ("CPU time is not predicted: single images do not run on planes",))
    works = {level: level_work(runner, level) for level in levels}
    names = {work.kernel for found in works.values() for _, work in found if work is not None}
    host, kept = host_cpu(names, progress=lambda done, total: progress("measure this CPU", done, total))
    notes = [] if kept else ["the cache folder cannot be written: this CPU was measured for this run only"]
    share = peak_share(host)
    if share < BUSY:
        notes.append(
            f"this CPU reaches {share:.0%} of its measured peak at the moment (busy or throttled): what is measured now is "
            "slower than what is predicted"
        )
    elif share > 1 / BUSY:
        notes.append(
            f"this CPU reaches {share:.0%} of the peak that was measured, when it was busy: `nestling bench --tune MODEL` "
            "measures it again"
        )
    unknown = {
        name if work is None else f"{name} ({work.kernel})"
        for found in works.values()
        for name, work in found
        if work is None or work.kernel not in host.kernels
    }
    if unknown:
        return HostPredictions(
            {}, (f"CPU time is not predicted: no model for {', '.join(sorted(unknown))}", *notes), host
        )
    seconds = {}
    for level, found in works.items():
        within = network_bytes(work for _, work in found)
        predictions = [host.predict(work, within=within) for _, work in found if work is not None]
        seconds[level] = sum(one.seconds for one in predictions if one is not None)
    return HostPredictions(seconds, tuple(notes), host)


def relative_error(execution: LevelExecution) -> float | None:
    """(predicted - measured) / measured CPU time; None where either is missing."""
    if execution.cpu_predicted_s is None or not execution.cpu_median_s:
        return None
    return execution.cpu_predicted_s / execution.cpu_median_s - 1


def error_text(execution: LevelExecution) -> str:
    """The error in percent with its sign."""
    error = relative_error(execution)
    return "–" if error is None else f"{100 * error:+.1f} %".replace("-", "−")


def milliseconds(seconds: float | None) -> str:
    """Milliseconds with three decimals, the microseconds."""
    return "–" if seconds is None else f"{seconds * 1e3:.3f}"


def host_columns(executions: Sequence[LevelExecution]) -> list[Column]:
    """Measured latency and CPU time, predicted CPU time and its error: one cell per level."""
    return [
        Column("latency\nms, median", [milliseconds(x.latency_median_s) for x in executions]),
        Column("CPU time\nms, median", [milliseconds(x.cpu_median_s) for x in executions]),
        Column("predicted\nms", [milliseconds(x.cpu_predicted_s) for x in executions]),
        Column("error", [error_text(x) for x in executions]),
    ]


def host_table(executions: Sequence[LevelExecution]) -> FittedTable:
    """Measured latency, measured and predicted CPU time of every level."""
    level = Column("level", [str(x.level) for x in executions])
    return FittedTable(TITLE, [level, *host_columns(executions)], compact=True)


def execution_table(network: Network, execution: Execution) -> FittedTable:
    """All that was measured at every level, beside the prediction."""
    levels = execution.levels
    spreads = [f"{milliseconds(x.latency_p10_s)}-{milliseconds(x.latency_p90_s)}" for x in levels]
    columns = [
        Column("level", [str(x.level) for x in levels]),
        Column("density", [f"{network.densities[x.level]:.1%}" for x in levels]),
        Column("MACs", [f"{x.macs:,}" for x in levels]),
        Column("accuracy", ["not measured" if x.accuracy is None else f"{x.accuracy:.2%}" for x in levels]),
        Column("images", [str(x.images) for x in levels], rank=2),
        *host_columns(levels),
        Column("latency\nms, p10-p90", spreads, rank=1),
        Column("max error\nof outputs", ["–" if x.max_error is None else f"{x.max_error:.1e}" for x in levels]),
    ]
    return FittedTable(f"{network.name} on {TITLE}", columns, compact=True)


def measured_json(execution: Execution) -> dict[str, Any]:
    """The same for programs."""
    levels = [vars(level) | {"cpu_prediction_error": relative_error(level)} for level in execution.levels]
    return {"levels": levels, "notes": list(execution.notes), "host_cpu": host_facts(execution.host)}


def host_facts(host: HostCpu | None) -> dict[str, Any] | None:
    """What a result file says of the machine: name, peaks, caches; not the costs of single kernels."""
    return None if host is None else host.model_dump(mode="json", exclude={"kernels"})
