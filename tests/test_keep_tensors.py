"""Safetensors with weights by name: which layers they are, their levels, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor.executor import Executor
from nestling.workloads.errors import InputError
from nestling.workloads.keep_tensors import has_keep_layout, load_keep_file
from nestling.workloads.layer_json import layer_to_json
from nestling.workloads.network import Network
from nestling.workloads.table_writer import layer_table
from nestling.workloads.tables import load_table
from nestling.workloads.weights_file import read_tensors, save_network
from safetensors.numpy import save_file

from .spine_cases import mixed_network


def by_name(network: Network) -> dict[str, np.ndarray]:
    """A network's weights, keep counts and biases as tensors by name."""
    tensors = {}
    for name, weights in network.weights.items():
        assert weights.values is not None
        tensors[f"{name}.weight"] = np.where(weights.keep > 0, weights.values, np.float32(0))
        tensors[f"{name}.weight.keep"] = weights.keep
    return tensors | {f"{name}.bias": bias for name, bias in network.biases.items()}


def assert_same(found: Network, expected: Network) -> None:
    assert found.layers == expected.layers
    assert found.levels == expected.levels
    for name, weights in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name].keep, weights.keep)
        for level in range(expected.levels):
            np.testing.assert_array_equal(found.weights[name].dense(level), weights.dense(level))
    for name, bias in expected.biases.items():
        np.testing.assert_array_equal(found.biases[name], bias)


def test_layers_from_the_header_and_from_a_table(tmp_path: Path) -> None:
    network = mixed_network()
    header = json.dumps({"layers": [layer_to_json(layer) for layer in network.layers]})
    save_file(by_name(network), tmp_path / "net.safetensors", metadata={"nestling": header})
    assert_same(load_keep_file(tmp_path / "net.safetensors"), network)
    save_file(by_name(network), tmp_path / "bare.safetensors")
    (tmp_path / "net.csv").write_text(layer_table(network))
    assert_same(load_keep_file(tmp_path / "bare.safetensors", table=load_table(tmp_path / "net.csv")), network)


def test_matrices_alone_are_a_chain_of_linear_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "fc1.weight": rng.standard_normal((6, 4)).astype(np.float16),
        "fc1.bias": np.ones(6),
        "fc2.weight": rng.standard_normal((3, 6)).astype(np.float32),
        "fc2.weight.keep": rng.integers(0, 3, (3, 6)).astype(np.uint8),
    }
    path = tmp_path / "net.safetensors"
    save_file(tensors, path)
    network = load_keep_file(path)
    assert [(x.name, x.op, x.sources, x.C, x.K) for x in network.layers] == [
        ("fc1", "linear", ("input",), 4, 6),
        ("fc2", "linear", ("fc1",), 6, 3),
    ]
    assert network.levels == 2
    assert network.weights["fc1"].nonzeros.tolist() == [24, 24]
    image = rng.standard_normal((1, 4, 1, 1)).astype(np.float32)
    hidden = tensors["fc1.weight"].astype(np.float32) @ image.reshape(4) + 1
    expected = np.where(tensors["fc2.weight.keep"] > 1, tensors["fc2.weight"], 0) @ hidden
    np.testing.assert_allclose(Executor(network).run(image, 1)[0], expected, rtol=1e-4, atol=1e-5)


def test_zeros_without_a_keep_tensor_are_the_one_level(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w.weight": np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)}, path)
    network = load_keep_file(path)
    assert (network.levels, network.weights["w"].nonzeros.tolist()) == (1, [2])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"c.weight": np.ones((4, 3, 3, 3), np.float32)}, r"1 weights are convolutions.*--table FILE\.csv"),
        ({"c.weight": np.ones(4, np.float32)}, "no weight has two dimensions"),
        ({"c": np.ones((4, 4), np.float32)}, r"no tensor is called NAME\.weight"),
        ({"c.weight": np.ones((4, 4), np.int8)}, "int8"),
        (
            {"c.weight": np.ones((4, 4), np.float32), "c.weight.keep": np.ones((4, 4), np.int8)},
            "keep tensor is not uint8",
        ),
        ({"c.weight": np.ones((4, 4), np.float32), "c.weight.keep": np.ones((4, 3), np.uint8)}, r"keep has \(4, 3\)"),
        ({"c.weight": np.full((4, 4), 1e300)}, "NaN or infinite"),
        ({"c.weight": np.ones((4, 4), np.float32), "c.bias": np.ones(3, np.float32)}, r"must be floats of \(1, 4\)"),
    ],
)
def test_files_that_lack_something(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=message) as caught:
        load_keep_file(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("header", "message"),
    [("{", "not JSON"), ("[]", "no list 'layers'"), ('{"layers": []}', "no list"), ('{"layers": [1]}', "a layer is 1")],
)
def test_headers_that_state_no_layers(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"w.weight": np.ones((2, 2), np.float32)}, path, metadata={"nestling": header})
    with pytest.raises(InputError, match=message):
        load_keep_file(path)


def test_a_table_whose_rows_are_called_otherwise(tmp_path: Path) -> None:
    network = mixed_network()
    path = tmp_path / "net.safetensors"
    save_file({f"module.{name}": array for name, array in by_name(network).items()}, path)
    with pytest.raises(InputError, match=r"has no weights; the file has module\."):
        load_keep_file(path, table=network)


def test_the_two_layouts_are_told_apart(tmp_path: Path) -> None:
    network = mixed_network()
    save_network(tmp_path / "own.safetensors", network)
    assert not has_keep_layout(read_tensors(tmp_path / "own.safetensors")[0])
    assert has_keep_layout(by_name(network))
