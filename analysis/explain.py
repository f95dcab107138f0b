"""`nestling explain LAYER`: one layer under the microscope, and what statistical density models would have said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..accel.design import Design
from ..sim.results import LayerResult
from ..sim.simulate import simulate
from ..traces.density import DENSITY_MODELS, with_density_model
from ..traces.trace import Trace
from ..workloads.errors import unknown_name
from .fitted_table import Column, FittedTable


@dataclass(frozen=True)
class ModelError:
    """One density model's answer for a layer at a level, and its error against the actual masks (fractions)."""

    model: str
    cycles: int
    energy_j: float
    cycles_error: float
    energy_error: float


@dataclass(frozen=True)
class Explanation:
    """A layer on a design: per level its result on the actual masks and each model's answer."""

    layer: str
    design: str
    results: Sequence[LayerResult]
    models: Sequence[Sequence[ModelError]]

    def to_json(self) -> dict[str, Any]:
        levels = []
        for result, models in zip(self.results, self.models, strict=True):
            levels.append(
                {
                    "level": result.level,
                    "cycles": result.cycles,
                    "energy_j": sum(result.energy_j.values()),
                    "utilisation": result.utilisation,
                    "split": vars(result.split),
                    "idle_share": result.idle_share,
                    "counts": dict(result.counts),
                    "patterns": dict(result.patterns),
                    "compulsory_bytes": result.compulsory_bytes,
                    "density_models": [vars(model) for model in models],
                }
            )
        return {"layer": self.layer, "design": self.design, "levels": levels}


def explain(
    trace: Trace,
    design: Design,
    layer: str,
    *,
    point: str | None = None,
    levels: Sequence[int] | None = None,
    seed: int = 0,
) -> Explanation:
    """Simulate one layer with its actual masks and under every density model.

    Raises
    ------
    InputError
        for a layer, level or operating point that does not exist.
    """
    chosen = [entry for entry in trace.layers if entry.layer.name == layer]
    if not chosen:
        raise unknown_name("layer", layer, [entry.layer.name for entry in trace.layers])
    alone = replace(trace, layers=tuple(chosen), data_movement=())
    by_model: dict[str, list[LayerResult]] = {}
    for model in DENSITY_MODELS:
        result = simulate(with_density_model(alone, model, seed=seed), design, point=point, levels=levels)
        by_model[model] = [level.layers[0] for level in result.levels]
    actual = by_model["actual"]
    models = [
        [_model_error(name, answers[i], actual[i]) for name, answers in by_model.items()] for i in range(len(actual))
    ]
    return Explanation(layer=layer, design=design.name, results=actual, models=models)


def _model_error(name: str, answer: LayerResult, actual: LayerResult) -> ModelError:
    energy, truth = sum(answer.energy_j.values()), sum(actual.energy_j.values())
    return ModelError(
        model=name,
        cycles=answer.cycles,
        energy_j=energy,
        cycles_error=answer.cycles / max(1, actual.cycles) - 1,
        energy_error=energy / truth - 1 if truth else 0.0,
    )


def terminal_explanation(explanation: Explanation) -> list[FittedTable]:
    """Where the layer's work, cycles and bytes went per level, and what density models make of it."""
    return [_work_table(explanation), _models_table(explanation)]


def _work_table(explanation: Explanation) -> FittedTable:
    results = explanation.results
    rows = _WORK | {f"MACs run as {name}": _pattern_text(name) for name in results[0].patterns} | _TIME
    columns = [Column("per inference", list(rows), left=True)]
    columns += [Column(f"level {r.level}", [text(r) for text in rows.values()]) for r in results]
    return FittedTable(f"{explanation.layer} on {explanation.design}", columns, overflow="below")


def _count_text(name: str) -> Callable[[LayerResult], str]:
    return lambda result: f"{result.counts[name]:,}"


def _pattern_text(name: str) -> Callable[[LayerResult], str]:
    def text(result: LayerResult) -> str:
        macs = result.patterns[name]
        return f"{macs:,} ({macs / max(1, result.counts['mac_dense']):.1%})"

    return text


#: Rows of the work table: what becomes of the dense MACs, and of the multipliers' time.
_WORK: dict[str, Callable[[LayerResult], str]] = {
    "effectual MACs (both non-zero)": _count_text("mac_effectual"),
    "computed with a zero operand": _count_text("mac_ineffectual"),
    "gated MACs": _count_text("mac_gated"),
    "skipped MACs": _count_text("mac_skipped"),
    "= dense MACs": _count_text("mac_dense"),
    "multiplier-cycles, computing": _count_text("pe_slots"),
    "  idle": lambda r: f"{r.counts['pe_idle']:,} ({r.idle_share:.1%})",
    "utilisation, stalls included": lambda r: f"{r.utilisation:.1%}",
}
_TIME: dict[str, Callable[[LayerResult], str]] = {
    "cycles": lambda r: f"{r.cycles:,}",
    "  compute": lambda r: f"{r.split.compute:,}",
    "  DRAM stall": lambda r: f"{r.split.dram_stall:,}",
    "  load stall": lambda r: f"{r.split.load_stall:,}",
    "  output stall": lambda r: f"{r.split.output_stall:,}",
    "  fill and drain": lambda r: f"{r.split.fill_drain:,}",
    "DRAM read, bytes": _count_text("dram_read_bytes"),
    "  compulsory": lambda r: f"{r.compulsory_bytes:,}",
    "DRAM written, bytes": _count_text("dram_write_bytes"),
    "energy": lambda r: f"{sum(r.energy_j.values()) * 1e6:,.3f} µJ",
}


def _models_table(explanation: Explanation) -> FittedTable:
    pairs = zip(explanation.results, explanation.models, strict=True)
    rows = [(result.level, m) for result, models in pairs for m in models]

    def errors(name: str) -> list[str]:
        return ["-" if m.model == "actual" else f"{getattr(m, name):+.2%}" for _, m in rows]

    return FittedTable(
        "the same layer under density models (error against the actual masks)",
        (
            Column("level", [str(level) for level, _ in rows]),
            Column("model", [m.model for _, m in rows], left=True),
            Column("cycles", [f"{m.cycles:,}" for _, m in rows]),
            Column("error", errors("cycles_error")),
            Column("energy", [f"{m.energy_j * 1e6:,.3f} µJ" for _, m in rows]),
            Column("error", errors("energy_error")),
        ),
    )
