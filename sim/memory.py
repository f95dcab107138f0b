"""The DRAM of a simulation, seen from the tile pipeline: flat, or a controller in closed loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ..accel.address_streams import AddressStreams, address_streams, stored_weights
from ..accel.arrays import LayerPlan
from ..accel.design import Design
from ..accel.dram import CommandDevice, FlatDevice, load_device
from ..accel.dram_choice import DeviceDram, FlatDram
from ..traces.trace import LayerTrace
from .dram import Controller, ControllerSettings, DramRun
from .dram_pipeline import DramLink, DramTileEvents, run_dram_recurrence
from .pipeline import DramTiming, TileEvents, flat_timing, run_recurrence
from .results import DramTotals

Engine = Literal["recurrence", "simpy"]
ENGINES: tuple[Engine, ...] = ("recurrence", "simpy")
#: The flat device whose energy stands beside the commands'.
_FLAT_PEER = "smartexchange_100pj_per_byte"


class Memory(Protocol):
    """What runs a layer's tiles before a DRAM."""

    def events(self, trace: LayerTrace, plan: LayerPlan) -> TileEvents: ...

    def totals(self, events: TileEvents, *, repeat: int, seconds: float) -> DramTotals | None: ...


@dataclass(frozen=True)
class FlatMemory:
    """One bandwidth, one latency."""

    timing: DramTiming
    engine: Engine

    def events(self, trace: LayerTrace, plan: LayerPlan) -> TileEvents:
        if self.engine == "recurrence":
            return run_recurrence(plan.tiles, plan.timing, self.timing)
        from .pipeline_simpy import run_simpy

        return run_simpy(plan.tiles, plan.timing, self.timing)

    def totals(self, events: TileEvents, *, repeat: int, seconds: float) -> DramTotals | None:
        return None


@dataclass(frozen=True, eq=False)
class CommandMemory:
    """A controller whose commands are simulated; ``flat`` prices the same bytes for comparison."""

    link: DramLink
    engine: Engine
    weight_format: str
    flat: FlatDevice

    def events(self, trace: LayerTrace, plan: LayerPlan) -> TileEvents:
        streams = layer_streams(trace, plan, self.weight_format)
        if self.engine == "recurrence":
            return run_dram_recurrence(plan.tiles, plan.timing, streams, link=self.link)
        from .dram_pipeline_simpy import run_dram_simpy

        return run_dram_simpy(plan.tiles, plan.timing, streams, link=self.link)

    def totals(self, events: TileEvents, *, repeat: int, seconds: float) -> DramTotals | None:
        assert isinstance(events, DramTileEvents)
        run = events.dram
        return DramTotals(
            activations=run.activations * repeat,
            reads=run.reads * repeat,
            writes=run.writes * repeat,
            merged=run.merged * repeat,
            refreshes=run.refreshes * repeat,
            row_hits=(run.read_row_hits + run.write_row_hits) * repeat,
            bytes_moved=(run.read_bytes + run.written_bytes) * repeat,
            seconds=seconds,
            energy_j={name: pj * repeat * 1e-12 for name, pj in run.energy_pj.items()},
            flat_energy_j=run.flat_energy_pj(self.flat) * repeat * 1e-12,
        )


def open_memory(design: Design, *, clock_hz: float, engine: Engine) -> FlatMemory | CommandMemory:
    """The memory of ``design`` at an accelerator clock.

    Raises
    ------
    InputError
        for a flat DRAM that cannot serve the clock, or controller settings that contradict each other.
    """
    if isinstance(design.dram, FlatDram):
        return FlatMemory(flat_timing(design.dram, clock_hz), engine)
    flat = load_device(_FLAT_PEER)
    assert isinstance(flat, FlatDevice)
    return CommandMemory(DramLink.at(controller_of(design.dram), clock_hz), engine, design.weight_format, flat)


def controller_of(dram: DeviceDram) -> Controller:
    """The controller that a design file describes."""
    device: CommandDevice = dram.command_device
    return Controller(device, ControllerSettings(**dram.settings.given()), mapping=dram.mapping)


def layer_streams(trace: LayerTrace, plan: LayerPlan, weight_format: str) -> AddressStreams:
    """The lines that each tile of a layer reads and writes."""
    return address_streams(plan.tiles, stored_weights(trace, weight_format, plan.level))


def command_counts(run: DramRun) -> dict[str, int]:
    """Action counts of a DRAM run, under the names that ``accel/energy.py`` prices."""
    return {
        "dram_act": run.activations,
        "dram_read": run.reads,
        "dram_write": run.writes,
        "dram_refresh": run.refreshes,
        "dram_open_cycles": run.open_cycles - run.power_down_open_cycles,
        "dram_closed_cycles": run.closed_cycles - run.power_down_closed_cycles,
        "dram_open_power_down_cycles": run.power_down_open_cycles,
        "dram_closed_power_down_cycles": run.power_down_closed_cycles,
    }
