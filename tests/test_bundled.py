"""The bundled network: its graph, its files, and its measured accuracy against an independent NumPy computation."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from nestling.workloads import bundled
from nestling.workloads.bundled import FASHION_DENSITIES, FASHION_SCALE, fashion_layers, load_bundled, load_images
from nestling.workloads.errors import InputError
from nestling.workloads.network import Network

RECORD = json.loads(bundled.FASHION_RECORD.read_text())


@pytest.fixture(scope="module")
def loaded():
    return load_bundled()


def convolve(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int) -> np.ndarray:
    """3 x 3 convolution with padding 1 as nine shifted products; x (N, H, W, C), w (K, C, 3, 3)."""
    height = x.shape[1] // stride
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.broadcast_to(b, (len(x), height, height, len(w))).copy()
    for r in range(3):
        for s in range(3):
            out += padded[:, r : r + x.shape[1] : stride, s : s + x.shape[1] : stride] @ w[:, :, r, s].T
    return out


def predict(network: Network, images: np.ndarray, level: int) -> np.ndarray:
    """Classes of uint8 images, with the graph written out by hand."""

    def layer(name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        return convolve(x, network.weights[name].dense(level), network.biases[name][level], stride)

    x = images[..., None].astype(np.float32) * np.float32(FASHION_SCALE)
    x = np.maximum(layer("conv2", np.maximum(layer("conv1", x), 0), 2), 0)
    x = np.maximum(layer("conv4", np.maximum(layer("conv3", x), 0)) + x, 0)
    x = np.maximum(layer("conv5", x, 2), 0)
    x = np.maximum(layer("conv6", x) + x, 0)
    logits = x.mean(axis=(1, 2)) @ network.weights["fc"].dense(level).T + network.biases["fc"][level]
    return logits.argmax(axis=1)


def test_totals_of_the_graph():
    network = Network("fashion", fashion_layers())
    by_hand = (
        28 * 28 * 24 * 9
        + 14 * 14 * (32 * 24 + 32 * 32 + 32 * 32) * 9
        + 7 * 7 * (64 * 32 + 64 * 64) * 9
        + 640
    )  # fmt: skip
    assert network.macs == by_hand == 7_846_912
    assert sum(x.weight_params for x in network.layers) == 81_496
    assert sum(x.bias_params for x in network.layers) == 24 + 32 * 3 + 64 * 2 + 10


def test_edges_activations_and_relu_inputs():
    layers = {x.name: x for x in fashion_layers()}
    assert layers["add1"].sources == ("conv4", "conv2")
    assert layers["add2"].sources == ("conv6", "conv5")
    assert [n for n, x in layers.items() if x.activation == "none"] == ["conv4", "conv6", "gap", "fc"]
    assert [n for n, x in layers.items() if x.has_weights and not x.relu_in] == ["conv1"]
    assert (layers["gap"].P, layers["gap"].stride) == (1, 7)


def test_the_bundled_files_are_the_recorded_ones():
    for name, digest in RECORD["sha256"].items():
        path = bundled.FASHION_WEIGHTS.with_name(name)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert bundled.FASHION_WEIGHTS.stat().st_size < 1_000_000
    readme = bundled.FASHION_WEIGHTS.with_name("README.md").read_text()
    assert all(digest in readme for digest in RECORD["sha256"].values())


def test_the_weights_fit_the_graph_and_the_densities(loaded):
    network, images, labels = loaded
    assert network.layers == fashion_layers()
    assert network.levels == len(FASHION_DENSITIES)
    assert [row["nonzeros"] for row in RECORD["levels"]] == [
        sum(int(np.count_nonzero(w.dense(level))) for w in network.weights.values()) for level in range(4)
    ]
    np.testing.assert_allclose(network.densities, FASHION_DENSITIES, atol=1 / 81_496)
    assert images.shape == (bundled.FASHION_TEST_IMAGES, 28, 28)
    assert np.bincount(labels).min() > 150, "all ten classes"


@pytest.mark.parametrize("level", range(4))
def test_recorded_accuracy_is_what_plain_numpy_measures(loaded, level):
    network, images, labels = loaded
    correct = sum(
        int((predict(network, images[i : i + 100], level) == labels[i : i + 100]).sum()) for i in range(0, 2000, 100)
    )
    recorded = RECORD["levels"][level]["accuracy_bundled_images"] * len(labels)
    # Another summation order may turn an image whose two best classes are all but equal; no more than one of 2,000.
    assert abs(correct - recorded) <= 1


def test_accuracies_stand_the_bars():
    rows = RECORD["levels"]
    assert RECORD["test_images"] == 10_000
    assert rows[0]["accuracy"] >= 0.91
    for row, points in zip(rows, (0.01, 0.01, 0.01, 0.02), strict=True):
        assert row["accuracy_separate_model"] - row["accuracy"] <= points
    assert rows[2]["accuracy"] - rows[2]["accuracy_threshold_only"] >= 0.10


def test_broken_image_files_are_input_errors(tmp_path):
    path = tmp_path / "images.npz"
    with pytest.raises(InputError, match=r"no such file; needed is \.npz with images, uint8"):
        load_images(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(InputError, match=r"not an \.npz file .* needed is \.npz with images, uint8"):
        load_images(path)
    good = {"images": np.zeros((2, 3, 3), np.uint8), "labels": np.zeros(2, np.uint8)}
    for change, message in (
        ({"images": good["images"].astype(float)}, "images are float64"),
        ({"labels": np.zeros((2, 1), np.uint8)}, r"labels are uint8 \(2, 1\)"),
        ({"labels": np.zeros(3, np.uint8)}, "2 images, but 3 labels"),
        ({"images": np.array([{}], dtype=object)}, "images.npy: holds pickled objects"),
    ):
        np.savez(path, **(good | change))
        with pytest.raises(InputError, match=message):
            load_images(path)
    np.savez(path, pixels=good["images"])
    with pytest.raises(InputError, match="no array named images or labels; found: pixels"):
        load_images(path)


def test_the_input_scale_is_one_over_255():
    assert math.isclose(FASHION_SCALE * 255, 1.0)
