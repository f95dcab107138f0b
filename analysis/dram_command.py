"""`nestling dram`: a request trace on a device; the list of devices; a layer's requests as trace files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..accel.arrays import ARRAYS
from ..accel.design import Design
from ..accel.dram import DEVICES, CommandDevice, FlatDevice, load_command_device, load_device
from ..accel.dram_energy import clock_hz, command_energies, peak_bytes_per_s
from ..sim.dram import Controller, DramRun
from ..sim.dram_pipeline import DramTileEvents, clock_ratio
from ..sim.memory import CommandMemory, layer_streams, open_memory
from ..sim.simulate import check_widths
from ..traces.requests import FORMATS, LINE_BYTES, Requests, read_requests, write_requests
from ..traces.trace import LayerTrace, Trace
from ..workloads.errors import InputError

#: Whose cycles the requests of a design with a flat DRAM are exported in.
REPLAY_DEVICE = "ddr4_2400_x8"
_FLAT_DEVICES = ("smartexchange_100pj_per_byte", "horowitz_45nm", "lpddr4_8pj_per_bit")


def run_trace(path: Path, device: str, *, mapping: str | None = None) -> dict[str, Any]:
    """Serve a user's request trace on a command device and account for it; keys carry their units.

    Raises
    ------
    InputError
        for an unknown or flat device, a wrong mapping, bad lines (with their numbers), or addresses beyond the device.
    """
    controller = Controller(load_command_device(device), mapping=mapping)
    requests = read_requests(path)
    return summary(controller, requests, controller.run(requests))


def summary(controller: Controller, requests: Requests, run: DramRun) -> dict[str, Any]:
    """Time, bandwidth, row hits and energy of a run, with flat devices' energies for the same bytes."""
    flats = [device for name in _FLAT_DEVICES if isinstance(device := load_device(name), FlatDevice)]
    return {
        "device": controller.device.name,
        "mapping": str(controller.mapping),
        "lines": len(requests),
        "reads": run.reads,
        "writes": run.writes,
        "merged": run.merged,
        "activations": run.activations,
        "refreshes": run.refreshes,
        "cycles": run.cycles,
        "seconds": run.seconds,
        "bytes_per_s": run.bytes_per_s,
        "peak_share": run.bytes_per_s / peak_bytes_per_s(controller.device),
        "row_hit_rate": run.row_hit_rate,
        "mean_read_latency_cycles": run.mean_read_latency_cycles,
        "energy_j": run.total_energy_pj * 1e-12,
        "energy_by_command_j": {name: pj * 1e-12 for name, pj in run.energy_pj.items()},
        "pj_per_byte": run.total_energy_pj / (len(requests) * LINE_BYTES),
        "flat_energy_j": {flat.name: run.flat_energy_pj(flat) * 1e-12 for flat in flats},
    }


def print_run(found: dict[str, Any], *, as_json: bool) -> None:
    """The summary of a trace as a table or one JSON object."""
    if as_json:
        _print_json(found)
        return
    table = Table(title=f"{found['lines']:,} lines of {LINE_BYTES} B on {found['device']} ({found['mapping']})")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    commands = ("reads", "writes", "merged", "activations", "refreshes", "cycles")
    rows = {name: f"{found[name]:,}" for name in commands} | {
        "time": f"{found['seconds'] * 1e6:,.3f} us",
        "bandwidth": f"{found['bytes_per_s'] / 1e9:.3f} GB/s ({found['peak_share']:.1%} of the peak)",
        "row hits": f"{found['row_hit_rate']:.1%}",
        "read latency, mean": f"{found['mean_read_latency_cycles']:.1f} cycles",
    }
    rows |= {f"energy, {name.replace('_', ' ')}": _uj(j) for name, j in found["energy_by_command_j"].items()}
    rows["energy"] = f"{_uj(found['energy_j'])} ({found['pj_per_byte']:.1f} pJ/B)"
    rows |= {f"  flat, {name}": _uj(joules) for name, joules in found["flat_energy_j"].items()}
    for name, text in rows.items():
        table.add_row(name, text)
    Console(emoji=False).print(table)


def _uj(joules: float) -> str:
    return f"{joules * 1e6:,.3f} uJ"


def print_devices(device: str | None = None, *, as_json: bool) -> None:
    """Every registered device, or ``device`` alone (name or file): kind, peak bandwidth, energy of a byte, mappings.

    Raises
    ------
    InputError
        for an unknown device.
    """
    devices = [load_device(name) for name in ([device] if device is not None else DEVICES)]
    if as_json:
        _print_json({"devices": [device.model_dump(mode="json") for device in devices]})
        return
    table = Table(title="DRAM devices: `--dram NAME`, or `dram: {device: NAME}` in a design file")
    for heading in ("name", "kind", "peak GB/s", "read pJ/B", "mappings"):
        numeric = heading in ("peak GB/s", "read pJ/B")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading == "name")
    for found in devices:
        table.add_row(*_device_row(found))
    console = Console(emoji=False)
    if not console.is_terminal:
        console = Console(emoji=False, width=140)
    console.print(table)
    console.print("read pJ/B of a command device: the burst and its interface, without ACT, refresh and background")


def _device_row(device: CommandDevice | FlatDevice) -> tuple[str, ...]:
    if isinstance(device, FlatDevice):
        return device.name, "flat", f"{device.bandwidth.gb_per_s:.1f}", f"{device.energy.read_pj_per_byte:.1f}", "-"
    energies = command_energies(device)
    burst = (energies.read_pj + energies.io_read_pj) / device.organisation.access_bytes
    kind = f"commands, {clock_hz(device) / 1e6:.0f} MHz"
    return device.name, kind, f"{peak_bytes_per_s(device) / 1e9:.1f}", f"{burst:.1f}", ", ".join(device.mappings)


def export_requests(trace: Trace, design: Design, layer: str, *, level: int, folder: Path) -> tuple[list[Path], str]:
    """Write a layer's requests as DRAMsim3 and Ramulator trace files; returns their paths and what their cycles are.

    The lines arrive when the tile pipeline asks for them at the design's fastest operating point, fetches and stores in the
    order of their requests (:func:`scheduled_requests`). Ramulator's format has no arrivals.

    Raises
    ------
    InputError
        for a layer or level that does not exist, or a folder that cannot be written to.
    """
    trace.check_level(level)
    check_widths(trace, design)
    requests, cycles = scheduled_requests(trace.layer(layer), design, level)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form in FORMATS:
            written.append(folder / f"{layer}.level{level}.{form}.trace")
            write_requests(requests, written[-1], form=form)
    except OSError as error:
        raise InputError(f"--requests {folder}: cannot be written ({error.strerror})") from None
    return written, cycles


def scheduled_requests(layer: LayerTrace, design: Design, level: int) -> tuple[Requests, str]:
    """A layer's line requests with the arrivals of the tile pipeline, and what their cycles are.

    Before a command device, the arrivals are those of the closed loop, in the device's cycles: replayed on it, they are taken
    in the cycles of the simulation. Before a flat DRAM, each transfer's lines arrive when the channel begins it, in cycles of
    :data:`REPLAY_DEVICE`, for a flat DRAM has no clock of its own.
    """
    plan = next(iter(ARRAYS[design.array.kind].plans(layer, [level], design)))
    clock = design.point().clock_hz
    memory = open_memory(design, clock_hz=clock, engine="recurrence")
    events = memory.events(layer, plan)
    if isinstance(memory, CommandMemory):
        assert isinstance(events, DramTileEvents)
        device, ratio, source = memory.link.controller.device, memory.link.ratio, "closed loop with it"
        fetch, store = events.fetch_begin, events.store_begin
    else:
        device, tiles = load_command_device(REPLAY_DEVICE), plan.tiles
        ratio, source = clock_ratio(device, clock), "the design's DRAM is flat"
        reading = memory.timing.transfer_cycles(tiles.weight_bytes + tiles.input_bytes)
        fetch = events.fetched - memory.timing.latency - reading
        store = events.stored - memory.timing.transfer_cycles(tiles.store_bytes)
    streams = layer_streams(layer, plan, design.weight_format)
    requests = streams.requests_at(fetch, store, cycle=lambda time: -(-time * ratio.num // ratio.den))
    return requests, f"arrivals in cycles of {device.name} ({clock_hz(device) / 1e6:,.0f} MHz; {source})"


def _print_json(data: Any) -> None:
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
    Console(soft_wrap=True, markup=False, highlight=False).print(text)
