"""The ``dram:`` section of a design file: a flat DRAM, or a device by name or file with the controller's settings."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import Discriminator, Field, PositiveInt, Tag, ValidationInfo, field_validator, model_validator

from ..workloads.errors import InputError
from .dram import CommandDevice, FlatDevice, load_device
from .dram_energy import command_energies, peak_bytes_per_cycle, peak_bytes_per_s
from .strict import Quantity, Strict
from .unit_energy import ERT_FILES, DramEnergyPerByte


class FlatDram(Strict):
    """DRAM as one bandwidth, one latency and one energy per byte."""

    bandwidth_bytes_per_s: Quantity
    latency_s: Quantity
    read_pj_per_byte: DramEnergyPerByte
    write_pj_per_byte: DramEnergyPerByte

    @property
    def peak_bytes_per_s(self) -> float:
        return self.bandwidth_bytes_per_s.value

    @property
    def stream_pj_per_byte(self) -> float:
        """Energy of a byte read in a long stream."""
        return self.read_pj_per_byte.value


class ControllerChoices(Strict):
    """Settings of the memory controller; None leaves the simulator's default (DRAMsim3's)."""

    read_queue: Annotated[int | None, Field(ge=1, le=96)] = None
    write_queue: Annotated[int | None, Field(ge=1, le=96)] = None
    bank_queue: Annotated[int | None, Field(ge=1, le=8)] = None
    hit_cap: Annotated[int | None, Field(ge=1, le=1 << 30)] = None
    drain_high: Annotated[int | None, Field(ge=1)] = None
    drain_low: Annotated[int | None, Field(ge=0)] = None
    requests_per_cycle: Annotated[int | None, Field(ge=1)] = None
    power_down_after: Annotated[int | None, Field(ge=0)] = None

    def given(self) -> dict[str, int]:
        """The settings that differ from the default."""
        return self.model_dump(exclude_none=True)


class DeviceDram(Strict):
    """A DRAM device simulated command by command.

    ``device``: a registered name or the path of a device file, which starts at the folder of the design file. ``mapping``:
    name or bit-field string of the address mapping, ``channels`` and ``ranks``: their number; the device's own by default.
    """

    device: str
    mapping: str | None = None
    channels: PositiveInt | None = None
    ranks: PositiveInt | None = None
    settings: ControllerChoices = ControllerChoices()

    @field_validator("device", mode="after")
    @classmethod
    def _from_the_design_file(cls, value: str, info: ValidationInfo) -> str:
        """A path starts at the folder of the design file being read."""
        files = (info.context or {}).get(ERT_FILES)
        is_path = value.endswith((".yaml", ".yml")) or "/" in value
        return str(files.folder / value) if files is not None and is_path else value

    @model_validator(mode="after")
    def _exists(self) -> DeviceDram:
        try:
            if isinstance(self.loaded, CommandDevice):
                self.loaded.mapping(self.mapping)
            elif self.model_fields_set - {"device"}:
                raise InputError(f"'{self.device}' is flat: it has no mapping, channels, ranks or controller settings")
        except InputError as error:
            raise ValueError("\n".join(error.problems)) from None
        return self

    @cached_property
    def loaded(self) -> CommandDevice | FlatDevice:
        """The device with the chosen channels and ranks."""
        device = load_device(self.device)
        if isinstance(device, CommandDevice) and (self.channels, self.ranks) != (None, None):
            return device.with_organisation(channels=self.channels, ranks=self.ranks)
        return device

    @property
    def command_device(self) -> CommandDevice:
        """The device, which is not a flat one: those became a :class:`FlatDram` when the design was read."""
        assert isinstance(self.loaded, CommandDevice)
        return self.loaded

    @property
    def peak_bytes_per_s(self) -> float:
        return peak_bytes_per_s(self.command_device)

    @property
    def stream_pj_per_byte(self) -> float:
        """Energy of a byte read in a long stream at the peak rate: its burst and the open rows' background."""
        device = self.command_device
        organisation, e = device.organisation, command_energies(device)
        background = e.open_pj_per_cycle * organisation.channels * organisation.ranks / peak_bytes_per_cycle(device)
        return (e.read_pj + e.io_read_pj) / organisation.access_bytes + background

    def unverified(self) -> list[str]:
        """The groups of the device's values whose source was not seen."""
        device = self.command_device
        groups = {name: getattr(device, name) for name in ("organisation", "timing", "currents", "io")}
        return [f"dram device {device.name}, {name} ({g.source})" for name, g in groups.items() if not g.verified]


def _kind(value: Any) -> str:
    device = isinstance(value, DeviceDram) or (isinstance(value, dict) and "device" in value)
    return "DeviceDram" if device else "FlatDram"


Dram = Annotated[Annotated[FlatDram, Tag("FlatDram")] | Annotated[DeviceDram, Tag("DeviceDram")], Discriminator(_kind)]


def resolved(dram: FlatDram | DeviceDram) -> FlatDram | DeviceDram:
    """``dram``, a named flat device in its flat form.

    Flat devices state energies and a bandwidth, but no latency; as in the papers they come from, none is added.
    """
    if isinstance(dram, FlatDram) or isinstance(dram.loaded, CommandDevice):
        return dram
    device = dram.loaded
    energy, bandwidth = device.energy, device.bandwidth

    def quantity(value: float, source: str, verified: bool) -> Quantity:
        return Quantity(value=value, source=f"{device.name}: {source}", verified=verified)

    return FlatDram(
        bandwidth_bytes_per_s=quantity(bandwidth.gb_per_s * 1e9, bandwidth.source, bandwidth.verified),
        latency_s=quantity(0.0, "the device states no latency, none is added", verified=False),
        read_pj_per_byte=quantity(energy.read_pj_per_byte, energy.source, energy.verified),
        write_pj_per_byte=quantity(energy.write_pj_per_byte, energy.source, energy.verified),
    )


def choose_dram(name: str, mapping: str | None = None) -> FlatDram | DeviceDram:
    """The DRAM of a registered name or a device file.

    Raises
    ------
    InputError
        for an unknown name or mapping (with the nearest match), or with every mistake of the file.
    """
    device = load_device(name)
    if isinstance(device, CommandDevice):
        device.mapping(mapping)
    elif mapping is not None:
        raise InputError(f"DRAM device '{device.name}' is flat: it has no address mapping")
    return resolved(DeviceDram(device=name) if mapping is None else DeviceDram(device=name, mapping=mapping))
