"""Suite `sparse-systolic` on the product's copy and on broken tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.sparse_systolic import SUITE
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError

from .test_suite_systolic import rewrite


def test_every_row_is_exact() -> None:
    outcome = run_suite("sparse-systolic")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 227 + 43
    quantities = {check.quantity for check in outcome.checks}
    assert {"cycles", "storage words", "metadata words", "SRAM filter reads"} <= quantities


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("sparse_layerwise", {"sparsity": "6:4"}, "1 <= N <= M"),
        ("sparse_layerwise", {"sparsity": "half"}, "not of the form N:M"),
        ("sparse_layerwise", {"config": "16x16"}, "does not name the sparse layout"),
        ("sparse_rowwise", {"config": "16x16_sp-csr-opttrue"}, "does not name the block size"),
        ("sparse_rowwise", {"config": "16x16_sp-csr-opttrue-b3"}, "even block"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, table: str, change: dict[str, str], message: str) -> None:
    shutil.copytree(REFERENCE / "scalesim", tmp_path / "scalesim")
    rewrite(tmp_path / "scalesim" / f"{table}.csv", lambda row: row | change)
    with pytest.raises(InputError, match=message):
        list(SUITE.checks(tmp_path))
