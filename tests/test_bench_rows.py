"""The benchmarks of fully connected layers and of starting: they run and check, and their tables hold what they measured."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.analysis import bench_rows, bench_startup
from nestling.analysis.progress import silent
from nestling.sim.executor.simd.vectors_kernel import COMPILES


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
def test_every_pattern_is_measured_and_checked() -> None:
    rows, missing = bench_rows.rows_bench(shape=(32, 256), rounds=1, peers=False, batches=(1, 3), progress=silent)
    assert missing == []
    assert len(rows) == 2 * len(bench_rows.PATTERNS) + 1
    assert all(row.microseconds > 0 and set(row.speedups) == {"NumPy dense"} for row in rows)
    assert rows[-1].bytes_per_nonzero < 1.5  # 0.75, the table and the scales
    table = bench_rows.markdown(rows, ["a library"])
    assert table.count("\n| ") == len(rows) + 1
    assert "Not installed, not compared: a library." in table


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
def test_a_wrong_product_is_noticed() -> None:
    matrix, x = np.ones((2, 3), np.float32), np.ones((3, 1), np.float32)
    with pytest.raises(RuntimeError, match="wrong product"):
        bench_rows._check(lambda: None, np.zeros(2, np.float32), matrix, x)


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
def test_levels_of_one_store_are_compared_with_stores_of_their_own() -> None:
    found = bench_rows.nested_costs(shape=(16, 64), rounds=1)
    assert list(found) == ["50.0%", "25.0%", "13.0%", "5.0%", "N:M 50.0%", "N:M 25.0%", "N:M 12.5%"]
    assert all(ratio > 0 for ratio in found.values())


def test_the_table_of_starting() -> None:
    rows = [bench_startup.StartUp("one call", 1.5, "us", 3), bench_startup.StartUp("importing", 0.25, "s", None)]
    assert bench_startup.markdown(rows).splitlines()[2:] == [
        "| one call | 1.50 us | < 3 us |",
        "| importing | 0.25 s | - |",
    ]
