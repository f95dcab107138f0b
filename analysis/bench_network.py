"""A whole pruned ResNet-50, one image: every level of one nested store against dense runs of what is installed."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.machine_plans import MachinePlans
from ..sim.executor.simd.network import PlaneNetwork
from ..workloads.nesting import from_ranking
from ..workloads.network import Network
from ..workloads.zoo import build
from .bench_executor import ROUNDS, interleaved
from .network_peers import NETWORK_PEERS
from .progress import Progress

DENSITIES = (0.5, 0.25, 0.13, 0.05)
#: Of a turn of several threads: all have woken and the processor is at its clock.
_WARM_S = 0.1


class PeerTime(NamedTuple):
    """A peer's milliseconds (median), and our speed-up over it (median of paired ratios)."""

    ms: float
    speedup: float


@dataclass(frozen=True)
class NetworkRow:
    """Milliseconds of one image (median), and the peers that are installed; CPU time of one thread, wall time of several."""

    name: str
    ours_ms: float
    peers: Mapping[str, PeerTime]


def network_rows(
    *, rounds: int = ROUNDS, model: str = "resnet50", threads: int = 1, progress: Progress
) -> list[NetworkRow]:
    """All levels of one store, and each density alone in its own store; kernels as the planner measured them."""
    plans = MachinePlans()
    nested = magnitude_pruned(build(model), DENSITIES)
    stores = [("one nested store", nested, level, density) for level, density in enumerate(DENSITIES)]
    stores += [("own store", magnitude_pruned(build(model), (d,)), 0, d) for d in DENSITIES]
    first = nested.layers[0]
    image = np.random.default_rng(1).standard_normal((1, first.C, first.H, first.W)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    runners: dict[int, PlaneNetwork] = {}
    for done, (kind, network, level, density) in enumerate(stores, start=1):
        if id(network) not in runners:
            plans.tune(network)
            runners[id(network)] = plans.network(network, threads=threads)
        runs[f"{density:.0%}, {kind}"] = _runner(runners[id(network)], image, level)
        progress("bench network", done, len(stores))
    every = {**runs, **_peers(nested, image, threads)}
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


def markdown(rows: Sequence[NetworkRow], *, threads: int = 1) -> str:
    """The README's table of whole networks; a peer's time stands in its column's head."""
    unit, size = ("CPU ms", "one thread") if threads == 1 else ("wall ms", f"{threads} threads")
    found = {name: peer.ms for row in rows for name, peer in row.peers.items()}
    heads = [f"speed-up over {name} ({ms:.1f} {unit})" for name, ms in found.items()]
    lines = [
        f"| {' | '.join([f'ResNet-50, one image, {size}', f'ours, {unit}', *heads])} |",
        "| --- |" + " ---: |" * (1 + len(heads)),
    ]
    for row in rows:
        cells = [f"{row.peers[name].speedup:.2f}" if name in row.peers else "-" for name in found]
        lines.append(f"| {' | '.join([row.name, f'{row.ours_ms:.1f}', *cells])} |")
    missing = [name for name in NETWORK_PEERS if name not in found]
    if missing:
        lines.append(f"\nNot installed, not compared: {', '.join(missing)}.")
    return "\n".join(lines)


def _runner(network: PlaneNetwork, image: NDArray[np.float32], level: int) -> Callable[[], Any]:
    return lambda: network.run(image[0], level)


def _peers(network: Network, image: NDArray[np.float32], threads: int) -> dict[str, Callable[[], Any]]:
    """Dense runs of the peers that are installed."""
    found: dict[str, Callable[[], Any]] = {}
    for name, peer in NETWORK_PEERS.items():
        with contextlib.suppress(ImportError):
            found[name] = partial(peer(network, 0, threads=threads), image)
    return found


def _row(name: str, seconds: Mapping[str, Sequence[float]]) -> NetworkRow:
    ours = seconds[name]
    peers = {
        peer: PeerTime(
            1e3 * statistics.median(seconds[peer]),
            statistics.median(p / o for p, o in zip(seconds[peer], ours, strict=True)),
        )
        for peer in NETWORK_PEERS
        if peer in seconds
    }
    return NetworkRow(name, 1e3 * statistics.median(ours), peers)
