"""Replay of a ZigZag evaluation: its accelerator file, the access counts it reports per memory level, and their energy.

ZigZag (Mei et al., IEEE TC 2021; accelerator files of version 3) keeps one memory hierarchy per operand: inputs I1, weights
I2 (here I and W) and outputs O. A level is numbered by how many memories of that operand are listed before it. Every level
moves data in four directions; energy is a sum over operands and levels,

    (RD_OUT_TO_LOW + RD_OUT_TO_HIGH) * r_cost + (WR_IN_BY_LOW + WR_IN_BY_HIGH) * w_cost,

counts in units of the level's widest word (fractional where it moves a smaller granule), plus MACs x unit energy.

The counts come from the file ZigZag writes per layer (``..._complete.json``): ``outputs.memory.word_accesses`` lists, per
operand and level, the four directions, as keys or, in older files, as text such as ``4waydatamoving (rd V: 16.0, ...)``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..workloads.errors import InputError
from .yaml_errors import load_validated

READS = ("RD_OUT_TO_LOW", "RD_OUT_TO_HIGH")
WRITES = ("WR_IN_BY_LOW", "WR_IN_BY_HIGH")
#: ZigZag's operand names in an accelerator file -> the names its results use.
OPERANDS = {"I1": "I", "I2": "W", "O": "O"}

#: (operand, level, direction) -> accesses.
Accesses = Mapping[tuple[str, int, str], float]


class _Section(BaseModel):
    """A part of ZigZag's file; keys that energy does not depend on are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ZigZagMemory(_Section):
    """One memory: energy per access of its widest word, in pJ, and the operands it holds. ``size`` in bits."""

    size: Annotated[int, Field(gt=0)]
    r_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    w_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    operands: Annotated[list[Literal["I1", "I2", "O"]], Field(min_length=1)]


class ZigZagMacs(_Section):
    """The array of multipliers. ``unit_energy``: pJ per multiply-accumulate."""

    unit_energy: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    dimensions: Annotated[list[str], Field(min_length=1)]
    sizes: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]


class ZigZagAccelerator(_Section):
    """An accelerator file of ZigZag."""

    name: str
    memories: Annotated[dict[str, ZigZagMemory], Field(min_length=1)]
    operational_array: ZigZagMacs

    def levels(self, operand: str) -> list[ZigZagMemory]:
        """Memories that hold ``operand`` (I, W or O), innermost first."""
        return [self.memories[name] for name in self.level_names(operand)]

    def level_names(self, operand: str) -> list[str]:
        """Names of the memories that hold ``operand``, innermost first."""
        return [name for name, m in self.memories.items() if operand in {OPERANDS[key] for key in m.operands}]


@dataclass(frozen=True)
class ReplayedEnergy:
    """Energy of one layer in picojoules; ``levels[(operand, level)]`` is the share of one memory level."""

    mac_pj: float
    levels: Mapping[tuple[str, int], float]

    @property
    def memory_pj(self) -> float:
        return sum(self.levels.values())

    @property
    def total_pj(self) -> float:
        return self.mac_pj + self.memory_pj


@dataclass(frozen=True)
class ZigZagLayer:
    """What ZigZag reports of one layer; ``stated_pj``: its own total energy, None where it says none."""

    name: str
    macs: int
    accesses: Accesses
    stated_pj: float | None


def read_accelerator(path: Path) -> ZigZagAccelerator:
    """A ZigZag accelerator file; InputError with every mistake of the file at once."""
    return load_validated(path, ZigZagAccelerator)


def replay(accelerator: ZigZagAccelerator, *, macs: int, accesses: Accesses) -> ReplayedEnergy:
    """Energy of a layer from the access counts of its mapping.

    Raises
    ------
    InputError
        if a count is negative, or names an operand, level or direction that the accelerator does not have.
    """
    if macs < 0:
        raise InputError(f"{accelerator.name}: {macs} multiply-accumulates")
    hierarchy = {operand: accelerator.levels(operand) for operand in OPERANDS.values()}
    energy = {(operand, level): 0.0 for operand, memories in hierarchy.items() for level in range(len(memories))}
    for (operand, level, direction), count in accesses.items():
        if (operand, level) not in energy or direction not in READS + WRITES:
            if count == 0:
                continue  # results of several accelerators in one table: a column for a level this one does not have
            known = ", ".join(f"{name}0..{name}{len(memories) - 1}" for name, memories in hierarchy.items() if memories)
            raise InputError(f"{accelerator.name}: no accesses '{operand}{level} {direction}'; it has {known}")
        if count < 0:
            raise InputError(f"{accelerator.name}: {count} accesses of {operand}{level} {direction}")
        memory = hierarchy[operand][level]
        energy[operand, level] += count * (memory.r_cost if direction in READS else memory.w_cost)
    return ReplayedEnergy(mac_pj=macs * accelerator.operational_array.unit_energy, levels=energy)


def energy_by_memory(accelerator: ZigZagAccelerator, energy: ReplayedEnergy) -> dict[str, float]:
    """Picojoules per memory of the accelerator, all operands together, in the order of its file."""
    found = dict.fromkeys(accelerator.memories, 0.0)
    for (operand, level), picojoules in energy.levels.items():
        found[accelerator.level_names(operand)[level]] += picojoules
    return found


def read_layer(path: Path) -> ZigZagLayer:
    """The evaluation of one layer as ZigZag writes it (``..._complete.json``); the file's name is the layer's.

    Raises
    ------
    InputError
        if the file cannot be read, is no JSON, or does not hold the accesses and loop sizes of one layer.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from None
    counts = _part(document, ("outputs", "memory", "word_accesses"), path)
    sizes = _part(document, ("inputs", "layer", "loop_dimensions"), path)
    links = _part(document, ("inputs", "layer", "memory_operand_links"), path)
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        raise InputError(f"{path}: inputs.layer.loop_dimensions: {sizes}; sizes are whole numbers above 0")
    stated = _part(document, ("outputs", "energy"), path).get("energy_total")
    return ZigZagLayer(
        name=path.stem.removesuffix("_complete"),
        macs=prod(sizes.values()),
        accesses=dict(_accesses(counts, links, path)),
        stated_pj=None if stated is None else _finite(stated, f"{path}: outputs.energy.energy_total"),
    )


def _part(document: Any, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
    """The section under ``keys``; one that is missing or no section is a mistake of the file."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: no section {'.'.join(keys)}; expected what ZigZag writes for one layer (_complete.json)"
        )
    return document


def _accesses(
    counts: Mapping[str, Any], links: Mapping[str, Any], path: Path
) -> Iterator[tuple[tuple[str, int, str], float]]:
    for name, levels in counts.items():
        operand = OPERANDS.get(str(links.get(name)))
        if operand is None or not isinstance(levels, list):
            raise InputError(f"{path}: operand '{name}' is linked to none of {', '.join(OPERANDS)}, or has no levels")
        for level, moved in enumerate(levels):
            where = f"{path}: outputs.memory.word_accesses.{name}[{level}]"
            for direction, count in _directions(moved, where).items():
                yield (operand, level, direction), count


#: How older versions print the directions: read or write, with an arrow up or down.
_TEXT_DIRECTIONS = {
    **dict.fromkeys(("rd /\\", "rd ↑"), "RD_OUT_TO_HIGH"),
    **dict.fromkeys(("rd V", "rd ↓"), "RD_OUT_TO_LOW"),
    **dict.fromkeys(("wr /\\", "wr ↑"), "WR_IN_BY_LOW"),
    **dict.fromkeys(("wr V", "wr ↓"), "WR_IN_BY_HIGH"),
}


def _directions(moved: Any, where: str) -> dict[str, float]:
    """Counts of all four directions of one level."""
    if isinstance(moved, dict):
        pairs = [(str(key).rpartition(".")[2].upper(), value) for key, value in moved.items()]
    else:
        found = re.findall(r"([rdw]{2} \S+): ([^,)\s]+)", str(moved))
        pairs = [(_TEXT_DIRECTIONS.get(direction, direction), value) for direction, value in found]
    if sorted(name for name, _ in pairs) != sorted(READS + WRITES):
        raise InputError(f"{where}: expected counts of {', '.join(READS + WRITES)}, found {str(moved)[:80]!r}")
    return {name: _finite(value, where) for name, value in pairs}


def _finite(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: '{value}' is not a number") from None
    if not isfinite(number):
        raise InputError(f"{where}: {value} is not finite")
    return number
