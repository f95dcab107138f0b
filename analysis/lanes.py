"""The stages of a layer's tiles as intervals of time, and a stretch of tiles worth looking at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..accel.dram_choice import FlatDram
from ..sim.dram_pipeline import DramTileEvents
from ..sim.pipeline import flat_timing
from ..sim.results import Result, Timeline

Int64Array = NDArray[np.int64]
#: Lanes from top to bottom, in the order a tile passes through them.
LANES = ("fetch", "load", "compute", "drain", "store")
_CANDIDATES = 64


@dataclass(frozen=True, eq=False)
class Lane:
    """Intervals of one stage: tile index, begin and end cycle, all int64 of the same shape, sorted by time.

    ``waiting``: cycles at the end of each interval in which the stage holds the tile but waits (only ``compute``: for free
    output registers).
    """

    tile: Int64Array
    begin: Int64Array
    end: Int64Array
    waiting: Int64Array

    def within(self, begin: int, end: int) -> Lane:
        """The intervals that overlap [begin, end)."""
        seen = (self.end > begin) & (self.begin < end)
        return Lane(self.tile[seen], self.begin[seen], self.end[seen], self.waiting[seen])


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of consecutive tiles of a layer: its lanes and its time [begin, end) in cycles."""

    first_tile: int
    last_tile: int
    begin: int
    end: int
    lanes: dict[str, Lane]


def lanes_of(result: Result, timeline: Timeline) -> dict[str, Lane]:
    """Every stage of every tile. Fetch and store are the cycles on the DRAM channel, without the DRAM's latency; with a
    command-level DRAM, from the request until the controller has taken the last line."""
    tiles, timing, events = timeline.plan.tiles, timeline.plan.timing, timeline.events
    fetch, store = _dram_lanes(result, timeline)
    beats = np.where(tiles.load_beats > 0, (tiles.load_beats - 1) * timing.beat_interval + 1, 0)
    issue = np.where(tiles.steps > 0, (tiles.steps - 1) * timing.step_interval + 1, 0)
    busy = np.where(tiles.steps > 0, events.last + 1 - events.first, 0)
    return {
        "fetch": fetch,
        "load": _lane(events.loaded, beats),
        "compute": _lane(events.last + 1, busy, waiting=busy - issue),
        "drain": _lane(events.drained, tiles.drain_words),
        "store": store,
    }


def _dram_lanes(result: Result, timeline: Timeline) -> tuple[Lane, Lane]:
    tiles, events, dram = timeline.plan.tiles, timeline.events, result.design.dram
    if isinstance(events, DramTileEvents):
        return (
            _lane(events.fetch_end, events.fetch_end - events.fetch_begin),
            _lane(events.stored, events.stored - events.store_begin),
        )
    assert isinstance(dram, FlatDram)
    timing = flat_timing(dram, result.point.clock_hz)
    return (
        _lane(events.fetched - timing.latency, timing.transfer_cycles(tiles.weight_bytes + tiles.input_bytes)),
        _lane(events.stored, timing.transfer_cycles(tiles.store_bytes)),
    )


def _lane(end: Int64Array, length: Int64Array, *, waiting: Int64Array | None = None) -> Lane:
    present = np.flatnonzero(length > 0).astype(np.int64)
    wait = np.zeros_like(length) if waiting is None else waiting
    return Lane(present, (end - length)[present], end[present], wait[present])


def steady_window(result: Result, timeline: Timeline, *, tiles: int = 16) -> Window | None:
    """``tiles`` consecutive tiles from the middle half of the layer; None for a layer without tiles.

    Among evenly spaced candidates the one in whose time most lanes are active, then the one nearest to the middle: past
    the first fill and before the last drain, yet not a stretch in which DRAM happens to be silent.
    """
    count = len(timeline.plan.tiles)
    if count == 0:
        return None
    lanes = lanes_of(result, timeline)
    size = min(tiles, count)
    middle = (count - size) // 2
    low, high = (count - size) // 4, (count - size) * 3 // 4
    starts = np.unique(np.linspace(low, high, _CANDIDATES).astype(int))
    best = max(starts.tolist(), key=lambda start: (_active(lanes, *_time(timeline, start, size)), -abs(start - middle)))
    begin, end = _time(timeline, best, size)
    return Window(best, best + size - 1, begin, end, {name: lane.within(begin, end) for name, lane in lanes.items()})


def _time(timeline: Timeline, start: int, size: int) -> tuple[int, int]:
    """From the first tile's first step to the next tile's (or the layer's end)."""
    events = timeline.events
    after = start + size
    end = int(events.first[after]) if after < events.first.size else events.end
    return int(events.first[start]), max(end, int(events.first[start]) + 1)


def _active(lanes: dict[str, Lane], begin: int, end: int) -> int:
    """Lanes with an interval inside [begin, end); the intervals of a lane are ordered, so two searches answer it."""
    return sum(
        int(np.searchsorted(lane.begin, end)) > int(np.searchsorted(lane.end, begin, side="right"))
        for lane in lanes.values()
    )
