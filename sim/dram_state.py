"""From a device and a controller's settings to the kernels' words: the parameter vector and the state of idle channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..accel.dram import CommandDevice
from ..accel.dram_mapping import AddressMapping
from ..traces.requests import LINE_BYTES
from ..workloads.errors import InputError
from . import dram_banks_kernel as layout
from .dram_lanes_kernel import DEPTH, FAR, LANES


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Choices of the memory controller; the defaults are DRAMsim3's.

    Parameters
    ----------
    read_queue, write_queue : requests that wait per channel.
    bank_queue : depth of the command queue of a bank, the window in which row hits overtake.
    hit_cap : column commands after which a row may be closed although hits wait.
    drain_high : writes that start a drain.
    drain_low : a drain starts above this number if no other command is queued.
    requests_per_cycle : lines that the in-order port takes per cycle; None: one per channel.
    power_down_after : idle cycles after which a channel powers down; None: never.
    """

    read_queue: int = 32
    write_queue: int = 32
    bank_queue: int = 8
    hit_cap: int = 4
    drain_high: int = 32
    drain_low: int = 8
    requests_per_cycle: int | None = None
    power_down_after: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}, must lie between {low} and {high}"
            for name, low, high in (
                ("read_queue", 1, 96), ("write_queue", 1, 96), ("bank_queue", 1, 8), ("hit_cap", 1, 1 << 30),
                ("drain_high", 1, self.write_queue), ("drain_low", 0, self.drain_high),
            )
            if not low <= getattr(self, name) <= high
        ]  # fmt: skip
        if self.requests_per_cycle is not None and self.requests_per_cycle < 1:
            problems.append(f"requests_per_cycle = {self.requests_per_cycle}, must be at least 1")
        if self.power_down_after is not None and self.power_down_after < 0:
            problems.append(f"power_down_after = {self.power_down_after}, must not be negative")
        if problems:
            raise InputError([f"DRAM controller: {problem}" for problem in problems])


def pack_parameters(
    device: CommandDevice, mapping: AddressMapping, *, settings: ControllerSettings
) -> NDArray[np.int64]:
    """Parameter vector of the kernels (indices in ``dram_banks_kernel``)."""
    p = np.zeros(layout.PARAMETERS, np.int64)
    for values in (_command_distances(device), _controller_choices(device, settings)):
        for index, value in values.items():
            p[index] = value
    bank_bits, channel_bits = _log2(int(p[layout.BANKS])), _log2(device.organisation.channels)
    p[layout.CHANNEL_SHIFT], p[layout.CHANNEL_MASK] = bank_bits, (1 << channel_bits) - 1
    p[layout.ROW_SHIFT] = bank_bits + channel_bits
    one_rank = p[layout.RANKS] == 1 and p[layout.BANKS] <= LANES
    p[layout.ONE_SCAN] = one_rank and p[layout.CCD_L] <= 2 * p[layout.CCD_S]
    starts = {
        "ba": 0, "bg": p[layout.GROUP_SHIFT], "ra": p[layout.RANK_SHIFT], "ch": bank_bits, "ro": bank_bits + channel_bits,
    }  # fmt: skip
    segments = [segment for segment in mapping.segments if segment.field != "co"]
    if len(segments) > layout.MAX_SEGMENTS:
        raise InputError(f"address mapping '{mapping}' has more than {layout.MAX_SEGMENTS} parts")
    for k, segment in enumerate(segments):
        at = layout.SEGMENT + 3 * k
        p[at : at + 3] = segment.low, (1 << segment.bits) - 1, starts[segment.field] + segment.field_low
    return p


def _command_distances(device: CommandDevice) -> dict[int, int]:
    """Distances between commands in cycles (DRAMsim3 timing.cc)."""
    t, burst = device.timing, device.organisation.burst_cycles
    read_end, write_end = t.CL + burst, t.CWL + burst
    return {
        layout.RCD_RD: t.tRCDRD, layout.RCD_WR: t.tRCDWR, layout.RAS: t.tRAS, layout.RC: t.tRC, layout.RP: t.tRP,
        layout.RD_PRE: t.tRTP, layout.WR_PRE: write_end + t.tWR,
        layout.RRD_S: t.tRRD_S, layout.RRD_L: t.tRRD_L, layout.FAW: t.tFAW,
        layout.CCD_S: max(burst, t.tCCD_S), layout.CCD_L: max(burst, t.tCCD_L),
        layout.RD_TO_WR: read_end - t.CWL + t.tRTRS,
        layout.WR_TO_RD_S: write_end + t.tWTR_S, layout.WR_TO_RD_L: write_end + t.tWTR_L,
        layout.RANK_RD_RD: burst + t.tRTRS, layout.RANK_WR_WR: burst + t.tWPRE,
        layout.RANK_RD_WR: read_end + burst + t.tRTRS - write_end,
        layout.RANK_WR_RD: write_end + burst + t.tRTRS - read_end,
        layout.PRE_PRE: t.tPPD, layout.RFC: t.tRFC, layout.REFI: t.tREFI // device.organisation.ranks,
        layout.READ_END: read_end, layout.WRITE_END: write_end, layout.XP: t.tXP,
    }  # fmt: skip


def _controller_choices(device: CommandDevice, settings: ControllerSettings) -> dict[int, int]:
    organisation = device.organisation
    banks_per_rank = organisation.bank_groups * organisation.banks_per_group
    split = LINE_BYTES // organisation.access_bytes
    lines = organisation.channels if settings.requests_per_cycle is None else settings.requests_per_cycle
    return {
        layout.DUAL: int(organisation.separate_column_commands),
        layout.BANKS: banks_per_rank * organisation.ranks, layout.RANKS: organisation.ranks,
        layout.RANK_SHIFT: _log2(banks_per_rank), layout.GROUP_SHIFT: _log2(organisation.banks_per_group),
        layout.READ_QUEUE: settings.read_queue, layout.WRITE_QUEUE: settings.write_queue,
        layout.BANK_QUEUE: settings.bank_queue, layout.HIT_CAP: settings.hit_cap,
        layout.DRAIN_HIGH: settings.drain_high, layout.DRAIN_LOW: settings.drain_low,
        layout.PORT_WIDTH: lines * split, layout.ACCESS_BYTES: organisation.access_bytes, layout.SPLIT: split,
        layout.POWER_DOWN_AFTER: -1 if settings.power_down_after is None else settings.power_down_after,
    }  # fmt: skip


def initial_state(parameters: NDArray[np.int64], *, channels: int) -> NDArray[np.int64]:
    """State of ``channels`` idle channels, one row each, with the parameters in front."""
    memory = np.zeros(channels * layout.STATE_SIZE + 8, np.int64)
    first = -(memory.ctypes.data // 8) % 8  # rows of vectors start at multiples of 64 bytes
    state = memory[first : first + channels * layout.STATE_SIZE].reshape(channels, layout.STATE_SIZE)
    state[:, : layout.PARAMETERS] = parameters
    state[:, layout.SINCE : layout.SINCE + 4 * layout.MAX_BANKS] = FAR
    for row, shift in ((layout.GROUP_BANKS, layout.GROUP_SHIFT), (layout.RANK_BANKS, layout.RANK_SHIFT)):
        banks = 1 << int(parameters[shift])
        lowest = np.arange(layout.MAX_BANKS, dtype=np.int64) // banks * banks
        state[:, row : row + layout.MAX_BANKS] = np.int64((1 << banks) - 1) << lowest
    for index in (layout.NEXT_COMMAND, layout.REF_NEXT):
        state[:, index] = FAR
    state[:, layout.REF_DUE] = parameters[layout.REFI]
    for first, count in ((layout.QUEUE, DEPTH), (layout.OPEN_ROW, 1), (layout.HEAD, 3), (layout.TAIL, 3)):
        state[:, first : first + count * layout.MAX_BANKS] = -1
    slots = np.arange(0, layout.SLOT_WORDS * layout.SLOTS, layout.SLOT_WORDS)
    state[:, layout.LINK + slots] = np.append(slots[1:], -1)
    return state


def _log2(value: int) -> int:
    return value.bit_length() - 1
