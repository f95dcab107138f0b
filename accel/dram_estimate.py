"""Closed-form estimate of time and energy of a request stream, for searches that cannot afford the controller model.

The time is the largest of six lower bounds, stretched by refresh. Row activations are counted as if the scheduler could
reorder within its window: requests of one row of one bank within the window share an activation.

Measured against 616 DRAMsim3 runs (``analysis/reference/dram``, |error| mean / max in %): cycles of streams 4.1 / 24, gathers
2.0 / 21, strides 1.0 / 9, random 4.8 / 24, throttled 0.5 / 10, staggered mixes 4.9 / 24, aligned mixes 20 / 87; energy 0.3 to
1.9 / 14, aligned mixes 7.9 / 53. Do not use it for aligned streams on mappings with the column lowest: the bank conflicts
there depend on what the scheduler does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..traces.requests import LINE_BYTES, Requests
from .dram import CommandDevice
from .dram_energy import CommandEnergies, command_energies
from .dram_mapping import AddressMapping

Int64Array = NDArray[np.int64]
#: Requests among which the scheduler can put row hits first: DRAMsim3's read queue of 32 and a bank queue of 8.
WINDOW = 40
#: Writes of one drain.
DRAIN = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DramEstimate:
    """Estimated cycles and command counts of all channels, and the energy (core, without interface) they cost in pJ."""

    cycles: float
    reads: int
    writes: int
    activations: float
    refreshes: float
    core_energy_pj: float


@dataclass(frozen=True, slots=True)
class _Load:
    """What one channel has to do."""

    reads: int
    writes: int
    activations: int
    group_accesses: int
    bank_activations: int


def estimate(
    device: CommandDevice, requests: Requests, *, mapping: AddressMapping | None = None, window: int = WINDOW
) -> DramEstimate:
    """Estimate time and energy of ``requests`` on ``device`` (default mapping unless given)."""
    mapping = mapping or device.mapping()
    split = LINE_BYTES // device.organisation.access_bytes
    channel = mapping.decode(requests.addresses, "ch")
    loads = [
        _load(device, mapping, requests, chosen=np.flatnonzero(channel == c), split=split, window=window)
        for c in range(device.organisation.channels)
    ]
    span = int(requests.cycles[-1]) if len(requests) else 0
    busy = max(_busy_cycles(device, load) for load in loads)
    t = device.timing
    # Work waits for refreshes; idle time absorbs them.
    refreshed = busy * t.tREFI / (t.tREFI - t.tRFC - t.tRP)
    cycles = max(refreshed, float(span)) + t.tRCDRD + t.CL + device.organisation.burst_cycles
    ranks = device.organisation.ranks * device.organisation.channels
    refreshes = ranks * (cycles // t.tREFI)
    # A refresh closes the rows in use; those are opened once more.
    activations = sum(load.activations for load in loads) + refreshes
    reads, writes = sum(load.reads for load in loads), sum(load.writes for load in loads)
    closed = min(refreshes * (t.tRFC + t.tRP), ranks * cycles)
    e = command_energies(device)
    return DramEstimate(
        cycles=cycles,
        reads=reads,
        writes=writes,
        activations=activations,
        refreshes=refreshes,
        core_energy_pj=_command_energy(e, reads, writes)
        + activations * e.act_pj
        + refreshes * e.refresh_pj
        + (ranks * cycles - closed) * e.open_pj_per_cycle
        + closed * e.closed_pj_per_cycle,
    )


def _command_energy(e: CommandEnergies, reads: int, writes: int) -> float:
    return reads * e.read_pj + writes * e.write_pj


def _load(
    device: CommandDevice,
    mapping: AddressMapping,
    requests: Requests,
    *,
    chosen: NDArray[np.intp],
    split: int,
    window: int,
) -> _Load:
    """Accesses and activations of one channel's requests."""
    if not len(chosen):
        return _Load(0, 0, 0, 0, 0)
    addresses = requests.addresses[chosen]
    group = mapping.decode(addresses, "ra") * device.organisation.bank_groups + mapping.decode(addresses, "bg")
    bank = group * device.organisation.banks_per_group + mapping.decode(addresses, "ba")
    opened = _opened_banks(bank, mapping.decode(addresses, "ro"), window)
    writes = int(np.count_nonzero(requests.is_write[chosen]))
    return _Load(
        reads=(len(chosen) - writes) * split,
        writes=writes * split,
        activations=len(opened),
        group_accesses=int(np.bincount(group).max()) * split,
        bank_activations=int(np.bincount(opened).max()),
    )


def _opened_banks(bank: Int64Array, row: Int64Array, window: int) -> Int64Array:
    """Bank of every activation: a bank's row changes, after sorting each window's requests by bank and row."""
    order = np.lexsort((row, bank, np.arange(len(bank)) // window))
    order = order[np.argsort(bank[order], kind="stable")]
    bank, row = bank[order], row[order]
    changes = np.ones(len(bank), dtype=np.bool_)
    changes[1:] = (bank[1:] != bank[:-1]) | (row[1:] != row[:-1])
    return bank[changes]


def _busy_cycles(device: CommandDevice, load: _Load) -> float:
    """Largest lower bound: data bus with turnarounds, busiest bank group, activation rate, busiest bank."""
    t, organisation = device.timing, device.organisation
    burst = organisation.burst_cycles
    short, long = max(burst, t.tCCD_S), max(burst, t.tCCD_L)
    drains = load.writes / DRAIN if load.reads else 0
    turnaround = t.CL + burst - t.CWL + t.tRTRS + t.CWL + burst + t.tWTR_L - 2 * short
    per_activation = max(t.tRRD_S if organisation.bank_groups > 1 else t.tRRD_L, t.tFAW / 4) / organisation.ranks
    return max(
        (load.reads + load.writes) * short + drains * turnaround,
        load.group_accesses * long,
        load.activations * per_activation,
        load.bank_activations * t.tRC,
    )
