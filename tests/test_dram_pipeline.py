"""The tile pipeline in closed loop with the DRAM controller: both engines on every event, bounds, clocks, accounting."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.address_streams import AddressStreams, Section, StoredWeights, address_streams
from nestling.accel.dram import load_command_device
from nestling.accel.dram_energy import peak_bytes_per_cycle, unloaded_read_cycles
from nestling.accel.tiles import ArrayTiming, TileTable
from nestling.sim.dram import Controller, ControllerSettings
from nestling.sim.dram_pipeline import (
    ClockRatio,
    DramLink,
    DramTileEvents,
    clock_ratio,
    run_dram_recurrence,
)
from nestling.sim.dram_pipeline_simpy import run_dram_simpy
from nestling.sim.pipeline import split_cycles
from nestling.workloads.errors import InputError

from .test_pipeline import cases, table

DEVICES = ("ddr4_2400_x8", "lpddr4_3200_x32_lockstep", "hbm2")
ENGINES = {"recurrence": run_dram_recurrence, "simpy": run_dram_simpy}


@cache
def link(device: str = "ddr4_2400_x8", clock_hz: float = 627.2e6) -> DramLink:
    return DramLink.at(Controller(load_command_device(device)), clock_hz)


def placed(tiles: TileTable, *, size: int = 1) -> tuple[TileTable, AddressStreams]:
    """The tiles with ``size`` times their bytes and addresses one behind the other, and their streams."""
    weights, inputs, stores = (x * size for x in (tiles.weight_bytes, tiles.input_bytes, tiles.store_bytes))
    total = int(weights.sum())
    first = -(-total // 4096) * 4096
    tiles = replace(
        tiles,
        weight_bytes=weights, input_bytes=inputs, store_bytes=stores,
        weight_address=np.cumsum(weights) - weights,
        input_address=np.cumsum(inputs) - inputs + first,
        store_address=np.cumsum(stores) - stores + first + 8192 * (1 + int(inputs.sum()) // 8192),
    )  # fmt: skip
    return tiles, address_streams(tiles, StoredWeights((Section(0, total),), total))


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(DEVICES), st.sampled_from([1, 9, 40]), st.sampled_from([192.0e6, 627.2e6, 3e9]))
def test_both_engines_agree_on_every_event(
    case: tuple[TileTable, ArrayTiming, object], device: str, size: int, clock_hz: float
) -> None:
    tiles, streams = placed(case[0], size=size)
    dram = link(device, clock_hz)
    fast, slow = (run(tiles, case[1], streams, link=dram) for run in ENGINES.values())
    for f in fields(DramTileEvents):
        np.testing.assert_array_equal(getattr(fast, f.name), getattr(slow, f.name), err_msg=f.name)
    check_events(tiles, case[1], fast, streams)


def check_events(tiles: TileTable, timing: ArrayTiming, e: DramTileEvents, streams: AddressStreams) -> None:
    """Order of a tile's events, conservation of lines, cycles without rest."""
    assert (e.fetch_begin <= e.fetch_end).all()
    assert (np.diff(e.fetch_begin) >= 0).all()
    assert (e.fetch_begin[1:] >= e.fetch_end[:-1]).all()  # one engine, in order
    assert (e.fetched >= e.fetch_begin).all()
    assert (e.loaded >= e.fetched).all()
    released = tiles.after >= 0
    assert (e.fetch_begin[released] >= e.last[tiles.after[released]] + 1).all()
    closing = (tiles.drain_words > 0) | (tiles.store_bytes > 0)
    assert (e.store_begin >= e.drained)[closing].all()
    assert (e.stored >= e.store_begin)[closing].all()
    split = split_cycles(tiles, timing, e)
    assert split.total == e.end
    assert min(vars(split).values()) >= 0
    access = e.dram.device.organisation.access_bytes
    assert e.dram.read_bytes == streams.fetches.bytes
    assert e.dram.written_bytes == streams.stores.bytes
    assert (e.dram.reads + e.dram.writes + e.dram.merged) * access == streams.fetches.bytes + streams.stores.bytes


def test_the_closed_loop_equals_the_controller_alone_on_one_fetch() -> None:
    """One tile of n bytes at cycle 0: its data are there when the controller alone has served the same lines."""
    for device in DEVICES:
        dram = link(device, 1e9)
        for size in (64, 4096, 100_000):
            tiles, streams = placed(table(weight_bytes=[size], steps=[1]))
            alone = dram.controller.open()
            alone.push(streams.requests())
            served = dram.ratio.to_accelerator(alone.wait())
            for run in ENGINES.values():
                assert run(tiles, ArrayTiming(), streams, link=dram).fetched[0] == served


def test_one_line_takes_the_unloaded_latency() -> None:
    dram = link("ddr4_2400_x8", 1e9)
    tiles, streams = placed(table(weight_bytes=[64], steps=[1]))
    events = run_dram_recurrence(tiles, ArrayTiming(), streams, link=dram)
    assert events.fetched[0] == dram.ratio.to_accelerator(unloaded_read_cycles(dram.controller.device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_stream_reaches_most_of_the_peak_and_never_more(device: str) -> None:
    """400 tiles of 4 KiB, two ahead of the array: bound by DRAM."""
    after = np.maximum(np.arange(400) - 3, -1)
    tiles, streams = placed(table(input_bytes=np.full(400, 4096), steps=np.ones(400), after=after))
    dram = link(device)
    events = run_dram_recurrence(tiles, ArrayTiming(), streams, link=dram)
    peak = peak_bytes_per_cycle(dram.controller.device) * dram.ratio.num / dram.ratio.den
    assert 0.5 < tiles.input_bytes.sum() / events.end / peak <= 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.sampled_from(DEVICES))
def test_a_slower_device_is_never_faster_on_streams(sizes: list[int], device: str) -> None:
    """The same DRAM with twice the clock period, on fetches that nothing but DRAM holds up. (Where the array leaves gaps, a
    refresh may fall into one on the slower device and into a fetch on the faster: an anomaly as in any shared queue.)"""
    tiles, streams = placed(table(input_bytes=sizes, steps=np.ones(len(sizes))))
    fast = load_command_device(device)
    slow = fast.model_copy(update={"timing": fast.timing.model_copy(update={"tCK_ns": 2 * fast.timing.tCK_ns})})
    before, after = (
        run_dram_recurrence(tiles, ArrayTiming(), streams, link=DramLink.at(Controller(d), 627.2e6))
        for d in (fast, slow)
    )
    for name in ("fetched", "last", "fetch_end"):
        assert (getattr(before, name) <= getattr(after, name)).all()


def test_posted_writes_are_flushed_and_counted() -> None:
    tiles, streams = placed(table(store_bytes=[640], drain_words=[1], steps=[1]))
    for run in ENGINES.values():
        events = run(tiles, ArrayTiming(), streams, link=link())
        assert events.dram.writes == 10
        assert events.flushed > events.stored[0]
        assert events.end == events.flushed
        assert events.dram.cycles >= link().ratio.to_dram(events.end)


def test_background_lasts_as_long_as_the_layer() -> None:
    """An array that computes for 10^5 cycles after its only fetch: the DRAM refreshes all the while."""
    tiles, streams = placed(table(weight_bytes=[64], steps=[100_000]))
    events = run_dram_recurrence(tiles, ArrayTiming(), streams, link=link())
    run, device = events.dram, link().controller.device
    assert run.cycles == link().ratio.to_dram(events.end)
    assert run.refreshes == (run.cycles - 1) // device.timing.tREFI
    assert run.open_cycles + run.closed_cycles == run.cycles


def test_an_idle_dram_powers_down_until_the_layer_ends() -> None:
    """After its only fetch the DRAM sleeps, but for refreshes: nothing but background energy changes."""
    tiles, streams = placed(table(weight_bytes=[64], steps=[100_000]))
    device = link().controller.device
    asleep = DramLink.at(Controller(device, ControllerSettings(power_down_after=10)), 627.2e6)
    first, second = (run_dram_recurrence(tiles, ArrayTiming(), streams, link=x) for x in (link(), asleep))
    assert first.end == second.end
    down = second.dram.power_down_open_cycles + second.dram.power_down_closed_cycles
    awake = second.dram.refreshes * (device.timing.tRP + device.timing.tRFC) + 200
    assert second.dram.cycles - awake <= down < second.dram.cycles
    assert second.dram.total_energy_pj < first.dram.total_energy_pj
    assert second.dram.energy_pj["act"] == first.dram.energy_pj["act"]


def test_no_tiles_take_no_time() -> None:
    tiles, streams = placed(table(steps=[]))
    for run in ENGINES.values():
        events = run(tiles, ArrayTiming(), streams, link=link())
        assert events.end == 0
        assert events.dram.requests == 0


def test_tensors_that_do_not_fit_into_the_device() -> None:
    tiles = table(weight_bytes=[64], steps=[1], weight_address=[1 << 50])
    streams = address_streams(tiles, StoredWeights((Section(0, (1 << 50) + 64),), (1 << 50) + 64))
    for run in ENGINES.values():
        with pytest.raises(InputError, match="addresses lie beyond ddr4_2400_x8"):
            run(tiles, ArrayTiming(), streams, link=link())


def test_clock_ratios_are_exact() -> None:
    """LPDDR4-3200 clocks at 1.6 GHz; 627.2 MHz is 49/125 of it."""
    device = load_command_device("lpddr4_3200_x32_lockstep")
    ratio = clock_ratio(device, 627.2e6)
    assert ratio == ClockRatio(125, 49)
    assert [ratio.to_dram(t) for t in (0, 1, 49, 50)] == [0, 3, 125, 128]
    assert [ratio.to_accelerator(c) for c in (0, 1, 125, 126)] == [0, 1, 49, 50]
    for cycle in range(300):
        assert ratio.to_accelerator(ratio.to_dram(cycle)) >= cycle
        assert ratio.to_dram(ratio.to_accelerator(cycle)) >= cycle
