"""Suite `zigzag`: the energy of every ResNet-18 layer from ZigZag's own access counts, to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...accel.zigzag import READS, WRITES, ReplayedEnergy, ZigZagLayer, read_accelerator, replay
from ...workloads.errors import InputError
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import real, whole

_COLUMNS = ("layer", "macs", "energy_pJ", "mac_energy_pJ", "mem_energy_pJ")


def checks(folder: Path) -> Iterator[Check]:
    """Energy in total, of the MACs, of all memories and of every level, per layer of every network."""
    for accelerator_file, path in _runs(folder / "zigzag"):
        accelerator = read_accelerator(accelerator_file)
        rows = read_rows(path, _COLUMNS)
        for number, (row, layer) in enumerate(zip(rows, read_layers(path), strict=True)):
            energy = replay(accelerator, macs=layer.macs, accesses=layer.accesses)
            name = f"{path.stem} {number} {layer.name}"
            for quantity, (found, column) in _quantities(energy, row).items():
                yield Check(name, accelerator.name, quantity, found, real(row, column, path=path))


def _runs(folder: Path) -> list[tuple[Path, Path]]:
    """Accelerator files ``NAME.yaml``, each with the results of one network on it, ``NETWORK_NAME.csv``."""
    found = [
        (file, path) for file in sorted(folder.glob("*.yaml")) for path in sorted(folder.glob(f"*_{file.stem}.csv"))
    ]
    if not found:
        raise InputError(f"{folder}: no accelerator file NAME.yaml with results NETWORK_NAME.csv")
    return found


def read_layers(path: Path) -> Iterator[ZigZagLayer]:
    """Layers of a results table: ``layer``, ``macs``, ``acc_<operand><level>_<direction>`` and, if stated, ``energy_pJ``.

    Raises
    ------
    InputError
        for a file that cannot be read, or a value that is no number.
    """
    for row in read_rows(path, ("layer", "macs")):
        yield ZigZagLayer(
            name=row["layer"],
            macs=whole(row, "macs", path=path),
            accesses=row_accesses(row, path=path),
            stated_pj=real(row, "energy_pJ", path=path) if row.get("energy_pJ") else None,
        )


def row_accesses(row: dict[str, str], *, path: Path) -> dict[tuple[str, int, str], float]:
    """Access counts of a results row: columns ``acc_<operand><level>_<direction>``."""
    found = {}
    for column, text in row.items():
        if not column.startswith("acc_"):
            continue
        place, _, direction = column.removeprefix("acc_").partition("_")
        if direction not in READS + WRITES or not place[1:].isdigit():
            raise InputError(f"{path}: column '{column}' is not acc_<operand><level>_<direction>")
        if text:
            found[place[0], int(place[1:]), direction] = real(row, column, path=path)
    if not found:
        raise InputError(f"{path}: no column acc_<operand><level>_<direction>")
    return found


def _quantities(energy: ReplayedEnergy, row: dict[str, str]) -> dict[str, tuple[float, str]]:
    """Quantity -> (ours, column of theirs); per-level columns are optional."""
    found = {
        "energy": (energy.total_pj, "energy_pJ"),
        "MAC energy": (energy.mac_pj, "mac_energy_pJ"),
        "memory energy": (energy.memory_pj, "mem_energy_pJ"),
    }
    for (operand, level), picojoules in energy.levels.items():
        column = f"e_{operand}{level}_pJ"
        if row.get(column):
            found[f"{operand}{level} energy"] = (picojoules, column)
    return found


SUITE = Suite(
    name="zigzag",
    title="Energy of ResNet-18 on a 16x16 array from ZigZag 3.9.1's access counts",
    checks=checks,
    bars=(Bar(max=1e-9),),
)
