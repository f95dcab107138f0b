"""What the executor's kernels cost on this machine: measured on synthetic layers, fitted to those times alone.

A network that is predicted with these costs has no part in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from .....accel.host_cpu import HostCpu, KernelCost, Timed, fitted_cost
from .....workloads.layers import conv
from .....workloads.network import INPUT
from .. import packing_kernel
from ..dense_product import DenseProduct
from ..network import PlaneNetwork
from ..planes import Floats, PlaneLayout, aligned
from ..prior import best_vectors, likely_plan
from ..program import Program
from ..team import Call, call
from .synthetic import TENSORS, Case, cases, chains, pruned
from .work import Unit, cleared, copied, network_bytes, units

#: Rounds in which every call has its turn; the least CPU time of each counts.
ROUNDS = 5
#: CPU seconds of one turn.
TURN_S = 6e-5
#: Less CPU time than this the clock does not tell from none.
CLOCK_S = 2e-7
#: Kernels that are called without a network.
BARE = ("copy in", "copy out", "clear")
#: Called with (parts measured, parts in total).
Progress = Callable[[int, int], None]
#: Densities between which the crossover with the dense kernel is looked for.
DENSITIES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)


def kernel_costs(
    kernels: Collection[str], host: HostCpu, *, progress: Progress = lambda done, total: None
) -> dict[str, KernelCost]:
    """Costs of these kernels, from about a hundred synthetic calls each; none for names that ``synthetic`` does not know."""
    timed = measured_calls(kernels, known=host.kernels, progress=progress)
    return {kernel: fitted_cost(host, calls) for kernel, calls in timed.items()}


def measured_calls(
    kernels: Collection[str],
    *,
    known: Collection[str] = (),
    rounds: int = ROUNDS,
    progress: Progress = lambda done, total: None,
) -> dict[str, list[Timed]]:
    """Calls of each kernel with their least CPU times: each again and again, its operands where the call before left them;
    and once per image in chains of layers, as a network runs it. ``known``: kernels that may run the rest of a chain."""
    found = {}
    for done, kernel in enumerate(sorted(kernels)):
        progress(done, len(kernels) + 1)
        single = _bare_calls() if kernel in BARE else _units(cases(kernel))
        alone = [unit for unit in single if unit.work is not None and unit.work.kernel == kernel]
        if alone:
            found[kernel] = list(_timed(alone, least_seconds(alone, rounds), within=0))
    progress(len(kernels), len(kernels) + 1)
    for timed in _in_chains(chains(found, known), rounds):
        if timed.work.kernel in found:
            found[timed.work.kernel].append(timed)
    progress(len(kernels) + 1, len(kernels) + 1)
    return found


def _in_chains(found: Iterable[Case], rounds: int) -> Iterator[Timed]:
    for case in found:
        runner = PlaneNetwork(case.network, choose=case.choose)
        for level in range(case.network.levels):
            program = units(runner, level)
            within = network_bytes([unit.work for unit in program])
            yield from _timed(program, least_seconds(program, rounds, cold=True), within=within)


def _timed(found: Iterable[Unit], seconds: Iterable[float], *, within: int) -> Iterator[Timed]:
    pairs = zip((unit.work for unit in found), seconds, strict=True)
    return (Timed(work, within, least) for work, least in pairs if work is not None)


def _units(found: Iterable[Case]) -> Iterator[Unit]:
    for case in found:
        runner = PlaneNetwork(case.network, choose=case.choose)
        for level in range(case.network.levels):
            yield from units(runner, level)


def _bare_calls() -> Iterator[Unit]:
    """What a program does with its image and its output: into planes, and out of them; and zeros around a tensor in
    planes."""
    for shape in ((channels, side, side) for channels, side in TENSORS):
        layout = PlaneLayout(*shape, 1)
        planes = layout.new()
        for kernel, ends in _ends(layout.view(planes)).items():
            yield Unit(INPUT, (ends,), copied(kernel, shape))
        for gaps in (False, True):
            zeros = call(packing_kernel.clear, layout.channels, planes, layout.dimensions, gaps)
            yield Unit(INPUT, (zeros,), cleared(zeros))


def _idle() -> Call:
    """A call that does nothing."""
    return call(packing_kernel.clear, 0, aligned(1), PlaneLayout(1, 1, 1, 0).dimensions, False)


def _ends(inside: Floats) -> dict[str, Callable[[], None]]:
    """A program without work, whose image or output is that of a tensor in planes, the other a single number."""
    program = Program([_idle()], 1)
    image, number = np.zeros((1, inside.size), np.float32), np.zeros((1, 1), np.float32)
    return {
        "copy in": partial(program.run_images, image, inside, number[None], number),
        "copy out": partial(program.run_images, number, number[None].copy(), inside, image),
    }


def least_seconds(found: Sequence[Unit], rounds: int, *, cold: bool = False) -> list[float]:
    """Least CPU seconds of one run of each unit. In every round all have their turn; in its turn a unit runs for about
    :data:`TURN_S` with its operands in the caches, or once (``cold``) with what the units before it left there."""
    runs = [_runs(unit) for unit in found]
    idle = _runs(Unit(INPUT, (_idle(),), None))
    nothing = min(_seconds(idle, 1) for _ in range(10 * rounds))
    for run in runs:
        _seconds(run, 1)
    turns = [1 if cold else max(1, round(TURN_S / max(1e-6, _seconds(run, 1) - nothing))) for run in runs]
    least = [np.inf] * len(found)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            if not cold:
                _seconds(run, 1)
            least[i] = min(least[i], max(CLOCK_S, _seconds(run, turns[i]) - nothing) / turns[i])
    return least


def _runs(unit: Unit) -> Callable[[int], None]:
    """What runs a unit so many times: as a network does, which has no part of the interpreter between kernels."""
    calls = [step for step in unit.steps if isinstance(step, Call)]
    if not calls:
        (step,) = unit.steps
        return partial(_repeat, step)  # type: ignore[arg-type]
    program, ends = Program(calls, 1), np.zeros((2, 1, 1, 1), np.float32)

    def run(times: int) -> None:
        numbers = np.zeros((times, 1), np.float32)
        program.run_images(numbers, ends[0], ends[1], numbers)

    return run


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _seconds(run: Callable[[int], None], times: int) -> float:
    start = time.thread_time()
    run(times)
    return time.thread_time() - start


def measured_crossover(rounds: int = 2 * ROUNDS) -> float:
    """Density at which the likely sparse kernel is as fast as the dense one, on a product of 256 x 256 by 196 positions."""
    layer = conv("p", INPUT, C=256, H=14, K=256, R=1)
    network = pruned([layer], DENSITIES)
    runner = PlaneNetwork(network, choose=lambda *of: likely_plan(*of)._replace(dense_levels=()))
    product = runner.products["p"]
    dense = DenseProduct(product, network.weights["p"], 0, vectors=best_vectors(product.target))
    x, out = product.planes.new(), product.target.new()
    whole = dense.call(x, out, bias=np.zeros(layer.K, np.float32), works=[dense.new_work()])
    sparse = [unit for level in range(network.levels) for unit in units(runner, level)]
    dense_s, *sparse_s = least_seconds([Unit("p", (whole,), None), *sparse], rounds)
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
