"""`nestling replay`: the energy of ZigZag's mappings from their access counts, with the costs of an accelerator file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ..accel.zigzag import ZigZagLayer, energy_by_memory, read_accelerator, read_layer, replay
from ..workloads.errors import InputError
from .output import console, print_object
from .suites.zigzag import read_layers
from .units import percent, si_scale


def replay_files(accelerator_file: Path, results: Sequence[Path]) -> list[dict[str, Any]]:
    """Energy of every layer of ``results`` in joules: total, MACs, per memory and per operand level.

    ``results``: files that ZigZag writes per layer (``..._complete.json``), or tables (``.csv``) laid out like the bundled
    reference. ``stated_j``: ZigZag's own total, None where it says none.

    Raises
    ------
    InputError
        for files that cannot be read, or accesses to levels that the accelerator does not have.
    """
    accelerator = read_accelerator(accelerator_file)
    rows = []
    for layer in [layer for path in results for layer in _layers(path)]:
        try:
            energy = replay(accelerator, macs=layer.macs, accesses=layer.accesses)
        except InputError as error:
            raise InputError([f"{layer.name}: {problem}" for problem in error.problems]) from None
        rows.append(
            {
                "layer": layer.name,
                "macs": layer.macs,
                "energy_j": energy.total_pj * 1e-12,
                "mac_j": energy.mac_pj * 1e-12,
                "memory_j": {name: pj * 1e-12 for name, pj in energy_by_memory(accelerator, energy).items()},
                "level_j": {f"{operand}{level}": pj * 1e-12 for (operand, level), pj in energy.levels.items()},
                "stated_j": None if layer.stated_pj is None else layer.stated_pj * 1e-12,
            }
        )
    if not rows:
        raise InputError(f"{', '.join(map(str, results))}: no layer")
    return rows


def _layers(path: Path) -> list[ZigZagLayer]:
    return list(read_layers(path)) if path.suffix == ".csv" else [read_layer(path)]


def print_replay(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """The layers and their sum as a table, or one JSON object."""
    if as_json:
        print_object({"layers": list(rows)})
        return
    memories = list(rows[0]["memory_j"])
    scale = si_scale([row["energy_j"] for row in rows], "J")
    table = Table(title=f"energy of ZigZag's mappings in {scale.unit}, and what ZigZag stated")
    macs = si_scale([row["macs"] for row in rows], "")
    table.add_column("layer", overflow="fold")
    for heading in (f"MACs, {macs.unit or '1'}", "energy", "MAC", *memories, "stated", "error"):
        table.add_column(heading, justify="right", no_wrap=heading not in memories)
    for row in [*rows, _total(rows)]:
        parts = [row["energy_j"], row["mac_j"], *row["memory_j"].values()]
        stated = row["stated_j"]
        shown = ["-", "-"] if stated is None else [scale.number(stated), _difference(row["energy_j"], stated)]
        table.add_row(row["layer"], macs.number(row["macs"]), *(scale.number(value) for value in parts), *shown)
    console().print(table)


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    stated = [row["stated_j"] for row in rows]
    return {
        "layer": "total",
        "macs": sum(row["macs"] for row in rows),
        "energy_j": sum(row["energy_j"] for row in rows),
        "mac_j": sum(row["mac_j"] for row in rows),
        "memory_j": {name: sum(row["memory_j"][name] for row in rows) for name in rows[0]["memory_j"]},
        "stated_j": None if None in stated else sum(stated),
    }


def _difference(ours: float, theirs: float) -> str:
    """Relative difference; what rounding of a sum can make is none."""
    if abs(ours - theirs) <= 1e-9 * abs(theirs):
        return "none"
    return percent(ours / theirs - 1) if theirs else "-"
