"""Suite `scnn` on the product's own copy of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nestling.analysis.suites.dnnsim_tensors import TENSOR_LAYERS, reference_tensors
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError


def copy(tmp_path: Path, change: Any) -> Path:
    folder = tmp_path / "scnn_pragmatic"
    folder.mkdir()
    text = (REFERENCE / "scnn_pragmatic" / "scnn_cycles.csv").read_text(encoding="utf-8")
    comment, header, *rows = text.splitlines()
    (folder / "scnn_cycles.csv").write_text("\n".join([comment, *change(header, rows[:3])]) + "\n", encoding="utf-8")
    return tmp_path


def test_every_row_is_exact() -> None:
    outcome = run_suite("scnn")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 72
    assert outcome.summary.checks == 72 * 15


def test_a_wrong_number_fails(tmp_path: Path) -> None:
    outcome = run_suite("scnn", copy(tmp_path, lambda header, rows: [header, rows[0].replace(",3552,", ",3553,", 1)]))
    assert not outcome.passed
    assert outcome.summary.exact == 0


def test_optional_counts_may_be_missing(tmp_path: Path) -> None:
    def cut(header: str, rows: list[str]) -> list[str]:
        return [",".join(line.split(",")[:10]) for line in [header, *rows]]

    outcome = run_suite("scnn", copy(tmp_path, cut))
    assert outcome.passed
    assert outcome.summary.checks == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("out_acc_size", "size", "columns out_acc_size are missing"),
        ("c3s1", "c3s9", "unknown reference layer 'c3s9'; did you mean 'c3s"),
        (",1024,", ",many,", "out_acc_size = 'many' is not a whole number"),
        ("1.0,1.0,8", "1.0,dense,8", "densities and bits must be numbers"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_suite("scnn", copy(tmp_path, lambda h, rows: [line.replace(old, new, 1) for line in [h, *rows]]))


@pytest.mark.parametrize("name", TENSOR_LAYERS)
def test_tensors_follow_their_densities(name: str) -> None:
    dense = reference_tensors(name, weight_density=1.0, input_density=1.0, integer=True, bits=8)
    half = reference_tensors(name, weight_density=0.5, input_density=0.25, integer=False)
    assert np.count_nonzero(dense.inputs) == dense.inputs.size
    assert dense.inputs.max() <= 127
    assert np.abs(dense.weights).max() <= 127
    assert abs((half.weights != 0).mean() - 0.5) < 0.1
    assert abs((half.inputs != 0).mean() - 0.25) < 0.05
