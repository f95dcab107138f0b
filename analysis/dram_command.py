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
from ..sim.memory import layer_streams
from ..sim.simulate import check_widths
from ..traces.requests import FORMATS, LINE_BYTES, Requests, read_requests, write_requests
from ..traces.trace import Trace
from ..workloads.errors import InputError

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


def print_devices(*, as_json: bool) -> None:
    """Every registered device: kind, peak bandwidth, energy of a byte, mappings."""
    devices = [load_device(name) for name in DEVICES]
    if as_json:
        _print_json({"devices": [device.model_dump(mode="json") for device in devices]})
        return
    table = Table(title="DRAM devices: `--dram NAME`, or `dram: {device: NAME}` in a design file")
    for heading in ("name", "kind", "peak GB/s", "read pJ/B", "mappings"):
        numeric = heading in ("peak GB/s", "read pJ/B")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading == "name")
    for device in devices:
        table.add_row(*_device_row(device))
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


def export_requests(trace: Trace, design: Design, layer: str, *, level: int, folder: Path) -> list[Path]:
    """Write a layer's requests as DRAMsim3 and Ramulator trace files; returns their paths.

    The lines stand tile after tile, a tile's fetch before its store, and arrive as fast as the memory takes them (cycle 0).

    Raises
    ------
    InputError
        for a layer or level that does not exist, or a folder that cannot be written to.
    """
    trace.check_level(level)
    check_widths(trace, design)
    found = trace.layer(layer)
    plan = next(iter(ARRAYS[design.array.kind].plans(found, [level], design)))
    requests = layer_streams(found, plan, design.weight_format).requests()
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form in FORMATS:
            written.append(folder / f"{layer}.level{level}.{form}.trace")
            write_requests(requests, written[-1], form=form)
    except OSError as error:
        raise InputError(f"--requests {folder}: cannot be written ({error.strerror})") from None
    return written


def _print_json(data: Any) -> None:
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
    Console(soft_wrap=True, markup=False, highlight=False).print(text)
