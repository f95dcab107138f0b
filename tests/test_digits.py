"""The digits data, the perceptron, and what a record of the tables may claim."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from nestling.workloads.bundled import load_images
from nestling.workloads.digits import (
    DIGITS_DENSITIES,
    DIGITS_IMAGES,
    DIGITS_WEIGHTS,
    accuracy_on,
    bundled_digits,
    digits_layers,
    digits_network,
    digits_split,
    layer_inputs,
)
from nestling.workloads.digits_record import COLUMNS, DigitsRecord
from nestling.workloads.digits_training import compare_on_digits
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.network import INPUT, Network
from nestling.workloads.training_record import Row, merge, spread
from sklearn.datasets import load_digits


def test_the_bundled_images_are_those_of_scikit_learn() -> None:
    images, labels = load_images(DIGITS_IMAGES)
    expected = load_digits()
    np.testing.assert_array_equal(images, expected.images)
    np.testing.assert_array_equal(labels, expected.target)


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_the_split_is_a_stratified_partition(seed: int) -> None:
    split = digits_split(seed)
    assert (split.train.shape, split.test.shape) == ((1347, 64), (450, 64))
    images, labels = load_images(DIGITS_IMAGES)
    together = np.concatenate([split.train, split.test]) * 16
    order, expected = np.lexsort(together.T), np.lexsort(images.reshape(-1, 64).T)
    np.testing.assert_array_equal(together[order], images.reshape(-1, 64)[expected])
    tested = np.bincount(split.test_labels)
    assert (np.abs(tested - np.bincount(labels) / 4) < 1).all()
    assert np.abs(np.diff(split.train_labels)).mean() > 2  # not in the order of the classes
    assert split.train.max() == 1.0


def test_seeds_split_differently_and_repeatably() -> None:
    np.testing.assert_array_equal(digits_split(3).test, digits_split(3).test)
    assert (digits_split(3).test != digits_split(4).test).any()


def perceptron(seed: int = 0) -> Network:
    rng = np.random.default_rng(seed)
    shapes = {layer.name: layer.weight_shape for layer in digits_layers()}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return digits_network(
        weights, {n: rng.normal(size=w.shape[0]).astype(np.float32) for n, w in weights.items()}, source="test"
    )


def test_the_perceptron() -> None:
    network = perceptron()
    assert sum(weights.keep.size for weights in network.weights.values()) == 50_200
    x = digits_split(0).test[:7]
    inputs, output = layer_inputs(network, x)
    w, b = ({name: part[0] if biases else part.dense(0) for name, part in parts.items()}
            for biases, parts in ((False, network.weights), (True, network.biases)))  # fmt: skip
    hidden = np.maximum(x @ w["fc1"].T + b["fc1"], 0)
    second = np.maximum(hidden @ w["fc2"].T + b["fc2"], 0)
    np.testing.assert_allclose(output, second @ w["fc3"].T + b["fc3"], rtol=1e-5)
    np.testing.assert_allclose(inputs["fc3"], second, rtol=1e-5)
    assert accuracy_on(network, x, output.argmax(1)) == 1.0
    assert accuracy_on(network, x, (output.argmax(1) + 1) % 10) == 0.0


def test_the_bundled_network_is_the_recorded_one_and_reaches_what_is_recorded() -> None:
    model = DigitsRecord.read().model
    assert hashlib.sha256(DIGITS_WEIGHTS.read_bytes()).hexdigest() == model["sha256"]
    assert model["sha256"] in DIGITS_WEIGHTS.with_name("README.md").read_text()
    network, split = bundled_digits()
    np.testing.assert_allclose(network.densities, DIGITS_DENSITIES, atol=1 / 50_200)
    assert network.layers == digits_layers()
    np.testing.assert_array_equal(split.test, digits_split(model["seed"]).test)
    for level, recorded in enumerate(model["accuracies"]):
        x = split.test
        for name in ("fc1", "fc2", "fc3"):
            x = np.maximum(x, 0) @ network.weights[name].dense(level).T + network.biases[name][level]
        # Another order of summation may turn one image whose two best classes are all but equal.
        assert abs((x.argmax(1) == split.test_labels).sum() - 450 * recorded) <= 1
    assert min(model["accuracies"]) >= 0.95


def test_other_networks_are_refused() -> None:
    layers = (conv("c", INPUT, C=1, H=8, K=2, R=3),)
    with pytest.raises(InputError, match="'c': not a linear layer"):
        layer_inputs(Network("n", layers), np.zeros((1, 64), np.float32))


def made_record(**middle: float) -> DigitsRecord:
    """Everything at 97 %, except the cells of the middle column that are given."""
    methods = ("independent", "post-hoc threshold", "joint", "sandwich", "random", "outward")
    rows = [
        Row(
            "levels",
            m,
            "1",
            1.0,
            "0.1",
            {c: [middle.get(m.split()[0], 0.97) if c == COLUMNS[1] else 0.97] for c in COLUMNS},
        )
        for m in methods
    ]
    rows += [
        Row("N:M", m, "1", 1.0, "0.1", {"1:8": [value]})
        for m, value in (("one-shot", 0.5), ("ASP fine-tune", 0.6), ("SR-STE", 0.59), ("LBC", 0.9))
    ]
    rows += [
        Row("post-training", "magnitude", "-", 0.0, "-", {"90%": [0.8]}),
        Row("post-training", "OBC", "-", 0.0, "-", {"90%": [0.9]}),
        Row("post-training", "error ratio", "-", 0.0, "-", {"2:4": [80.0, 4.9]}),
    ]
    return DigitsRecord(seeds=[0], rows=rows, settings={})


def test_claims_follow_the_figures() -> None:
    record = made_record(joint=0.96, sandwich=0.959, **{"post-hoc": 0.861})
    found = {claim.text.split(" at ")[0].split(", ")[0]: claim for claim in record.claims()}
    assert found["joint: points behind independent models"].measured == 1.0  # exactly at the bar
    assert found["joint: points behind independent models"].holds
    assert not found["sandwich: points behind independent models"].holds
    assert found["outward: points behind independent models"].measured == 0.0
    assert not found["joint: points ahead of the post-hoc threshold"].holds  # 9.9
    assert found["outward: points ahead of the post-hoc threshold"].holds
    assert found["1:8 ASP fine-tune: points ahead of one-shot"].holds
    assert not found["1:8 SR-STE: points ahead of one-shot"].holds
    assert not found["2:4: layer error of magnitude over OBC"].holds  # the worst seed counts


def test_seeds_are_merged_cell_by_cell(tmp_path) -> None:
    one, two = made_record(joint=0.9).rows, made_record(joint=0.94).rows
    rows = merge([one[:-1], two[:-1]])
    assert rows[2].cells[COLUMNS[1]] == [0.9, 0.94]
    record = replace(made_record(), seeds=[0, 1], rows=rows + made_record().rows[-1:])
    (tmp_path / "r.json").write_text(record.text())
    assert DigitsRecord.read(tmp_path / "r.json") == record


def test_spread_is_over_the_sample() -> None:
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert np.isnan(spread([1.0]))


def test_a_file_that_is_no_record(tmp_path) -> None:
    (tmp_path / "r.json").write_text('{"rows": []}')
    with pytest.raises(InputError, match="not a record"):
        DigitsRecord.read(tmp_path / "r.json")


def test_no_seed_no_table() -> None:
    with pytest.raises(InputError, match="no seed"):
        compare_on_digits([])


def test_the_bundled_record_is_whole_and_meets_the_bars() -> None:
    record = DigitsRecord.read()
    assert record.seeds == [0, 1, 2, 3, 4]
    for row in record.rows:
        for values in row.cells.values():
            assert len(values) == 5
            if row.method != "error ratio":
                np.testing.assert_allclose(np.array(values) * 450, np.round(np.array(values) * 450), atol=1e-6)
    assert record.row("levels", "scratch-B").epochs == "120"
    assert all(claim.holds for claim in record.claims())
