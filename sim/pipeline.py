"""The tile pipeline: when each tile is fetched, loaded, computed, drained and stored.

Stages of tile i, all in accelerator cycles (symbols of the N:M array RTL, DESIGN.md "Time"):

* fetch: one DRAM engine, in tile order; tile i may start once tile ``after[i]`` is computed. A transfer occupies the DRAM
  channel for ceil(bytes * clock / bandwidth) cycles; its data are usable ``dram_latency`` cycles later.
* load: over the bus into one of two banks: starts when the data are there, the bus is free and tile i-2 has issued its last
  step; beats come every ii cycles: loaded = align(start, ii) + (beats - 1)*ii + 1.
* compute: first = max(last of tile i-1 + ci, loaded), last = first + (steps - 1)*ci; a tile that closes an output block also
  waits until the output registers are free.
* drain: P + 1 cycles after the last step the block leaves the array, if fewer than ``output_slots`` blocks wait.
* store: one store engine, in block order, through the same DRAM channel. Requests are served in order of request time, a
  fetch before a store at a tie.

The SimPy model (``pipeline_simpy.py``) is the readable definition, the Numba recurrence the fast one; tests hold them
equal on every event of every tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..accel.dram_choice import FlatDram
from ..accel.tiles import ArrayTiming, TileTable
from ..workloads.errors import InputError
from .pipeline_kernel import pipeline

Int64Array = NDArray[np.int64]
#: Slower or later than this is a mistake of units; it keeps cycle counts far below 2^63.
SLOWEST_CYCLES_PER_BYTE = 10_000
LONGEST_LATENCY_CYCLES = 1_000_000_000


@dataclass(frozen=True)
class DramTiming:
    """A flat DRAM in accelerator cycles: ``cycles_num/cycles_den`` channel cycles per byte, then ``latency`` cycles."""

    cycles_num: int
    cycles_den: int
    latency: int

    def __post_init__(self) -> None:
        if self.cycles_num < 1 or self.cycles_den < 1 or self.latency < 0:
            raise ValueError(f"a DRAM transfer takes time and cannot end before it starts: {self}")

    def transfer_cycles(self, size: Int64Array) -> Int64Array:
        """Channel cycles of each transfer, rounded up; 0 for no bytes."""
        return np.asarray(-(-size * self.cycles_num // self.cycles_den), dtype=np.int64)


def flat_timing(dram: FlatDram, clock_hz: float) -> DramTiming:
    """The flat DRAM seen from an accelerator clock, as a ratio of small integers: products stay within 64 bits.

    Raises
    ------
    InputError
        for a DRAM slower than 10^4 cycles per byte or with a latency above 10^9 cycles: such a file mixes up units.
    """
    bandwidth, latency_s = dram.bandwidth_bytes_per_s.value, dram.latency_s.value
    if clock_hz > SLOWEST_CYCLES_PER_BYTE * bandwidth or latency_s * clock_hz > LONGEST_LATENCY_CYCLES:
        raise InputError(
            f"a DRAM of {bandwidth:g} bytes/s and {latency_s:g} s latency cannot serve a clock of {clock_hz:g} Hz: allowed "
            f"are {SLOWEST_CYCLES_PER_BYTE} cycles per byte and {LONGEST_LATENCY_CYCLES} cycles of latency"
        )
    # However wide the channel, a transfer takes a cycle: the smallest ratio is one cycle for the largest transfer.
    ratio = max(Fraction(clock_hz / bandwidth).limit_denominator(1_000_000), Fraction(1, 1_000_000))
    latency = int(np.ceil(latency_s * clock_hz))
    return DramTiming(cycles_num=ratio.numerator, cycles_den=ratio.denominator, latency=latency)


@dataclass(frozen=True, eq=False)
class TileEvents:
    """Cycle of each event of each tile, int64 (tiles,).

    ``fetched``: DRAM data usable. ``loaded``: operands in the bank. ``first``/``last``: first and last issue step.
    ``drained``: output block out of the registers. ``stored``: output block in DRAM. The last two are 0 for tiles that
    close no block.
    """

    fetched: Int64Array
    loaded: Int64Array
    first: Int64Array
    last: Int64Array
    drained: Int64Array
    stored: Int64Array

    @property
    def end(self) -> int:
        """Cycles until everything is done; 0 for no tiles."""
        if self.last.size == 0:
            return 0
        return int(max(self.last[-1] + 1, self.drained.max(), self.stored.max()))


def run_recurrence(tiles: TileTable, timing: ArrayTiming, dram: DramTiming) -> TileEvents:
    """Event times by the compiled recurrence (about 10^7 to 10^8 tiles per second)."""
    constants = np.array(
        [timing.beat_interval, timing.step_interval, timing.latency, timing.output_slots, dram.latency], dtype=np.int64
    )
    events = np.zeros((6, len(tiles)), np.int64)
    pipeline(
        dram.transfer_cycles(tiles.weight_bytes + tiles.input_bytes),
        dram.transfer_cycles(tiles.store_bytes),
        tiles.load_beats,
        tiles.steps,
        tiles.drain_words,
        tiles.after,
        constants,
        events,
        np.empty(len(tiles), np.int64),
    )
    return TileEvents(*events)


@dataclass(frozen=True)
class CycleSplit:
    """Where the cycles of a layer went; the parts sum to ``total`` exactly.

    ``compute``: the array issues. ``dram_stall``: it waits for data from DRAM. ``load_stall``: it waits for the bus although
    the data are on chip. ``output_stall``: it waits for the output registers. ``fill_drain``: before the first and after the
    last issue.
    """

    compute: int
    dram_stall: int
    load_stall: int
    output_stall: int
    fill_drain: int

    @property
    def total(self) -> int:
        return self.compute + self.dram_stall + self.load_stall + self.output_stall + self.fill_drain


def split_cycles(tiles: TileTable, timing: ArrayTiming, events: TileEvents) -> CycleSplit:
    """Attribute every cycle of a layer to one cause."""
    if len(tiles) == 0:
        return CycleSplit(0, 0, 0, 0, 0)
    ci = timing.step_interval
    issued = np.maximum(tiles.steps - 1, 0) * ci
    output_stall = events.last - events.first - issued
    gap = np.where(tiles.steps > 0, ci, 0)[1:]
    waited = events.first[1:] - events.last[:-1] - gap  # beyond the step interval
    # Without DRAM the bus would have started as soon as it and the bank were free.
    loaded = events.loaded
    bank_free = np.zeros_like(loaded)
    bank_free[2:] = events.last[:-2] + 1
    on_chip_start = np.maximum(np.concatenate(([0], loaded[:-1])), bank_free)
    late = np.maximum(events.fetched - on_chip_start, 0)
    dram_stall = np.minimum(waited, late[1:])
    fill = int(events.first[0])
    last_step = int(tiles.steps.any())  # the cycle of the very last issue
    tail = events.end - int(events.last[-1]) - last_step
    compute = int(issued.sum() + gap.sum()) + last_step
    return CycleSplit(
        compute=compute,
        dram_stall=int(dram_stall.sum()),
        load_stall=int((waited - dram_stall).sum()),
        output_stall=int(output_stall.sum()),
        fill_drain=fill + tail,
    )
