"""`nestling lower`: any network into a trace file, layer by layer, going on where an interrupted run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..traces.lowering import Lowering
from ..traces.resumable import lower_to_file
from ..traces.trace_file import read_trace
from ..workloads.errors import InputError, unknown_name
from ..workloads.scale_sim_table import scale_sim_topology
from ..workloads.weights_file import write_atomically
from .output import note, progress_bars
from .progress import available_threads, counted
from .sources import Workload

if TYPE_CHECKING:
    from ..accel.design import Design


def lower_workload(
    workload: Workload, out: Path, *, weight_bits: int = 8, activation_bits: int = 8, workers: int | None = None
) -> None:
    """Write the trace of ``workload`` to ``out`` and say what it holds.

    ``workers``: layers lowered at once; all processors by default.

    Raises
    ------
    InputError
        for widths that do not exist, a file that cannot be written, or an unfinished run of other inputs beside it.
    """
    activations = dict(workload.activations)
    if workload.calibration is not None:
        from .calibration import calibration_note
        from .execution import calibrated_activations

        activations = calibrated_activations(workload, threads=workers or available_threads())
        workload = workload.noting(calibration_note(activations))
    lowering = Lowering(
        network=workload.network, pattern=workload.pattern, weight_bits=weight_bits, activation_bits=activation_bits,
        activations=activations,
    )  # fmt: skip
    with progress_bars() as progress:
        step = counted(progress, "lower", len(lowering.products))
        found = lower_to_file(out, lowering, workers=workers or available_threads(), progress=step)
    if found:
        note(f"{found} of {len(lowering.products)} layers were there from an interrupted run")
    for text in workload.network.notes:
        note(f"! {text}")
    size = out.stat().st_size / 1024
    note(f"{out}: {len(lowering.products)} layers, {lowering.levels} levels, {size:,.0f} KiB")


def write_topology(workload: Workload, path: Path) -> None:
    """Write the network's products as a SCALE-Sim topology, and say what the format cannot hold."""
    text, notes = scale_sim_topology(workload.network.layers)
    write_atomically(path, text.encode())
    for one in (*notes, f"{len(text.splitlines()) - 1:,} rows"):
        note(f"{path}: {one}")


def check_request(workload: Workload, layer: str, level: int) -> None:
    """Before anything is lowered: are there such a layer and level to write requests of?

    Raises
    ------
    InputError
        if there are not.
    """
    names = [each.name for each in workload.network.layers if each.gemm is not None]
    if layer not in names:
        raise unknown_name("layer", layer, names)
    levels = workload.network.levels if workload.pattern is None else len(workload.pattern.level_densities)
    if not 0 <= level < levels:
        raise InputError(f"level {level} does not exist; levels are 0 (densest) to {levels - 1}")


def write_layer_requests(trace: Path, design: Design, layer: str, *, level: int, folder: Path) -> None:
    """Write the DRAM requests of one layer of a trace file, and say where they lie. Errors as in ``export_requests``."""
    from .dram_command import export_requests

    paths, cycles = export_requests(read_trace(trace), design, layer, level=level, folder=folder)
    for path in paths:
        note(f"{path}: {path.stat().st_size / 1024:,.0f} KiB")
    note(f"{folder}: {cycles}; the Ramulator format has no arrivals")
