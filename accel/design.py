"""Hardware description: what a design file may say, checked on reading."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..workloads.errors import InputError, unknown_name
from .yaml_errors import load_validated

DESIGN_FOLDER = Path(__file__).parent / "designs"
#: Built-in designs: one YAML file each.
DESIGNS = ("nm-lanes-16x8", "systolic-16x16")

Positive = Annotated[int, Field(gt=0, le=1 << 40)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(_Strict):
    """A number that describes hardware, with where it comes from and whether that source was seen."""

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=3)]
    verified: bool


class ZeroHandling(StrEnum):
    """What the array does with a zero operand: compute it anyway, keep the multiplier still, or not issue it at all."""

    NONE = "none"
    GATE = "gate"
    SKIP = "skip"


class OperandZeros(_Strict):
    weights: ZeroHandling
    inputs: ZeroHandling


class SystolicArray(_Strict):
    """Dense systolic array. ``dataflow``: which operand stays in the PEs."""

    kind: Literal["systolic"]
    dataflow: Literal["weight_stationary", "output_stationary", "input_stationary"]
    rows: Annotated[int, Field(gt=0, le=4096)]
    columns: Annotated[int, Field(gt=0, le=4096)]
    weight_bits: Annotated[int, Field(ge=1, le=32)]
    activation_bits: Annotated[int, Field(ge=1, le=32)]
    accumulator_bits: Annotated[int, Field(ge=1, le=64)]


class NMLanesArray(_Strict):
    """N:M sparse array: rows x columns PEs of ``lanes`` multipliers, each fed from M inputs by an index.

    ``step_control``: who decides how many steps a group of M takes: one register for the whole layer (as the RTL), or a
    count sent with each group (an extension: a group costs what its fullest row needs). ``drain_width``: outputs per cycle.
    """

    kind: Literal["nm_lanes"]
    rows: Annotated[int, Field(gt=0, le=4096)]
    columns: Annotated[int, Field(gt=0, le=4096)]
    lanes: Annotated[int, Field(gt=0, le=256)]
    group: Annotated[int, Field(gt=0, le=256, description="M: consecutive inputs that share the lanes")]
    groups_per_tile: Annotated[int, Field(gt=0, le=65536)]
    bus_bits: Annotated[int, Field(gt=0, le=65536)]
    weight_bits: Annotated[int, Field(ge=1, le=32)]
    activation_bits: Annotated[int, Field(ge=1, le=32)]
    accumulator_bits: Annotated[int, Field(ge=1, le=64)]
    operand_feed: Literal["broadcast", "systolic"]
    step_interval: Annotated[int, Field(gt=0, le=64)]
    drain_width: Annotated[int, Field(gt=0, le=65536)] = 1
    step_control: Literal["layer", "group"]

    @model_validator(mode="after")
    def _lanes_divide(self) -> NMLanesArray:
        if self.lanes > self.group:
            raise ValueError(f"lanes = {self.lanes} exceeds group = {self.group}: the extra lanes could never be used")
        return self


ArrayDescription = Annotated[SystolicArray | NMLanesArray, Field(discriminator="kind")]


class Buffer(_Strict):
    """One on-chip SRAM; ``width_bits`` is the word the array reads, which sets the energy per byte."""

    bytes: Annotated[int, Field(ge=512, le=4 << 20)]
    width_bits: Annotated[int, Field(ge=8, le=256)]


class Buffers(_Strict):
    weights: Buffer
    inputs: Buffer
    outputs: Buffer
    banks: Buffer | None = None


class FlatDram(_Strict):
    """DRAM as one bandwidth, one latency and one energy per byte."""

    bandwidth_bytes_per_s: Quantity
    latency_s: Quantity
    read_pj_per_byte: Quantity
    write_pj_per_byte: Quantity


class UnitEnergies(_Strict):
    """Energies of the array's own actions at the nominal voltage."""

    mac_pj: Quantity
    mac_gated_pj: Quantity
    register_pj_per_byte: Quantity


class OperatingPoint(_Strict):
    """A clock and the voltage it needs."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")]
    clock_hz: PositiveReal
    voltage_v: Annotated[float, Field(gt=0.2, lt=3.0)]
    source: Annotated[str, Field(min_length=3)]
    verified: bool


class Design(_Strict):
    """An accelerator: array, buffers, DRAM, unit energies, operating points."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    description: str
    node_nm: Annotated[float, Field(ge=22, le=90)]
    nominal_voltage_v: Quantity
    array: ArrayDescription
    zero_handling: OperandZeros
    weight_format: Literal[
        "dense",
        "bitmap",
        "csr",
        "coo",
        "run_length",
        "nm4",
        "nm8",
        "nm4_packed",
        "nm8_packed",
        "level_ordered",
        "level_tag",
    ]
    buffers: Buffers
    dram: FlatDram
    energies: UnitEnergies
    operating_points: Annotated[list[OperatingPoint], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        names = [point.name for point in self.operating_points]
        if len(set(names)) < len(names):
            raise ValueError(f"operating points must have different names, found {', '.join(names)}")
        if isinstance(self.array, NMLanesArray) and self.buffers.banks is None:
            raise ValueError("array kind 'nm_lanes' needs buffers.banks: the double-buffered operand memory of the PEs")
        return self

    def point(self, name: str | None = None) -> OperatingPoint:
        """The operating point of that name; without a name the fastest one."""
        if name is None:
            return max(self.operating_points, key=lambda p: p.clock_hz)
        for point in self.operating_points:
            if point.name == name:
                return point
        raise unknown_name(f"operating point of design '{self.name}'", name, [p.name for p in self.operating_points])

    def unverified(self) -> list[str]:
        """Every constant of the design whose source was not seen, as 'path = value (source)'."""
        found = []
        for section in ("dram", "energies"):
            for key, quantity in getattr(self, section):
                if not quantity.verified:
                    found.append(f"{section}.{key} = {quantity.value:g} ({quantity.source})")
        if not self.nominal_voltage_v.verified:
            found.append(f"nominal_voltage_v = {self.nominal_voltage_v.value:g} ({self.nominal_voltage_v.source})")
        for point in self.operating_points:
            if not point.verified:
                found.append(f"operating point '{point.name}' = {point.clock_hz:g} Hz at {point.voltage_v:g} V")
        return found


def load_design(name_or_path: str | Path) -> Design:
    """A built-in design by name, or any design file.

    Raises
    ------
    InputError
        for an unknown name (with the nearest match) or with every mistake of the file at once.
    """
    text = str(name_or_path)
    if text in DESIGNS:
        return load_validated(DESIGN_FOLDER / f"{text}.yaml", Design)
    if text.endswith((".yaml", ".yml")) or Path(text).exists():
        return load_validated(Path(text), Design)
    raise InputError(f"{unknown_name('accelerator', text, DESIGNS)}, or a path to a .yaml design file")
