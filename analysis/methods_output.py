"""What a comparison of methods prints and writes: one table, one Pareto figure, one report per method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..accel.design import Design
from .drafts import draft_of
from .figure_style import DESIGN_COLOURS, DESIGN_MARKERS, PAPER, Picture, Sheet, standalone, style, to_svg
from .figures import draw_frontier, wilson_interval
from .fitted_table import Column, FittedTable
from .methods import MethodStudy, compare_methods, method_table
from .output import console, note, print_object, progress_bars, write_study
from .progress import parse_densities
from .run import RunOptions
from .sources import Workload
from .study import labelled
from .tables import to_json
from .units import Scale, byte_scale, number, si_scale

_TEMPLATES = Path(__file__).parent / "templates"


def run_methods(
    workload: Workload,
    methods: Sequence[str],
    designs: Sequence[Design],
    *,
    levels: str | None,
    options: RunOptions,
    command: str,
    out: Path | None,
    json: bool,
) -> None:
    """`nestling run --sparsify …`: compare the methods and show what came out."""
    densities = None if levels is None else parse_densities(levels)
    with progress_bars() as progress:
        comparison = compare_methods(
            workload, methods, designs, densities=densities, options=options, command=command, progress=progress
        )
    deliver_methods(comparison, out, as_json=json)


def deliver_methods(comparison: MethodStudy, folder: Path | None, *, as_json: bool) -> None:
    """Write the comparison to ``folder`` if there is one, and print JSON or tables."""
    if folder is not None:
        write_methods(comparison, folder)
    if as_json:
        print_object(methods_json(comparison))
        return
    for table in terminal_tables(comparison):
        console().print(table)
    for text in method_notes(comparison):
        console().print(f"[yellow]![/yellow] {text}", highlight=False)
    where = (
        f"report: {folder / 'methods.html'}   data: {folder / 'methods.csv'}, one folder per method" if folder else ""
    )
    note(where or "add --out FOLDER for the figure, the table and a report per method")


def methods_json(comparison: MethodStudy) -> dict[str, Any]:
    """The object of `run --json` for the first method, and the same for all of them under ``methods``."""
    per_method = [{"method": name, **to_json(study)} for name, study in comparison.studies.items()]
    for entry in per_method:
        entry["coefficient_storage"] = dict(comparison.variants[entry["method"]].storage)
        entry["notes"] = list(comparison.variants[entry["method"]].notes)
    return {**per_method[0], "methods": per_method}


def terminal_tables(comparison: MethodStudy) -> Iterator[FittedTable]:
    """A table per design: every method and level."""
    table = method_table(comparison)
    energy, latency = si_scale(table["energy_j"], "J"), si_scale(table["latency_s"], "s")
    for design, part in table.groupby("design", sort=False):
        yield _design_table(f"{comparison.network} on {design}", _records(part), energy, latency)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _design_table(title: str, rows: Sequence[dict[str, Any]], energy: Scale, latency: Scale) -> FittedTable:
    stored, cpu = byte_scale(r["weight_bytes"] for r in rows), si_scale((r["cpu_latency_s"] or 0 for r in rows), "s")
    macs = si_scale((row["macs"] for row in rows), "")

    def measured(row: dict[str, Any], key: str, text: str) -> str:
        return text if row[key] == row[key] and row[key] is not None else "not measured"

    return FittedTable(
        title,
        (
            Column("method", [row["method"] for row in rows], left=True),
            Column("level", [str(row["level"]) for row in rows]),
            Column("density", [f"{row['density']:.1%}" for row in rows]),
            Column("accuracy", [measured(row, "accuracy", f"{row['accuracy'] or 0:.2%}") for row in rows]),
            Column(f"weights {stored.unit}", [stored.number(row["weight_bytes"]) for row in rows]),
            Column(f"MACs {macs.unit}", [macs.number(row["macs"]) for row in rows]),
            Column(f"energy {energy.unit}", [energy.number(row["energy_j"]) for row in rows]),
            Column(f"latency {latency.unit}", [latency.number(row["latency_s"]) for row in rows]),
            Column(f"CPU {cpu.unit}", [measured(r, "cpu_latency_s", cpu.number(r["cpu_latency_s"] or 0)) for r in rows],
                   rank=1),
        ),
    )  # fmt: skip


def method_notes(comparison: MethodStudy) -> Iterator[str]:
    """What every method warned of, then what every design warns of: text first, whom it concerns behind it."""
    for name, variant in comparison.variants.items():
        yield from (f"{name}: {text}" for text in variant.notes)
    concerned: dict[str, list[str]] = {}
    for name, study in comparison.studies.items():
        for label, result in labelled(study):
            for text in result.warnings:
                concerned.setdefault(text, []).append(f"{name} on {label}")
    everywhere = sum(len(study.results) for study in comparison.studies.values())
    for text, where in concerned.items():
        yield text if len(where) == everywhere else f"{text} ({', '.join(where)})"


def pareto_figure(comparison: MethodStudy) -> Picture:
    """Accuracy (or, unmeasured, density) against energy: a line per method, a panel per design."""
    table = method_table(comparison)
    measured = bool(table["accuracy"].notna().any())
    scale = si_scale(table["energy_j"], "J")
    designs = list(dict.fromkeys(table["design"]))
    with style():
        sheet = Sheet([(3.2, 0.95)] * len(designs), left=0.9, top=0.35, right=2.1)
        for axes, design in zip(sheet.axes, designs, strict=True):
            rows = table[table["design"] == design]
            _draw_methods(axes, _records(rows), scale, images=comparison.images if measured else 0)
            axes.set_title(design)
            axes.set_xlabel(f"energy per inference ({scale.unit})")
            axes.set_ylabel("accuracy" if measured else "weights kept")
        sheet.axes[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        svg = to_svg(sheet.figure, "methods")
    quality = "Accuracy" if measured else "Weights kept (accuracy not measured)"
    bars = f" Bars: 95 % Wilson interval of {comparison.images:,} images." if measured else ""
    text = f"Up and to the left is better; the dashed line joins what no other method and level beats.{bars}"
    return Picture("methods", f"{quality} against energy, by method and level", text, svg)


def _draw_methods(axes: Axes, rows: Sequence[dict[str, Any]], scale: Scale, *, images: int) -> None:
    points: list[tuple[float, float]] = []
    for index, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        colour = DESIGN_COLOURS[index % len(DESIGN_COLOURS)]
        marker = DESIGN_MARKERS[(index + index // len(DESIGN_COLOURS)) % len(DESIGN_MARKERS)]
        own = [(r["energy_j"] / scale.size, float(r["accuracy"] if images else r["density"])) for r in rows
               if r["method"] == method]  # fmt: skip
        points += own
        x, y = zip(*own, strict=True)
        axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.4, label=method, markeredgecolor=PAPER)
        for at, height in own:
            if images:
                axes.plot([at, at], wilson_interval(height, images), color=colour, linewidth=1.1, alpha=0.7)
    draw_frontier(axes, points)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.grid()


def write_methods(comparison: MethodStudy, folder: Path) -> None:
    """Write methods.html, methods.csv, methods.json, methods.svg, and each method's own report into a folder of its name.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    import json

    for name, study in comparison.studies.items():
        write_study(study, folder / name)
    with draft_of(folder) as draft:
        method_table(comparison).to_csv(draft / "methods.csv", index=False)
        text = json.dumps(methods_json(comparison), indent=1, allow_nan=False)
        (draft / "methods.json").write_text(text + "\n", encoding="utf-8")
        (draft / "methods.html").write_text(render_methods(comparison), encoding="utf-8")
        (draft / "methods.svg").write_text(standalone(pareto_figure(comparison).svg), encoding="utf-8")


def render_methods(comparison: MethodStudy) -> str:
    """The comparison as one HTML page that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    first = next(iter(comparison.studies.values()))
    tables = []
    for table in terminal_tables(comparison):
        rows = zip(*(column.cells for column in table.columns), strict=True)
        tables.append((table.title, [column.heading for column in table.columns], [list(row) for row in rows]))
    return environment.get_template("methods.html.j2").render(
        network=comparison.network,
        source=first.source,
        images=number(comparison.images),
        picture=pareto_figure(comparison),
        tables=tables,
        notes=list(method_notes(comparison)),
        storage={name: dict(v.storage) for name, v in comparison.variants.items() if v.storage},
        css=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        command=first.command,
        version=first.version,
        seed=first.seed,
        methods=list(comparison.studies),
        designs=[label for label, _ in labelled(first)],
    )
