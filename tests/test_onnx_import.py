"""Imported networks against published totals, the library's own shapes, and onnxruntime."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from nestling.analysis.sources import load_workload
from nestling.traces.lowering import lower
from nestling.workloads.onnx_import import load_onnx
from nestling.workloads.zoo import build
from numpy.typing import NDArray

from .onnx_cases import DATA, LIGHT, floats, model, node, saved
from .onnx_oracle import counted_macs, run_file, run_network

#: MACs of the models in the onnx package that are the same graphs as published ones (zoo tables), and parameters after
#: folding: a batch normalisation leaves one value per channel.
PUBLISHED = {"light_resnet50": "resnet50", "light_densenet121": "densenet121", "light_vgg19": "vgg19"}
SHAPES = {"mobile": {"height": 16, "width": 16}, "encoder": {"tokens": 9}}
FIXTURES = sorted(path.stem for path in DATA.glob("*.onnx"))


def fixture_inputs(network_inputs: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]) -> dict[str, NDArray]:
    rng = np.random.default_rng(5)
    return {
        name: rng.random(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 20, shape).astype(dtype)
        for name, (shape, dtype) in network_inputs.items()
    }


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_light_models_have_every_mac_and_no_gap(path: Path) -> None:
    imported = load_onnx(path)
    assert imported.network.macs == counted_macs(onnx.load(path))
    assert imported.unsupported == ()
    assert imported.network.has_values
    if path.stem in PUBLISHED:
        assert imported.network.macs == build(PUBLISHED[path.stem]).macs


def test_resnet50_is_the_zoo_network_layer_by_layer() -> None:
    found, known = load_onnx(LIGHT / "light_resnet50.onnx").network, build("resnet50")
    assert Counter(x.gemm for x in found.layers if x.gemm) == Counter(x.gemm for x in known.layers if x.gemm)
    assert sum(x.weight_params for x in found.layers) == sum(x.weight_params for x in known.layers)
    assert Counter((x.op, x.P, x.Q, x.K) for x in found.layers if x.op == "add") == Counter(
        (x.op, x.P, x.Q, x.K) for x in known.layers if x.op == "add"
    )
    # behind a ReLU: everything but the first layer, and the shortcut reads what conv1 of its block reads
    assert [x.relu_in for x in found.layers if x.has_weights].count(False) == 1
    assert [x.relu_in for x in known.layers if x.has_weights].count(False) == 1


@pytest.mark.parametrize("name", FIXTURES)
def test_exported_networks_compute_what_the_file_computes(name: str) -> None:
    path = DATA / f"{name}.onnx"
    network = load_onnx(path, shapes=SHAPES.get(name)).network
    assert network.graph is not None
    feeds = fixture_inputs(dict(network.graph.inputs))
    for ours, theirs in zip(run_network(network, feeds), run_file(path, feeds), strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        # conv1 16*16*8*27, conv2 16*16*8*72, conv3 8*4... of (3,1) taps at strides (2,1): 4*8 positions, classifier
        ("residual_bn", 256 * 8 * 27 + 256 * 8 * 72 + 32 * 16 * 24 + 160),
        ("residual_dynamo", 256 * 8 * 27 + 256 * 8 * 72 + 32 * 16 * 24 + 160),
        ("residual_external", 256 * 8 * 27 + 256 * 8 * 72 + 32 * 16 * 24 + 160),
        # stem, depthwise, grouped, squeeze, excite, along 64 positions
        ("mobile", 64 * (8 * 27 + 8 * 9 + 16 * 4) + 64 + 64 + 64 * 6 * 48),
        # transposed: every input position times every tap
        ("decoder", 35 * 6 * 4 * 9 + 140 * 4 * 4 * 4 + 20 * 28 * 3 * 56),
        # per layer: q, k, v; scores and context of 4 heads; output; two feed-forward products
        ("encoder", 2 * 9 * (48 * 16 + 2 * 9 * 16 + 16 * 16 + 2 * 16 * 32) + 9 * 16 * 5),
        ("encoder_dynamo", 2 * 9 * (48 * 16 + 2 * 9 * 16 + 16 * 16 + 2 * 16 * 32) + 9 * 16 * 5),
        ("lstm", 2 * 6 * 32 * (10 + 8) + 3 * 16),
        ("gru", 6 * 24 * (10 + 8) + 3 * 8),
    ],
)
def test_macs_by_hand(name: str, macs: int) -> None:
    imported = load_onnx(DATA / f"{name}.onnx", shapes=SHAPES.get(name))
    assert imported.network.macs == macs
    assert imported.unsupported == ()


def test_both_exporters_of_pytorch_give_the_same_parameters() -> None:
    legacy = load_onnx(DATA / "encoder.onnx", shapes={"tokens": 9}).network
    dynamo = load_onnx(DATA / "encoder_dynamo.onnx").network
    # embedding 20*16; per layer 4 products with biases and 2 norms; head
    per_layer = 48 * 16 + 48 + 16 * 16 + 16 + 2 * 16 * 32 + 32 + 16 + 4 * 16
    assert legacy.params == dynamo.params == 20 * 16 + 2 * per_layer + 5 * 16 + 5


def test_real_zeros_are_the_first_level() -> None:
    network = load_onnx(DATA / "residual_dynamo.onnx").network
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(DATA / "residual_dynamo.onnx").graph.initializer}
    weights = [value for value in stored.values() if value.ndim > 1]
    assert network.levels == 1
    assert sum(int(w.nonzeros[0]) for w in network.weights.values()) == sum(np.count_nonzero(w) for w in weights)
    assert 0.5 < network.densities[0] < 0.8


def test_recurrent_layers_are_named_and_repeated_like_the_zoo() -> None:
    layers = {x.name: x for x in load_onnx(DATA / "lstm.onnx").network.layers}
    prefix = "layer.LSTM"
    assert [layers[f"{prefix}.{d}.{p}"].op for d in ("fwd", "bwd") for p in ("ih", "hh")] == ["lstm_ih", "lstm_hh"] * 2
    assert (layers[f"{prefix}.fwd.ih"].repeat, layers[f"{prefix}.fwd.hh"].repeat) == (1, 6)
    assert layers[f"{prefix}.bwd.hh"].sources == (f"{prefix}.bwd.ih",)


def test_external_data_is_optional(tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes((DATA / "residual_external.onnx").read_bytes())
    alone, whole = load_onnx(tmp_path / "alone.onnx"), load_onnx(DATA / "residual_external.onnx")
    assert alone.network.layers == whole.network.layers
    assert (alone.network.has_values, whole.network.has_values) == (False, True)
    assert any("external data" in text for text in alone.network.notes)


def test_batch_norm_without_values_folds_the_same(tmp_path: Path) -> None:
    case = onnx.load(DATA / "residual_bn.onnx")
    onnx.save(case, tmp_path / "split.onnx", save_as_external_data=True, location="gone.data", size_threshold=16)
    (tmp_path / "gone.data").unlink()
    alone, whole = load_onnx(tmp_path / "split.onnx").network, load_onnx(DATA / "residual_bn.onnx").network
    assert alone.layers == whole.layers
    assert alone.weights == {}
    assert alone.graph is not None
    assert alone.graph.absent


def test_levels_from_the_command_line_prune_by_magnitude_with_one_threshold() -> None:
    network = load_workload(str(DATA / "residual_dynamo.onnx"), densities=(0.5, 0.2)).network
    np.testing.assert_allclose(network.densities, (0.5, 0.2), atol=0.01)
    smallest = min(np.abs(w.values[w.keep > 1]).min() for w in network.weights.values() if w.values is not None)
    largest = max(np.abs(w.values[w.keep < 2]).max() for w in network.weights.values() if w.values is not None)
    assert largest <= smallest


def test_without_weights_levels_are_synthetic(tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes((DATA / "residual_external.onnx").read_bytes())
    network = load_workload(str(tmp_path / "alone.onnx"), densities=(0.5, 0.25)).network
    assert network.levels == 2
    assert not network.has_values


def test_views_move_nothing_and_notes_reach_the_trace() -> None:
    network = load_onnx(DATA / "mobile.onnx", shapes=SHAPES["mobile"]).network
    trace = lower(network)
    assert trace.notes == network.notes != ()
    moved = {entry.name: entry.bytes for entry in trace.data_movement}
    assert "view" not in {entry.op for entry in trace.data_movement}
    assert moved["Transpose"] == 2 * 16 * 64  # channel shuffle: read and written once
    assert moved["along.Conv.pad"] == 16 * (64 + 66)


def test_importing_the_package_does_not_import_onnx() -> None:
    code = "import sys, nestling.workloads.onnx_import as m; print('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_layer_names_are_unique_and_fit_for_files(tmp_path: Path) -> None:
    weights = {"w": floats(4, 4)}
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("MatMul", "b w", "y")]
    for each, name in zip(nodes, ("/a b/../c", "/a b/../c", ""), strict=True):
        each.name = name
    names = [x.name for x in load_onnx(saved(tmp_path, model(nodes, {"x": [2, 4]}, weights))).network.layers]
    assert len(set(names)) == 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") for name in names)


def test_a_weight_used_twice_is_stored_and_counted_once(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "y")]
    network = load_onnx(saved(tmp_path, model(nodes, {"x": [2, 4]}, {"w": floats(4, 4)}))).network
    assert (network.macs, network.params) == (2 * 2 * 16, 16)
    assert network.graph is not None
    assert "w" not in network.graph.constants
