"""Suite `pragmatic` on the product's own copy of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError


def copy(tmp_path: Path, change: Any) -> Path:
    folder = tmp_path / "scnn_pragmatic"
    folder.mkdir()
    text = (REFERENCE / "scnn_pragmatic" / "pragmatic_cycles.csv").read_text(encoding="utf-8")
    (folder / "pragmatic_cycles.csv").write_text(change(text), encoding="utf-8")
    return tmp_path


def test_every_row_is_exact_with_booth_and_run_ahead_too() -> None:
    outcome = run_suite("pragmatic")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 96
    groups = {group for group, _ in outcome.by_group()}
    assert groups == {"DaDianNao", "BitPragmatic", "BitPragmatic, Booth", "BitPragmatic, Booth, run-ahead"}


def test_a_wrong_number_fails(tmp_path: Path) -> None:
    outcome = run_suite("pragmatic", copy(tmp_path, lambda text: text.replace(",972,", ",971,", 1)))
    assert not outcome.passed
    assert outcome.summary.exact == 95


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("compute_cycles,", "time,", "columns compute_cycles are missing"),
        ("DaDianNao,16", "DaDian,16", "architecture .* 'DaDian'; did you mean 'DaDianNao'"),
        ("BitPragmatic,16,16,16,4,0", "BitPragmatic,16,16,16,4,", "bits_first_stage = '' is not a whole number"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    def change(text: str) -> str:
        comment, rest = text.split("\n", 1)
        return comment + "\n" + rest.replace(old, new, 1)

    with pytest.raises(InputError, match=message):
        run_suite("pragmatic", copy(tmp_path, change))
