"""Suite `nm-pipeline`: the shown rows, and rows that describe nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from nestling.analysis.suites.nm_pipeline import SUITE
from nestling.analysis.suites.suite import summarise
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

TABLE = REFERENCE / "rtl" / "nm_pipeline_cycles.csv"


def table_with(folder: Path, changes: dict[str, str]) -> Path:
    """A reference folder whose table has one row: the first, changed."""
    with TABLE.open(encoding="utf-8") as file:
        row = next(csv.DictReader(file)) | changes
    (folder / "rtl").mkdir()
    with (folder / "rtl" / TABLE.name).open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return folder


def test_every_shown_row_is_exact() -> None:
    summary = summarise(list(SUITE.checks(REFERENCE)))
    assert (summary.rows, summary.exact, summary.max_error) == (142, 142, 0.0)


def test_further_columns_do_not_matter(tmp_path: Path) -> None:
    assert summarise(list(SUITE.checks(table_with(tmp_path, {"note": "x"})))).exact == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": "0"}, r"nm_pipeline_cycles.csv: rows = 0: input should be greater than 0"),
        ({"ci": "65"}, "step_interval = 65"),
        ({"ii": "9" * 20}, "ii = 99999999999999999999 is larger than 2\\^53"),
        ({"bus": "wide"}, "bus = 'wide' is not a whole number"),
        ({"T": "0"}, "is not the 0 load times"),
        ({"load": "24"}, "load = '24' is not the 2 load times"),
        ({"load": "24 x"}, "load = '24 x' is not"),
        ({"load": ""}, "load = '' is not"),
    ],
)
def test_rows_that_describe_nothing(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(SUITE.checks(table_with(tmp_path, changes)))
