"""Benchmarks of nestling itself: CPU seconds of this process, medians over repeats, beside the bar of the project."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..accel.arrays import ARRAYS, LayerPlan
from ..accel.design import DESIGNS, load_design
from ..accel.dram_choice import FlatDram
from ..accel.strict import ZeroHandling
from ..sim.pipeline import flat_timing, run_recurrence
from ..sim.pipeline_simpy import run_simpy
from ..sim.simulate import simulate
from ..traces.formats import FORMATS
from ..traces.lowering import lower
from ..workloads.errors import unknown_name
from ..workloads.synthetic import with_synthetic_levels
from ..workloads.zoo import build
from .progress import Progress

_DENSITIES = (0.5, 0.25, 0.13)
_DESIGN = "nm-lanes-16x8"
_DRAM = "lpddr4_3200_x32_lockstep"


@dataclass(frozen=True)
class BenchRow:
    """One measurement. ``peer``: the figure it is compared with (a tool's, or the project's bar); None = nothing."""

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str


def _row(name: str, ours: float, unit: str, *, peer: float | None = None) -> BenchRow:
    return BenchRow(name, ours, peer, None if peer is None else ours / peer, unit)


def run_benchmarks(progress: Progress, suites: Sequence[str] = (), *, large: bool = False) -> list[BenchRow]:
    """The named suites, or all of them, which takes minutes. ``large``: also what takes many minutes (7 billion weights).

    Raises
    ------
    InputError
        for an unknown suite, with the nearest match.
    """
    known: dict[str, Callable[[], list[BenchRow]]] = {
        "command-line": _command_line,
        "resnet50": _resnet50,
        "designs": _designs,
        "engines": _engines,
        "scale-sim": _scale_sim,
        "dram": _dram,
        "trace": partial(_trace, large=large),
        "smartdeal": _smartdeal,
    }
    for name in suites:
        if name not in known:
            raise unknown_name("benchmark", name, known)
    rows = []
    chosen = list(suites) or list(known)
    for done, name in enumerate(chosen, start=1):
        rows += known[name]()
        progress("bench", done, len(chosen))
    return rows


def _cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def _command_line() -> list[BenchRow]:
    """Wall-clock seconds of `nestling --help` and of a cold ResNet-50 run, each in a fresh process."""
    program = [sys.executable, "-c", "from nestling.analysis.cli import main; main()"]
    resnet = [*program, "run", "resnet50", "--levels", ",".join(map(str, _DENSITIES)), "-a", _DESIGN, "--json"]
    rows = []
    for name, command, bar, repeats in (
        ("nestling --help, cold", [*program, "--help"], 0.3, 5),
        ("ResNet-50 x 3 levels, one design, cold process", resnet, 5.0, 3),
    ):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        rows.append(_row(name, statistics.median(times), "s wall", peer=bar))
    return rows


def _resnet50() -> list[BenchRow]:
    network, design = build("resnet50"), load_design(_DESIGN)
    nested = with_synthetic_levels(network, _DENSITIES)
    trace = lower(nested)
    simulate(trace, design)

    def everything() -> object:
        return simulate(lower(with_synthetic_levels(network, _DENSITIES)), design)

    return [
        _row("ResNet-50 masks, 3 levels", _cpu_seconds(lambda: with_synthetic_levels(network, _DENSITIES), 5), "CPU s"),
        _row(f"ResNet-50 lowering, {len(FORMATS)} formats", _cpu_seconds(lambda: lower(nested), 5), "CPU s"),
        _row("ResNet-50 simulation, 3 levels", _cpu_seconds(lambda: simulate(trace, design), 5), "CPU s"),
        _row("ResNet-50 masks + lowering + simulation, warm", _cpu_seconds(everything, 5), "CPU s", peer=1.0),
    ]


def _designs() -> list[BenchRow]:
    """Warm simulation of ResNet-50, 3 levels, on every design; bars: 1 s, 20 s where zero inputs are skipped, too."""
    nested = with_synthetic_levels(build("resnet50"), _DENSITIES)
    rows = []
    for name in DESIGNS:
        design = load_design(name)
        trace = lower(nested, weight_bits=design.array.weight_bits, activation_bits=design.array.activation_bits)
        both_sides = design.zero_handling.inputs == ZeroHandling.SKIP
        simulate(trace, design)
        seconds = _cpu_seconds(partial(simulate, trace, design), 1 if both_sides else 3)
        rows.append(_row(f"ResNet-50 x 3 levels on {name}", seconds, "CPU s", peer=20.0 if both_sides else 1.0))
    return rows


def _trace(*, large: bool) -> list[BenchRow]:
    from .bench_trace import trace_rows

    return trace_rows(large=large)


def _smartdeal() -> list[BenchRow]:
    from .bench_smartdeal import smartdeal_rows

    return [_row(name, ours, unit, peer=peer) for name, ours, peer, unit in smartdeal_rows()]


def _scale_sim() -> list[BenchRow]:
    from .bench_scalesim import scale_sim_rows

    return scale_sim_rows()


def _dram() -> list[BenchRow]:
    """Lines per CPU second of the DRAM controller, and what it adds to a ResNet-50 simulation beyond the flat DRAM."""
    from .bench_dram import bench_rows

    rows = [BenchRow(r.name, r.ours, r.peer, r.ratio, r.unit) for r in bench_rows()]
    flat = load_design(_DESIGN)
    trace = lower(with_synthetic_levels(build("resnet50"), _DENSITIES))
    seconds = []
    for design in (flat, flat.with_dram(_DRAM)):
        simulate(trace, design)
        seconds.append(_cpu_seconds(partial(simulate, trace, design), 5))
    return [*rows, _row(f"ResNet-50, 3 levels: {_DRAM} over flat", seconds[1] - seconds[0], "CPU s", peer=0.5)]


def _engines() -> list[BenchRow]:
    """Tiles per CPU second of both engines on the tiles of a ResNet-50 layer."""
    design = load_design(_DESIGN)
    trace = lower(with_synthetic_levels(build("resnet50"), _DENSITIES))
    layer = next(x for x in trace.layers if x.layer.name == "layer2.0.conv1")
    plan: LayerPlan = next(iter(ARRAYS[design.array.kind].plans(layer, [1], design)))
    assert isinstance(design.dram, FlatDram)
    dram = flat_timing(design.dram, design.point().clock_hz)
    copies = max(1, 3_000_000 // len(plan.tiles))
    fast = _cpu_seconds(lambda: [run_recurrence(plan.tiles, plan.timing, dram) for _ in range(copies)], 5)
    slow = _cpu_seconds(lambda: run_simpy(plan.tiles, plan.timing, dram), 3)
    tiles = len(plan.tiles)
    same = np.array_equal(
        run_recurrence(plan.tiles, plan.timing, dram).stored, run_simpy(plan.tiles, plan.timing, dram).stored
    )
    if not same:
        raise RuntimeError("the two engines disagree")
    return [
        _row("tile pipeline, recurrence", tiles * copies / fast, "tiles/CPU s", peer=20e6),
        _row("tile pipeline, SimPy", tiles / slow, "tiles/CPU s", peer=30e3),
    ]
