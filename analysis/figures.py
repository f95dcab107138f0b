"""The figures of a report, each a function from a study to a picture (or None where there is nothing to show)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from ..accel.energy import COMPONENTS
from ..sim.results import LevelResult, Result
from .detail_figures import measured_figure, storage_figure, timeline_figure
from .figure_style import (
    COMPONENT_COLOURS,
    DESIGN_COLOURS,
    DESIGN_MARKERS,
    INK,
    PAPER,
    SHOWN_NAMES,
    SPLIT_COLOURS,
    Picture,
    Sheet,
    ink_on,
    style,
    to_svg,
)
from .study import Study, execution_at, labelled
from .tables import SPLIT_PARTS, level_name, ordered_levels
from .units import Scale, number, si_scale

#: Up to this many layers, every cell of the utilisation map carries its number.
_NUMBERED_LAYERS = 24
_NAME_POINTS = 9.0
_CELL_TEXT_FROM = 0.55  # of the colour map: dark text on the light end


def draw_all(study: Study) -> list[Picture]:
    """Every figure that the study has data for, in the order of the report."""
    makers: tuple[Callable[[Study], Picture | None], ...] = (
        energy_figure,
        latency_figure,
        tradeoff_figure,
        utilisation_figure,
        timeline_figure,
        storage_figure,
        measured_figure,
    )
    with style():
        return [picture for picture in (make(study) for make in makers) if picture is not None]


def energy_figure(study: Study) -> Picture:
    """Energy of one inference per level and design, stacked by component."""
    parts = {label: [level.energy_by_component_j for level in ordered_levels(r)] for label, r in labelled(study)}
    totals = [level.energy_j for result in study.results for level in result.levels]
    sheet = _stacked_bars(
        study, parts, names=COMPONENTS, colours=COMPONENT_COLOURS, scale=si_scale(totals, "J"), quantity="energy"
    )
    return Picture(
        "energy",
        "Energy per inference by component",
        "Each bar is one level; the number at its end is the total. What does not shrink with the level is the price of "
        "moving activations and of hardware that does not skip.",
        to_svg(sheet.figure, "energy"),
    )


def latency_figure(study: Study) -> Picture:
    """Latency of one inference per level and design, split by what the array was doing."""
    parts = {
        label: [
            {name: getattr(level.split, name) / level.clock_hz for name in SPLIT_PARTS} for level in ordered_levels(r)
        ]
        for label, r in labelled(study)
    }
    totals = [level.latency_s for result in study.results for level in result.levels]
    sheet = _stacked_bars(
        study, parts, names=SPLIT_PARTS, colours=SPLIT_COLOURS, scale=si_scale(totals, "s"), quantity="latency"
    )
    return Picture(
        "latency",
        "Where the time goes",
        "Compute: the array issues work. DRAM stall: it waits for data from DRAM. Load stall: the data are on chip, but the "
        "bus into the array is busy. Output stall: finished outputs block it. The parts add up to the latency exactly.",
        to_svg(sheet.figure, "latency"),
    )


def _stacked_bars(
    study: Study,
    parts: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    names: Sequence[str],
    colours: Mapping[str, str],
    scale: Scale,
    quantity: str,
) -> Sheet:
    """One panel per design, one horizontal bar per level; panels share the axis so that lengths compare."""
    shown = [name for name in names if any(bar.get(name, 0.0) > 0 for bars in parts.values() for bar in bars)]
    sheet = Sheet([(0.34 * len(bars) + 0.1, 0.42) for bars in parts.values()], top=0.75)
    sheet.legend([(SHOWN_NAMES.get(name, name.replace("_", " ")), colours[name]) for name in shown], columns=8)
    widest = max((sum(bar.values()) for bars in parts.values() for bar in bars), default=0.0) / scale.size
    for axes, (label, result), bars in zip(sheet.axes, labelled(study), parts.values(), strict=True):
        rows = np.arange(len(bars))
        left = np.zeros(len(bars))
        for name in shown:
            width = np.array([bar.get(name, 0.0) for bar in bars]) / scale.size
            axes.barh(rows, width, left=left, height=0.72, color=colours[name], edgecolor=PAPER, linewidth=0.4)
            _label_segments(axes, left, width, widest=widest, colour=ink_on(colours[name]))
            left += width
        for row, total in zip(rows.tolist(), left.tolist(), strict=True):
            axes.text(total + 0.008 * widest, row, f"{number(total)} {scale.unit}", va="center", fontweight="bold")
        axes.set_title(label)
        axes.set_yticks(rows, [level_name(level) for level in ordered_levels(result)])
        axes.invert_yaxis()
        axes.set_xlim(0, widest * 1.09 or 1.0)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelbottom=axes is sheet.axes[-1])
        axes.grid(axis="x")
    sheet.axes[-1].set_xlabel(f"{quantity} per inference ({scale.unit})")
    return sheet


def _label_segments(
    axes: Axes, left: NDArray[np.float64], width: NDArray[np.float64], *, widest: float, colour: str
) -> None:
    """The value inside every segment that is wide enough to hold it."""
    for row, (start, size) in enumerate(zip(left.tolist(), width.tolist(), strict=True)):
        if size > 0.055 * widest:
            axes.text(start + size / 2, row, number(size, 3), ha="center", va="center", color=colour, fontsize=8.5)


def tradeoff_figure(study: Study) -> Picture:
    """Accuracy against energy; density against energy where nobody measured the accuracy."""
    measured = any(x.accuracy is not None for x in study.executions)
    scale = si_scale((level.energy_j for result in study.results for level in result.levels), "J")
    sheet = Sheet([(3.3, 0.0)], left=0.9, top=0.25, right=2.1)
    axes = sheet.axes[0]
    points: list[tuple[float, float]] = []
    for index, (label, result) in enumerate(labelled(study)):
        points += _draw_design(axes, study, result, label=label, index=index, scale=scale, measured=measured)
    draw_frontier(axes, points)
    axes.set_xlabel(f"energy per inference ({scale.unit})")
    axes.set_ylabel("accuracy" if measured else "weights kept")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    images = max((x.images for x in study.executions), default=0)
    title = "Accuracy against energy" if measured else "Weights kept against energy (accuracy not measured)"
    help_text = (
        f"Up and to the left is better; the dashed line joins what no other point beats. Bars: 95 % Wilson interval of "
        f"{images:,} images."
        if measured
        else "This network was not executed on labelled images, so density stands in for quality: it says how much of the "
        "network is left, not how well it answers."
    )
    return Picture("tradeoff", title, help_text, to_svg(sheet.figure, "tradeoff"))


def _draw_design(
    axes: Axes, study: Study, result: Result, *, label: str, index: int, scale: Scale, measured: bool
) -> list[tuple[float, float]]:
    """One line with a labelled point per level; returns the points."""
    colour = DESIGN_COLOURS[index % len(DESIGN_COLOURS)]
    marker = DESIGN_MARKERS[index % len(DESIGN_MARKERS)]
    points: list[tuple[float, float]] = []
    for level in ordered_levels(result):
        height = _height(study, level, measured)
        if height is None:
            continue
        at = level.energy_j / scale.size
        points.append((at, height))
        axes.annotate(f"L{level.level}", (at, height), xytext=(6, 6), textcoords="offset points", color=colour)
        execution = execution_at(study, level.level)
        if measured and execution is not None:
            axes.plot([at, at], wilson_interval(height, execution.images), color=colour, linewidth=1.2, alpha=0.7)
    x, y = [point[0] for point in points], [point[1] for point in points]
    axes.plot(x, y, color=colour, marker=marker, markersize=7, linewidth=1.6, label=label, markeredgecolor=PAPER)
    return points


def _height(study: Study, level: LevelResult, measured: bool) -> float | None:
    if not measured:
        return level.density
    execution = execution_at(study, level.level)
    return None if execution is None else execution.accuracy


def wilson_interval(fraction: float, images: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, JASA 22, 1927)."""
    if images < 1:
        return 0.0, 1.0
    z = 1.959963984540054
    centre = (fraction + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * np.sqrt(fraction * (1 - fraction) / images + z * z / (4 * images * images))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, gain) that no other point beats in one and equals or beats in the other, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def draw_frontier(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    front = pareto_front(points)
    if len(front) > 1:
        x, y = zip(*front, strict=True)
        axes.plot(x, y, color=INK, linestyle=(0, (4, 3)), linewidth=1.0, zorder=0, drawstyle="steps-post")


def utilisation_figure(study: Study) -> Picture | None:
    """Heat map levels x layers per design, with each layer's share of the cycles above it; None without layers."""
    if not all(level.layers for result in study.results for level in result.levels):
        return None
    longest = max(len(layer.layer) for result in study.results for layer in result.levels[0].layers)
    count = max(len(result.levels[0].layers) for result in study.results)
    panels = [(height, gap) for r in study.results for height, gap in ((0.5, 0.08), (0.3 * len(r.levels), 0.4))]
    size = _NAME_POINTS if count <= _NUMBERED_LAYERS else _NAME_POINTS * 0.8
    sheet = Sheet(panels, right=0.9, top=0.35, bottom=min(2.4, 0.1 + 0.62 * size / 72 * longest))
    top = max((layer.utilisation for r in study.results for x in r.levels for layer in x.layers), default=0.0)
    top = min(1.0, max(0.25, np.ceil(top * 4) / 4))
    for index, (label, result) in enumerate(labelled(study)):
        _cycle_shares(sheet.axes[2 * index], ordered_levels(result)[0], title=label)
        _heat_map(
            sheet.axes[2 * index + 1], result, top=top, name_points=size if index == len(study.results) - 1 else 0.0
        )
    numbered = count <= _NUMBERED_LAYERS
    _colour_key(sheet, top)
    return Picture(
        "utilisation",
        "Utilisation of the multipliers, layer by layer",
        "Colour: multiply-accumulates with both operands non-zero per multiplier-cycle"
        f"{' (percent)' if numbered else ''}, layers from left to right in execution order. The bars above say how much of "
        "the densest level's time each layer takes: a dark cell matters where its bar is tall.",
        to_svg(sheet.figure, "utilisation"),
    )


def _cycle_shares(axes: Axes, level: LevelResult, *, title: str) -> None:
    cycles = np.array([layer.cycles for layer in level.layers], dtype=float)
    shares = cycles / max(1.0, cycles.sum())
    axes.bar(np.arange(cycles.size), shares, width=0.9, color=INK, alpha=0.55)
    axes.set_title(title)
    axes.set_xlim(-0.5, cycles.size - 0.5)
    axes.set_xticks([])
    axes.set_ylabel("cycles", rotation=0, ha="right", va="center")
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _heat_map(axes: Axes, result: Result, *, top: float, name_points: float) -> None:
    levels = ordered_levels(result)
    values = np.array([[layer.utilisation for layer in level.layers] for level in levels])
    count = values.shape[1]
    colours = mpl.colormaps["cividis"]
    axes.pcolormesh(
        np.arange(count + 1) - 0.5, np.arange(len(levels) + 1) - 0.5, values, cmap=colours, vmin=0, vmax=top,
        edgecolors="face", linewidth=0.2,
    )  # fmt: skip
    axes.set_yticks(np.arange(len(levels)), [level_name(level) for level in levels])
    axes.invert_yaxis()
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    if count <= _NUMBERED_LAYERS:
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > _CELL_TEXT_FROM * top else "white"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    stride = max(1, -(-count // 54))
    ticks = np.arange(0, count, stride) if name_points else np.arange(0)
    labels = [levels[0].layers[i].layer for i in ticks.tolist()]
    axes.set_xticks(ticks, labels, rotation=90, fontsize=name_points or None)


def _colour_key(sheet: Sheet, top: float) -> None:
    """The colours from 0 to ``top`` beside the first map."""
    box = sheet.axes[1].get_position()
    axes = sheet.figure.add_axes((box.x1 + 0.015, box.y0, 0.014, max(box.height, 0.9 / sheet.total)))
    steps = np.linspace(0, top, 21)
    axes.pcolormesh([0, 1], steps, steps[:-1, None], cmap="cividis", edgecolors="face", linewidth=0.2)
    axes.yaxis.tick_right()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks([])
    axes.set_yticks([0, top / 2, top])
    axes.tick_params(length=0)
