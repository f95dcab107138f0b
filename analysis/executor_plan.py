"""The executor's plan of a network, layer by layer: kernel, work, bytes, the machine's bound, predicted and measured time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..accel.host_cpu import HostCpu, Work
from ..sim.executor.simd.dense_product import DenseProduct
from ..sim.executor.simd.host.host import host_cpu
from ..sim.executor.simd.host.host_costs import crossing, least_seconds
from ..sim.executor.simd.host.work import Unit, network_bytes, units
from ..sim.executor.simd.machine_plans import MachinePlans
from ..sim.executor.simd.network import PlaneNetwork
from ..sim.executor.simd.prior import best_vectors
from ..workloads.layers import CONV_OPS
from ..workloads.network import Network
from .fitted_table import Column, FittedTable
from .host_prediction import host_facts
from .output import console, print_object
from .progress import Progress

#: Rounds in which every layer of a level runs once, in the network's order; the least CPU time counts.
ROUNDS = 7


@dataclass(frozen=True)
class LayerSpeed:
    """One product at one level. ``bound_s``: the least time by the roofline; ``fraction``: bound / measured.

    ``useful_flop``: two per retained weight and output position. ``moved_bytes``: weights with their indices, input and
    output planes once. ``predicted_s``: None where a kernel has no model. ``crossover``: density at which this layer's
    dense kernel is as fast, from its sparse levels' times; None without such, and for grouped and fully connected layers.
    """

    layer: str
    level: int
    kernel: str
    measured_s: float
    predicted_s: float | None
    useful_flop: int
    moved_bytes: int
    bound_s: float
    fraction: float
    crossover: float | None


@dataclass(frozen=True)
class NetworkPlan:
    """All products of a network at all levels. ``tuned``: layers whose kernel was measured, not only expected; ``kept``:
    whether new measurements could be written to the user's cache folder."""

    host: HostCpu
    layers: Sequence[LayerSpeed]
    tuned: int
    kept: bool


def planned(network: Network, *, tune: bool, progress: Progress, allow: Sequence[str] = ()) -> NetworkPlan:
    """Measure every product at every level with this machine's choices, after tuning if wanted; one thread. ``allow``:
    reduced formats that layers may run in.

    Raises
    ------
    InputError
        if the network has no weight values, or layers without plane kernels.
    """
    plans = MachinePlans(allow=allow)
    kept = plans.tune(network, lambda done, total: progress("tune", done, total)) if tune else True
    runner = plans.network(network)
    programs = [units(runner, level) for level in range(network.levels)]
    names = {unit.work.kernel for program in programs for unit in program if unit.work is not None}
    host, written = host_cpu(
        names, crossover=True, fresh=tune, progress=lambda done, total: progress("measure this CPU", done, total)
    )
    seconds = []
    for program in programs:
        seconds.append(least_seconds(program, ROUNDS, cold=True))
        progress("measure", len(seconds), len(programs))
    crossovers = _crossovers(network, runner, programs, seconds)
    rows = [
        _speed(runner, host, unit, measured, level=level, within=network_bytes(u.work for u in program),
               crossover=crossovers.get(unit.layer))
        for level, program in enumerate(programs)
        for unit, measured in zip(program, seconds[level], strict=True)
        if unit.work is not None and unit.work.useful_flop
    ]  # fmt: skip
    return NetworkPlan(host, rows, plans.measured, kept and written)


def _speed(
    runner: PlaneNetwork,
    host: HostCpu,
    unit: Unit,
    measured: float,
    *,
    level: int,
    within: int,
    crossover: float | None,
) -> LayerSpeed:
    work: Work | None = unit.work
    assert work is not None  # the caller chose it by its work
    predicted = host.predict(work, within=within)
    bound = host.bound_s(work, within=within)
    return LayerSpeed(
        layer=unit.layer,
        level=level,
        kernel=_label(runner, unit.layer, work.kernel, level),
        measured_s=measured,
        predicted_s=None if predicted is None else predicted.seconds,
        useful_flop=work.useful_flop,
        moved_bytes=work.moved_bytes,
        bound_s=bound,
        fraction=bound / measured,
        crossover=crossover,
    )


def _label(runner: PlaneNetwork, layer: str, kernel: str, level: int) -> str:
    """The kernel; of a sparse convolution with its window. Its name says in what format it computes, if not in float32."""
    plan = runner.plans.get(layer)
    return kernel if plan is None or level in plan.dense_levels else plan.sparse.label


def _crossovers(
    network: Network, runner: PlaneNetwork, programs: Sequence[Sequence[Unit]], seconds: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Per convolution the density at which its dense kernel is as fast as the sparse one, from its sparse levels."""
    dense: list[Unit] = []
    for layer in network.layers:
        if layer.op in CONV_OPS and layer.groups == 1:
            product = runner.products[layer.name]
            vectors = best_vectors(product.target)
            matrix = DenseProduct(product, network.weights[layer.name], 0, vectors=vectors)
            call = matrix.call(product.planes.new(), product.target.new(), bias=np.zeros(layer.K, np.float32),
                               works=[matrix.new_work()])  # fmt: skip
            dense.append(Unit(layer.name, (call,), None))
    found = {}
    for unit, dense_s in zip(dense, least_seconds(dense, ROUNDS, cold=True), strict=True):
        sparse = [
            (float(network.weights[unit.layer].densities[level]), measured)
            for level, program in enumerate(programs)
            if level not in runner.plans[unit.layer].dense_levels
            for other, measured in zip(program, seconds[level], strict=True)
            if other.layer == unit.layer and other.work is not None and other.work.useful_flop
        ]
        if sparse:
            found[unit.layer] = crossing([d for d, _ in sparse], [s for _, s in sparse], dense_s)
    return found


def print_plan(plan: NetworkPlan, *, as_json: bool) -> None:
    """The plan as a table, or as JSON."""
    if as_json:
        layers = [asdict(row) for row in plan.layers]
        print_object({"host_cpu": host_facts(plan.host), "layers": layers, "tuned": plan.tuned})
        return
    screen = console()
    screen.print(plan_table(plan))
    host, crossover = plan.host, plan.host.crossover_density
    bandwidths = ", ".join(f"{x.name} {x.read_bytes_per_s.value / 1e9:.0f}" for x in host.caches)
    screen.print(
        f"{host.name}, one thread: {host.multiply_add_flop_per_s.value / 1e9:.0f} GFLOP/s; reading GB/s: {bandwidths}; "
        f"sparse and dense meet at density {'–' if crossover is None else f'{crossover.value:.2f}'} (synthetic product); "
        "energy not modelled.",
        highlight=False,
    )
    if any("bfloat16" in row.kernel or "half" in row.kernel for row in plan.layers):
        screen.print(
            "Kernels named bfloat16 or half (float16) round; bounds are float32's, and they have no prediction."
        )
    if not plan.kept:
        screen.print("The cache folder cannot be written: these measurements hold for this run only.")


def plan_table(plan: NetworkPlan) -> FittedTable:
    """One row per product and level."""
    rows = plan.layers
    return FittedTable(
        "one thread, least of several runs; reached = bound / us",
        [
            Column("layer", [row.layer for row in rows], left=True),
            Column("level", [str(row.level) for row in rows]),
            Column("kernel", [row.kernel for row in rows], left=True),
            Column("us", [_us(row.measured_s) for row in rows]),
            Column("predicted", [_us(row.predicted_s) for row in rows]),
            Column("useful\nMFLOP", [f"{row.useful_flop / 1e6:.1f}" for row in rows]),
            Column("moved\nKB", [f"{row.moved_bytes / 1e3:.0f}" for row in rows]),
            Column("bound\nus", [_us(row.bound_s) for row in rows]),
            Column("reached", [f"{row.fraction:.0%}" for row in rows]),
            Column("crossover\ndensity", [_density(row.crossover) for row in rows]),
        ],
        compact=True,
    )


def _us(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e6 * seconds:.0f}"


def _density(crossover: float | None) -> str:
    return "–" if crossover is None else "> 1" if crossover > 1 else f"{crossover:.2f}"
