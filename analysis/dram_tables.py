"""What a command-level DRAM did, per layer and level: columns, JSON, terminal table and report rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from ..accel.dram_choice import DeviceDram
from ..sim.results import DramTotals, Result
from .study import Study, labelled
from .units import number, percent, si_scale

#: Commands in the order every table shows them: key of ``DramTotals.energy_j`` -> heading.
COMMANDS = {
    "act": "ACT",
    "read": "read",
    "write": "write",
    "refresh": "refresh",
    "background_open": "rows open",
    "background_closed": "rows closed",
    "io": "interface",
}


def dram_columns(dram: DramTotals | None) -> dict[str, float]:
    """Columns of the layer table: row hits, achieved bandwidth, joules by command and of the flat 100 pJ/byte."""
    if dram is None:
        return {}
    return {
        "dram_row_hit_rate": dram.row_hit_rate,
        "dram_bytes_per_s": dram.bytes_per_s,
        **{f"dram_{name}_j": dram.energy_j[name] for name in COMMANDS},
        "dram_flat_j": dram.flat_energy_j,
    }


def dram_json(dram: DramTotals | None) -> dict[str, Any] | None:
    """A level's DRAM as a JSON object; null with a flat DRAM."""
    if dram is None:
        return None
    return {
        "activations": dram.activations,
        "reads": dram.reads,
        "writes": dram.writes,
        "merged": dram.merged,
        "refreshes": dram.refreshes,
        "row_hit_rate": dram.row_hit_rate,
        "bytes_moved": dram.bytes_moved,
        "bytes_per_s": dram.bytes_per_s,
        "energy_by_command_j": {name: dram.energy_j[name] for name in COMMANDS},
        "flat_100pj_per_byte_j": dram.flat_energy_j,
    }


def levels_with_dram(result: Result) -> list[tuple[int, DramTotals]]:
    """(level, totals) of the levels that a command-level DRAM served, densest first."""
    levels = sorted(result.levels, key=lambda level: level.level)
    return [(level.level, level.dram) for level in levels if level.dram is not None]


def device_name(result: Result) -> str:
    """The command-level device of a result."""
    assert isinstance(result.design.dram, DeviceDram)
    return result.design.dram.command_device.name


def terminal_dram(study: Study) -> Iterator[Table]:
    """One table per design with a command-level DRAM: energy by command, row hits and bandwidth per level."""
    for label, result in labelled(study):
        levels = levels_with_dram(result)
        if not levels:
            continue
        scale = si_scale((sum(dram.energy_j.values()) for _, dram in levels), "J")
        title = f"{label}: DRAM {device_name(result)}, {scale.unit}"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, title_justify="left", pad_edge=False)
        for name in ("level", "GB/s", "row hits", *COMMANDS.values(), "total", "100 pJ/B"):
            table.add_column(name.replace(" ", "\n", 1), justify="right")
        for level, dram in levels:
            joules = [*(dram.energy_j[name] for name in COMMANDS), sum(dram.energy_j.values()), dram.flat_energy_j]
            rates = (f"{dram.bytes_per_s / 1e9:.2f}", percent(dram.row_hit_rate, 3))
            table.add_row(str(level), *rates, *(scale.number(value, 3) for value in joules))
        yield table


def report_dram(study: Study) -> dict[str, Any] | None:
    """Cells of the report's DRAM section: one row per design, level and layer, the level's sum first; None without any."""
    chosen = [(label, result) for label, result in labelled(study) if levels_with_dram(result)]
    if not chosen:
        return None
    sums = [dram for _, result in chosen for _, dram in levels_with_dram(result)]
    scale = si_scale((sum(dram.energy_j.values()) for dram in sums), "J")
    level_rows: list[list[str]] = []
    layer_rows: list[list[str]] = []
    for label, result in chosen:
        for level in sorted(result.levels, key=lambda x: x.level):
            if level.dram is not None:
                level_rows.append([label, str(level.level), device_name(result), *_cells(level.dram, scale.size)])
            for layer in level.layers:
                if layer.dram is not None:
                    layer_rows.append([label, str(level.level), layer.layer, *_cells(layer.dram, scale.size)])
    return {"unit": scale.unit, "commands": list(COMMANDS.values()), "levels": level_rows, "layers": layer_rows}


def _cells(dram: DramTotals, unit: float) -> list[str]:
    joules = [*(dram.energy_j[name] for name in COMMANDS), sum(dram.energy_j.values()), dram.flat_energy_j]
    rates = [number(dram.bytes_moved), f"{dram.bytes_per_s / 1e9:.3f}", f"{100 * dram.row_hit_rate:.1f}"]
    return [*rates, *(f"{value / unit:.4g}" for value in joules)]
