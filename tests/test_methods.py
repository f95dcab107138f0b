"""Several ways to make the levels, side by side, on a small network with real values."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.accel.design import load_design
from nestling.analysis.methods import CHOICES, OWN, compare_methods, make_variant, method_table
from nestling.analysis.methods_output import methods_json, terminal_tables, write_methods
from nestling.analysis.run import RunOptions
from nestling.analysis.sources import Workload, load_workload
from nestling.sim.executor import executor_for
from nestling.sim.executor.executor import Executor
from nestling.sim.executor.geometry import convolution_of
from nestling.sim.executor.layer_inputs import input_hessians, input_vectors, window_vectors
from nestling.workloads.bundled import load_images
from nestling.workloads.digits import DIGITS_IMAGES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import from_ranking
from nestling.workloads.network import INPUT, Network
from nestling.workloads.onnx_import import load_onnx

DENSITIES = (1.0, 0.5, 0.2)


@pytest.fixture(scope="module")
def workload() -> Workload:
    rng = np.random.default_rng(0)
    layers = (
        conv("c1", INPUT, C=4, H=6, K=8, R=3, padding=1, activation="relu"),
        conv("c2", "c1", C=8, H=6, K=8, R=3, stride=2, padding=1, activation="relu"),
        linear("fc", "c2", features_in=72, features_out=5),
    )
    weights = {}
    for layer in layers:
        values = rng.normal(0, 0.3, layer.weight_shape).astype(np.float32)
        weights[layer.name] = from_ranking(values, np.abs(values), DENSITIES, name=layer.name)
    network = Network("tiny", layers, weights, source="test")
    images = rng.normal(size=(600, 4, 6, 6)).astype(np.float32)
    labels = Executor(network).run(images, 0).reshape(600, -1).argmax(axis=1)
    return Workload(network, images, labels)


OPTIONS = RunOptions(repeats=1)


def test_every_method_makes_levels_that_can_be_studied(workload: Workload):
    hessians = input_hessians(workload.network, workload.images[:64])
    for name in CHOICES:
        densities = {"pattern": (1.0, 0.4, 0.1), "nm": (1.0, 0.5, 0.25), "obc_nm": (1.0, 0.5, 0.25)}.get(
            name, DENSITIES
        )
        variant = make_variant(workload.network, name, densities, hessians)
        assert variant.network.levels == 3
        found = variant.network.densities
        assert (np.diff(found) <= 0).all()
        one = variant.network if variant.at_level is None else variant.at_level(1)
        assert one.has_values


def test_table_has_a_row_per_method_level_and_design(workload: Workload):
    designs = [load_design("nm-lanes-16x8"), load_design("systolic-16x16")]
    comparison = compare_methods(workload, [OWN, "magnitude", "smartdeal", OWN], designs, options=OPTIONS)
    table = method_table(comparison)
    assert len(table) == 3 * 2 * 3
    own, magnitude = (table[table["method"] == name].reset_index() for name in (OWN, "magnitude"))
    # The network's own levels came from the same ranking: equal masks, so equal everything that is counted.
    for column in ("accuracy", "weight_bytes", "macs", "energy_j", "latency_s"):
        assert own[column].tolist() == magnitude[column].tolist()
    assert own["accuracy"][0] == 1.0
    weights = workload.network.weights.values()
    assert own["nonzeros"][:3].tolist() == [sum(int(w.nonzeros[level]) for w in weights) for level in range(3)]
    assert own["pe"][1] == own["accuracy"][1] / own["nonzeros"][1]
    assert comparison.images == 600
    assert set(comparison.variants["smartdeal"].storage) == {
        "smartdeal_element_direct", "smartdeal_element_ordered", "smartdeal_element_tag",
    }  # fmt: skip


def test_levels_with_values_of_their_own_are_executed_with_them(workload: Workload):
    designs = [load_design("systolic-16x16")]
    comparison = compare_methods(workload, ["obc", "obc_per_level"], designs, densities=DENSITIES, options=OPTIONS)
    table = method_table(comparison).set_index(["method", "level"])["accuracy"]
    assert comparison.images == 600 - 256  # the images that calibrated are not measured on
    shared, own = table["obc"][2], table["obc_per_level"][2]
    assert own > shared
    assert comparison.variants["obc_per_level"].at_level is not None


def test_outputs(workload: Workload, tmp_path: Path):
    comparison = compare_methods(workload, [OWN, "smartdeal_row"], [load_design("systolic-16x16")], options=OPTIONS)
    write_methods(comparison, tmp_path)
    found = json.loads((tmp_path / "methods.json").read_text())
    assert [entry["method"] for entry in found["methods"]] == [OWN, "smartdeal_row"]
    assert found["levels"] == found["methods"][0]["levels"]
    assert methods_json(comparison)["network"] == "tiny"
    assert ET.parse(tmp_path / "methods.svg").getroot().tag.endswith("svg")
    page = (tmp_path / "methods.html").read_text()
    assert "smartdeal_row_ordered" in page
    assert all((tmp_path / name / "report.html").exists() for name in (OWN, "smartdeal_row"))
    assert len(list(terminal_tables(comparison))) == 1
    before = {file: file.read_bytes() for file in tmp_path.glob("methods.*")}
    write_methods(comparison, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.glob("methods.*")} == before


def test_the_bundled_digits_network_with_what_is_made_of_its_dense_level():
    digits = load_workload("digits")
    methods = [OWN, "magnitude", "obc_per_level"]
    comparison = compare_methods(digits, methods, [load_design("systolic-16x16")], options=OPTIONS)
    assert comparison.images == 450  # calibrated on training images: all test images are measured
    table = method_table(comparison).set_index(["method", "level"])
    assert table["density"]["obc_per_level"].tolist() == pytest.approx([1.0, 0.2, 0.08, 0.03], abs=2e-3)
    accuracy = table["accuracy"]
    assert accuracy[OWN][0] == accuracy["obc_per_level"][0] == accuracy["magnitude"][0]
    for level in (2, 3):  # training beats what is done afterwards, and OBC what does not look at inputs
        assert accuracy[OWN][level] > accuracy["obc_per_level"][level] > accuracy["magnitude"][level]


def test_own_images_are_scaled_as_the_bundled_ones(tmp_path: Path):
    pixels, labels = load_images(DIGITS_IMAGES)
    np.savez(tmp_path / "own.npz", images=pixels[:20], labels=labels[:20])
    digits = load_workload("digits", images=tmp_path / "own.npz")
    np.testing.assert_array_equal(digits.images.reshape(20, -1), pixels[:20].reshape(20, -1) / np.float32(16))
    assert digits.labels.tolist() == labels[:20].tolist()
    with pytest.raises(InputError, match="'digits' has its own trained levels"):
        load_workload("digits", densities=[0.5])
    with pytest.raises(InputError, match="'digits' has no parameters"):
        load_workload("digits", parameters={"image": 9})


def test_mistakes(workload: Workload):
    designs = [load_design("systolic-16x16")]
    with pytest.raises(InputError, match=r"method of --sparsify 'magnitud'.*magnitude"):
        compare_methods(workload, ["magnitud"], designs)
    with pytest.raises(InputError, match="has no weight values"):
        compare_methods(Workload(replace(workload.network, weights={})), ["magnitude"], designs)
    few = replace(workload, images=workload.images[:100], labels=workload.labels[:100])
    with pytest.raises(InputError, match="calibrates on real inputs"):
        compare_methods(few, ["obc"], designs)


def test_the_workloads_calibration_is_used_and_all_images_are_measured(workload: Workload):
    own = replace(workload, calibration=workload.images[:300])
    comparison = compare_methods(own, ["obc"], [load_design("systolic-16x16")], densities=[1.0, 0.5], options=OPTIONS)
    assert comparison.images == 600
    hessians = input_hessians(workload.network, workload.images[:300])
    expected = make_variant(workload.network, "obc", [1.0, 0.5], hessians).network
    found = comparison.variants["obc"].network
    for name, weights in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name].keep, weights.keep)


@pytest.mark.parametrize("name", ["residual_bn", "mobile", "lstm"])
def test_obc_on_an_imported_graph_moves_its_outputs_less_than_magnitude(name: str):
    pins = {"height": 16, "width": 16} if name == "mobile" else {}
    network = load_onnx(Path(__file__).parent / "data" / "onnx" / f"{name}.onnx", shapes=pins).network
    ((input_name, (shape, _)),) = network.graph.inputs.items()
    inputs = np.random.default_rng(0).normal(size=(48 * shape[0], *shape[1:])).astype(np.float32)
    workload = Workload(network, {input_name: inputs}, calibration={input_name: inputs})
    methods = ["magnitude", "obc_per_level"]
    options = RunOptions(repeats=1, execute=False)
    comparison = compare_methods(
        workload, methods, [load_design("systolic-16x16")], densities=[1.0, 0.6], options=options
    )
    expected = executor_for(network).run({input_name: inputs}, 0)
    errors = []
    for method in methods:
        variant = comparison.variants[method]
        one = variant.network if variant.at_level is None else variant.at_level(1)
        found = executor_for(one).run({input_name: inputs}, one.levels - 1)
        errors.append(float(np.linalg.norm(found - expected)))
    assert errors[1] < errors[0]


def test_windows_of_a_graph_are_those_of_a_layer():
    rng = np.random.default_rng(2)
    layer = conv("g", INPUT, C=6, H=5, K=4, R=3, stride=2, padding=1, groups=2)
    x = rng.normal(size=(2, 6, 5, 5))
    np.testing.assert_array_equal(window_vectors(convolution_of(layer), x), input_vectors(layer, x))


def test_calibration_inputs_are_what_the_layer_multiplies(workload: Workload):
    rng = np.random.default_rng(1)
    layer = conv("g", INPUT, C=6, H=5, K=4, R=3, stride=2, padding=1, groups=2)
    x = rng.normal(size=(2, 6, 5, 5))
    vectors = input_vectors(layer, x)
    assert vectors.shape == (2 * 9, 2, 27)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, p, q, g in ((0, 0, 0, 0), (1, 2, 1, 1), (0, 1, 2, 1)):
        patch = padded[n, 3 * g : 3 * g + 3, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3]
        assert np.array_equal(vectors[n * 9 + 3 * p + q, g], patch.reshape(-1))
    hessian = input_hessians(workload.network, workload.images[:40])["c1"]
    assert hessian.samples == 40 * 36
    first = input_vectors(workload.network.layers[0], workload.images[:40].astype(np.float64))[:, 0]
    np.testing.assert_allclose(hessian.matrix[0], 2 * first.T @ first, rtol=1e-12, atol=1e-9)
