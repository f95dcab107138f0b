"""Designs beside a reference: energy with its breakdown, DRAM bytes and latency as multiples of the reference's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..accel.energy import COMPONENTS
from ..sim.results import LevelResult
from .drafts import draft_of
from .figure_style import COMPONENT_COLOURS, GREY, SHOWN_NAMES, Sheet, from_file, style
from .fitted_table import Column, FittedTable
from .report import write_report
from .study import Study, labelled
from .tables import ordered_levels

#: Figures of the SmartExchange paper (ISCA 2020); only "up to 6.7x" and "up to 19.2x" stand in its abstract, the lower ends
#: are recalled. They hold for its networks, weights and sparsities, and are no targets of this model.
QUOTED = (
    "quoted from the SmartExchange paper, not computed here and not tuned to: energy of the rivals 2.0x to 6.7x, latency of "
    "DianNao 8.8x to 19.2x, DRAM accesses 1.1x to 3.5x (upper ends of the first two: abstract; the rest recalled)"
)
_PANELS = (("energy_ratio", "energy / that of {}"), ("dram_ratio", "DRAM bytes / those of {}"),
           ("latency_ratio", "latency / that of {}"))  # fmt: skip


def normalised_table(study: Study) -> pd.DataFrame:
    """One row per design and level: energy, DRAM bytes and latency, each also relative to the first design at that level,
    and the energy of every component in multiples of the first design's total."""
    designs = labelled(study)
    reference = {level.level: _figures(level) for level in ordered_levels(designs[0][1])}
    rows = []
    for label, result in designs:
        for level in ordered_levels(result):
            own, base = _figures(level), reference[level.level]
            row: dict[str, object] = {"design": label, "level": level.level, "density": level.density, **own}
            row |= {name.split("_")[0] + "_ratio": own[name] / max(base[name], 1e-30) for name in own}
            parts = level.energy_by_component_j
            row |= {f"share_{name}": parts.get(name, 0.0) / max(base["energy_j"], 1e-30) for name in COMPONENTS}
            rows.append(row)
    return pd.DataFrame(rows)


def _figures(level: LevelResult) -> dict[str, float]:
    moved = sum(layer.counts["dram_read_bytes"] + layer.counts["dram_write_bytes"] for layer in level.layers)
    return {"energy_j": level.energy_j, "dram_bytes": moved, "latency_s": level.latency_s}


def terminal_normalised(study: Study) -> FittedTable:
    """The comparison as one terminal table; components in per cent of the design's own energy."""
    table = normalised_table(study)
    rows = table.to_dict("records")
    shown = [name for name in COMPONENTS if table[f"share_{name}"].max() > 0]
    columns = [
        Column("design", [str(row["design"]) for row in rows], left=True),
        Column("level", [str(row["level"]) for row in rows]),
        Column("density", [f"{row['density']:.1%}" for row in rows], rank=1),
        Column("energy", [f"{row['energy_ratio']:.2f}x" for row in rows]),
        Column("DRAM bytes", [f"{row['dram_ratio']:.2f}x" for row in rows]),
        Column("latency", [f"{row['latency_ratio']:.2f}x" for row in rows]),
        Column("mJ", [f"{row['energy_j'] * 1e3:.4g}" for row in rows], rank=2),
        Column("ms", [f"{row['latency_s'] * 1e3:.4g}" for row in rows], rank=2),
    ]
    for name in shown:
        shares = [f"{row[f'share_{name}'] / max(row['energy_ratio'], 1e-30):.0%}" for row in rows]
        columns.append(Column(SHOWN_NAMES.get(name, name.replace("_", " ")), shares, rank=3))
    title = f"{study.network}: multiples of {table['design'][0]} at the same level; components in % of a design's own energy"
    return FittedTable(title, columns)


def normalised_figure(study: Study, path: Path, *, quoted: bool) -> None:
    """Stacked energy, DRAM bytes and latency, relative to the first design, as an SVG or PNG file."""
    table = normalised_table(study)
    names, levels = list(dict.fromkeys(table["design"])), sorted(table["level"].unique())
    height = 0.17 * len(names) * (len(levels) + 0.7) + 0.1
    with style():
        sheet = Sheet([(height, 0.75)] * len(_PANELS), left=2.9, top=0.75, bottom=0.95 if quoted else 0.65)
        for axes, (column, label) in zip(sheet.axes, _PANELS, strict=True):
            for i, level in enumerate(levels):
                part = table[table["level"] == level]
                places = np.array([names.index(n) * (len(levels) + 0.7) + i for n in part["design"]])
                _bars(axes, part, places, column=column)
            centres = np.arange(len(names)) * (len(levels) + 0.7) + (len(levels) - 1) / 2
            axes.set_yticks(centres, names)
            axes.invert_yaxis()
            axes.axvline(1.0, color=GREY, linewidth=0.8)
            axes.margins(x=0.08)
            axes.set_xlabel(label.format(names[0]))
        spread = f"levels {levels[0]} to {levels[-1]}, the densest first" if len(levels) > 1 else f"level {levels[0]}"
        sheet.axes[0].set_title(f"{study.network}; bars of a design: {spread}")
        shown = [name for name in COMPONENTS if table[f"share_{name}"].max() > 0]
        entries = [(SHOWN_NAMES.get(name, name.replace("_", " ")), COMPONENT_COLOURS[name]) for name in shown]
        sheet.legend(entries, columns=len(entries))
        if quoted:
            sheet.figure.text(0.01, 0.01, QUOTED.replace(": energy", ":\nenergy"), fontsize=8)
        sheet.figure.savefig(
            path, dpi=150, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None
        )


def _bars(axes: object, part: pd.DataFrame, places: np.ndarray, *, column: str) -> None:
    """One level's bars: energy in components, anything else in one piece; the multiple at the end."""
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    left = np.zeros(len(part))
    if column == "energy_ratio":
        for name in COMPONENTS:
            width = part[f"share_{name}"].to_numpy()
            axes.barh(places, width, left=left, height=0.85, color=COMPONENT_COLOURS[name])
            left = left + width
    else:
        left = part[column].to_numpy()
        axes.barh(places, left, height=0.85, color=GREY)
    for place, end in zip(places, left, strict=True):
        axes.text(end, place, f" {end:.2f}", va="center", fontsize=7)


def write_normalised(study: Study, folder: Path, *, quoted: bool) -> None:
    """Write normalised.csv, normalised.svg and report.html with that figure; all appear complete or not at all.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    with draft_of(folder) as draft:
        normalised_table(study).to_csv(draft / "normalised.csv", index=False)
        normalised_figure(study, draft / "normalised.svg", quoted=quoted)
        title = "Multiples of the first design, level by level"
        picture = from_file(
            draft / "normalised.svg", title, QUOTED if quoted else "Above 1 costs more than the first design."
        )
        write_report(study, draft / "report.html", first=[picture])
