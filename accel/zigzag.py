"""Replay of a ZigZag evaluation: its accelerator file, the access counts it reports per memory level, and their energy.

ZigZag (Mei et al., IEEE TC 2021; accelerator files of version 3) keeps one memory hierarchy per operand: inputs I1, weights
I2 (here I and W) and outputs O. A level is numbered by how many memories of that operand are listed before it. Every level
moves data in four directions; energy is a sum over operands and levels,

    (RD_OUT_TO_LOW + RD_OUT_TO_HIGH) * r_cost + (WR_IN_BY_LOW + WR_IN_BY_HIGH) * w_cost,

counts in units of the level's widest word (fractional where it moves a smaller granule), plus MACs x unit energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
        return [m for m in self.memories.values() if operand in {OPERANDS[name] for name in m.operands}]


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
