"""SRAM energy and leakage from a CACTI 7 sweep, interpolated in size, word width and technology node."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError

_TABLE = Path(__file__).parent / "data" / "cacti7_sram.csv"
_CELL = "itrs-lstp"
#: CACTI charges full-swing bit lines for writes of wide, small arrays; published macros write at about the read energy
#: (reference data, technology README: "cap write at ~1.2x read"). A judgement, hence shown as unverified.
WRITE_CAP = 1.2


@dataclass(frozen=True)
class SramCost:
    """Energy per byte moved and leakage of one SRAM at the table's nominal voltage."""

    read_pj_per_byte: float
    write_pj_per_byte: float
    leakage_w: float


@cache
def _table() -> dict[tuple[float, int], dict[int, tuple[float, float, float]]]:
    """(node, width) -> size -> (read pJ, write pJ, leakage mW) per access."""
    table: dict[tuple[float, int], dict[int, tuple[float, float, float]]] = {}
    with _TABLE.open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        for row in rows:
            if row["cell"] == _CELL:
                costs = (float(row["read_pJ"]), float(row["write_pJ"]), float(row["leak_mW"]))
                table.setdefault((float(row["tech_nm"]), int(row["width_bits"])), {})[int(row["size_bytes"])] = costs
    return table


@cache
def sram_cost(size_bytes: int, width_bits: int, node_nm: float) -> SramCost:
    """Cost of a single-port SRAM bank.

    Log-log interpolation between the neighbouring sizes, widths and nodes of the sweep (22-90 nm, 8-256 bits, 512 B-4 MB,
    low-standby-power cells, 330 K); table values are returned exactly where they exist. Write energy is capped at
    ``WRITE_CAP`` x read.

    Raises
    ------
    InputError
        outside the sweep: nothing is extrapolated.
    """
    table = _table()
    measured = table.get((node_nm, width_bits), {}).get(size_bytes)
    read, write, leakage = measured if measured is not None else _interpolated(size_bytes, width_bits, node_nm)
    width_bytes = width_bits / 8
    return SramCost(
        read_pj_per_byte=float(read / width_bytes),
        write_pj_per_byte=float(min(write, WRITE_CAP * read) / width_bytes),
        leakage_w=float(leakage * 1e-3),
    )


def _interpolated(size_bytes: int, width_bits: int, node_nm: float) -> NDArray[np.float64]:
    """(read pJ, write pJ, leakage mW) per access between the rows of the sweep."""
    table = _table()
    nodes = sorted({node for node, _ in table})
    corners = []
    for node, node_share in _neighbours(nodes, node_nm, "technology node", "nm"):
        widths = sorted(width for n, width in table if n == node)
        for width, width_share in _neighbours(widths, width_bits, "SRAM word width", "bits"):
            sizes = table[node, int(width)]
            for size, size_share in _neighbours(sorted(sizes), size_bytes, "SRAM size", "bytes"):
                corners.append((node_share * width_share * size_share, np.log(sizes[int(size)])))
    return np.asarray(np.exp(sum((share * costs for share, costs in corners), np.zeros(3))))


def _neighbours(grid: list[float] | list[int], value: float, what: str, unit: str) -> list[tuple[float, float]]:
    """The one or two grid points around ``value`` with their shares (linear in the logarithm)."""
    if not grid[0] <= value <= grid[-1]:
        raise InputError(f"{what} {value:g} {unit} is outside the CACTI sweep ({grid[0]:g} to {grid[-1]:g} {unit})")
    upper = int(np.searchsorted(grid, value))
    if grid[upper] == value:
        return [(float(value), 1.0)]
    low, high = float(grid[upper - 1]), float(grid[upper])
    share = float(np.log(value / low) / np.log(high / low))
    return [(low, 1.0 - share), (high, share)]
