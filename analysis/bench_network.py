"""A whole pruned ResNet-50, one image: every level of one nested store against ONNX Runtime's dense run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.network import PlaneNetwork
from ..sim.executor.simd.planner import Planner
from ..workloads.nesting import from_ranking
from ..workloads.network import Network
from ..workloads.zoo import build
from .bench_executor import ROUNDS, interleaved
from .onnx_peer import onnx_runtime
from .progress import Progress

DENSITIES = (0.5, 0.25, 0.13, 0.05)
#: Of a turn of several threads: all have woken and the processor is at its clock.
_WARM_S = 0.1


@dataclass(frozen=True)
class NetworkRow:
    """Milliseconds of one image (medians) and the median of paired ratios; None where ONNX Runtime is missing.

    CPU time of one thread; of several the wall clock's.
    """

    name: str
    ours_ms: float
    peer_ms: float | None
    speedup: float | None


def network_rows(
    *, rounds: int = ROUNDS, model: str = "resnet50", threads: int = 1, progress: Progress
) -> list[NetworkRow]:
    """All levels of one store, and each density alone in its own store; kernels as the planner measured them."""
    planner = Planner()
    nested = magnitude_pruned(build(model), DENSITIES)
    stores = [("one nested store", nested, level, density) for level, density in enumerate(DENSITIES)]
    stores += [("own store", magnitude_pruned(build(model), (d,)), 0, d) for d in DENSITIES]
    first = nested.layers[0]
    image = np.random.default_rng(1).standard_normal((1, first.C, first.H, first.W)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    runners: dict[int, PlaneNetwork] = {}
    for done, (kind, network, level, density) in enumerate(stores, start=1):
        if id(network) not in runners:
            planner.tune(network)
            runners[id(network)] = PlaneNetwork(network, threads=threads, choose=planner.choose)
        runs[f"{density:.0%}, {kind}"] = _runner(runners[id(network)], image, level)
        progress("bench network", done, len(stores))
    peer = _peer(nested, image, threads)
    every = runs if peer is None else {**runs, "peer": peer}
    if threads == 1:
        seconds = interleaved(every, rounds)
    else:
        seconds = interleaved(every, rounds, clock=time.perf_counter, warm_s=_WARM_S)
    return [_row(name, seconds) for name in runs]


def magnitude_pruned(network: Network, densities: tuple[float, ...]) -> Network:
    """Random normal weights (He et al., arXiv 1502.01852), each layer pruned by magnitude to nested levels."""
    random = np.random.default_rng(0)
    weights = {}
    for layer in network.layers:
        if layer.has_weights:
            scale = np.sqrt(2 / np.prod(layer.weight_shape[1:]))
            values = random.normal(0, scale, layer.weight_shape).astype(np.float32)
            weights[layer.name] = from_ranking(values, np.abs(values), densities, name=layer.name)
    return replace(network, weights=weights)


def markdown(rows: list[NetworkRow], *, threads: int = 1) -> str:
    """The README's table of whole networks."""
    unit, size = ("CPU ms", "one thread") if threads == 1 else ("wall ms", f"{threads} threads")
    lines = [
        f"| ResNet-50, one image, {size} | ours, {unit} | ONNX Runtime dense, {unit} | speed-up |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        peer = "-" if row.peer_ms is None else f"{row.peer_ms:.1f}"
        speedup = "-" if row.speedup is None else f"{row.speedup:.2f}"
        lines.append(f"| {row.name} | {row.ours_ms:.1f} | {peer} | {speedup} |")
    return "\n".join(lines)


def _runner(network: PlaneNetwork, image: NDArray[np.float32], level: int) -> Callable[[], Any]:
    return lambda: network.run(image[0], level)


def _peer(network: Network, image: NDArray[np.float32], threads: int) -> Callable[[], Any] | None:
    try:
        session = onnx_runtime(network, 0, threads=threads)
    except ImportError:
        return None
    return lambda: session(image)


def _row(name: str, seconds: dict[str, list[float]]) -> NetworkRow:
    ours = seconds[name]
    if "peer" not in seconds:
        return NetworkRow(name, 1e3 * statistics.median(ours), None, None)
    peer = seconds["peer"]
    ratio = statistics.median(p / o for p, o in zip(peer, ours, strict=True))
    return NetworkRow(name, 1e3 * statistics.median(ours), 1e3 * statistics.median(peer), ratio)
