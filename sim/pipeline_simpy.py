"""The tile pipeline as SimPy processes: the readable definition that the compiled recurrence must equal."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from ..accel.tiles import ArrayTiming, TileTable
from .pipeline import DramTiming, TileEvents

#: SimPy processes events of one instant in order of priority (0 urgent, 1 normal): 2 runs when the instant has settled.
SETTLED = 2
FETCH, STORE = 0, 1
Process = Generator[simpy.Event, Any, None]


class DramChannel:
    """One channel that serves requests in order of request time, a fetch before a store at a tie."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.queue: list[tuple[int, int, int, int, simpy.Event]] = []
        self.tickets = 0
        self.idle: simpy.Event | None = None
        env.process(self._serve())

    def transfer(self, kind: int, cycles: int) -> simpy.Event:
        """Request the channel now; the event fires when the transfer is over."""
        done = self.env.event()
        heapq.heappush(self.queue, (int(self.env.now), kind, self.tickets, cycles, done))
        self.tickets += 1
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None
        return done

    def _serve(self) -> Process:
        while True:
            while not self.queue:
                self.idle = self.env.event()
                yield self.idle
            yield fire(self.env, self.env.event(), priority=SETTLED)
            *_, cycles, done = heapq.heappop(self.queue)
            yield self.env.timeout(cycles)
            done.succeed()


def fire(env: simpy.Environment, event: simpy.Event, *, delay: int = 0, priority: int = 1) -> simpy.Event:
    """Let ``event`` happen ``delay`` cycles from now. With priority ``SETTLED`` it happens after everything else of its
    cycle, so that requests of one cycle compete fairly."""
    event._ok = True
    event._value = None
    env.schedule(event, priority=priority, delay=delay)
    return event


class TilePipeline(ABC):
    """DMA, loader, array, drain and writer of one layer as cooperating processes.

    Each stage announces what the others wait for by firing an event per tile or per output block. Subclasses add the two
    stages that touch DRAM: ``dma`` and ``writer``.
    """

    def __init__(self, tiles: TileTable, timing: ArrayTiming) -> None:
        self.tiles, self.timing = tiles, timing
        self.env = simpy.Environment()
        self.drain_words = tiles.drain_words.tolist()
        self.blocks = np.flatnonzero((tiles.drain_words > 0) | (tiles.store_bytes > 0)).tolist()
        self.fetched, self.loaded, self.computed = (self._events(len(tiles)) for _ in range(3))
        self.closed, self.drained, self.stored = (self._events(len(self.blocks)) for _ in range(3))
        self.events = TileEvents(*np.zeros((6, len(tiles)), dtype=np.int64))

    def run(self) -> TileEvents:
        for process in (self.dma(), self._loader(), self._array(), self._drain(), self.writer()):
            self.env.process(process)
        self.env.run()
        return self.events

    def _events(self, count: int) -> list[simpy.Event]:
        return [simpy.Event(self.env) for _ in range(count)]

    def now(self) -> int:
        return int(self.env.now)

    @abstractmethod
    def dma(self) -> Process:
        """Fetch tiles in order, as far ahead as the buffers allow."""

    @abstractmethod
    def writer(self) -> Process:
        """Store finished blocks in order."""

    def _loader(self) -> Process:
        """Move operands over the bus into the bank that is free: two banks, so tile i waits for tile i-2."""
        interval = self.timing.beat_interval
        for tile, beats in enumerate(self.tiles.load_beats.tolist()):
            if tile >= 2:
                yield self.computed[tile - 2]
            yield self.fetched[tile]
            if beats:
                yield self.env.timeout(-self.now() % interval + (beats - 1) * interval + 1)
            self.events.loaded[tile] = self.now()
            self.loaded[tile].succeed()

    def _array(self) -> Process:
        """Issue the steps of one tile after the other; a block's last step waits for free output registers."""
        interval = self.timing.step_interval
        previous, block = -interval, 0
        for tile, steps in enumerate(self.tiles.steps.tolist()):
            yield self.loaded[tile]
            wait = previous + (interval if steps else 0) - self.now()
            if wait > 0:
                yield self.env.timeout(wait)
            self.events.first[tile] = self.now()
            if steps > 1:
                yield self.env.timeout((steps - 1) * interval)
            if block < len(self.blocks) and self.blocks[block] == tile:
                if block:
                    yield self.drained[block - 1]
                fire(self.env, self.closed[block], delay=1 + self.timing.latency)
                block += 1
            previous = self.now()
            self.events.last[tile] = previous
            fire(self.env, self.computed[tile], delay=1)  # the bank and the buffer space are free the cycle after

    def _drain(self) -> Process:
        """Empty the output registers into the output buffer, if fewer than ``output_slots`` blocks wait there."""
        for block, tile in enumerate(self.blocks):
            yield self.closed[block]
            if block >= self.timing.output_slots:
                yield self.stored[block - self.timing.output_slots]
            if self.drain_words[tile]:
                yield self.env.timeout(self.drain_words[tile])
            self.events.drained[tile] = self.now()
            self.drained[block].succeed()


class FlatTilePipeline(TilePipeline):
    """The tile pipeline before a DRAM of one bandwidth and one latency."""

    def __init__(self, tiles: TileTable, timing: ArrayTiming, dram: DramTiming) -> None:
        super().__init__(tiles, timing)
        self.dram = dram
        self.channel = DramChannel(self.env)
        self.fetch_cycles = dram.transfer_cycles(tiles.weight_bytes + tiles.input_bytes).tolist()
        self.store_cycles = dram.transfer_cycles(tiles.store_bytes).tolist()

    def dma(self) -> Process:
        """Fetch tiles in order, as far ahead as the buffers allow; data are usable one DRAM latency after the transfer."""
        for tile, (cycles, after) in enumerate(zip(self.fetch_cycles, self.tiles.after.tolist(), strict=True)):
            if after >= 0:
                yield self.computed[after]
            if cycles:
                yield self.channel.transfer(FETCH, cycles)
            latency = self.dram.latency if cycles else 0
            self.events.fetched[tile] = self.now() + latency
            fire(self.env, self.fetched[tile], delay=latency)

    def writer(self) -> Process:
        """Store finished blocks in order."""
        for block, tile in enumerate(self.blocks):
            yield self.drained[block]
            if self.store_cycles[tile]:
                yield self.channel.transfer(STORE, self.store_cycles[tile])
            self.events.stored[tile] = self.now()
            self.stored[block].succeed()


def run_simpy(tiles: TileTable, timing: ArrayTiming, dram: DramTiming) -> TileEvents:
    """Event times of one layer by discrete-event simulation (some 10^4 to 10^5 tiles per second)."""
    return FlatTilePipeline(tiles, timing, dram).run()
