"""The digits comparison in PyTorch, two epochs of it: every row is there, and says what was really run."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nestling.workloads.digits import accuracy_on, digits_split  # noqa: E402
from nestling.workloads.digits_record import claims, read_record  # noqa: E402
from nestling.workloads.digits_training import RUNS_PER_SEED, DigitsRecipe, compare_on_digits  # noqa: E402
from nestling.workloads.torch_digits import DigitsTrainer, as_network, scratch_b_epochs  # noqa: E402


def test_every_row_of_the_bundled_record_comes_out() -> None:
    heard: list[tuple[int, str]] = []
    record = compare_on_digits([7], recipe=DigitsRecipe(epochs=1), report=lambda *what: heard.append(what))
    assert len(set(heard)) == len(heard) == RUNS_PER_SEED
    bundled = read_record()
    assert [(r.table, r.method) for r in record.rows] == [(r.table, r.method) for r in bundled.rows]
    assert [list(r.cells) for r in record.rows] == [list(r.cells) for r in bundled.rows]
    assert record.seeds == [7]
    assert record.row("levels", "joint").passes == 3
    assert record.row("levels", "random").passes == 1
    assert 2 <= record.row("levels", "sandwich").passes <= 3
    assert record.row("levels", "outward").passes == 3
    assert len(claims(record)) == len(claims(bundled))


def test_the_dense_network_is_the_model() -> None:
    split = digits_split(0)
    trainer = DigitsTrainer(split, DigitsRecipe(epochs=3), seed=0)
    model, (row,) = trainer.dense()
    network = as_network(model)
    assert abs(accuracy_on(network, split.test, split.test_labels) - row.cells["100%"][0]) <= 1 / 450
    assert row.cells["100%"][0] > 0.8


def test_a_seed_repeats() -> None:
    split = digits_split(1)
    first, second = (DigitsTrainer(split, DigitsRecipe(epochs=1), seed=1).nested("sandwich") for _ in range(2))
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


def test_scratch_b_is_the_flop_rule_with_its_cap() -> None:
    assert scratch_b_epochs(60, 0.8) == 75
    assert [scratch_b_epochs(60, density) for density in (0.2, 0.08, 0.03)] == [120, 120, 120]


@pytest.mark.long
def test_three_seeds_meet_the_bars() -> None:
    found = claims(compare_on_digits(range(3)))
    assert np.all([claim.holds for claim in found if claim.relation == "at least"])
