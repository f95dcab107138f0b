"""Training of the bundled network: what works without PyTorch, and one tiny run with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from nestling.workloads import training
from nestling.workloads.bundled import FASHION_DENSITIES, FASHION_TEST_IMAGES, fashion_layers, load_images
from nestling.workloads.errors import InputError
from nestling.workloads.schedule import allocation_order, layer_counts
from nestling.workloads.weights_file import load_network


def write_data(folder: Path, *, train: int, test: int) -> None:
    """Four IDX files whose images are noise, with a bright bar whose row tells the class."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 40, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), labels * 2 + 4] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_missing_torch_is_an_input_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'nestling\[train\]'"):
        training.train_fashion(out_dir=tmp_path, data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"threads": 0}, "threads = 0, must be at least 1")],
)
def test_wrong_settings_are_refused_before_anything_runs(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        training.train_fashion(out_dir=tmp_path, data_dir=tmp_path, **settings)


def test_start_and_nested_training_draw_from_different_seeds():
    assert training.start_recipe(seed=7).seed != training.nested_recipe(seed=7).seed
    assert training.nested_recipe(epochs=3, seed=7).epochs == 3
    assert training.nested_recipe().ramp_end < 1.0, "the masks must be frozen for a while"


def test_the_levels_of_the_bundled_network_reach_their_densities_exactly():
    shapes = {x.name: x.weight_shape for x in fashion_layers() if x.has_weights}
    order = allocation_order(shapes)
    counts = [layer_counts(order, density=d, layers=len(shapes)) for d in FASHION_DENSITIES]
    assert [int(c.sum()) for c in counts] == [81_496, 32_598, 12_224, 4_075]
    sizes = [int(np.prod(s)) for s in shapes.values()]
    first, classifier = (counts[3][i] / sizes[i] for i in (0, -1))
    assert min(first, classifier) > 0.5, "the two small layers stay dense"


def test_a_tiny_run_writes_three_consistent_files(tmp_path):
    pytest.importorskip("torch")
    write_data(tmp_path, train=256, test=40)
    told = []
    out = tmp_path / "out"
    result = training.train_fashion(
        out_dir=out, data_dir=tmp_path, epochs=1, start_epochs=1, seed=5, baselines=True, report=told.append
    )
    assert [p.stage for p in told] == [
        "dense", "nested", "separate 100%", "separate 40%", "separate 15%", "separate 5%",
    ]  # fmt: skip
    network = load_network(out / "fashion.safetensors")
    assert np.array_equal(network.densities, result.network.densities)
    for name, weights in network.weights.items():
        assert np.array_equal(weights.dense(0), result.network.weights[name].dense(0))
        assert np.array_equal(network.biases[name], result.network.biases[name])
    pixels, labels = load_images(out / "fashion_test2000.npz")
    assert len(pixels) == len(labels) == min(FASHION_TEST_IMAGES, 40)
    record = json.loads((out / "fashion_training.json").read_text())
    assert [row["accuracy"] for row in record["levels"]] == list(result.accuracies)
    assert [row["accuracy_separate_model"] for row in record["levels"]] == list(result.independent)
    assert [row["accuracy_threshold_only"] for row in record["levels"]] == list(result.thresholded)
    assert [row["accuracy_bundled_images"] for row in record["levels"]] == list(result.accuracies)
    assert [row["nonzeros"] for row in record["levels"]] == [81_496, 32_598, 12_224, 4_075]
    assert record["recipes"]["start"]["seed"] == 5
    pairs = [(row["from_level"], row["to_level"]) for row in record["switches"]]
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert {len(row["accuracy_after_layers"]) for row in record["switches"]} == {6}
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_without_baselines_their_columns_are_null(tmp_path):
    pytest.importorskip("torch")
    write_data(tmp_path, train=128, test=10)
    result = training.train_fashion(out_dir=tmp_path / "out", data_dir=tmp_path, epochs=1, start_epochs=1)
    assert result.independent == result.thresholded == ()
    assert all(row["accuracy_separate_model"] is None for row in result.record["levels"])
    assert all(row["accuracy_threshold_only"] is None for row in result.record["levels"])
