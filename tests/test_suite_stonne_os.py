"""Suite `stonne-os` on the product's copy and on broken tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.stonne_os import SUITE
from nestling.analysis.suites.suite import summarise
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError

from .test_suite_systolic import rewrite


def test_every_row_is_exact() -> None:
    outcome = run_suite("stonne-os")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 54
    assert {"cycles", "filter reads", "input reads"} <= {check.quantity for check in outcome.checks}


def test_unfinished_rows_and_missing_columns(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "stonne", tmp_path / "stonne")
    path = tmp_path / "stonne" / "tpu_os_dense_gemm.csv"
    rewrite(path, lambda row: row | ({"cycles": ""} if row["name"] == "g1" else {}))
    assert summarise(list(SUITE.checks(tmp_path))).exact == 52
    rewrite(path, lambda row: {key: value for key, value in row.items() if key != "ms_rows"})
    with pytest.raises(InputError, match="columns ms_rows are missing"):
        list(SUITE.checks(tmp_path))
