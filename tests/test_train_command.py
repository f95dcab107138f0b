"""`nestling train`: refusals, and the digits tables of the bundled record. Nothing is trained."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from nestling.analysis import digits_tables
from nestling.workloads.digits_record import read_record
from nestling.workloads.errors import InputError
from rich.console import Console

from .test_cli import call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--data", "x"), "--data has no meaning for 'digits'"),
        (("digits", "--baselines"), "--baselines has no meaning for 'digits'"),
        (("fashion", "--quick"), "--quick has no meaning for 'fashion'"),
        (("fashion", "--seeds", "2"), "--seeds has no meaning for 'fashion'"),
    ],
)
def test_options_of_the_other_network(monkeypatch, capsys, arguments, words) -> None:
    outcome = call(monkeypatch, capsys, "train", *arguments)
    assert outcome[0] == 2
    assert words in " ".join(map(str, outcome))


def rendered(record) -> str:
    screen = Console(width=200, record=True, file=None, quiet=False)
    with screen.capture() as captured:
        for table in digits_tables.digits_tables(record):
            screen.print(table)
    return captured.get()


def test_tables_show_every_row_with_epochs_and_rates() -> None:
    record = read_record()
    text = rendered(record)
    for row in record.rows:
        line = next(line for line in text.splitlines() if f" {row.method} " in line)
        assert (f" {row.peak_rate:g} " in line) == (row.passes > 0)
        assert row.epochs in line or row.passes == 0
    dense = record.row("levels", "dense").cells["100%"]
    assert f"{100 * np.mean(dense):.2f} ± {100 * np.std(dense, ddof=1):.2f}" in text


def test_one_seed_has_no_spread() -> None:
    assert digits_tables.percent([0.5]) == "50.00"
    assert digits_tables.percent([0.5, 0.52]) == "51.00 ± 1.41"


def test_files(tmp_path) -> None:
    record = read_record()
    digits_tables.write_digits(record, tmp_path / "new")
    assert read_record(tmp_path / "new" / "digits_training.json") == record
    table = pd.read_csv(tmp_path / "new" / "digits_training.csv")
    assert len(table) == 5 * sum(len(row.cells) for row in record.rows)
    joint = table[(table["method"] == "joint") & (table["column"] == "8%")]
    assert joint["value"].tolist() == pytest.approx(record.row("levels", "joint").cells["8%"])


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        digits_tables.write_digits(read_record(), tmp_path / "file")


def test_json(capsys) -> None:
    digits_tables.deliver_digits(read_record(), None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert {"rows", "claims", "not_shown", "seeds", "settings", "versions"} <= set(document)
    assert any("LBC against SR-STE" in text for text in document["not_shown"])
