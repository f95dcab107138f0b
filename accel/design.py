"""Hardware description: what a design file may say, checked on reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, Union

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from ..workloads.errors import InputError, unknown_name
from .arrays import ARRAYS
from .dram_choice import DeviceDram, Dram, FlatDram, choose_dram, resolved
from .ert import ErtFiles
from .mapping import Capacity, MappingPolicy
from .strict import ArrayDescription, Quantity, Strict, ZeroHandling
from .technology import ENERGY_SOURCE, NODE_RANGE_NM, SRAM_SOURCE, check_node, sram_scaling
from .unit_energy import ERT_FILES, Energy, EnergyPerByte, ShownEnergy, UnitEnergy
from .yaml_errors import load_validated

DESIGN_FOLDER = Path(__file__).parent / "designs"
#: Built-in designs: one YAML file each.
DESIGNS = (
    "bit-pragmatic",
    "cambricon-x",
    "dadiannao",
    "diannao",
    "dstc",
    "eyeriss",
    "eyeriss-v2",
    "nm-lanes-16x8",
    "scnn",
    "sigma",
    "smartdeal",
    "stc-2-4",
    "stc-flexible",
    "systolic-16x16",
    "tpu-like-16x16",
)

EnergyT = TypeVar("EnergyT", bound=UnitEnergy)
PartT = TypeVar("PartT", bound=Strict)

if TYPE_CHECKING:
    AnyArray = ArrayDescription
else:  # one model per registered array, told apart by ``kind``
    AnyArray = Annotated[
        Union[tuple(kind.description for kind in ARRAYS.values())],  # noqa: UP007
        Field(discriminator="kind"),
    ]


class OperandZeros(Strict):
    weights: ZeroHandling
    inputs: ZeroHandling


class Buffer(Strict):
    """One on-chip SRAM; ``width_bits`` is the word the array reads, which sets the energy per byte.

    The CACTI table prices it unless both energies are stated; its leakage is always the table's.
    """

    bytes: Annotated[int, Field(ge=512, le=4 << 20)]
    width_bits: Annotated[int, Field(ge=8, le=256)]
    read_pj_per_byte: EnergyPerByte | None = None
    write_pj_per_byte: EnergyPerByte | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Buffer:
        if (self.read_pj_per_byte is None) != (self.write_pj_per_byte is None):
            raise ValueError("read_pj_per_byte and write_pj_per_byte belong together")
        return self


class Buffers(Strict):
    """The on-chip buffers that DRAM fills and drains."""

    weights: Buffer
    inputs: Buffer
    outputs: Buffer


class MemoryCost(Strict):
    """A memory near the PEs with published access energies instead of a CACTI estimate."""

    read_pj_per_byte: EnergyPerByte
    write_pj_per_byte: EnergyPerByte


class UnitEnergies(Strict):
    """Energies of the array's own actions at the nominal voltage; ``actions``: those only this kind of array has."""

    mac_pj: Energy
    mac_gated_pj: Energy
    register_pj_per_byte: EnergyPerByte
    actions: dict[str, ShownEnergy] = Field(default_factory=dict)


class Technology(Strict):
    """The node that energies are scaled to; without this section they hold for the design's ``node_nm``."""

    node_nm: Annotated[float, Field(ge=NODE_RANGE_NM[0], le=NODE_RANGE_NM[1])]


class OperatingPoint(Strict):
    """A clock and the voltage it needs."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_.-]+$")]
    clock_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    voltage_v: Annotated[float, Field(gt=0.2, lt=3.0)]
    source: Annotated[str, Field(min_length=3)]
    verified: bool


class Design(Strict):
    """An accelerator: array, buffers, DRAM, unit energies, operating points.

    ``node_nm``: node that the unit energies were published for, unless they state their own.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    description: str
    node_nm: Annotated[float, Field(ge=22, le=90)]
    nominal_voltage_v: Quantity
    array: AnyArray
    zero_handling: OperandZeros
    weight_format: Literal[
        "dense",
        "bitmap",
        "csr",
        "coo",
        "run_length",
        "nm4",
        "nm8",
        "nm16",
        "nm4_packed",
        "nm8_packed",
        "nm16_packed",
        "level_ordered",
        "level_tag",
        "smartdeal_row_direct",
        "smartdeal_row_tag",
        "smartdeal_row_ordered",
        "smartdeal_element_direct",
        "smartdeal_element_tag",
        "smartdeal_element_ordered",
    ]
    buffers: Buffers
    memories: dict[str, Buffer | MemoryCost] = Field(default_factory=dict)
    dram: Dram
    energies: UnitEnergies
    operating_points: Annotated[list[OperatingPoint], Field(min_length=1)]
    mapping: MappingPolicy = MappingPolicy()
    technology: Technology | None = None
    _unused_ert: dict[str, list[str]] = PrivateAttr(default_factory=dict)

    @field_validator("dram", mode="after")
    @classmethod
    def _flat_by_name(cls, value: FlatDram | DeviceDram) -> FlatDram | DeviceDram:
        return resolved(value)

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        names = [point.name for point in self.operating_points]
        if len(set(names)) < len(names):
            raise ValueError(f"operating points must have different names, found {', '.join(names)}")
        flat = self.dram if isinstance(self.dram, FlatDram) else None
        if self.nominal_voltage_v.value <= 0 or (flat is not None and flat.bandwidth_bytes_per_s.value <= 0):
            raise ValueError("nominal_voltage_v and dram.bandwidth_bytes_per_s must be greater than 0")
        missing = [name for name in ARRAYS[self.array.kind].memories if name not in self.memories]
        if missing:
            raise ValueError(f"array kind '{self.array.kind}' needs memories.{', memories.'.join(missing)}")
        return self

    @model_validator(mode="after")
    def _at_its_node(self, info: ValidationInfo) -> Design:
        files = (info.context or {}).get(ERT_FILES)
        if files is not None:
            self._unused_ert = files.unused()
        try:
            return self._scaled()
        except InputError as error:
            raise ValueError("\n".join(error.problems)) from None

    @property
    def built_nm(self) -> float:
        """Node (nm) that the energies of this design hold for."""
        return self.node_nm if self.technology is None else self.technology.node_nm

    def capacity(self) -> Capacity:
        """What the tiling search needs to know of this design."""
        fastest = max(point.clock_hz for point in self.operating_points)
        return Capacity(
            self.buffers.weights.bytes,
            self.buffers.inputs.bytes,
            self.buffers.outputs.bytes,
            objective=self.mapping.objective,
            dram_bytes_per_cycle=self.dram.peak_bytes_per_s / fastest,
            dram_pj_per_byte=self.dram.stream_pj_per_byte,
            mac_pj=self.energies.mac_pj.value,
            pinned=self.mapping.pinned,
        )

    def point(self, name: str | None = None) -> OperatingPoint:
        """The operating point of that name; without a name the fastest one."""
        if name is None:
            return max(self.operating_points, key=lambda p: p.clock_hz)
        for point in self.operating_points:
            if point.name == name:
                return point
        raise unknown_name(f"operating point of design '{self.name}'", name, [p.name for p in self.operating_points])

    def quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every sourced number of the design with its path in the file."""
        yield "nominal_voltage_v", self.nominal_voltage_v
        parts: list[tuple[str, Strict]] = [("dram", self.dram), ("energies", self.energies)]
        parts += [(f"buffers.{name}", buffer) for name, buffer in self.buffers]
        parts += [(f"memories.{name}", memory) for name, memory in self.memories.items()]
        for path, part in parts:
            for key, value in part:
                if isinstance(value, Quantity):
                    yield f"{path}.{key}", value
        for name, action in self.energies.actions.items():
            yield f"energies.actions.{name}", action

    def unverified(self) -> list[str]:
        """Every constant of the design whose source was not seen, as 'path = value (source)'.

        What only scaling made uncertain is said once, by :meth:`notes`.
        """
        stated = [(path, q.published if isinstance(q, UnitEnergy) else q) for path, q in self.quantities()]
        found = [f"{path} = {q.value:g} ({q.source})" for path, q in stated if not q.verified]
        found += [
            f"operating point '{p.name}' = {p.clock_hz:g} Hz at {p.voltage_v:g} V ({p.source})"
            for p in self.operating_points
            if not p.verified
        ]
        return found + (self.dram.unverified() if isinstance(self.dram, DeviceDram) else [])

    def notes(self) -> list[str]:
        """What was done to the design's energies, for the report: scaling between nodes, and tables used in part."""
        energies = [q for _, q in self.quantities() if isinstance(q, UnitEnergy)]
        factors = {
            q.published.node_nm or self.node_nm: q.value / q.published.value
            for q in energies
            if q is not q.published and q.published.value
        }
        found = []
        if factors or self.built_nm != self.node_nm:
            logic = ", ".join(f"x {factor:.3g} from {node:g} nm" for node, factor in sorted(factors.items()))
            found.append(
                f"energies estimated for {self.built_nm:g} nm: unit energies {logic or 'as stated'} "
                f"({ENERGY_SOURCE}; unverified); SRAM and its leakage {_sram_note(self.built_nm)}; DRAM, clocks and "
                "voltages unchanged"
            )
        for file, entries in self._unused_ert.items():
            if entries:
                found.append(f"in {file}, but not used by this design: {', '.join(entries)}")
        return found

    def with_node(self, node_nm: float) -> Design:
        """This design with its on-chip energies scaled to another node; DRAM, clocks and voltages stay.

        Raises
        ------
        InputError
            for a node outside 7 to 90 nm, or a nominal voltage outside the scaling model.
        """
        check_node(node_nm)
        return self.model_copy(update={"technology": Technology(node_nm=node_nm)})._scaled()

    def _scaled(self) -> Design:
        """This design with every unit energy at ``built_nm``."""

        def at_node(energy: EnergyT) -> EnergyT:
            volts = self.nominal_voltage_v.value
            return energy.at_node(self.built_nm, published_nm=self.node_nm, voltage_v=volts)

        def moved(part: PartT) -> PartT:
            return part.model_copy(update={key: at_node(q) for key, q in part if isinstance(q, UnitEnergy)})

        actions = {name: at_node(action) for name, action in self.energies.actions.items()}
        update = {
            "buffers": self.buffers.model_copy(update={name: moved(buffer) for name, buffer in self.buffers}),
            "memories": {name: moved(memory) for name, memory in self.memories.items()},
            "energies": moved(self.energies).model_copy(update={"actions": actions}),
        }
        return self.model_copy(update=update)

    def with_objective(self, objective: str) -> Design:
        """This design with another objective of its tiling search."""
        policy = MappingPolicy.model_validate(self.mapping.model_dump() | {"objective": objective})
        return self.model_copy(update={"mapping": policy})

    def with_dram(self, name: str, mapping: str | None = None) -> Design:
        """This design with another DRAM: a registered device (flat or simulated by commands) or a device file.

        Raises
        ------
        InputError
            for an unknown name or mapping, with the nearest match.
        """
        return self.model_copy(update={"dram": choose_dram(name, mapping)})


def _sram_note(node_nm: float) -> str:
    table_nm, energy, leakage = sram_scaling(node_nm)
    if table_nm == node_nm:
        return f"from CACTI at {node_nm:g} nm"
    return f"from CACTI at {table_nm:g} nm x {energy:.3g} and x {leakage:.3g} ({SRAM_SOURCE}; unverified)"


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
    if text.endswith((".yaml", ".yml")) or os.path.exists(text):  # noqa: PTH110 - Path.exists fails on long names
        path = Path(text)
        return load_validated(path, Design, context={ERT_FILES: ErtFiles(path.parent)})
    raise InputError(f"{unknown_name('accelerator', text, DESIGNS)}, or a path to a .yaml design file")
