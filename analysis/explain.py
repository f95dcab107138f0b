"""`nestling explain LAYER`: one layer under the microscope, and what statistical density models would have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..accel.design import Design
from ..sim.results import LayerResult
from ..sim.simulate import simulate
from ..traces.density import DENSITY_MODELS, with_density_model
from ..traces.trace import Trace
from ..workloads.errors import unknown_name


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
                    "counts": dict(result.counts),
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
