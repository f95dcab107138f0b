"""`nestling compare`: one table and one figure over designs and levels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

from ..sim.results import LevelResult
from .drafts import draft_of
from .figure_style import DESIGN_COLOURS, Sheet, from_file, style
from .fitted_table import Column, FittedTable
from .report import write_report
from .study import Study, execution_at, labelled
from .tables import accuracy_text, ordered_levels
from .units import Scale, si_scale


def utilisation(level: LevelResult) -> float:
    """Share of all multiplier-cycles, stalls included, that serve effectual MACs (see ``LayerResult``)."""
    return sum(layer.utilisation * layer.cycles for layer in level.layers) / max(1, level.cycles)


def idle_share(level: LevelResult) -> float:
    """Share of the multiplier-cycles of all compute steps in which a multiplier starts nothing."""
    idle, slots = (sum(layer.counts[name] for layer in level.layers) for name in ("pe_idle", "pe_slots"))
    return idle / max(1, slots)


def comparison_table(study: Study) -> pd.DataFrame:
    """One row per design and level: accuracy, cycles, latency, energy, EDP, utilisation, idle share, DRAM bytes, compulsory
    bytes."""
    rows = []
    for label, result in labelled(study):
        for level in ordered_levels(result):
            execution = execution_at(study, level.level)
            rows.append(
                {
                    "design": label,
                    "level": level.level,
                    "density": level.density,
                    "accuracy": None if execution is None else execution.accuracy,
                    "cycles": level.cycles,
                    "latency_s": level.latency_s,
                    "energy_j": level.energy_j,
                    "edp_js": level.energy_j * level.latency_s,
                    "utilisation": utilisation(level),
                    "idle": idle_share(level),
                    "dram_bytes": sum(x.counts["dram_read_bytes"] + x.counts["dram_write_bytes"] for x in level.layers),
                    "dram_read_bytes": sum(x.counts["dram_read_bytes"] for x in level.layers),
                    "compulsory_read_bytes": sum(layer.compulsory_bytes for layer in level.layers),
                }
            )
    return pd.DataFrame(rows)


def terminal_comparison(study: Study) -> FittedTable:
    """The comparison as one terminal table; the best of a column at each level is marked."""
    table = comparison_table(study)
    latency, energy = si_scale(table["latency_s"], "s"), si_scale(table["energy_j"], "J")
    best = table.groupby("level")[["latency_s", "energy_j"]].transform("min")
    rows = table.to_dict("records")

    def marked(scale: Scale, column: str) -> list[str]:
        winners = table[column] == best[column]
        return [_marked(scale.number(value), won) for value, won in zip(table[column], winners, strict=True)]

    reads = [row["dram_read_bytes"] / max(1, row["compulsory_read_bytes"]) for row in rows]
    return FittedTable(
        f"{study.network}: designs side by side (best of each level in bold; util = share of multiplier-cycles, stalls "
        "included, that serve MACs of two non-zeros; reads/min = DRAM reads / compulsory)",
        (
            Column("design", [str(row["design"]) for row in rows], left=True),
            Column("level", [str(row["level"]) for row in rows]),
            Column("accuracy", [accuracy_text(execution_at(study, int(row["level"]))) for row in rows], rank=2),
            Column("cycles", [f"{row['cycles']:,}" for row in rows]),
            Column(f"latency {latency.unit}", marked(latency, "latency_s")),
            Column(f"energy {energy.unit}", marked(energy, "energy_j")),
            Column("util", [f"{row['utilisation']:.1%}" for row in rows]),
            Column("idle", [f"{row['idle']:.1%}" for row in rows], rank=3),
            Column("reads/min", [f"{ratio:.2f}x" for ratio in reads], rank=1),
        ),
    )


def _marked(text: str, best: bool) -> str:
    return f"[bold green]{text}[/bold green]" if best else text


def comparison_figure(study: Study, path: Path) -> None:
    """Latency, energy and utilisation per design and level as an SVG or PNG file, by the suffix of ``path``."""
    table = comparison_table(study)
    designs = list(dict.fromkeys(table["design"]))
    panels = (
        ("latency_s", "latency per inference (s)", True),
        ("energy_j", "energy per inference (J)", True),
        ("utilisation", "multiplier-cycles that serve effectual MACs", False),
    )
    with style():
        sheet = Sheet([(0.28 * len(designs) + 0.3, 0.75)] * len(panels), left=1.9, top=0.6, bottom=0.7)
        levels = sorted(table["level"].unique())
        colours = {level: DESIGN_COLOURS[i % len(DESIGN_COLOURS)] for i, level in enumerate(levels)}
        for axes, (column, label, logarithmic) in zip(sheet.axes, panels, strict=True):
            for level in levels:
                part = table[table["level"] == level]
                places = [designs.index(name) for name in part["design"]]
                axes.scatter(part[column], places, color=colours[level], s=34, zorder=3)
            if logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
            axes.set_yticks(range(len(designs)), designs)
            axes.invert_yaxis()
            axes.set_xlabel(label)
            axes.grid(axis="both")
        sheet.legend([(f"level {level}", colours[level]) for level in levels], columns=len(levels))
        sheet.figure.savefig(
            path, dpi=150, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None
        )


def write_comparison(study: Study, folder: Path) -> None:
    """Write comparison.csv, comparison.svg and report.html with that figure; all appear complete or not at all.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    with draft_of(folder) as draft:
        comparison_table(study).to_csv(draft / "comparison.csv", index=False)
        comparison_figure(study, draft / "comparison.svg")
        picture = from_file(
            draft / "comparison.svg", "Designs side by side", "Further left is better; a dot per level."
        )
        write_report(study, draft / "report.html", first=[picture])
