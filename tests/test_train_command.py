"""`nestling train`: refusals, and the digits tables of the bundled record. Nothing is trained."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from nestling.analysis import training_tables
from nestling.workloads.digits_record import DigitsRecord
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
        (("fashion", "--epochs", "2"), "--epochs has no meaning for 'fashion'"),
        (("fashion", "--stop-after", "0"), "--stop-after has no meaning for 'fashion'"),
        (("digits", "--study"), "--study has no meaning for 'digits'"),
        (("fashion", "--study", "--smartdeal", "1"), "--smartdeal has no meaning for 'fashion --study'"),
        (("fashion", "--smartdeal", "1", "--seeds", "2"), "--seeds has no meaning for 'fashion --smartdeal'"),
        (("digits", "--recorded", "--quick"), "--quick has no meaning for 'digits --recorded'"),
        (("digit",), "unknown trainable network 'digit'"),
    ],
)
def test_options_of_the_other_network(monkeypatch, capsys, arguments, words) -> None:
    outcome = call(monkeypatch, capsys, "train", *arguments)
    assert outcome[0] == 2
    assert words in " ".join(map(str, outcome))


def rendered(record) -> str:
    screen = Console(width=200, record=True, file=None, quiet=False)
    with screen.capture() as captured:
        for table in training_tables.record_tables(record):
            screen.print(table)
    return captured.get()


def test_tables_show_every_row_with_epochs_and_rates() -> None:
    record = DigitsRecord.read()
    text = rendered(record)
    for row in record.rows:
        lines = [line for line in text.splitlines() if f" {row.method} " in line]
        assert any(f" {row.epochs} " in line and f" {row.rate} " in line for line in lines)
    dense = record.row("levels", "dense").cells["100%"]
    assert f"{100 * np.mean(dense):.2f} ± {100 * np.std(dense, ddof=1):.2f}" in text


def test_one_seed_has_no_spread() -> None:
    assert training_tables.percent([0.5]) == "50.00"
    assert training_tables.percent([0.5, 0.52]) == "51.00 ± 1.41"


def test_files(tmp_path) -> None:
    record = DigitsRecord.read()
    training_tables.write_record(record, tmp_path / "new")
    assert DigitsRecord.read(tmp_path / "new" / "digits_training.json") == record
    table = pd.read_csv(tmp_path / "new" / "digits_training.csv")
    assert len(table) == 5 * sum(len(row.cells) for row in record.rows)
    joint = table[(table["method"] == "joint") & (table["column"] == "8%")]
    assert joint["value"].tolist() == pytest.approx(record.row("levels", "joint").cells["8%"])


def test_bundled_tables_are_shown_without_training(monkeypatch, capsys) -> None:
    status, out, _ = call(monkeypatch, capsys, "train", "digits", "--recorded", "--json")
    assert status == 0
    assert json.loads(out)["seeds"] == [0, 1, 2, 3, 4]
    status, out, _ = call(monkeypatch, capsys, "train", "fashion", "--study", "--recorded")
    assert status == 0
    assert "Fashion-MNIST, nested levels and their baselines" in out
    assert "60000" in out  # the number of training images stands below the table


def test_a_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        training_tables.write_record(DigitsRecord.read(), tmp_path / "file")


def test_json(capsys) -> None:
    training_tables.deliver_record(DigitsRecord.read(), None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert {"rows", "claims", "not_shown", "seeds", "settings", "versions"} <= set(document)
    assert any("LBC against SR-STE" in text for text in document["not_shown"])
