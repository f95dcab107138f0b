"""A study as tables: per level, per layer, tidy (one row per action), for the terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from ..accel.energy import COMPONENTS, energy_by_component_j, unit_energies_pj
from ..sim.pipeline import CycleSplit
from ..sim.results import LayerResult, LevelResult, Result
from .dram_tables import dram_columns, dram_json, terminal_dram
from .fitted_table import Column, FittedTable
from .host_prediction import host_facts, host_table, relative_error
from .study import LevelExecution, Study, execution_at, labelled
from .units import Scale, byte_scale, number, percent, si_scale

#: Parts of a layer's cycles, in the order every table and figure shows them.
SPLIT_PARTS = tuple(CycleSplit.__dataclass_fields__)
#: Components grouped for narrow tables.
GROUPS = {
    "DRAM": ("dram",),
    "buffers": ("weight_buffer", "input_buffer", "output_buffer", "pe_memory"),
    "array": ("registers", "mac"),
}
NOT_MEASURED = "not measured"
#: Columns of the terminal table that a narrow terminal goes without, the highest number first.
_DROPPED = {"CPU": 5, "array": 4, "buffers": 3, "DRAM": 2, "MACs": 1}


def ordered_levels(result: Result) -> list[LevelResult]:
    """The levels of a result, densest first, whatever order they were asked for in."""
    return sorted(result.levels, key=lambda level: level.level)


def level_name(level: LevelResult) -> str:
    """How figures name a level: number and density."""
    return f"level {level.level} · {percent(level.density, 3)}"


def level_table(study: Study) -> pd.DataFrame:
    """One row per design and level.

    Columns: design, point, level, density (fraction of weights), weight_bytes, macs, accuracy (fraction, NaN where not
    measured), cycles, latency_ms, energy_mj, ``<component>_mj`` and cpu_latency_ms (median, NaN where not measured).
    """
    rows = []
    for label, result in labelled(study):
        for level in ordered_levels(result):
            execution = execution_at(study, level.level)
            energy = level.energy_by_component_j
            rows.append(
                {
                    "design": label,
                    "point": result.point.name,
                    "level": level.level,
                    "density": level.density,
                    "weight_bytes": level.weight_bytes,
                    "macs": level.macs,
                    "accuracy": _accuracy(execution),
                    "cycles": level.cycles,
                    "latency_ms": level.latency_s * 1e3,
                    "energy_mj": level.energy_j * 1e3,
                    **{f"{name}_mj": energy.get(name, 0.0) * 1e3 for name in COMPONENTS},
                    "cpu_latency_ms": _cpu_latency_s(execution) * 1e3,
                }
            )
    return pd.DataFrame(rows)


def layer_table(study: Study) -> pd.DataFrame:
    """One row per design, level and layer, in execution order.

    Columns: design, point, level, index, layer, op, cycles and its parts (``compute_cycles`` ...), utilisation, idle_share
    (of the multiplier-cycles of the compute steps), tiles,
    weight_bytes, compulsory_bytes (every operand once), dram_bytes (modelled, both directions), energy_j and
    ``<component>_j``, and one column per action count (0 where a design has no such action). With a command-level DRAM also
    dram_row_hit_rate, dram_bytes_per_s, ``dram_<command>_j`` and dram_flat_j (the same bytes at 100 pJ/byte).
    """
    rows = [
        {"design": label, "point": result.point.name, "level": level.level, "index": index} | _layer_row(layer)
        for label, result in labelled(study)
        for level in ordered_levels(result)
        for index, layer in enumerate(level.layers)
    ]
    table = pd.DataFrame(rows)
    actions = sorted({name for result in study.results for x in result.levels for y in x.layers for name in y.counts})
    table[actions] = table[actions].fillna(0).astype("int64")
    return table


def _layer_row(layer: LayerResult) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "op": layer.op,
        "cycles": layer.cycles,
        **{f"{part}_cycles": getattr(layer.split, part) for part in SPLIT_PARTS},
        "utilisation": layer.utilisation,
        "idle_share": layer.idle_share,
        "tiles": layer.tiles,
        "weight_bytes": layer.weight_bytes,
        "compulsory_bytes": layer.compulsory_bytes,
        "dram_bytes": layer.counts.get("dram_read_bytes", 0) + layer.counts.get("dram_write_bytes", 0),
        "energy_j": sum(layer.energy_j.values()),
        **{f"{name}_j": layer.energy_j.get(name, 0.0) for name in COMPONENTS},
        **dram_columns(layer.dram),
        **layer.counts,
    }


def tidy(study: Study) -> pd.DataFrame:
    """The long table: network, design, point, level, layer, component, action, count, cycles, energy_j.

    A row holds either an action (count, energy; component '' for bookkeeping that costs no energy of its own) or a part of
    the layer's time (component 'time', cycles). So each column sums to the layer's, the level's and the network's total.
    """
    rows: list[tuple[Any, ...]] = []
    for label, result in labelled(study):
        prices = _unit_energies_j(result)
        for level in ordered_levels(result):
            for layer in level.layers:
                head = (study.network, label, result.point.name, level.level, layer.layer)
                rows += [(*head, *row) for row in _tidy_rows(layer, prices)]
    columns = ("network", "design", "point", "level", "layer", "component", "action", "count", "cycles", "energy_j")
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _tidy_rows(layer: LayerResult, prices: dict[str, tuple[str, float]]) -> Iterable[tuple[str, str, int, int, float]]:
    for part in SPLIT_PARTS:
        yield "time", part, 0, getattr(layer.split, part), 0.0
    for action, count in layer.counts.items():
        component, joules = prices.get(action, ("", 0.0))
        yield component, action, count, 0, count * joules
    for pattern, macs in layer.patterns.items():
        yield "", f"mac_run_as_{pattern}", macs, 0, 0.0
    yield "leakage", "leakage_cycles", layer.cycles, 0, layer.cycles * prices["leakage_cycles"][1]


def _unit_energies_j(result: Result) -> dict[str, tuple[str, float]]:
    """Action -> (component, joules per count) at the result's operating point; energy is linear in the counts."""
    prices: dict[str, tuple[str, float]] = {}
    for action, (component, _) in unit_energies_pj(result.design).items():
        once = energy_by_component_j({action: 1}, cycles=0, design=result.design, point=result.point)
        prices[action] = (component, once[component])
    leakage = energy_by_component_j({}, cycles=1, design=result.design, point=result.point)["leakage"]
    return prices | {"leakage_cycles": ("leakage", leakage)}


def to_json(study: Study) -> dict[str, Any]:
    """The machine-readable contract of README.md.

    The top level describes the first design; with several, ``designs`` holds one such object each. Of two runs of the same
    command only ``cpu_latency_s`` and ``measured`` (clock readings of this computer) may differ. The command line is left
    out: it names output folders.
    """
    designs = [
        {
            "accelerator": label,
            "operating_point": result.point.model_dump(mode="json"),
            "levels": [_level_json(level, execution_at(study, level.level)) for level in ordered_levels(result)],
            "warnings": list(result.warnings),
        }
        for label, result in labelled(study)
    ]
    head: dict[str, Any] = {
        "network": study.network,
        "source": study.source,
        "params": study.params,
        "version": study.version,
        "seed": study.seed,
        "trace_digest": study.results[0].trace_digest,
        "storage_bytes": {name: [int(size) for size in sizes] for name, sizes in study.storage.items()},
        "measured": {
            "levels": [_measured_json(execution) for execution in study.executions],
            "notes": list(study.execution_notes),
            "host_cpu": host_facts(study.host),
        },
    }
    if study.skipped:
        head["skipped"] = dict(study.skipped)
    if len(designs) > 1:
        head["designs"] = [{"network": study.network} | design for design in designs]
    return head | designs[0]


def _level_json(level: LevelResult, execution: LevelExecution | None) -> dict[str, Any]:
    energy = level.energy_by_component_j
    return {
        "level": level.level,
        "density": level.density,
        "weight_bytes": level.weight_bytes,
        "macs": level.macs,
        "accuracy": _or_none(_accuracy(execution)),
        "cycles": level.cycles,
        "latency_s": level.latency_s,
        "energy_j": level.energy_j,
        "energy_by_component_j": {name: energy.get(name, 0.0) for name in COMPONENTS},
        "dram": dram_json(level.dram),
        "cycle_split": {part: getattr(level.split, part) for part in SPLIT_PARTS},
        "cpu_latency_s": _or_none(_cpu_latency_s(execution)),
    }


def _measured_json(execution: LevelExecution) -> dict[str, Any]:
    return {
        "level": execution.level,
        "images": execution.images,
        "macs": execution.macs,
        "cpu_latency_median_s": _or_none(execution.latency_median_s),
        "cpu_latency_p10_s": _or_none(execution.latency_p10_s),
        "cpu_latency_p90_s": _or_none(execution.latency_p90_s),
        "max_relative_error": _or_none(execution.max_error),
        "cpu_time_median_s": _or_none(execution.cpu_median_s),
        "cpu_time_predicted_s": _or_none(execution.cpu_predicted_s),
        "cpu_prediction_error": _or_none(relative_error(execution)),
    }


def _or_none(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def terminal_table(study: Study) -> list[FittedTable | Table]:
    """One table per design, whole in 100 columns, then what command-level DRAMs did, and the CPU as a design."""
    designs = [_design_table(study, label, result) for label, result in labelled(study)]
    return [*designs, *terminal_dram(study), *([host_table(study.executions)] if study.executions else [])]


def _design_table(study: Study, label: str, result: Result) -> FittedTable:
    levels = ordered_levels(result)
    executions = [execution_at(study, level.level) for level in levels]
    scales = {
        "weights": byte_scale(level.weight_bytes for level in levels),
        "MACs": si_scale((level.macs for level in levels), "", smallest=1),
        "cycles": _cycles_scale(levels),
        "latency": si_scale((level.latency_s for level in levels), "s"),
        "energy": si_scale((level.energy_j for level in levels), "J"),
        "CPU": si_scale((_cpu_latency_s(execution) for execution in executions), "s"),
    }
    units = {name: scale.unit for name, scale in scales.items()} | dict.fromkeys(GROUPS, scales["energy"].unit)
    title = f"{label} at {result.point.clock_hz / 1e6:g} MHz, {result.point.voltage_v:g} V ({result.point.name})"
    names = ("level", "density", "weights", "MACs", "accuracy", "cycles", "latency", "energy", *GROUPS, "CPU")
    rows = [_terminal_row(level, execution, scales) for level, execution in zip(levels, executions, strict=True)]
    columns = [
        Column(f"{name}\n{units[name]}" if units.get(name) else name, cells, rank=_DROPPED.get(name, 0))
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return FittedTable(title, columns, compact=True)


def _terminal_row(level: LevelResult, execution: LevelExecution | None, scales: dict[str, Scale]) -> Sequence[str]:
    energy = level.energy_by_component_j
    groups = (sum(energy.get(name, 0.0) for name in names) for names in GROUPS.values())
    cycles = scales["cycles"]
    return (
        str(level.level),
        percent(level.density),
        scales["weights"].number(level.weight_bytes),
        scales["MACs"].number(level.macs),
        accuracy_text(execution),
        number(level.cycles) if cycles.size == 1 else cycles.number(level.cycles, 6),
        scales["latency"].number(level.latency_s),
        scales["energy"].number(level.energy_j),
        *(scales["energy"].number(joules, 3) for joules in groups),
        scales["CPU"].number(_cpu_latency_s(execution)),
    )


def accuracy_text(execution: LevelExecution | None) -> str:
    """The measured accuracy in percent, or that nobody measured it."""
    return NOT_MEASURED if execution is None or execution.accuracy is None else f"{execution.accuracy:.2%}"


def _accuracy(execution: LevelExecution | None) -> float:
    return math.nan if execution is None or execution.accuracy is None else float(execution.accuracy)


def _cpu_latency_s(execution: LevelExecution | None) -> float:
    if execution is None or execution.latency_median_s is None:
        return math.nan
    return float(execution.latency_median_s)


def _cycles_scale(levels: Sequence[LevelResult]) -> Scale:
    """Exact cycles as long as they fit the column."""
    most = max((level.cycles for level in levels), default=0)
    return Scale(1.0, "") if most < 1e8 else Scale(1e6, "M")
