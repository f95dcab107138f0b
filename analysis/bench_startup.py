"""What starting costs: compiling kernels once, loading them in every process, and calling one per layer."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..sim.executor.simd.dense_product import DenseProduct
from ..sim.executor.simd.loading import load_kernels
from ..sim.executor.simd.network import PlaneNetwork
from ..sim.executor.simd.planes import VECTORS, PlaneLayout
from ..sim.executor.simd.product import Choice, Product
from ..sim.executor.simd.program import Program
from ..sim.executor.simd.team import Call, Team
from ..workloads.layers import conv
from ..workloads.nesting import from_ranking
from ..workloads.zoo import build
from .bench_network import magnitude_pruned
from .progress import Progress

#: A fresh process prints one probe's figures as JSON; imports count from its first line.
_PROBE = (
    "import time; start = time.process_time(); import json, sys; from nestling.analysis import bench_startup as b; "
    "json.dump(getattr(b, sys.argv[1])(start), sys.stdout)"
)
#: Warm processes and rounds of calls; medians count.
PROCESSES, ROUNDS = 3, 15


@dataclass(frozen=True)
class StartUp:
    """One figure beside what it must stay under; None where it has no bar of its own."""

    name: str
    value: float
    unit: str
    bar: float | None


def startup_rows(*, progress: Progress) -> list[StartUp]:
    """All figures. Kernels are compiled in fresh processes with an empty cache folder; CPU time of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        cold = _probe("network_probe", folder)
        progress("bench startup", 1, PROCESSES + 2)
        warm = []
        for done in range(PROCESSES):
            warm.append(_probe("network_probe", folder))
            progress("bench startup", done + 2, PROCESSES + 2)
        every = _probe("kernels_probe", folder)
    progress("bench startup", PROCESSES + 2, PROCESSES + 2)

    def usual(name: str) -> float:
        return statistics.median(run[name] for run in warm)

    return [
        StartUp(f"cold: the {cold['compiled']:.0f} kernels of ResNet-50 compiled", cold["first_s"], "s", 40),
        StartUp(
            f"cold: all {every['kernels']:.0f} kernels of unstructured float32, up to 4 levels",
            every["first_s"],
            "s",
            40,
        ),
        StartUp("warm: importing the executor", usual("import_s"), "s", None),
        StartUp(f"warm: loading the {warm[0]['kernels']:.0f} kernels of ResNet-50", usual("first_s"), "s", 1),
        StartUp("one call of a layer without work", call_overhead_s() * 1e6, "us", 3),
    ]


def network_probe(start_s: float) -> Mapping[str, float]:
    """For a fresh process: seconds of importing, and of the first run of a pruned ResNet-50 beyond the second."""
    imported_s = time.process_time()
    network = magnitude_pruned(build("resnet50"), (0.13,))
    runner = PlaneNetwork(network)
    first = network.layers[0]
    image = np.zeros((first.C, first.H, first.W), np.float32)
    calls = [step for _, step in runner.steps(0)]
    found: list[tuple[int, int]] = []
    loading = _seconds(lambda: found.append(load_kernels(calls)))
    runs = [_seconds(lambda: runner.run(image, 0)) for _ in range(2)]
    kernels, compiled = found[0]
    return {
        "import_s": imported_s - start_s,
        "kernels": kernels,
        "compiled": compiled,
        "first_s": loading + max(0.0, runs[0] - runs[1]),
    }


def kernels_probe(_: float) -> Mapping[str, float]:
    """For a fresh process: seconds until every windowed, direct and dense kernel for up to 4 levels is ready."""
    layer = conv("one", "input", C=2, H=4, K=2, R=1)
    values = np.ones(layer.weight_shape, np.float32)
    weights = from_ranking(values, values, (1.0,))
    layout = PlaneLayout(2, 4, 4, 0)
    x, bias = layout.new(), np.zeros(2, np.float32)
    calls: list[Call] = []
    for vectors in VECTORS:
        for choice in (Choice("windowed", vectors, 2), Choice("direct", vectors)):
            product = Product(layer, weights, layout, layout, choice=choice)
            calls.append(product.call(x, x, level=0, bias=bias, works=[product.new_work()]))
        dense = DenseProduct(product, weights, 0, vectors=vectors)
        calls.append(dense.call(x, x, bias=bias, works=[dense.new_work()]))
    found: list[tuple[int, int]] = []
    seconds = _seconds(lambda: found.append(load_kernels(calls)))
    return {"kernels": found[0][0], "first_s": seconds}


def call_overhead_s() -> float:
    """Seconds of handing one layer to its kernel: the program of a pruned ResNet-50 with no task in any call."""
    runner = PlaneNetwork(magnitude_pruned(build("resnet50"), (0.13,)))
    calls = [step._replace(tasks=np.zeros(2, np.int64)) for _, step in runner.steps(0) if isinstance(step, Call)]
    program, team = Program(calls, 1), Team(1)

    def run() -> None:
        program.rewind()
        team.together(program.run)

    return statistics.median(_seconds(run) for _ in range(ROUNDS)) / len(calls)


def markdown(rows: list[StartUp]) -> str:
    """The README's table of start-up costs."""
    lines = ["| start-up, one thread, CPU time | measured | bar |", "| --- | ---: | ---: |"]
    for row in rows:
        bar = "-" if row.bar is None else f"< {row.bar:g} {row.unit}"
        lines.append(f"| {row.name} | {row.value:.2f} {row.unit} | {bar} |")
    return "\n".join(lines)


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _probe(name: str, folder: str) -> Mapping[str, float]:
    """What a probe says in a process of its own, whose kernels are cached in ``folder``."""
    environment = os.environ | {"NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", _PROBE, name], check=True, env=environment, capture_output=True, text=True
    )
    found: Mapping[str, float] = json.loads(shown.stdout)
    return found
