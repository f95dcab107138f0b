"""The digits comparison in PyTorch, two epochs of it: every row is there, and says what was really run."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nestling.workloads.digits import DIGITS_DENSITIES, DIGITS_SEED, accuracy_on, digits_split  # noqa: E402
from nestling.workloads.digits_record import DigitsRecord  # noqa: E402
from nestling.workloads.digits_training import KEPT, RUNS_PER_SEED, DigitsRecipe, compare_on_digits  # noqa: E402
from nestling.workloads.errors import InputError  # noqa: E402
from nestling.workloads.torch_digits import DigitsTrainer, as_network, train_model  # noqa: E402
from nestling.workloads.weights_file import load_network  # noqa: E402


def test_every_row_of_the_bundled_record_comes_out() -> None:
    heard: list[tuple[int, str]] = []
    record = compare_on_digits([7], recipe=DigitsRecipe(epochs=1), report=lambda *what: heard.append(what))
    assert len(set(heard)) == len(heard) == RUNS_PER_SEED
    bundled = DigitsRecord.read()
    assert [(r.table, r.method) for r in record.rows] == [(r.table, r.method) for r in bundled.rows]
    assert [list(r.cells) for r in record.rows] == [list(r.cells) for r in bundled.rows]
    assert record.seeds == [7]
    assert record.row("levels", "joint").passes == 3
    assert record.row("levels", "random").passes == 1
    assert 2 <= record.row("levels", "sandwich").passes <= 3
    assert record.row("levels", "outward").passes == 3
    assert len(record.claims()) == len(bundled.claims())


def test_the_dense_network_is_the_model() -> None:
    split = digits_split(0)
    trainer = DigitsTrainer(split, DigitsRecipe(epochs=3), seed=0)
    model, (row,) = trainer.dense()
    network = as_network(model)
    assert abs(accuracy_on(network, split.test, split.test_labels) - row.cells["100%"][0]) <= 1 / 450
    assert row.cells["100%"][0] > 0.8


def test_the_bundled_network_has_a_dense_level_and_those_of_the_tables() -> None:
    split = digits_split(0)
    network = train_model(split, DigitsRecipe(epochs=3), seed=0)
    np.testing.assert_allclose(network.densities, DIGITS_DENSITIES, atol=1 / 50_200)
    assert accuracy_on(network, split.test, split.test_labels) > 0.8
    biases = network.biases["fc1"]
    assert biases.shape == (4, 300)
    assert (biases[0] != biases[1]).any()  # levels have their own
    again = train_model(split, DigitsRecipe(epochs=3), seed=0)
    np.testing.assert_array_equal(again.weights["fc2"].values, network.weights["fc2"].values)


def test_a_finished_seed_is_not_run_again(tmp_path, monkeypatch) -> None:
    recipe = DigitsRecipe(epochs=1)
    first = compare_on_digits([3], recipe=recipe, folder=tmp_path)
    heard: list[tuple[int, str]] = []
    resumed = compare_on_digits([3, 4], recipe=recipe, folder=tmp_path, report=lambda *what: heard.append(what))
    for alone, both in zip(first.rows, resumed.rows, strict=True):
        assert {column: values[:1] for column, values in both.cells.items()} == alone.cells
    assert heard[0] == (3, KEPT)
    assert {seed for seed, _ in heard[1:]} == {4}
    written = load_network(tmp_path / "digits.safetensors")
    test = digits_split(DIGITS_SEED)
    assert resumed.model["accuracies"] == [
        accuracy_on(written, test.test, test.test_labels, level=level) for level in range(4)
    ]
    monkeypatch.setattr("nestling.workloads.torch_digits.DigitsTrainer", None)  # nothing is trained any more
    assert compare_on_digits([3, 4], recipe=recipe, folder=tmp_path) == resumed
    with pytest.raises(InputError, match="part of a run with other settings"):
        compare_on_digits([3], recipe=DigitsRecipe(epochs=2), folder=tmp_path)


def test_a_seed_repeats() -> None:
    split = digits_split(1)
    first, second = (DigitsTrainer(split, DigitsRecipe(epochs=1), seed=1).nested("sandwich") for _ in range(2))
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


@pytest.mark.long
def test_three_seeds_meet_the_bars() -> None:
    found = compare_on_digits(range(3)).claims()
    assert np.all([claim.holds for claim in found if claim.relation == "at least"])
