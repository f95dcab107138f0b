"""The closed loop of tile pipeline and DRAM controller as SimPy processes: the readable definition of the fast engine."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import simpy

from ..accel.address_streams import AddressStreams, Runs
from ..accel.tiles import ArrayTiming, TileTable
from ..traces.requests import LINE_BYTES
from . import dram_kernel
from .dram import OpenDram
from .dram_pipeline import ClockRatio, DramLink, DramTileEvents, finish
from .pipeline_simpy import FETCH, SETTLED, STORE, Process, TilePipeline, fire


class ControllerProcess:
    """The memory controller: takes requests at their time, says when they are taken and when their data arrive.

    When data arrive depends on requests yet to come. So arrival is predicted by running a copy of the controller's state as
    if nothing else came, and predicted anew whenever something did.
    """

    def __init__(self, env: simpy.Environment, dram: OpenDram, ratio: ClockRatio) -> None:
        self.env, self.dram, self.ratio = env, dram, ratio
        self.queue: list[tuple[int, int, list[tuple[int, int]], simpy.Event]] = []
        self.arrivals: dict[int, simpy.Event] = {}  # tile -> event that fires when its data are usable
        self.predictions = 0

    def request(self, kind: int, tile: int, runs: list[tuple[int, int]]) -> simpy.Event:
        """Offer (address, bytes) runs now; the event fires when the last line is taken."""
        taken = self.env.event()
        if not self.queue:
            offer = fire(self.env, self.env.event(), priority=SETTLED)
            offer.callbacks.append(lambda _: self._offer())
        heapq.heappush(self.queue, (kind, tile, runs, taken))
        return taken

    def expect(self, tile: int, arrival: simpy.Event) -> None:
        """Fire ``arrival`` when the data of the tile's fetch, requested in this cycle, are usable."""
        self.arrivals[tile] = arrival

    def _offer(self) -> None:
        """All requests of this instant: the fetch before the store."""
        now = int(self.env.now)
        while self.queue:
            kind, tile, runs, taken = heapq.heappop(self.queue)
            tag = tile if kind == FETCH else len(self.dram.book) - 1
            for address, size in runs:
                accepted = self.dram.start(self.ratio.to_dram(now), address, size, is_write=kind == STORE, tag=tag)
            fire(self.env, taken, delay=self.ratio.to_accelerator(accepted + 1) - now)
        self._predict()

    def _predict(self) -> None:
        self.predictions += 1
        state, book = self.dram.state.copy(), self.dram.book.copy()
        for tile in self.arrivals:
            at = self.ratio.to_accelerator(int(dram_kernel.wait(state, book, tile)))
            self._arrive_at(at, tile, prediction=self.predictions)

    def _arrive_at(self, cycle: int, tile: int, *, prediction: int) -> None:
        def arrive(_: simpy.Event) -> None:
            if prediction == self.predictions and tile in self.arrivals:
                self.arrivals.pop(tile).succeed()

        # A prediction never lies in the past: what arrives before a request does not depend on it.
        predicted = fire(self.env, self.env.event(), delay=cycle - int(self.env.now))
        predicted.callbacks.append(arrive)


class DramTilePipeline(TilePipeline):
    """The tile pipeline before a memory controller."""

    def __init__(self, tiles: TileTable, timing: ArrayTiming, streams: AddressStreams, *, link: DramLink) -> None:
        super().__init__(tiles, timing)
        self.dram = link.controller.open(tags=len(tiles) + 1)
        self.dram.check_range(0, streams.end)
        self.controller = ControllerProcess(self.env, self.dram, link.ratio)
        self.ratio = link.ratio
        self.fetch_runs, self.store_runs = _by_tile(streams.fetches), _by_tile(streams.stores)
        self.requests = np.zeros((3, len(tiles)), dtype=np.int64)

    def run_with_dram(self) -> DramTileEvents:
        return finish(self.run(), self.dram, self.requests, ratio=self.ratio)

    def dma(self) -> Process:
        """Fetch tiles in order; the engine is free when the port has taken the last line."""
        for tile, (runs, after) in enumerate(zip(self.fetch_runs, self.tiles.after.tolist(), strict=True)):
            if after >= 0:
                yield self.computed[after]
            self.requests[0, tile] = self.now()
            self.fetched[tile].callbacks.append(lambda _, tile=tile: self._note_arrival(tile))
            if runs:
                self.controller.expect(tile, self.fetched[tile])
                yield self.controller.request(FETCH, tile, runs)
            else:
                self.fetched[tile].succeed()
            self.requests[1, tile] = self.now()

    def _note_arrival(self, tile: int) -> None:
        self.events.fetched[tile] = self.now()

    def writer(self) -> Process:
        """Store finished blocks in order; a store is done when the port has taken it."""
        for block, tile in enumerate(self.blocks):
            yield self.drained[block]
            self.requests[2, tile] = self.now()
            if self.store_runs[tile]:
                yield self.controller.request(STORE, tile, self.store_runs[tile])
            self.events.stored[tile] = self.now()
            self.stored[block].succeed()


def _by_tile(runs: Runs) -> list[list[tuple[int, int]]]:
    """(address, bytes) of every tile's runs."""
    pairs = list(zip(runs.address.tolist(), (runs.lines * LINE_BYTES).tolist(), strict=True))
    begins = [0, *runs.ends.tolist()]
    return [pairs[begin:end] for begin, end in itertools.pairwise(begins)]


def run_dram_simpy(tiles: TileTable, timing: ArrayTiming, streams: AddressStreams, *, link: DramLink) -> DramTileEvents:
    """Event times of one layer by discrete-event simulation; errors as in ``run_dram_recurrence``."""
    return DramTilePipeline(tiles, timing, streams, link=link).run_with_dram()
