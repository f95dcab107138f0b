"""The trace benchmark: sizes that are what they are called, and figures of one process alone."""

from __future__ import annotations

import pytest
from nestling.analysis import bench, bench_trace
from nestling.workloads.errors import InputError
from nestling.workloads.synthetic import SyntheticLevels
from nestling.workloads.zoo import build


@pytest.mark.parametrize("name", bench_trace.SIZES)
def test_sizes(name: str) -> None:
    weights = SyntheticLevels(build("llama_7b", **bench_trace.SIZES[name]), (1.0,)).weights
    assert weights == pytest.approx(float(name.split(maxsplit=1)[0]) * 1e9, rel=0.1)


def test_a_process_is_measured_alone() -> None:
    usage = bench_trace._measured(["accels", "dstc"])
    assert usage.cpu_s > 0
    assert 10 << 20 < usage.peak_bytes < 1 << 30
    with pytest.raises(RuntimeError, match="nestling accels dstcc ended with status 2"):
        bench_trace._measured(["accels", "dstcc"])
    both = usage + bench_trace.Usage(1.0, 2.0, 5)
    assert (both.wall_s, both.cpu_s, both.peak_bytes) == (usage.wall_s + 1, usage.cpu_s + 2, usage.peak_bytes)


def test_unknown_benchmarks() -> None:
    with pytest.raises(InputError, match="unknown benchmark 'traces'; did you mean 'trace'"):
        bench.run_benchmarks(lambda *_: None, ["traces"])
