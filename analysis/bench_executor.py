"""Speed of the executor's kernels beside what is installed: paired ratios from interleaved runs in one process."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.planner import layout_of, measured_plan
from ..sim.executor.simd.product import Product
from ..workloads.layers import Layer, conv
from ..workloads.nesting import NestedWeights
from .executor_peers import PEERS, SCIPY_DENSITY
from .progress import Progress

Floats = NDArray[np.float32]
#: Products (M, K, N) of the published comparison: ResNet-50's 1x1 layers and BERT's feed-forward layers.
PRODUCTS = (
    (256, 64, 3136), (512, 128, 784), (1024, 256, 196), (256, 1024, 196), (2048, 512, 49), (512, 2048, 49),
    (3072, 768, 128), (768, 3072, 128), (3072, 768, 384),
)  # fmt: skip
PATTERNS = ("50 %", "2:4", "25 %", "13 %", "5 %")
_DENSITIES = {"50 %": 0.5, "2:4": 0.5, "25 %": 0.25, "13 %": 0.13, "5 %": 0.05}
#: Rounds; in each every candidate runs once, in turn.
ROUNDS = 9
#: CPU seconds of one turn.
TURN_S = 3e-3


#: Seconds since some moment: of CPU time, or of the wall clock.
Clock = Callable[[], float]


@dataclass(frozen=True)
class Comparison:
    """One product at one pattern: useful GFLOP/s of ours, and per peer our speed-up (median of paired ratios)."""

    pattern: str
    shape: tuple[int, int, int]
    plan: str
    useful_gflops: float
    speedups: Mapping[str, float]
    spreads: Mapping[str, tuple[float, float]]


def compare(
    *, patterns: Sequence[str] = PATTERNS, rounds: int = ROUNDS, peers: bool = True, progress: Progress
) -> tuple[list[Comparison], list[str]]:
    """Every product at every pattern, and the peers that are not installed. One thread, CPU time.

    ``peers``: also those outside NumPy. Our time includes reading and writing planes, bias and clamp.
    """
    rows, missing = [], set()
    total = len(PRODUCTS) * len(patterns)
    for pattern in patterns:
        for shape in PRODUCTS:
            runs, plan, useful, absent = _candidates(shape, pattern, peers=peers)
            missing |= absent
            seconds = interleaved(runs, rounds)
            rows.append(_row(pattern, shape, plan, useful, seconds))
            progress("bench executor", len(rows), total)
    return rows, sorted(missing)


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, *, clock: Clock = time.process_time, warm_s: float = 0.0
) -> dict[str, list[float]]:
    """Seconds (by default of CPU time) per run of every candidate in every round, BLAS limited to one thread.

    In its turn a candidate runs for about :data:`TURN_S`, so that caches hold its own operands and not its rivals'. With
    ``warm_s`` it first runs that long without being timed, and then as long again timed: its threads have then woken, and
    the processor is at its clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with single_threaded():
        times = {}
        for name, run in runs.items():
            run()
            times[name] = max(1, round(max(TURN_S, warm_s) / max(1e-6, _seconds(run, 1, clock))))
        for _ in range(rounds):
            for name, run in runs.items():
                if warm_s:
                    _seconds(run, times[name], clock)
                seconds[name].append(_seconds(run, times[name], clock))
    return seconds


def _seconds(run: Callable[[], Any], times: int, clock: Clock) -> float:
    start = clock()
    for _ in range(times):
        run()
    return (clock() - start) / times


def single_threaded() -> contextlib.AbstractContextManager[object]:
    """One thread for BLAS, where threadpoolctl is installed; CPU time counts all threads in any case."""
    try:
        import threadpoolctl
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpoolctl.threadpool_limits(1)
    return limits


def pruned(shape: tuple[int, int], pattern: str, random: np.random.Generator) -> NestedWeights:
    """Normal weights of which the largest magnitudes stay: of the whole matrix, or 2 of every 4 in a row."""
    values = random.standard_normal(shape).astype(np.float32)
    size = np.abs(values)
    if pattern == "2:4":
        groups = size.reshape(-1, 4)
        keep = (groups.argsort(axis=1).argsort(axis=1) >= 2).reshape(shape)
    else:
        threshold = np.quantile(size, 1 - _DENSITIES[pattern])
        keep = size > threshold
    return NestedWeights(values=values[:, :, None, None], keep=keep.astype(np.uint8)[:, :, None, None], levels=1)


def _candidates(
    shape: tuple[int, int, int], pattern: str, *, peers: bool
) -> tuple[dict[str, Callable[[], Any]], str, int, set[str]]:
    rows, reduction, positions = shape
    random = np.random.default_rng(0)
    weights = pruned((rows, reduction), pattern, random)
    matrix = np.ascontiguousarray(weights.dense(0).reshape(rows, reduction))
    x = random.standard_normal((reduction, positions)).astype(np.float32)
    ours, plan = our_product(matrix, weights, x)
    runs: dict[str, Callable[[], Any]] = {"ours": ours}
    absent = set()
    for name, peer in PEERS.items():
        wanted = peers or name == "NumPy dense"
        if not wanted or (name == "SciPy CSR" and _DENSITIES[pattern] > SCIPY_DENSITY):
            continue
        try:
            runs[name] = peer(matrix, x)
        except ImportError:
            absent.add(name)
    return runs, plan, 2 * int(weights.nonzeros[0]) * positions, absent


def our_product(matrix: Floats, weights: NestedWeights, x: Floats) -> tuple[Callable[[], Any], str]:
    """Our kernel for W @ X, as the planner chooses it after measuring, checked against NumPy once."""
    rows, reduction = matrix.shape
    layer: Layer = conv("product", "input", C=reduction, H=1, W=x.shape[1], K=rows, R=1, S=1)
    source, target = layout_of(reduction, 1, x.shape[1]), layout_of(rows, 1, x.shape[1])
    plan = measured_plan(layer, weights, source, target)
    product = Product(layer, weights, source, target, choice=plan.sparse)
    planes, out = source.new(), target.new()
    source.view(planes)[:, 0] = x
    call = product.call(planes, out, level=0, bias=np.zeros(rows, np.float32), works=[product.new_work()])

    def run() -> None:
        call.tasks[0] = 0
        call.run(0)

    run()
    if not np.allclose(target.view(out)[:, 0], matrix @ x, atol=1e-3):
        raise RuntimeError(f"wrong product of {matrix.shape} by {x.shape} with {plan.sparse}")
    return run, plan.sparse.label


def _row(
    pattern: str, shape: tuple[int, int, int], plan: str, useful: int, seconds: Mapping[str, Sequence[float]]
) -> Comparison:
    ours = seconds["ours"]
    ratios = {
        name: sorted(peer / own for peer, own in zip(times, ours, strict=True))
        for name, times in seconds.items()
        if name != "ours"
    }
    speedups = {name: statistics.median(values) for name, values in ratios.items()}
    spreads = {name: (values[len(values) // 4], values[-1 - len(values) // 4]) for name, values in ratios.items()}
    return Comparison(pattern, shape, plan, useful / min(ours) / 1e9, speedups, spreads)


def geometric_means(rows: Sequence[Comparison]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Pattern -> peer -> (geometric mean, least, largest) speed-up over the products."""
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        for peer in row.speedups:
            values = [other.speedups[peer] for other in rows if other.pattern == row.pattern]
            mean = float(np.exp(np.mean(np.log(values))))
            table.setdefault(row.pattern, {})[peer] = (mean, min(values), max(values))
    return table


def markdown(rows: Sequence[Comparison], missing: Sequence[str]) -> str:
    """The README's table: geometric mean [least-largest] of our speed-up, and our useful GFLOP/s."""
    means = geometric_means(rows)
    peers = [name for name in PEERS if any(name in found for found in means.values())]
    lines = [
        f"| density | {' | '.join(peers)} | ours, useful GFLOP/s |",
        "| --- |" + " ---: |" * (len(peers) + 1),
    ]
    for pattern, found in means.items():
        cells = [f"{found[p][0]:.2f} [{found[p][1]:.2f}-{found[p][2]:.2f}]" if p in found else "-" for p in peers]
        speeds = [row.useful_gflops for row in rows if row.pattern == pattern]
        lines.append(f"| {pattern} | {' | '.join(cells)} | {min(speeds):.0f}-{max(speeds):.0f} |")
    if missing:
        lines.append(f"\nNot installed, not compared: {', '.join(missing)}.")
    return "\n".join(lines)
