"""Figures that look closer: the timeline of one layer, storage by format, prediction beside measurement."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .figure_style import (
    DESIGN_COLOURS,
    DESIGN_MARKERS,
    INK,
    LANE_COLOURS,
    PAPER,
    Picture,
    Sheet,
    lighter,
    to_svg,
)
from .lanes import LANES, Lane, Window, steady_window
from .study import LevelExecution, Study, labelled
from .tables import level_name, ordered_levels
from .units import byte_scale, number, si_scale

#: Formats of which one stored copy serves every level; all others need one stream per level.
ONE_COPY_FORMATS = frozenset({"level_ordered", "level_tag"})
_LANE_NAMES = {"fetch": "DRAM fetch", "load": "load", "compute": "compute", "drain": "drain", "store": "DRAM store"}


def timeline_figure(study: Study) -> Picture | None:
    """Gantt lanes of a few consecutive tiles per design; None if no result kept its tile events."""
    shown: list[tuple[str, Window]] = []
    for label, result in labelled(study):
        timeline = result.timeline
        window = steady_window(result, timeline) if timeline is not None else None
        if timeline is not None and window is not None:
            tiles = f"tiles {window.first_tile}–{window.last_tile} of {len(timeline.plan.tiles):,}"
            shown.append((f"{label}: {timeline.layer}, level {timeline.level}, {tiles}", window))
    if not shown:
        return None
    sheet = Sheet([(1.75, 0.85)] * len(shown))
    for axes, (title, window) in zip(sheet.axes, shown, strict=True):
        _draw_window(axes, window)
        axes.set_title(title)
    return Picture(
        "timeline",
        "Tiles in flight in the layer that takes longest",
        "Each box is one tile in one stage, in alternating shades; numbers are tile numbers. A gap in the compute lane is a "
        "stall; the lane that has no gaps is the bottleneck. Hatched: computed, but waiting for free output registers.",
        to_svg(sheet.figure, "timeline"),
    )


def _draw_window(axes: Axes, window: Window) -> None:
    length = window.end - window.begin
    for row, name in enumerate(LANES):
        lane = window.lanes[name]
        if lane.tile.size:
            _draw_lane(axes, row, lane, window=window, colour=LANE_COLOURS[name])
        else:
            axes.text(
                window.begin + 0.01 * length, row, "nothing in this stretch", va="center", fontsize=8.5, alpha=0.7
            )
    axes.set_yticks(range(len(LANES)), [_LANE_NAMES[name] for name in LANES])
    axes.set_ylim(len(LANES) - 0.45, -0.55)
    axes.set_xlim(window.begin, window.end)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("cycle of the layer")
    axes.grid(axis="x")


def _draw_lane(axes: Axes, row: int, lane: Lane, *, window: Window, colour: str) -> None:
    begin, end = np.maximum(lane.begin, window.begin), np.minimum(lane.end, window.end)
    issued = np.clip(lane.end - lane.waiting, begin, end)
    for parity, shade in ((0, colour), (1, lighter(colour))):
        mine = lane.tile % 2 == parity
        axes.barh(
            np.full(int(mine.sum()), row), (issued - begin)[mine], left=begin[mine], height=0.62, color=shade,
            edgecolor=shade, linewidth=0.6,
        )  # fmt: skip
    waits = end > issued
    if waits.any():
        axes.barh(
            np.full(int(waits.sum()), row), (end - issued)[waits], left=issued[waits], height=0.62, color="none",
            edgecolor=colour, hatch="////", linewidth=0.6,
        )  # fmt: skip
    wide = (end - begin) > 0.035 * (window.end - window.begin)
    for tile, at in zip(lane.tile[wide].tolist(), ((begin + end) / 2)[wide].tolist(), strict=True):
        axes.text(at, row, str(tile), ha="center", va="center", color="black", fontsize=7.5)


def storage_figure(study: Study) -> Picture | None:
    """Bytes of all weights per storage format and level, one dot per level; None without storage figures."""
    if not study.storage:
        return None
    names = sorted(study.storage, key=lambda name: (_stored(name, study.storage[name]), name))
    scale = byte_scale(_stored(name, study.storage[name]) for name in names)
    levels = len(study.storage[names[0]])
    sheet = Sheet([(0.3 * len(names) + 0.2, 0.0)], left=2.3, right=0.9, top=0.5)
    axes = sheet.axes[0]
    rows = np.arange(len(names))
    sizes = np.array([study.storage[name] for name in names], dtype=float) / scale.size
    axes.hlines(rows, sizes.min(axis=1), sizes.max(axis=1), color=INK, alpha=0.3, linewidth=1.2)
    shades = mpl.colormaps["viridis"](np.linspace(0.1, 0.85, levels))
    for level in range(levels):
        axes.plot(sizes[:, level], rows, "o", color=shades[level], markersize=8, label=f"level {level}")
    stored = [_stored(name, study.storage[name]) / scale.size for name in names]
    if levels > 1:
        axes.plot(
            stored, rows, "D", color="none", markeredgecolor=INK, markersize=7, label="stored, to have every level"
        )
    for row, size in enumerate(stored):
        axes.annotate(
            number(size, 3), (size, row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(rows, [_format_name(study, name) for name in names])
    axes.invert_yaxis()
    axes.set_xlim(left=0, right=1.06 * max(stored, default=1.0) or 1.0)
    axes.set_xlabel(f"weights and biases of the network ({scale.unit})")
    axes.grid(axis="x")
    sheet.figure.legend(loc="upper left", bbox_to_anchor=(0.01, 1.0), ncols=min(levels + 1, 8), columnspacing=1.2)
    return Picture(
        "storage",
        "Bytes of the weights by storage format",
        "Dots: bytes read to use a level. Diamond: bytes kept in memory so that every level is available: one copy "
        "where a level is a prefix of the next denser one (level_ordered) or tagged in it (level_tag), else one stream per "
        "level.",
        to_svg(sheet.figure, "storage"),
    )


def _stored(name: str, sizes: Sequence[int]) -> int:
    """Bytes that must be kept so that every level can be read."""
    return max(sizes) if name in ONE_COPY_FORMATS else sum(sizes)


def _format_name(study: Study, name: str) -> str:
    users = [label for label, result in labelled(study) if result.design.weight_format == name]
    return f"{name}  ◂ {users[0]}{' …' if len(users) > 1 else ''}" if users else name


def measured_figure(study: Study) -> Picture | None:
    """Accelerator latency (predicted) beside CPU latency (measured); None if nothing was executed."""
    executions = [x for x in study.executions if x.latency_median_s]
    if not executions:
        return None
    sheet = Sheet([(0.42 * len(executions) + 0.5, 0.95), (2.1, 0.0)], top=0.75)
    _absolute(sheet.axes[0], study, executions)
    _relative(sheet.axes[1], study, executions)
    handles, labels = sheet.axes[1].get_legend_handles_labels()
    sheet.figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.01, 1.0), ncols=2)
    return Picture(
        "measured",
        "Predicted accelerator latency beside measured CPU latency",
        "Two different machines: the upper panel says how far apart they are (logarithmic; whiskers: 10th to 90th percentile "
        "of the CPU runs), the lower one how well each turns fewer multiply-accumulates (dashed) into time.",
        to_svg(sheet.figure, "measured"),
    )


def _absolute(axes: Axes, study: Study, executions: Sequence[LevelExecution]) -> None:
    rows = {execution.level: row for row, execution in enumerate(executions)}
    for index, (_, result) in enumerate(labelled(study)):
        shown = [level for level in ordered_levels(result) if level.level in rows]
        axes.plot(
            [level.latency_s for level in shown], [rows[level.level] for level in shown],
            color=DESIGN_COLOURS[index % 6], marker=DESIGN_MARKERS[index % 6], linestyle="none", markersize=8,
        )  # fmt: skip
    for execution in executions:
        median = execution.latency_median_s or 0.0
        low, high = execution.latency_p10_s or median, execution.latency_p90_s or median
        axes.plot([low, high], [rows[execution.level]] * 2, color=INK, linewidth=2)
        axes.plot([median], [rows[execution.level]], color=INK, marker="X", markersize=8, markeredgecolor=PAPER)
    names = {level.level: level_name(level) for result in study.results for level in result.levels}
    axes.set_yticks(range(len(executions)), [names.get(x.level, f"level {x.level}") for x in executions])
    axes.set_ylim(len(executions) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("latency per inference")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _tick(seconds: float) -> str:
    scale = si_scale([seconds * 1.0001], "s")  # a power of ten that floating point put just below it
    return f"{seconds / scale.size:.3g} {scale.unit}"


def _relative(axes: Axes, study: Study, executions: Sequence[LevelExecution]) -> None:
    for index, (label, result) in enumerate(labelled(study)):
        levels = ordered_levels(result)
        values = [level.latency_s / levels[0].latency_s if levels[0].latency_s else 1.0 for level in levels]
        axes.plot(
            [level.level for level in levels], values,
            color=DESIGN_COLOURS[index % 6], marker=DESIGN_MARKERS[index % 6], label=f"{label} (predicted)",
        )  # fmt: skip
    first = executions[0]
    shown = [(x.level, (x.latency_median_s or 0.0) / (first.latency_median_s or 1.0)) for x in executions]
    axes.plot(*zip(*shown, strict=True), color=INK, marker="X", label="this computer's CPU (measured)")
    macs = [(x.level, x.macs / max(1, first.macs)) for x in executions]
    axes.plot(*zip(*macs, strict=True), color=INK, linestyle=(0, (4, 3)), linewidth=1.0, label="multiply-accumulates")
    numbers = sorted({x.level for x in executions} | {y.level for r in study.results for y in r.levels})
    axes.set_xticks(numbers, [f"level {n}" for n in numbers])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("relative to the\ndensest level")
    axes.grid(axis="y")
