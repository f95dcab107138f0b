"""DRAM simulated command by command: a controller with open state around the kernels.

Times are DRAM clock cycles. A read's completion is the cycle after its last data beat; writes are posted, theirs is the
cycle after the controller took them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..accel.dram import CommandDevice, FlatDevice
from ..accel.dram_energy import clock_hz, command_energies
from ..accel.dram_mapping import AddressMapping
from ..traces.requests import LINE_BYTES, Requests
from ..workloads.errors import InputError
from . import dram_banks_kernel as layout
from . import dram_kernel as kernel


def _check_kernels() -> None:
    """Refuse to run compiled code of the upper half of the kernel against another lower half."""
    found = zlib.crc32(Path(layout.__file__).read_text(encoding="utf-8").encode())
    if found != kernel.BANKS_KERNEL_CRC32:
        raise ImportError(f"dram_banks_kernel.py has changed: set BANKS_KERNEL_CRC32 = {found:#010x} in dram_kernel.py")


_check_kernels()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DramRun:
    """What a device did. Counts are exact; energies in pJ follow from them and from the device.

    ``reads + writes + merged == requests``, all in accesses (bursts of ``access_bytes``): reads of posted or already
    requested data and overwritten posted writes need no access of their own. ``open_cycles`` and ``closed_cycles`` are
    rank-cycles with and without an open bank; ``power_down_*`` are those of them spent in power-down.
    """

    device: CommandDevice
    cycles: int
    last_accept_cycle: int
    requests: int
    merged: int
    reads: int
    writes: int
    activations: int
    precharges: int
    refreshes: int
    read_row_hits: int
    write_row_hits: int
    open_cycles: int
    closed_cycles: int
    power_down_open_cycles: int
    power_down_closed_cycles: int
    mean_read_latency_cycles: float
    read_requests: int

    @property
    def seconds(self) -> float:
        return self.cycles / clock_hz(self.device)

    @property
    def read_bytes(self) -> int:
        """Bytes that were asked for, merged requests included."""
        return self.read_requests * self.device.organisation.access_bytes

    @property
    def written_bytes(self) -> int:
        return (self.requests - self.read_requests) * self.device.organisation.access_bytes

    @property
    def bytes_per_s(self) -> float:
        """Achieved bandwidth."""
        return (self.read_bytes + self.written_bytes) / self.seconds if self.cycles else 0.0

    @property
    def row_hit_rate(self) -> float:
        """Share of column commands that were not the first after their ACT."""
        columns = self.reads + self.writes
        return (self.read_row_hits + self.write_row_hits) / columns if columns else 0.0

    @property
    def energy_pj(self) -> dict[str, float]:
        """Energy by command: act (with its PRE), read, write, refresh, background open and closed, io."""
        e = command_energies(self.device)
        awake_open = self.open_cycles - self.power_down_open_cycles
        awake_closed = self.closed_cycles - self.power_down_closed_cycles
        return {
            "act": self.activations * e.act_pj,
            "read": self.reads * e.read_pj,
            "write": self.writes * e.write_pj,
            "refresh": self.refreshes * e.refresh_pj,
            "background_open": awake_open * e.open_pj_per_cycle
            + self.power_down_open_cycles * e.open_power_down_pj_per_cycle,
            "background_closed": awake_closed * e.closed_pj_per_cycle
            + self.power_down_closed_cycles * e.closed_power_down_pj_per_cycle,
            "io": self.reads * e.io_read_pj + self.writes * e.io_write_pj,
        }

    @property
    def core_energy_pj(self) -> float:
        """All energies but the interface's."""
        return sum(value for name, value in self.energy_pj.items() if name != "io")

    @property
    def total_energy_pj(self) -> float:
        return sum(self.energy_pj.values())

    def flat_energy_pj(self, flat: FlatDevice) -> float:
        """What a flat device would charge for the same bytes."""
        return flat.energy_pj(read_bytes=self.read_bytes, written_bytes=self.written_bytes)


class Controller:
    """A device with an address mapping and controller settings. Immutable: state lives in :meth:`open`.

    Parameters
    ----------
    device : the DRAM.
    settings : the controller's choices.
    mapping : name or bit-field string of the address mapping; None: the device's default.

    Raises
    ------
    InputError
        for an unknown or incomplete mapping.
    """

    def __init__(
        self, device: CommandDevice, settings: ControllerSettings | None = None, *, mapping: str | None = None
    ) -> None:
        self.device = device
        self.settings = settings or ControllerSettings()
        self.mapping = device.mapping(mapping)
        self.parameters = pack_parameters(device, self.mapping, settings=self.settings)

    def open(self, *, tags: int = 1) -> OpenDram:
        """A fresh device with ``tags`` places for completion times."""
        return OpenDram(self, tags=tags)

    def run(self, requests: Requests, *, arrival: NDArray[np.int64] | None = None) -> DramRun:
        """Serve requests from cycle 0 to the end. ``arrival`` replaces their own arrival cycles."""
        dram = self.open()
        if arrival is not None:
            requests = Requests(requests.addresses, requests.is_write, arrival)
        dram.push(requests)
        return dram.finish()


class OpenDram:
    """A device whose requests come bit by bit: arrival times go in, completion times come out, state stays open.

    Requests pass an in-order port, so a request never overtakes one pushed before it, and one that arrives earlier than
    the cycle already reached is taken in that cycle. ``state``, ``port`` and ``book`` are the kernels' arrays: a compiled
    pipeline passes them to ``kernel.serve_run`` and ``kernel.wait`` itself.

    Pushing a batch in one call or split over several gives the same result.
    """

    def __init__(self, controller: Controller, *, tags: int) -> None:
        self.controller = controller
        self.state = initial_state(controller.parameters, channels=controller.device.organisation.channels)
        self.port = np.zeros(2, np.int64)
        self.book = np.zeros((tags, 2), np.int64)

    def push(self, requests: Requests, *, first_tag: int = 0, tag_step: int = 0) -> int:
        """Take requests in; returns the cycle of the last acceptance. Request i has tag first_tag + i * tag_step.

        Raises
        ------
        InputError
            for addresses beyond the device, with their number; nothing is taken in then.
        """
        self._check(requests.addresses, LINE_BYTES)
        self._check_tags(first_tag, first_tag + tag_step * max(0, len(requests) - 1))
        kernel.serve(
            self.state,
            self.port,
            self.book,
            requests.addresses,
            requests.is_write,
            requests.cycles,
            first_tag,
            tag_step,
        )
        return int(self.port[0])

    def start(self, arrival_cycle: int, address: int, nbytes: int, *, is_write: bool, tag: int = 0) -> int:
        """Take in all accesses of ``nbytes`` from ``address`` on; returns the cycle of the last acceptance."""
        access = self.controller.device.organisation.access_bytes
        self._check(np.array([address, address + max(0, nbytes - 1)], np.int64), 1)
        self._check_tags(tag, tag)
        first, after = address // access, -(-(address + nbytes) // access) if nbytes > 0 else address // access
        return int(
            kernel.serve_run(
                self.state, self.port, self.book, first * access, after - first, is_write, arrival_cycle, tag
            )
        )

    def wait(self, tag: int = 0) -> int:
        """Run until all reads of a tag are complete; returns the tag's last completion so far."""
        self._check_tags(tag, tag)
        return int(kernel.wait(self.state, self.book, tag))

    def serve(self, arrival_cycle: int, address: int, nbytes: int, is_write: bool = False) -> int:
        """Serve a contiguous run of bytes and return its completion cycle (a posted write's: taken in)."""
        self.book[0] = 0, self.book[0, 1]
        self.start(arrival_cycle, address, nbytes, is_write=is_write)
        return max(self.wait(), arrival_cycle)

    def completions(self) -> NDArray[np.int64]:
        """Last completion of every tag so far."""
        return self.book[:, 0].copy()

    def finish(self) -> DramRun:
        """Complete everything, posted writes too, and account for it. The device can go on afterwards."""
        return self._account(int(kernel.finish(self.state, self.port, self.book)))

    def flush(self, cycle: int) -> int:
        """From ``cycle`` on write back what is posted; returns the cycle after the last data beat, 0 if there was none."""
        for channel in self.state:
            kernel.advance(channel, cycle, self.book)
        kernel.finish(self.state, self.port, self.book)
        return int(self.state[:, layout.LAST_END].max())

    def close(self, until: int) -> DramRun:
        """Idle up to cycle ``until`` (refreshing, powered down if the settings say so) and account for it. For good."""
        for channel in self.state:
            kernel.advance(channel, until, self.book)
            if channel[layout.POWER_DOWN_AFTER] >= 0:
                kernel.wake(channel, until)
        return self._account(until)

    def check_range(self, first: int, after: int) -> None:
        """InputError if bytes ``first`` to ``after`` (exclusive) reach beyond the device."""
        self._check(np.array([first, max(first, after - 1)], np.int64), 1)

    def _account(self, cycles: int) -> DramRun:
        totals = self.state.sum(axis=0)
        closed = sum(int(kernel.idle_cycles(channel, cycles)) for channel in self.state)
        read_requests = int(totals[layout.READ_REQUESTS])
        ranks = self.controller.device.organisation.ranks * len(self.state)
        return DramRun(
            device=self.controller.device,
            cycles=cycles,
            last_accept_cycle=int(self.port[0]),
            requests=read_requests + int(totals[layout.WRITE_REQUESTS]),
            read_requests=read_requests,
            merged=int(totals[layout.MERGED]),
            reads=int(totals[layout.READS]),
            writes=int(totals[layout.WRITES]),
            activations=int(totals[layout.ACTS]),
            precharges=int(totals[layout.PRES]),
            refreshes=int(totals[layout.REFS]),
            read_row_hits=int(totals[layout.READ_HITS]),
            write_row_hits=int(totals[layout.WRITE_HITS]),
            open_cycles=cycles * ranks - closed,
            closed_cycles=closed,
            power_down_open_cycles=int(totals[layout.DOWN_OPEN]),
            power_down_closed_cycles=int(totals[layout.DOWN_CLOSED]),
            mean_read_latency_cycles=int(totals[layout.LATENCY]) / read_requests if read_requests else 0.0,
        )

    def _check(self, addresses: NDArray[np.int64], nbytes: int) -> None:
        capacity = self.controller.device.organisation.capacity_bytes
        beyond = (addresses < 0) | (addresses > capacity - nbytes)
        if beyond.any():
            first = int(addresses[np.argmax(beyond)])
            raise InputError(
                f"{int(beyond.sum())} of {len(addresses)} addresses lie beyond {self.controller.device.name} "
                f"({capacity} bytes); the first is {first:#x}"
            )

    def _check_tags(self, first: int, last: int) -> None:
        if min(first, last) < 0 or max(first, last) >= len(self.book):
            raise InputError(f"tags {first} to {last}, but the device was opened with {len(self.book)}")


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
    starts = {
        "ba": 0, "bg": p[layout.GROUP_SHIFT], "ra": p[layout.RANK_SHIFT], "ch": bank_bits, "ro": bank_bits + channel_bits,
    }  # fmt: skip
    segments = [segment for segment in mapping.segments if segment.field != "co"]
    if len(segments) > layout.MAX_SEGMENTS:
        raise InputError(f"address mapping '{mapping}' has more than {layout.MAX_SEGMENTS} parts")
    p[layout.SEGMENTS] = len(segments)
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
    state = np.zeros((channels, layout.STATE_SIZE), np.int64)
    state[:, : layout.PARAMETERS] = parameters
    for index in (layout.NEXT_COMMAND, layout.REF_NEXT):
        state[:, index] = layout.FAR
    state[:, layout.REF_DUE] = parameters[layout.REFI]
    for first, count in ((layout.OPEN_ROW, 1), (layout.FIRST_HIT, 4), (layout.HEAD, 3), (layout.TAIL, 3)):
        state[:, first : first + count * layout.MAX_BANKS] = -1
    slots = np.arange(0, layout.SLOT_WORDS * layout.SLOTS, layout.SLOT_WORDS)
    state[:, layout.LINK + slots] = np.append(slots[1:], -1)
    return state


def _log2(value: int) -> int:
    return value.bit_length() - 1
