"""DRAM devices as data: organisation, timings and currents of one device file, and what follows from them.

A device file describes a *command* device (simulated command by command) or a *flat* one (every byte costs the same, for
comparison with papers). Timings are in clock cycles, currents in mA of one device; energies are in pJ of a whole rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RootModel,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..workloads.errors import InputError, unknown_name
from .dram_mapping import AddressMapping, mapping_syntax, parse_mapping
from .yaml_errors import load_validated

#: Names of the built-in devices; each is a file ``devices/<name>.yaml``.
DEVICES = (
    "ddr4_2400_x8", "ddr4_2400_x16", "ddr3_1600_x8", "lpddr4_3200_x16", "lpddr4_3200_x32_lockstep", "hbm2", "hbm2_8ch",
    "smartexchange_100pj_per_byte", "horowitz_45nm", "horowitz_45nm_high", "eyeriss_65nm", "lpddr4_8pj_per_bit",
    "ddr3_70pj_per_bit", "hbm2_3p9pj_per_bit", "hbm_7pj_per_bit", "zigzag_tpu_like", "bitmod_150pj_per_byte",
)  # fmt: skip
DEVICE_FOLDER = Path(__file__).parent / "devices"


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"found {value}; must be a power of two")
    return value


PowerOfTwo = Annotated[PositiveInt, Field(strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Sourced(_Strict):
    """A group of values with their source; ``verified``: the values were seen there."""

    source: str = Field(min_length=1)
    verified: bool


class Organisation(_Sourced):
    """Banks, rows and widths. ``bus_width_bits`` and ``ranks`` are of one channel."""

    channels: PowerOfTwo = Field(le=64)
    ranks: PowerOfTwo = Field(le=4)
    bank_groups: PowerOfTwo = Field(le=16)
    banks_per_group: PowerOfTwo = Field(le=32)
    rows: PowerOfTwo
    columns: PowerOfTwo
    device_width_bits: PowerOfTwo
    bus_width_bits: PowerOfTwo
    burst_length: PowerOfTwo = Field(ge=2)
    separate_column_commands: bool

    _powers = field_validator(
        "channels", "ranks", "bank_groups", "banks_per_group", "rows", "columns", "device_width_bits",
        "bus_width_bits", "burst_length",
    )(_power_of_two)  # fmt: skip

    @field_validator("banks_per_group")
    @classmethod
    def _few_banks(cls, value: int, info: ValidationInfo) -> int:
        banks = value * info.data.get("bank_groups", 1) * info.data.get("ranks", 1)
        if banks > 32:
            raise ValueError(f"{banks} banks in one channel; the controller handles up to 32")
        return value

    @field_validator("bus_width_bits")
    @classmethod
    def _whole_devices(cls, value: int, info: ValidationInfo) -> int:
        width = info.data.get("device_width_bits", 1)
        if value % width:
            raise ValueError(f"found {value}; must be a multiple of device_width_bits = {width}")
        return value

    @field_validator("burst_length")
    @classmethod
    def _access_within_line(cls, value: int, info: ValidationInfo) -> int:
        access = value * info.data.get("bus_width_bits", 8) // 8
        if access > 64:
            raise ValueError(f"one burst is {access} bytes; at most 64 (one line)")
        if value > info.data.get("columns", value):
            raise ValueError(f"found {value}; must not exceed columns = {info.data['columns']}")
        return value

    @property
    def devices_per_rank(self) -> int:
        return self.bus_width_bits // self.device_width_bits

    @property
    def access_bytes(self) -> int:
        """Bytes of one burst of one channel."""
        return self.bus_width_bits // 8 * self.burst_length

    @property
    def burst_cycles(self) -> int:
        """Clock cycles of one burst (double data rate)."""
        return self.burst_length // 2

    @property
    def field_widths(self) -> dict[str, int]:
        """Address bits of each field; columns count whole bursts."""
        sizes = {
            "ch": self.channels, "ra": self.ranks, "bg": self.bank_groups, "ba": self.banks_per_group,
            "ro": self.rows, "co": self.columns // self.burst_length,
        }  # fmt: skip
        return {field: size.bit_length() - 1 for field, size in sizes.items()}

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all channels."""
        return self.access_bytes << sum(self.field_widths.values())


class Timing(_Sourced):
    """JEDEC timings in clock cycles; ``_S`` between bank groups, ``_L`` within one (equal where there is one group)."""

    tCK_ns: PositiveFloat
    CL: PositiveInt
    CWL: PositiveInt
    tRCDRD: PositiveInt
    tRCDWR: PositiveInt
    tRP: PositiveInt
    tRAS: PositiveInt
    tRC: PositiveInt
    tCCD_S: PositiveInt
    tCCD_L: PositiveInt
    tRRD_S: PositiveInt
    tRRD_L: PositiveInt
    tFAW: PositiveInt
    tWTR_S: PositiveInt
    tWTR_L: PositiveInt
    tWR: PositiveInt
    tRTP: PositiveInt
    tRTRS: NonNegativeInt
    tWPRE: NonNegativeInt
    tPPD: NonNegativeInt
    tXP: PositiveInt
    tRFC: PositiveInt
    tREFI: PositiveInt

    @field_validator("tRAS", "tRC", "tCCD_L", "tRRD_L", "tFAW", "tWTR_L", "tREFI")
    @classmethod
    def _consistent(cls, value: int, info: ValidationInfo) -> int:
        sums = {
            "tRAS": ("tRCDRD",), "tRC": ("tRAS", "tRP"), "tCCD_L": ("tCCD_S",), "tRRD_L": ("tRRD_S",),
            "tFAW": ("tRRD_S",), "tWTR_L": ("tWTR_S",), "tREFI": ("tRFC", "tRP"),
        }  # fmt: skip
        parts = sums[str(info.field_name)]
        if all(part in info.data for part in parts):
            least = sum(info.data[part] for part in parts)
            if value < least:
                raise ValueError(f"found {value}; must be at least {' + '.join(parts)} = {least}")
        return value


class Currents(_Sourced):
    """Supply voltage and currents of one device (JEDEC IDD definitions)."""

    VDD_V: PositiveFloat
    IDD2P_mA: PositiveFloat
    IDD2N_mA: PositiveFloat
    IDD3P_mA: PositiveFloat
    IDD3N_mA: PositiveFloat
    IDD0_mA: PositiveFloat
    IDD4R_mA: PositiveFloat
    IDD4W_mA: PositiveFloat
    IDD5_mA: PositiveFloat

    @field_validator("IDD2N_mA", "IDD3N_mA", "IDD4R_mA", "IDD4W_mA", "IDD5_mA")
    @classmethod
    def _ordered(cls, value: float, info: ValidationInfo) -> float:
        below = "IDD2P_mA" if info.field_name == "IDD2N_mA" else "IDD2N_mA"
        if info.field_name not in ("IDD2N_mA", "IDD3N_mA"):
            below = "IDD3N_mA"
        if below in info.data and value < info.data[below]:
            raise ValueError(f"found {value}; must not be below {below} = {info.data[below]}")
        return value


class InputOutput(_Sourced):
    """Interface energy on top of the supply currents, per transferred bit."""

    read_pj_per_bit: NonNegativeFloat
    write_pj_per_bit: NonNegativeFloat


class CommandDevice(_Strict):
    """A DRAM that is simulated command by command."""

    kind: Literal["command"]
    name: str
    description: str
    organisation: Organisation
    timing: Timing
    currents: Currents
    io: InputOutput
    mappings: dict[str, str]
    default_mapping: str

    @field_validator("currents")
    @classmethod
    def _activation_costs(cls, value: Currents, info: ValidationInfo) -> Currents:
        timing = info.data.get("timing")
        if timing is not None:
            standing = (value.IDD3N_mA * timing.tRAS + value.IDD2N_mA * timing.tRP) / timing.tRC
            if value.IDD0_mA < standing:
                raise ValueError(f"IDD0_mA = {value.IDD0_mA} is below the standby current over tRC, {standing:.4g} mA")
        return value

    @field_validator("mappings")
    @classmethod
    def _complete_mappings(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if "organisation" not in info.data:
            return value
        organisation: Organisation = info.data["organisation"]
        for name, text in value.items():
            try:
                _parse(text, organisation)
            except InputError as error:
                raise ValueError("\n".join(f"{name}: {problem}" for problem in error.problems)) from None
        return value

    @field_validator("default_mapping")
    @classmethod
    def _known_mapping(cls, value: str, info: ValidationInfo) -> str:
        if "mappings" in info.data and value not in info.data["mappings"]:
            raise ValueError(str(unknown_name("mapping", value, info.data["mappings"])))
        return value

    def mapping(self, name: str | None = None) -> AddressMapping:
        """Address mapping by name, by bit-field string, or the default.

        Raises
        ------
        InputError
            for an unknown name (one word; nearest match) or a string that does not cover each address bit once; both say how
            a string is written.
        """
        name = self.default_mapping if name is None else name
        if name not in self.mappings and " " not in name.strip():
            unknown = unknown_name(f"mapping of {self.name}", name, self.mappings)
            raise InputError(f"{unknown}; or {mapping_syntax(self.organisation.field_widths)}")
        return _parse(self.mappings.get(name, name), self.organisation)

    def with_organisation(self, *, channels: int | None = None, ranks: int | None = None) -> CommandDevice:
        """The same device with another number of channels or ranks (powers of two)."""
        organisation = self.organisation.model_dump()
        organisation |= {k: v for k, v in (("channels", channels), ("ranks", ranks)) if v is not None}
        try:
            return self.model_validate({**self.model_dump(), "organisation": organisation})
        except ValidationError as error:
            problems = "; ".join(f"{details['loc'][-1]}: {details['msg']}" for details in error.errors())
            raise InputError(f"{self.name} with channels = {channels}, ranks = {ranks}: {problems}") from None


class FlatEnergy(_Sourced):
    read_pj_per_byte: PositiveFloat
    write_pj_per_byte: PositiveFloat


class FlatBandwidth(_Sourced):
    gb_per_s: PositiveFloat  # 1 GB = 1e9 bytes


class FlatDevice(_Strict):
    """A DRAM whose every byte costs the same energy and time."""

    kind: Literal["flat"]
    name: str
    description: str
    energy: FlatEnergy
    bandwidth: FlatBandwidth

    def energy_pj(self, *, read_bytes: int, written_bytes: int) -> float:
        return read_bytes * self.energy.read_pj_per_byte + written_bytes * self.energy.write_pj_per_byte

    def seconds(self, moved_bytes: int) -> float:
        return moved_bytes / (self.bandwidth.gb_per_s * 1e9)


Device = CommandDevice | FlatDevice


class _DeviceFile(RootModel[Annotated[Device, Field(discriminator="kind")]]):
    """Contents of a device file: one of the two kinds."""


def load_device(name_or_path: str | Path) -> Device:
    """A device by its name (:data:`DEVICES`) or from a user's file (a path, or a name ending in .yaml or .yml).

    Raises
    ------
    InputError
        for an unknown name, or with every mistake of the file.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        return load_validated(name_or_path, _DeviceFile).root
    if text not in DEVICES:
        raise unknown_name("DRAM device", text, DEVICES)
    return load_validated(DEVICE_FOLDER / f"{text}.yaml", _DeviceFile).root


def load_command_device(name_or_path: str | Path) -> CommandDevice:
    """As :func:`load_device`, but only devices that are simulated command by command."""
    device = load_device(name_or_path)
    if isinstance(device, FlatDevice):
        raise InputError(f"DRAM device '{device.name}' is flat: it has energy per byte and bandwidth, but no commands")
    return device


def _parse(text: str, organisation: Organisation) -> AddressMapping:
    access_bits = organisation.access_bytes.bit_length() - 1
    return parse_mapping(text, widths=organisation.field_widths, access_bits=access_bits)
