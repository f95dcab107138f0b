"""The weights file: exact round trips, levels as prefixes of one stored copy, and files that somebody damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Gemm, Layer, conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.weights_file import level_order, load_network, save_network
from safetensors.numpy import load, save

from .spine_cases import mixed_network


def random_network(seed: int, levels: int) -> Network:
    """Two layers with uneven patterns; every layer may be empty at some levels."""
    rng = np.random.default_rng(seed)
    channels, features = (int(x) for x in rng.integers(1, 7, 2))
    layers = (
        conv("a.b", INPUT, C=channels, H=4, K=features, R=3, padding=1, activation="relu"),
        Layer(name="step", op="lstm_hh", K=6, gemm=Gemm(1, 1, 6, 4), repeat=3, sources=("a.b",), notes="µ"),
    )
    weights, biases = {}, {}
    for layer in layers:
        keep = rng.integers(0, rng.integers(1, levels + 2), layer.weight_shape).astype(np.uint8)
        values = np.where(keep > 0, rng.standard_normal(layer.weight_shape), 0).astype(np.float32)
        weights[layer.name] = NestedWeights(values, keep, levels, layer.name)
        if rng.random() < 0.5:
            biases[layer.name] = rng.standard_normal((levels, layer.K)).astype(np.float32)
    return Network("n", layers, weights, biases, source="somewhere")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), levels=st.sampled_from([1, 2, 3, 8, 255]))
def test_round_trip_is_exact_and_bytes_are_reproducible(
    seed: int, levels: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    network = random_network(seed, levels)
    save_network(folder / "x.safetensors", network)
    again = load_network(folder / "x.safetensors")
    assert (again.name, again.source, again.layers) == (network.name, network.source, network.layers)
    for name, weights in network.weights.items():
        assert weights.values is not None
        np.testing.assert_array_equal(again.weights[name].keep, weights.keep)
        np.testing.assert_array_equal(again.weights[name].values, weights.values)
        assert again.weights[name].levels == levels
    assert set(again.biases) == set(network.biases)
    for name, bias in network.biases.items():
        np.testing.assert_array_equal(again.biases[name], bias)
    save_network(folder / "y.safetensors", again)
    assert (folder / "x.safetensors").read_bytes() == (folder / "y.safetensors").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["x.safetensors", "y.safetensors"]  # no temporary left


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), levels=st.sampled_from([1, 3, 8]))
def test_every_level_is_a_prefix_of_what_is_stored(
    seed: int, levels: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    network = random_network(seed, levels)
    save_network(path, network)
    stored = load(path.read_bytes())
    for name, weights in network.weights.items():
        values, index, prefix = (stored[f"{name}.{part}"] for part in ("values", "index", "prefix"))
        assert prefix.shape == (levels,)
        for level in range(levels):
            rebuilt = np.zeros(weights.keep.size, np.float32)
            rebuilt[index[: prefix[level]].astype(np.int64)] = values[: prefix[level]]
            np.testing.assert_array_equal(rebuilt.reshape(weights.shape), weights.dense(level))
            added = index[prefix[level + 1] if level + 1 < levels else 0 : prefix[level]]
            assert (np.diff(added.astype(np.int64)) > 0).all()  # row-major within what a level adds
        np.testing.assert_array_equal(level_order(weights), index)


def test_index_width_follows_the_tensor_size(tmp_path: Path) -> None:
    for features, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        layer = linear("l", INPUT, features_in=features, features_out=1)
        keep = np.zeros(layer.weight_shape, np.uint8)
        keep[0, -1] = 1
        values = np.full(keep.shape, 2.5, np.float32)
        save_network(tmp_path / "x", Network("n", (layer,), {"l": NestedWeights(values, keep, 1)}))
        assert load((tmp_path / "x").read_bytes())["l.index"].dtype == dtype
        assert load_network(tmp_path / "x").weights["l"].dense(0)[0, -1] == 2.5


# --- damaged files ---------------------------------------------------------------------------------------------------


def read_or_refuse(path: Path) -> bool:
    """True if the file was refused; anything but a network or an InputError that names the file fails the test."""
    try:
        load_network(path)
    except InputError as error:
        problems = error.problems
    else:
        return False
    assert all(str(path) in problem for problem in problems)
    return True


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.safetensors"
    save_network(path, mixed_network())
    return path.read_bytes()


def test_two_hundred_flipped_bits(good: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(good[:8], "little")
    refused = 0
    for trial in range(200):
        damaged = bytearray(good)
        end = header if trial % 4 else len(good)  # most faults in the header: that is where parsing happens
        for position in rng.integers(0, end, size=rng.integers(1, 4)):
            damaged[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "x").write_bytes(damaged)
        refused += read_or_refuse(tmp_path / "x")
    assert refused > 60


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_replaced_header_digits(good: bytes, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Text-level edits that keep the JSON readable reach deeper than flipped bits."""
    path = tmp_path_factory.mktemp("edit") / "x"
    header = 8 + int.from_bytes(good[:8], "little")
    digits = [i for i in range(8, header) if chr(good[i]).isdigit()]
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.sampled_from(digits))] = data.draw(st.sampled_from(b"0123456789.-e "))
    path.write_bytes(damaged)
    read_or_refuse(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 1000, -1, -4, -100])
def test_cut_files(good: bytes, size: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(good[:size])
    assert read_or_refuse(tmp_path / "x")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_noise(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(noise)
    assert read_or_refuse(path)


# --- hostile files ---------------------------------------------------------------------------------------------------

LAYER = {"name": "l", "op": "linear", "C": 3, "K": 2, "gemm": [1, 1, 2, 3], "sources": ["input"]}
HEADER = {"schema": 1, "name": "n", "levels": 2, "layers": [LAYER]}
TENSORS: dict[str, Any] = {
    "l.values": np.array([1, 2, 3], np.float32),
    "l.index": np.array([5, 0, 2], np.uint16),
    "l.prefix": np.array([3, 1], np.int64),
}


def load_made(tmp_path: Path, header: object, tensors: dict[str, Any]) -> Network:
    text = header if isinstance(header, str) else json.dumps(header)
    (tmp_path / "x").write_bytes(save(tensors, metadata={"nestling": text}))
    return load_network(tmp_path / "x")


def test_the_made_file_is_good(tmp_path: Path) -> None:
    network = load_made(tmp_path, HEADER, TENSORS)
    assert network.weights["l"].dense(0).tolist() == [[2, 0, 3], [0, 0, 1]]
    assert network.weights["l"].dense(1).tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2; this version reads schema 1"),
        ({"levels": 0}, "0 levels; allowed are 1 to 255"),
        ({"levels": 10**30}, "levels; allowed are 1 to 255"),
        ({"levels": True}, "True levels"),
        ({"levels": "2"}, "'2' levels"),
        ({"levels": 3}, "level prefixes .* do not shrink"),
        ({"layers": [[]]}, r"a layer is \[\], must be an object"),
        ({"layers": {}}, "it has no layers"),
        ({"layers": 5}, "lacks or garbles"),
        ({"layers": [LAYER | {"hidden": 1}]}, r"layer 'l' has unknown fields \['hidden'\]"),
        ({"layers": [LAYER | {"C": 3.0}]}, r"layer 'l': C = 3\.0, must be int"),
        ({"layers": [LAYER | {"C": "3"}]}, "C = '3', must be int"),
        ({"layers": [LAYER | {"relu_in": 1}]}, "relu_in = 1, must be bool"),
        ({"layers": [LAYER | {"sources": "input"}]}, "sources = 'input', must be list"),
        ({"layers": [LAYER | {"sources": ["inptu"]}]}, "reads 'inptu', which no earlier layer produces"),
        ({"layers": [LAYER | {"gemm": [1, 2]}]}, "must be four whole numbers"),
        ({"layers": [LAYER | {"gemm": [1, 1, 2, None]}]}, "must be four whole numbers"),
        ({"layers": [LAYER | {"gemm": [1, 1, -2, 3]}]}, "gemm n = -2, must be at least 1"),
        ({"layers": [LAYER | {"gemm": [1, 1, 10**15, 10**15]}]}, "3 values for 10+ positions; refused"),
        ({"layers": [LAYER | {"gemm": [1, 1, 1 << 20, 1 << 20]}]}, "refused below one in 4096"),
        ({"layers": [LAYER | {"name": None}]}, "name = None, must be str"),
        ({"layers": [{"name": "l"}]}, "lacks or garbles"),
        ({"layers": [LAYER, LAYER]}, "layer name 'l' is used twice"),
        ({"layers": [LAYER | {"name": "other"}]}, "lacks or garbles 'other.values'"),
    ],
)
def test_hostile_headers(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_made(tmp_path, HEADER | change, TENSORS)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "null", '"x"', "[]", '{"schema": 1e999}'])
def test_headers_that_are_no_object(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        load_made(tmp_path, text, TENSORS)


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("index", np.array([5, 0, 6], np.uint16), r"positions repeat or lie outside 0\.\.5"),
        ("index", np.array([5, 0, 0], np.uint16), "positions repeat"),
        ("index", np.array([5, 0], np.uint16), "3 values of float32 for 2 positions"),
        ("index", np.array([5, 0, -1], np.int64), "index int64, must be int64 and uint16 or uint32"),
        ("index", np.array([5, np.nan, 1], np.float32), "must be int64 and uint16 or uint32"),
        ("values", np.array([1, np.nan, 2], np.float32), "NaN or infinite"),
        ("values", np.array([1, 2, 3], np.float64), "values of float64"),
        ("values", np.ones((3, 1), np.float32), "values of float32 for 3 positions"),
        ("prefix", np.array([1, 3]), r"level prefixes \[1, 3\] do not shrink from 3"),
        ("prefix", np.array([2, 1]), "do not shrink from 3"),
        ("prefix", np.array([3, -1]), "do not shrink"),
        ("prefix", np.array([3]), "do not shrink"),
        ("prefix", np.array([3.0, 1.0]), "prefix is float64"),
        ("bias", np.zeros((2, 3), np.float32), r"bias of 'l' has shape \(2, 3\), must be \(2, 2\)"),
        ("bias", np.zeros((2, 2), np.int32), "bias of layer 'l' is int32, must be float32"),
        ("bias", np.full((2, 2), np.inf, np.float32), "contains NaN or infinity"),
    ],
)
def test_hostile_tensors(tmp_path: Path, tensor: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_made(tmp_path, HEADER, TENSORS | {f"l.{tensor}": value})


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(save(TENSORS))
    for path, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "no such file"),
        (tmp_path / ("x" * 5000), "not a readable safetensors file"),
        (tmp_path / "plain", "without a 'nestling' header"),
    ):
        with pytest.raises(InputError, match=message):
            load_network(path)


def test_only_networks_with_values_can_be_saved(tmp_path: Path) -> None:
    layer = linear("l", INPUT, features_in=3, features_out=2)
    keep = np.ones(layer.weight_shape, np.uint8)
    with pytest.raises(InputError, match="layer 'l' has no weight values to save"):
        save_network(tmp_path / "x", Network("n", (layer,), {"l": NestedWeights(None, keep, 1)}))
    with pytest.raises(InputError, match="network 'n' has no weights to save"):
        save_network(tmp_path / "x", Network("n", (layer,)))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(tmp_path / "x", mixed_network())
    before = (tmp_path / "x").read_bytes()

    def no_space(*_: object) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="disk full"):
        save_network(tmp_path / "x", mixed_network(seed=4))
    assert (tmp_path / "x").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
