"""What nesting costs at run time: levels from one store against private copies of them, and steps between levels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.planes import PlaneLayout
from ..sim.executor.simd.prior import likely_plan
from ..sim.executor.simd.product import Choice, Product
from ..sim.executor.simd.refine import refine
from ..sim.executor.simd.team import Call
from ..workloads.layers import Layer, conv
from ..workloads.nesting import NestedWeights, from_ranking
from ..workloads.sparsify.nm import NM
from .bench_executor import PRODUCTS, interleaved
from .progress import Progress

#: ResNet-50's 3x3 layers (channels, side of the map), beside the products of ``bench_executor``.
WINDOWS = ((64, 56), (128, 28), (256, 14), (512, 7))
#: Pattern -> names of its levels, densest first.
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "unstructured": ("50 %", "25 %", "13 %", "5 %"),
    "N:M": ("4:8", "2:8", "1:8"),
}
#: Pattern -> most that nesting may cost, as fractions: median and worst over layers and levels; None: no bar.
BARS: Mapping[str, tuple[float, float | None]] = {"unstructured": (0.15, None), "N:M": (0.02, 0.10)}
_DENSITIES = (0.5, 0.25, 0.13, 0.05)
ROUNDS = 25


@dataclass(frozen=True)
class LevelCost:
    """One layer at one level. ``cost``: time from the nested store / from a private copy of the level, same kernel, median
    of paired runs; ``step``: time of the step from the next sparser level / of the whole level (None for the sparsest)."""

    pattern: str
    level: str
    layer: str
    kernel: str
    cost: float
    step: float | None


@dataclass(frozen=True)
class Summary:
    """Medians and worst over the layers; costs as fractions of the private copy's time, steps of the level's time."""

    median: float
    worst: float
    step: float | None
    longest_step: float | None


def nested_costs(
    *, patterns: Sequence[str] = tuple(PATTERNS), rounds: int = ROUNDS, progress: Progress
) -> list[LevelCost]:
    """Every layer with every pattern at every level. One thread, CPU time, candidates in turn.

    Both stores run the kernel that is likely the fastest for the nested one: what is compared is the store.
    """
    layers = reference_layers()
    rows: list[LevelCost] = []
    for done, (pattern, layer) in enumerate(((p, x) for p in patterns for x in layers), start=1):
        weights = nested(layer, pattern)
        layouts = _layouts(layer)
        plan = likely_plan(layer, weights, *layouts)
        runs = _runs(layer, weights, layouts, plan.sparse)
        rows += _rows(pattern, layer, plan.sparse, interleaved(runs, rounds))
        progress("bench nested", done, len(layers) * len(patterns))
    return rows


def reference_layers() -> list[Layer]:
    """ResNet-50's 1x1 and 3x3 layers and BERT's feed-forward layers."""
    layers: list[Layer] = []
    for rows, reduction, positions in PRODUCTS:
        layers.append(conv(f"{rows}x{reduction}x{positions}", "input", C=reduction, H=1, W=positions, K=rows, R=1, S=1))
    for channels, side in WINDOWS:
        layers.append(conv(f"3x3 {channels}@{side}", "input", C=channels, H=side, W=side, K=channels, R=3, padding=1))
    return layers


def nested(layer: Layer, pattern: str) -> NestedWeights:
    """Normal weights of which the largest magnitudes stay: of the whole layer, or of every 8 input channels."""
    values = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
    if pattern == "N:M":
        return NM(m=8).sparsify_layer(values, (0.5, 0.25, 0.125)).weights
    return from_ranking(values, np.abs(values), _DENSITIES)


def private(weights: NestedWeights, level: int) -> NestedWeights:
    """A store of one level alone."""
    return NestedWeights(values=weights.values, keep=weights.mask(level).astype(np.uint8), levels=1, name=weights.name)


def _layouts(layer: Layer) -> tuple[PlaneLayout, PlaneLayout]:
    halo = layer.padding
    return PlaneLayout(layer.C, layer.H, layer.W, halo), PlaneLayout(layer.K, layer.P, layer.Q, halo)


def _runs(
    layer: Layer, weights: NestedWeights, layouts: tuple[PlaneLayout, PlaneLayout], choice: Choice
) -> dict[str, Callable[[], Any]]:
    """Per level the runs from the nested store ("nested"), from a private one ("own"), and from the level below ("step")."""
    source, target = layouts
    product = Product(layer, weights, source, target, choice=choice)
    x, work, bias = source.new(), [product.new_work()], np.zeros(layer.K, np.float32)
    source.view(x)[:] = np.random.default_rng(1).standard_normal((layer.C, layer.H, layer.W))
    out = target.new()
    runs: dict[str, Callable[[], Any]] = {}
    before: NDArray[np.float32] | None = None
    for level in reversed(range(weights.levels)):
        own = Product(layer, private(weights, level), source, target, choice=choice)
        calls = {"own": own.call(x, out, level=0, bias=bias, works=[own.new_work()])}
        calls["nested"] = product.call(x, out, level=level, bias=bias, works=work)
        if before is not None:
            calls["step"] = refine(product, before, level, coarser=level + 1, x=x, out=out, works=work)
        before = _checked(calls, out, f"{layer.name}, level {level}, {choice.label}")
        runs |= {f"{name} {level}": _repeatable(call) for name, call in calls.items()}
    return runs


def _checked(calls: Mapping[str, Call], out: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """The planes that every one of the calls computes."""
    found: list[NDArray[np.float32]] = []
    for call in calls.values():
        _repeatable(call)()
        found.append(out.copy())
    if any(not np.allclose(one, found[0], atol=1e-3) for one in found):
        raise RuntimeError(f"nested and private stores disagree: {what}")
    return found[0]


def _repeatable(call: Call) -> Callable[[], None]:
    def run() -> None:
        call.tasks[0] = 0
        call.run(0)

    return run


def _rows(pattern: str, layer: Layer, choice: Choice, seconds: Mapping[str, Sequence[float]]) -> list[LevelCost]:
    rows = []
    for level, name in enumerate(PATTERNS[pattern]):
        cost = _paired(seconds[f"nested {level}"], seconds[f"own {level}"])
        steps = seconds.get(f"step {level}")
        step = None if steps is None else _paired(steps, seconds[f"nested {level}"])
        rows.append(LevelCost(pattern, name, layer.name, choice.label, cost, step))
    return rows


def _paired(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def summary(rows: Sequence[LevelCost]) -> Summary:
    """Of the rows given: of a pattern, or of one of its levels."""
    costs = [row.cost - 1 for row in rows]
    steps = [row.step for row in rows if row.step is not None]
    return Summary(
        statistics.median(costs), max(costs), statistics.median(steps) if steps else None, max(steps) if steps else None
    )


def missed_bars(rows: Sequence[LevelCost]) -> list[str]:
    """One text per bar of :data:`BARS` that is not met."""
    missed = []
    for pattern in dict.fromkeys(row.pattern for row in rows):
        found = summary([row for row in rows if row.pattern == pattern])
        for name, value, bar in zip(("median", "worst"), (found.median, found.worst), BARS[pattern], strict=True):
            if bar is not None and value > bar:
                missed.append(f"{pattern}: {name} cost {value:.1%}, the bar is {bar:.0%}")
    return missed


def markdown(rows: Sequence[LevelCost]) -> str:
    """Cost of the nested store and of a step, per pattern and level and in all."""
    lines = [
        "| pattern | level | cost, median | worst | step / level, median | longest |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for pattern in dict.fromkeys(row.pattern for row in rows):
        of_pattern = [row for row in rows if row.pattern == pattern]
        for level in (*dict.fromkeys(row.level for row in of_pattern), "all"):
            found = summary([row for row in of_pattern if level in (row.level, "all")])
            steps = "- | -" if found.step is None else f"{found.step:.2f} | {found.longest_step:.2f}"
            lines.append(f"| {pattern} | {level} | {found.median:+.1%} | {found.worst:+.1%} | {steps} |")
    return "\n".join(lines)
