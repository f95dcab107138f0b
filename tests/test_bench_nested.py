"""The benchmark of nested stores: what it runs, how it sums up, which bars it reports."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.analysis import bench_nested
from nestling.analysis.bench_nested import LevelCost, markdown, missed_bars, nested, nested_costs, private, summary
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.layers import conv


def rows_of(costs: list[float], pattern: str = "N:M", step: float | None = 0.5) -> list[LevelCost]:
    return [LevelCost(pattern, "4:8", f"layer {i}", "channels 8x7/64", cost, step) for i, cost in enumerate(costs)]


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
def test_every_level_of_every_pattern_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv("small", "input", C=16, H=4, W=4, K=8, R=1)
    monkeypatch.setattr(bench_nested, "reference_layers", lambda: [layer])
    seen: list[tuple[int, int]] = []
    rows = nested_costs(rounds=1, progress=lambda what, done, total: seen.append((done, total)))
    assert [row.level for row in rows] == ["50 %", "25 %", "13 %", "5 %", "4:8", "2:8", "1:8"]
    assert all(row.cost > 0 for row in rows)
    assert [row.step is None for row in rows] == [False, False, False, True, False, False, True]
    assert seen == [(1, 2), (2, 2)]


def test_reference_layers_and_their_weights() -> None:
    layers = bench_nested.reference_layers()
    assert len(layers) == 9 + 4
    assert layers[0].K * layers[0].C * layers[0].Q == 256 * 64 * 3136
    assert all(layer.P == layer.H for layer in layers)
    small = conv("small", "input", C=16, H=4, W=4, K=50, R=1)
    np.testing.assert_allclose(nested(small, "unstructured").densities, (0.5, 0.25, 0.13, 0.05))
    ladder = nested(small, "N:M")
    np.testing.assert_array_equal(ladder.mask(1).reshape(50, 2, 8).sum(axis=2), 2)
    alone = private(ladder, 1)
    np.testing.assert_array_equal(alone.dense(0), ladder.dense(1))
    assert alone.levels == 1


def test_summary_and_bars() -> None:
    rows = rows_of([1.0, 1.01, 1.2])
    found = summary(rows)
    assert (found.median, found.worst) == (pytest.approx(0.01), pytest.approx(0.2))
    assert (found.step, found.longest_step) == (0.5, 0.5)
    assert summary(rows_of([1.0], step=None)).step is None
    assert missed_bars(rows) == ["N:M: worst cost 20.0%, the bar is 10%"]
    assert missed_bars(rows_of([1.05])) == ["N:M: median cost 5.0%, the bar is 2%"]
    assert missed_bars(rows_of([1.14], "unstructured")) == []
    assert missed_bars(rows_of([1.16], "unstructured")) == ["unstructured: median cost 16.0%, the bar is 15%"]


def test_markdown_has_a_row_per_level_and_one_in_all() -> None:
    lines = markdown([*rows_of([1.0, 1.02]), *rows_of([0.99], "unstructured", None)]).splitlines()
    assert lines[2] == "| N:M | 4:8 | +1.0% | +2.0% | 0.50 | 0.50 |"
    assert lines[3].startswith("| N:M | all |")
    assert lines[4] == "| unstructured | 4:8 | -1.0% | -1.0% | - | - |"


def test_stores_that_disagree_are_reported() -> None:
    class Broken:
        tasks = np.zeros(2, np.int64)

        def __init__(self, out: np.ndarray, value: float) -> None:
            self.out, self.value = out, value

        def run(self, thread: int) -> None:
            self.out[:] = self.value

    out = np.zeros(4, np.float32)
    with pytest.raises(RuntimeError, match="disagree: here"):
        bench_nested._checked({"own": Broken(out, 1), "nested": Broken(out, 2)}, out, "here")
