"""What the executor's kernels cost on this machine: measured on synthetic layers, fitted to those times alone.

A network that is predicted with these costs has no part in them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from .....accel.host_cpu import HostCpu, KernelCost, Timed, fitted_cost
from .....workloads.layers import conv
from .....workloads.network import INPUT
from ..dense_product import DenseProduct
from ..network import PlaneNetwork
from ..planes import Floats, PlaneLayout, aligned
from ..prior import best_vectors, likely_plan
from ..team import Call, Team
from .synthetic import TENSORS, Case, cases, chains, pruned
from .work import Unit, copied, network_bytes, units

#: Rounds in which every call has its turn; the least CPU time of each counts.
ROUNDS = 5
#: CPU seconds of one turn.
TURN_S = 6e-5
#: Densities between which the crossover with the dense kernel is looked for.
DENSITIES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)


def kernel_cost(kernel: str, host: HostCpu) -> KernelCost | None:
    """Costs of one kernel, from about a hundred synthetic calls; None for a kernel that :mod:`synthetic` does not know."""
    timed = measured_calls(kernel)
    return fitted_cost(host, timed) if timed else None


def measured_calls(kernel: str, rounds: int = ROUNDS) -> list[Timed]:
    """Calls of ``kernel`` with their least CPU times: each again and again, its operands where the call before left them;
    and once per image in chains of layers, as a network runs it."""
    known = _copies() if kernel.startswith("copy") else _units(cases(kernel))
    found = [unit for unit in known if unit.work is not None and unit.work.kernel == kernel]
    timed = _timed(found, least_seconds(found, rounds), kernel, within=0)
    if not timed:
        return []
    for case in chains(kernel):
        runner = PlaneNetwork(case.network, choose=case.choose)
        for level in range(case.network.levels):
            program = units(runner, level)
            if not any(unit.work is not None and unit.work.kernel == kernel for unit in program):
                break
            within = network_bytes([unit.work for unit in program])
            timed += _timed(program, least_seconds(program, rounds, cold=True), kernel, within=within)
    return timed


def _timed(found: Iterable[Unit], seconds: Iterable[float], kernel: str, *, within: int) -> list[Timed]:
    pairs = zip((unit.work for unit in found), seconds, strict=True)
    return [Timed(work, within, least) for work, least in pairs if work is not None and work.kernel == kernel]


def _units(found: Iterable[Case]) -> Iterator[Unit]:
    for case in found:
        runner = PlaneNetwork(case.network, choose=case.choose)
        for level in range(case.network.levels):
            yield from units(runner, level)


def _copies() -> Iterator[Unit]:
    """What ``PlaneNetwork.run`` does with its image and its output: into planes, and out to new memory."""
    for shape in ((channels, side, side) for channels, side in TENSORS):
        layout = PlaneLayout(*shape, 1)
        planes, image = layout.new(), aligned(int(np.prod(shape)))
        yield Unit(INPUT, (partial(_copy_in, layout, planes, image),), copied("copy in", shape))
        yield Unit(INPUT, (partial(_copy_out, layout, planes),), copied("copy out", shape))


def _copy_in(layout: PlaneLayout, planes: Floats, image: Floats) -> None:
    layout.view(planes)[:] = image.reshape(layout.channels, layout.height, layout.width)


def _copy_out(layout: PlaneLayout, planes: Floats) -> None:
    layout.view(planes).reshape(-1).copy()


def least_seconds(found: Sequence[Unit], rounds: int, *, cold: bool = False) -> list[float]:
    """Least CPU seconds of one run of each unit. In every round all have their turn; in its turn a unit runs for about
    :data:`TURN_S` with its operands in the caches, or once (``cold``) with what the units before it left there."""
    team = Team(1)
    for unit in found:
        _seconds(team, unit, 1)
    turns = [1 if cold else max(1, round(TURN_S / max(1e-6, _seconds(team, unit, 1)))) for unit in found]
    least = [np.inf] * len(found)
    for _ in range(rounds):
        for i, unit in enumerate(found):
            if not cold:
                _seconds(team, unit, 1)
            least[i] = min(least[i], _seconds(team, unit, turns[i]))
    return least


def _seconds(team: Team, unit: Unit, times: int) -> float:
    start = time.thread_time()
    for _ in range(times):
        for step in unit.steps:
            if isinstance(step, Call):
                team.run(step)
            else:
                step()
    return (time.thread_time() - start) / times


def measured_crossover(rounds: int = 2 * ROUNDS) -> float:
    """Density at which the likely sparse kernel is as fast as the dense one, on a product of 256 x 256 by 196 positions."""
    layer = conv("p", INPUT, C=256, H=14, K=256, R=1)
    network = pruned([layer], DENSITIES)
    runner = PlaneNetwork(network, choose=lambda *of: likely_plan(*of)._replace(dense_levels=()))
    product = runner.products["p"]
    dense = DenseProduct(product, network.weights["p"], 0, vectors=best_vectors(product.target))
    x, out = product.planes.new(), product.target.new()
    call = dense.call(x, out, bias=np.zeros(layer.K, np.float32), works=[dense.new_work()])
    sparse = [unit for level in range(network.levels) for unit in units(runner, level)]
    dense_s, *sparse_s = least_seconds([Unit("p", (call,), None), *sparse], rounds)
    return crossing(DENSITIES, sparse_s, dense_s)


def crossing(densities: Sequence[float], seconds: Sequence[float], dense_s: float) -> float:
    """The density at which a sparse time equals the dense one, from times at falling densities.

    Linear between two of them; above the first and below the last density the time is taken to go with the density. May
    exceed 1: sparse is faster at any density then.
    """
    if dense_s >= seconds[0]:
        return densities[0] * dense_s / seconds[0]
    for (high, slow), (low, fast) in pairwise(zip(densities, seconds, strict=True)):
        if fast <= dense_s:
            return low + (high - low) * (dense_s - fast) / (slow - fast)
    return densities[-1] * dense_s / seconds[-1]
