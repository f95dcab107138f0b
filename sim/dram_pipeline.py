"""The tile pipeline in closed loop with the DRAM controller.

Loads, computation and drains are those of ``pipeline.py``; only fetches and stores differ:

* A fetch (all lines of a tile) is offered to the controller's in-order port at its request time: when the fetch engine is
  free and tile ``after[i]`` is computed. The engine is free again when the port has taken the last line; the data are usable
  when the last read is complete. A tile that needs no new line has its data at its request time.
* A store is offered when its block is drained and the store engine is free; it is done when the port has taken its last line
  (writes are posted).
* Requests enter the port in order of request time, a fetch before a store at a tie.
* Cycle t of the accelerator is DRAM cycle ceil(t f_dram / f_acc), cycle c of the DRAM is ceil(c f_acc / f_dram) here.

Every layer begins with an idle DRAM, all rows closed, the first refresh one tREFI away, and ends when all posted writes are
in the array. ``dram_pipeline_simpy.py`` is the readable definition of the closed loop, ``dram_pipeline_kernel.py`` the fast
engine; tests hold them equal on every event.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..accel.address_streams import AddressStreams, Runs
from ..accel.dram import CommandDevice
from ..accel.tiles import ArrayTiming, TileTable
from ..traces.requests import LINE_BYTES
from . import dram_banks_kernel, dram_kernel
from . import dram_pipeline_kernel as kernel
from .dram import Controller, DramRun, OpenDram
from .pipeline import Int64Array, TileEvents

_LARGEST_DENOMINATOR = 1_000_000


@dataclass(frozen=True, eq=False)
class DramTileEvents(TileEvents):
    """Event times of a layer before a command-level DRAM, and what the DRAM did meanwhile.

    ``fetch_begin``, ``fetch_end``: request of a tile's fetch, and when the port had taken it. ``store_begin``: request of its
    store. ``flushed``: cycle in which the last posted write is in the array. All in accelerator cycles.
    """

    fetch_begin: Int64Array
    fetch_end: Int64Array
    store_begin: Int64Array
    flushed: int
    dram: DramRun

    @property
    def end(self) -> int:
        """Cycles until everything is done, posted writes too."""
        return max(super().end, self.flushed)


@dataclass(frozen=True)
class ClockRatio:
    """DRAM clock over accelerator clock as a ratio of integers."""

    num: int
    den: int

    def to_dram(self, cycle: int) -> int:
        """First DRAM cycle that does not begin before an accelerator cycle."""
        return -(-cycle * self.num // self.den)

    def to_accelerator(self, cycle: int) -> int:
        """First accelerator cycle that does not begin before a DRAM cycle."""
        return -(-cycle * self.den // self.num)


def clock_ratio(device: CommandDevice, clock_hz: float) -> ClockRatio:
    """Exact for clocks and tCK of a few digits; else the nearest ratio with a denominator up to 10^6."""
    dram_hz = Fraction(1_000_000_000) / Fraction(str(device.timing.tCK_ns))
    ratio = (dram_hz / Fraction(clock_hz)).limit_denominator(_LARGEST_DENOMINATOR)
    ratio = max(ratio, Fraction(1, _LARGEST_DENOMINATOR))
    return ClockRatio(ratio.numerator, ratio.denominator)


@dataclass(frozen=True, eq=False)
class DramLink:
    """A controller and the clock it is seen from."""

    controller: Controller
    ratio: ClockRatio

    @classmethod
    def at(cls, controller: Controller, clock_hz: float) -> DramLink:
        return cls(controller, clock_ratio(controller.device, clock_hz))


def run_dram_recurrence(
    tiles: TileTable, timing: ArrayTiming, streams: AddressStreams, *, link: DramLink
) -> DramTileEvents:
    """Event times of one layer by the compiled closed loop.

    Raises
    ------
    InputError
        if the layer's tensors do not fit into the device.
    """
    dram = link.controller.open(tags=len(tiles) + 1)
    dram.check_range(0, streams.end)
    out = np.zeros((kernel.ROWS, len(tiles)), np.int64)
    closes = (tiles.drain_words > 0) | (tiles.store_bytes > 0)
    _compiled()(
        dram.state, dram.port, dram.book,
        streams.fetches.ends, _accesses(streams.fetches, link), streams.stores.ends, _accesses(streams.stores, link),
        tiles.load_beats, tiles.steps, tiles.drain_words, closes, tiles.after, _constants(timing, link),
        np.empty(len(tiles), np.int64), out,
    )  # fmt: skip
    return finish(TileEvents(*out[: kernel.STORED + 1]), dram, out[kernel.FETCH_BEGIN :], ratio=link.ratio)


def finish(events: TileEvents, dram: OpenDram, requests: Int64Array, *, ratio: ClockRatio) -> DramTileEvents:
    """Flush the posted writes at the end of the layer, let the DRAM idle to a whole accelerator cycle, account for it.

    ``requests``: (3, tiles), the three columns of :class:`DramTileEvents` before ``flushed``.
    """
    written = dram.flush(ratio.to_dram(events.end))
    flushed = ratio.to_accelerator(written)
    run = dram.close(max(written, ratio.to_dram(max(events.end, flushed))))
    six = {name: getattr(events, name) for name in TileEvents.__dataclass_fields__}
    begin, end, store_begin = requests
    return DramTileEvents(**six, fetch_begin=begin, fetch_end=end, store_begin=store_begin, flushed=flushed, dram=run)


@cache
def _compiled() -> Callable[..., None]:
    """The kernel, compiled for these very files of the controller."""
    version = 0
    for module in (dram_banks_kernel, dram_kernel):
        version = zlib.crc32(Path(str(module.__file__)).read_bytes(), version)
    compiled: Callable[..., None] = kernel.compiled_pipeline(version)  # type: ignore[no-untyped-call]
    return compiled


def _accesses(runs: Runs, link: DramLink) -> NDArray[np.int64]:
    """(2, runs): address and number of accesses."""
    split = LINE_BYTES // link.controller.device.organisation.access_bytes
    return np.ascontiguousarray(np.stack([runs.address, runs.lines * split]))


def _constants(timing: ArrayTiming, link: DramLink) -> NDArray[np.int64]:
    ratio = link.ratio
    return np.array(
        [timing.beat_interval, timing.step_interval, timing.latency, timing.output_slots, ratio.num, ratio.den],
        dtype=np.int64,
    )
