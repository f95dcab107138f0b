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
from ..traces.requests import LINE_BYTES, Requests
from ..workloads.errors import InputError
from . import dram_banks_kernel as layout
from . import dram_kernel as kernel
from . import dram_lanes_kernel as lanes
from .dram_state import ControllerSettings, initial_state, pack_parameters

__all__ = ["Controller", "ControllerSettings", "DramRun", "OpenDram", "initial_state", "pack_parameters"]


def _check_kernels() -> None:
    """Refuse to run compiled code of one part of the kernel against another state of the part below it."""
    for below, name, above in ((lanes, "LANES_KERNEL_CRC32", layout), (layout, "BANKS_KERNEL_CRC32", kernel)):
        found = zlib.crc32(Path(str(below.__file__)).read_text(encoding="utf-8").encode())
        if found != getattr(above, name):
            files = [Path(str(module.__file__)).name for module in (below, above)]
            raise ImportError(f"{files[0]} has changed: set {name} = {found:#010x} in {files[1]}")


_check_kernels()


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
        if len(addresses) and (addresses.min() < 0 or addresses.max() > capacity - nbytes):
            beyond = (addresses < 0) | (addresses > capacity - nbytes)
            first = int(addresses[np.argmax(beyond)])
            raise InputError(
                f"{int(beyond.sum())} of {len(addresses)} addresses lie beyond {self.controller.device.name} "
                f"({capacity} bytes); the first is {first:#x}"
            )

    def _check_tags(self, first: int, last: int) -> None:
        if min(first, last) < 0 or max(first, last) >= len(self.book):
            raise InputError(f"tags {first} to {last}, but the device was opened with {len(self.book)}")
