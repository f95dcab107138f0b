"""One self-contained HTML file that explains a study: nothing is fetched, everything is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..accel.energy import COMPONENTS
from ..sim.results import LayerResult, LevelResult, Result
from ..workloads.errors import InputError
from ..workloads.weights_file import write_atomically
from .dram_tables import report_dram
from .figure_style import SHOWN_NAMES, Picture
from .figures import draw_all
from .host_prediction import NOTE as HOST_NOTE
from .host_prediction import host_facts, host_table
from .study import LevelExecution, Study, execution_at, labelled
from .tables import accuracy_text, ordered_levels
from .units import Scale, byte_scale, number, percent, si_scale

_TEMPLATES = Path(__file__).parent / "templates"

#: Term -> meaning, for readers who know hardware or networks but not both.
GLOSSARY = {
    "level": "one of several nested sparse versions of a network; level 0 is the densest, and every level's weights are a "
    "subset of those of the level before it",
    "density": "share of the prunable weights that a level keeps",
    "MAC": "multiply-accumulate; counted here only where the weight is not zero",
    "effectual, with a zero, gated, skipped": "a MAC of two non-zero operands; one that is computed although an operand is "
    "zero; one that is issued with the multiplier held still because an operand is zero; one that costs no issue slot at "
    "all; they add up to the dense MACs",
    "idle": "share of the multiplier-cycles of the compute steps in which a multiplier starts nothing",
    "utilisation": "share of all multiplier-cycles of a layer, stalls included, that serve effectual MACs; a lane of a "
    "bit-serial array spends one per set bit of the input",
    "tile": "the piece of a layer that the array computes at a time; it is fetched, loaded, computed, drained and stored",
    "compulsory bytes": "weights and inputs of a layer, each once: what buffers without limits would fetch from DRAM",
    "compute": "cycles in which the array issues work",
    "DRAM stall, load stall, output stall": "cycles in which the array waits for data from DRAM; for the bus although the "
    "data are on chip; for finished outputs to leave",
    "fill and drain": "cycles before the first and after the last issue of each layer",
    "ACT, row hit, refresh": "a DRAM row is opened (and closed again); an access that finds its row open; the rewriting of "
    "all cells every few microseconds",
    "operating point": "a clock frequency and the supply voltage it needs",
    "verified": "somebody looked the number up in the stated source; unverified numbers are listed among the warnings",
    "energy": "action counts times energy per action; on-chip dynamic energy scales with the square of the voltage",
}


def write_report(study: Study, path: Path, *, first: Sequence[Picture] = ()) -> None:
    """Write the report of ``study`` to ``path``; the old file or the new one is seen, never half of one.

    ``first``: pictures that stand before the report's own. Two calls with equal studies write equal bytes.

    Raises
    ------
    InputError
        for a study without results.
    """
    write_atomically(path, render_report(study, first=first).encode("utf-8"))


def render_report(study: Study, *, first: Sequence[Picture] = ()) -> str:
    """The report as HTML text."""
    if not study.results:
        raise InputError(f"the study of '{study.network}' has no results to report")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        study=study,
        headline=headline(study),
        comparison=comparison(study),
        cards=_cards(study),
        level_numbers=sorted({level.level for result in study.results for level in result.levels}),
        components=[SHOWN_NAMES.get(name, name.replace("_", " ")) for name in COMPONENTS],
        units=_units(study),
        host=_host(study),
        warnings=_warnings(study),
        # Markup is safe here: the SVG writer has escaped every name in it.
        pictures=[(picture, Markup(picture.svg)) for picture in (*first, *draw_all(study))],
        layers=_layer_rows(study),
        dram=report_dram(study),
        designs=[_design(study, label, result) for label, result in labelled(study)],
        glossary=GLOSSARY,
    )


def headline(study: Study) -> str:
    """What the sparsest level costs beside the densest, on the first design."""
    label, result = labelled(study)[0]
    levels = ordered_levels(result)
    first, last = levels[0], levels[-1]
    if len(levels) == 1:
        energy, time = (si_scale([x], unit).text(x) for x, unit in ((first.energy_j, "J"), (first.latency_s, "s")))
        return f"{_name(first)} of {study.network} needs {energy} and {time} per inference on {label}."
    base = "the dense level" if first.density == 1.0 else f"level {first.level} ({percent(first.density, 3)})"
    return (
        f"{_name(last)} needs {_ratio(last.energy_j, first.energy_j)} the energy and "
        f"{_ratio(last.latency_s, first.latency_s)} the time of {base}{_accuracy_change(study, first, last)} on {label}."
    )


def _name(level: LevelResult) -> str:
    return f"Level {level.level} ({percent(level.density, 3)} of the weights)"


def _ratio(value: float, base: float) -> str:
    if not base:
        return "–"
    ratio = value / base
    return f"{number(ratio, 2)}×" if 0 < ratio < 0.1 else f"{ratio:.2f}×"


def _accuracy_change(study: Study, first: LevelResult, last: LevelResult) -> str:
    before, after = execution_at(study, first.level), execution_at(study, last.level)
    if before is None or after is None or before.accuracy is None or after.accuracy is None:
        return ""
    points = f"{100 * (after.accuracy - before.accuracy):+.1f}".replace("-", "−")
    return f" at {points} points of accuracy"


def comparison(study: Study) -> str:
    """The design with the least energy at the sparsest level that all designs ran; empty for one design."""
    shared = set.intersection(*({level.level for level in result.levels} for result in study.results))
    if len(study.results) < 2 or not shared:
        return ""
    at = {label: _level_of(result, max(shared)) for label, result in labelled(study)}
    best = min(at, key=lambda label: at[label].energy_j)
    others = [
        f"{_ratio(at[best].energy_j, level.energy_j)} the energy and {_ratio(at[best].latency_s, level.latency_s)} the time "
        f"of {label}"
        for label, level in at.items()
        if label != best
    ]
    return f"At level {max(shared)}, {best} needs the least energy: {'; '.join(others)}."


def _level_of(result: Result, level: int) -> LevelResult:
    return next(x for x in result.levels if x.level == level)


@dataclass(frozen=True)
class _Card:
    """A number worth a large font, and what it is."""

    value: str
    label: str
    note: str


def _cards(study: Study) -> list[_Card]:
    """First design, densest -> sparsest level."""
    label, result = labelled(study)[0]
    levels = ordered_levels(result)
    first, last = levels[0], levels[-1]
    span = f"level {first.level}" if first is last else f"level {first.level} → level {last.level}"
    ends = {
        "energy": (si_scale([first.energy_j], "J"), first.energy_j, last.energy_j),
        "latency": (si_scale([first.latency_s], "s"), first.latency_s, last.latency_s),
        "weights read": (byte_scale([first.weight_bytes]), first.weight_bytes, last.weight_bytes),
    }
    cards = [_Card(_change(*values), name, f"{span}, {label}") for name, values in ends.items()]
    before, after = (accuracy_text(execution_at(study, level.level)) for level in (first, last))
    accuracy = before if before == after else f"{before} → {after}"
    images = max((execution.images for execution in study.executions), default=0)
    note = f"measured on {images:,} images" if images else "no labelled images were run"
    return [*cards, _Card(accuracy, "accuracy", note)]


def _change(scale: Scale, before: float, after: float) -> str:
    return scale.text(before) if before == after else f"{scale.number(before)} → {scale.text(after)}"


def _units(study: Study) -> dict[str, Scale]:
    """One scale per column for the whole report."""
    levels = [level for result in study.results for level in result.levels]
    layers = [layer for level in levels for layer in level.layers]
    cpu = [x.latency_median_s for x in study.executions if x.latency_median_s]
    return {
        "energy": si_scale((level.energy_j for level in levels), "J"),
        "latency": si_scale((level.latency_s for level in levels), "s"),
        "weights": byte_scale(level.weight_bytes for level in levels),
        "macs": si_scale((level.macs for level in levels), "", smallest=1),
        "cpu": si_scale(cpu, "s"),
        "layer_energy": si_scale((sum(layer.energy_j.values()) for layer in layers), "J"),
    }


def _level_row(units: dict[str, Scale], level: LevelResult, execution: LevelExecution | None) -> dict[str, Any]:
    energy = level.energy_by_component_j
    cpu = execution.latency_median_s if execution else None
    return {
        "level": level.level,
        "density": percent(level.density),
        "weights": units["weights"].number(level.weight_bytes),
        "macs": units["macs"].number(level.macs),
        "accuracy": accuracy_text(execution),
        "cycles": number(level.cycles),
        "latency": units["latency"].number(level.latency_s),
        "energy": units["energy"].number(level.energy_j),
        "components": [units["energy"].number(energy.get(name, 0.0), 3) for name in COMPONENTS],
        "cpu": units["cpu"].number(cpu) if cpu else "–",
    }


def _host(study: Study) -> dict[str, Any] | None:
    """The CPU's table, what to know of it, and its peaks; None where nothing was executed."""
    if not study.executions:
        return None
    columns = host_table(study.executions).columns
    values = [] if study.host is None else list(design_values(host_facts(study.host)))
    return {
        "headings": [column.heading.partition("\n")[::2] for column in columns],
        "rows": list(zip(*(column.cells for column in columns), strict=True)),
        "notes": study.execution_notes,
        "help": HOST_NOTE,
        "name": "" if study.host is None else study.host.name,
        "values": values,
    }


def _warnings(study: Study) -> list[tuple[str, str]]:
    """Every warning once, with the designs it concerns."""
    concerned: dict[str, list[str]] = {}
    for label, result in labelled(study):
        for warning in result.warnings:
            concerned.setdefault(warning, []).append(label)
    everybody = len(study.results)
    return [(text, "" if len(names) == everybody else ", ".join(names)) for text, names in concerned.items()]


def _layer_rows(study: Study) -> Iterator[list[str]]:
    """Cells of the per-layer table as text; numbers of a column share their unit, so they sort."""
    energy = _units(study)["layer_energy"]
    for label, result in labelled(study):
        for level in ordered_levels(result):
            total = max(1, level.cycles)
            for index, layer in enumerate(level.layers):
                yield [label, str(level.level), str(index), *_layer_cells(layer, total, energy)]


#: What becomes of the dense MACs, in the order of the table's columns.
_WORK = ("mac_effectual", "mac_ineffectual", "mac_gated", "mac_skipped")


def _layer_cells(layer: LayerResult, level_cycles: int, energy: Scale) -> list[str]:
    split, cycles = layer.split, max(1, layer.cycles)
    read = layer.counts.get("dram_read_bytes", 0)
    return [
        layer.layer,
        layer.op,
        number(layer.cycles),
        f"{100 * layer.cycles / level_cycles:.2f}",
        *(f"{100 * part / cycles:.1f}" for part in (split.compute, split.dram_stall, split.load_stall)),
        f"{100 * (split.output_stall + split.fill_drain) / cycles:.1f}",
        *(f"{100 * layer.counts[name] / max(1, layer.counts['mac_dense']):.1f}" for name in _WORK),
        f"{100 * layer.idle_share:.1f}",
        f"{100 * layer.utilisation:.1f}",
        number(layer.weight_bytes),
        number(layer.compulsory_bytes),
        number(read),
        energy.number(sum(layer.energy_j.values())),
    ]


def _design(study: Study, label: str, result: Result) -> dict[str, Any]:
    """A design's rows of the level table and everything its file says."""
    units = _units(study)
    return {
        "label": label,
        "description": result.design.description,
        "point": result.point,
        "levels": [_level_row(units, x, execution_at(study, x.level)) for x in ordered_levels(result)],
        "values": list(design_values(result.design.model_dump(mode="json", exclude_none=True))),
    }


def design_values(data: Any, path: str = "") -> Iterator[tuple[str, str, str, bool | None]]:
    """Every value of a design file as (path, value, source, verified); the last two are '' and None for plain settings."""
    if isinstance(data, dict) and {"value", "source", "verified"} <= set(data):
        yield path, f"{data['value']:g}", str(data["source"]), bool(data["verified"])
    elif isinstance(data, dict) and {"name", "source", "verified"} <= set(data):
        own = ", ".join(f"{key} {value}" for key, value in data.items() if key not in ("source", "verified"))
        yield path, own, str(data["source"]), bool(data["verified"])
    elif isinstance(data, dict):
        for key, value in data.items():
            if path or key not in ("name", "description"):
                yield from design_values(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from design_values(value, f"{path}[{index}]")
    else:
        yield path, str(data), "", None
