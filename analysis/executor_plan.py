"""The executor's plan of a network, layer by layer: kernel, work, bytes, the machine's bound, and what is reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ..sim.executor.simd import peaks_kernel
from ..sim.executor.simd.dense_product import DenseProduct
from ..sim.executor.simd.network import PlaneNetwork
from ..sim.executor.simd.planes import LANES, aligned
from ..sim.executor.simd.planner import Planner
from ..sim.executor.simd.prior import best_vectors
from ..sim.executor.simd.product import Product
from ..sim.executor.simd.team import Call
from ..workloads.layers import Layer
from ..workloads.network import Network
from .output import console, print_object
from .progress import Progress

REPEATS = 6
#: float32 elements of the array whose reading gives the bandwidth: beyond most caches.
_READ_ELEMENTS = 1 << 24
_MULTIPLIES = 2000


@dataclass(frozen=True)
class Peaks:
    """One thread of this machine: multiply-adds from the first-level cache, and reads from memory."""

    flop_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class LayerSpeed:
    """One convolution at one level. ``bound_s``: the least time by either peak; ``fraction``: bound / measured.

    ``useful_flop``: two per retained weight and output position. ``moved_bytes``: weights with their indices, input and
    output once. ``crossover``: density at which the dense kernel would be as fast, if time went with the non-zeros.
    """

    layer: str
    level: int
    kernel: str
    measured_s: float
    useful_flop: int
    moved_bytes: int
    bound_s: float
    fraction: float
    crossover: float | None


def planned(network: Network, *, tune: bool, progress: Progress) -> tuple[Peaks, list[LayerSpeed], Planner, bool]:
    """Measure every convolution at every level with the planner's choices, after tuning if wanted; one thread.

    The last value tells whether the tuning could be written to the user's cache folder.

    Raises
    ------
    InputError
        if the network has no weight values, or layers without plane kernels.
    """
    planner = Planner()
    kept = planner.tune(network, lambda done, total: progress("tune", done, total)) if tune else True
    runner = PlaneNetwork(network, choose=planner.choose)
    peaks = measured_peaks()
    rows = []
    for level in range(network.levels):
        for name, step in runner.steps(level):
            product = runner.products.get(name)
            is_product = isinstance(step, Call) and len(step.extras) > 0
            if product is not None and isinstance(step, Call) and is_product:
                rows.append(_speed(network, runner, product, step, level=level, peaks=peaks))
        progress("measure", level + 1, network.levels)
    return peaks, rows, planner, kept


def measured_peaks() -> Peaks:
    """The best of several runs of two loops that do nothing else."""
    x, out = aligned(peaks_kernel.OPERAND_BYTES // 4), aligned(LANES * peaks_kernel.VECTORS)
    large = aligned(_READ_ELEMENTS)
    large[:] = 1
    multiply = least_seconds(lambda: peaks_kernel.multiply(_MULTIPLIES, x, out))
    read = least_seconds(lambda: peaks_kernel.read(large, out))
    return Peaks(2 * _MULTIPLIES * x.size / multiply, large.nbytes / read)


def least_seconds(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The least CPU time of this thread over several runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times)


def _speed(
    network: Network, runner: PlaneNetwork, product: Product, step: Call, *, level: int, peaks: Peaks
) -> LayerSpeed:
    layer: Layer = product.layer
    weights, plan = network.weights[layer.name], runner.plans[layer.name]
    seconds = least_seconds(lambda: _again(step))
    nonzeros = int(weights.nonzeros[level])
    dense = level in plan.dense_levels
    flop = 2 * nonzeros * layer.P * layer.Q
    per_weight = 4 if dense else 4 + product.streams.offsets.itemsize
    stored = weights.keep.size if dense else nonzeros
    moved = stored * per_weight + 4 * (layer.C * layer.H * layer.W + layer.K * layer.P * layer.Q)
    bound = max(flop / peaks.flop_per_s, moved / peaks.bytes_per_s)
    kind, vectors, window = plan.sparse
    name = f"dense {plan.dense_vectors}" if dense else f"{kind} {vectors}" + (f"/{window}" if window else "")
    density = nonzeros / weights.keep.size
    crossover = None if layer.groups > 1 or dense else density * _dense_seconds(product, network, level) / seconds
    return LayerSpeed(layer.name, level, name, seconds, flop, moved, bound, bound / seconds, crossover)


def _dense_seconds(product: Product, network: Network, level: int) -> float:
    vectors = best_vectors(product.target)
    dense = DenseProduct(product, network.weights[product.layer.name], level, vectors=vectors)
    x, out = product.planes.new(), product.target.new()
    bias = np.zeros(product.layer.K, np.float32)
    call = dense.call(x, out, bias=bias, works=[dense.new_work()])
    return least_seconds(lambda: _again(call), 3)


def _again(call: Call) -> None:
    call.tasks[0] = 0
    call.run(0)


def print_plan(found: tuple[Peaks, list[LayerSpeed], Planner, bool], *, as_json: bool) -> None:
    """The plan as a table, or as JSON."""
    peaks, rows, planner, kept = found
    if as_json:
        print_object({"peaks": asdict(peaks), "layers": [asdict(row) for row in rows], "tuned": planner.measured})
        return
    title = f"one thread: {peaks.flop_per_s / 1e9:.0f} GFLOP/s from the cache, {peaks.bytes_per_s / 1e9:.1f} GB/s from memory"
    table = Table(title=title)
    headings = (
        "layer",
        "level",
        "kernel",
        "us",
        "useful MFLOP",
        "KB moved",
        "bound us",
        "reached",
        "crossover density",
    )
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index in (0, 2) else "right")
    for row in rows:
        crossover = "-" if row.crossover is None else f"{min(1.0, row.crossover):.2f}"
        times = (f"{1e6 * row.measured_s:.0f}", f"{row.useful_flop / 1e6:.1f}", f"{row.moved_bytes / 1e3:.0f}")
        bounds = (f"{1e6 * row.bound_s:.0f}", f"{row.fraction:.0%}", crossover)
        table.add_row(row.layer, str(row.level), row.kernel, *times, *bounds)
    console().print(table)
    if not kept:
        console().print("The cache folder cannot be written: these measurements hold for this run only.")
