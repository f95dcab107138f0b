"""Small studies for the tests of tables, figures and reports; the executions are invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nestling.accel.design import load_design
from nestling.analysis.study import LevelExecution, Study
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Trace
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.network import INPUT, Network
from nestling.workloads.synthetic import with_synthetic_levels

DESIGNS = ("nm-lanes-16x8", "systolic-16x16")
DENSITIES = (1.0, 0.4, 0.1)


def layers(count: int = 3, *, name: str = "conv{}") -> tuple[Layer, ...]:
    """``count - 1`` convolutions and a classifier."""
    names = [name.format(i) for i in range(count - 1)]
    sources = [INPUT, *names]
    convolutions = tuple(
        conv(own, source, C=8, H=8, K=8, R=3, padding=1, activation="relu")
        for own, source in zip(names, sources, strict=False)
    )
    return (*convolutions, linear("classifier", names[-1], features_in=512, features_out=10))


def executions(trace: Trace, *, slower: float = 1.0) -> list[LevelExecution]:
    """Invented measurements: accuracy falls by two points per level."""
    return [
        LevelExecution(
            level=level,
            accuracy=0.92 - 0.02 * level,
            images=1000,
            macs=trace.macs(level),
            latency_median_s=2e-3 / (level + 1) * slower,
            latency_p10_s=1.9e-3 / (level + 1) * slower,
            latency_p90_s=2.3e-3 / (level + 1) * slower,
            max_error=1e-6,
            cpu_median_s=1.9e-3 / (level + 1) * slower,
            cpu_predicted_s=1.52e-3 / (level + 1),
        )
        for level in range(trace.levels)
    ]


def study(
    *,
    designs: Sequence[str] = DESIGNS,
    densities: Sequence[float] = DENSITIES,
    levels: Sequence[int] | None = None,
    points: Sequence[str | None] = (None,),
    network_layers: tuple[Layer, ...] | None = None,
    executed: bool = True,
) -> Study:
    """One small network on every design and point."""
    network = with_synthetic_levels(Network("net", network_layers or layers(), source="a test"), densities)
    trace = lower(network)
    results = [simulate(trace, load_design(d), point=p, levels=levels) for d in designs for p in points]
    formats = trace.layers[0].storage
    return Study(
        network="net",
        source="a test",
        params=network.params,
        results=results,
        executions=executions(trace) if executed else (),
        storage={name: [trace.weight_bytes(name, level) for level in range(trace.levels)] for name in formats},
        trace=trace,
        command="nestling run net",
        version="0.0",
        seed=7,
    )


def with_slower_cpu(case: Study) -> Study:
    """The same study measured on a busier computer."""
    return replace(case, executions=executions(case.trace, slower=1.7))
