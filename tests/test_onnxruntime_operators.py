"""onnxruntime's own quantised operators: same values as onnxruntime, to one code, and the work of the plain operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.workloads.network import Network
from nestling.workloads.onnx_import import load_onnx
from onnx import TensorProto, helper, numpy_helper

from .graph_cases import run_onnxruntime

SCALES: Mapping[str, np.ndarray] = {
    "xs": np.float32(0.03), "xz": np.uint8(120), "zs": np.float32(0.05), "zz": np.uint8(3), "ys": np.float32(0.04),
    "yz": np.uint8(100), "ws": np.float32(0.02), "wz": np.int8(0), "cs": np.linspace(0.01, 0.05, 6, dtype=np.float32),
    "cz": np.zeros(6, np.int8),
}  # fmt: skip
RNG = np.random.default_rng(5)
W = RNG.integers(-127, 128, (6, 12)).astype(np.int8)
BIAS = RNG.integers(-900, 900, 6).astype(np.int32)


def codes(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def case(
    op: str, names: str, inputs: Mapping[str, np.ndarray], *, opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    """One operator of onnxruntime, and a product before it, so that the network has a weighted layer."""
    nodes = [
        helper.make_node(op, names.split(), ["q"], name="own", domain="com.microsoft", **attributes),
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["f"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1]),
        helper.make_node("MatMul", ["mean", "last"], ["product"], name="last"),
    ]
    constants = {**SCALES, "w": W, "wt": W.T.copy(), "b": BIAS, "last": np.ones((1, 2), np.float32)}
    kind = TensorProto.UINT8 if "ys" in names.split() or "ps" in names.split() else TensorProto.FLOAT
    return model_of(nodes, inputs, constants, outputs={"q": kind, "product": TensorProto.FLOAT}, opset=opset)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    *,
    outputs: Mapping[str, int],
    opset: int,
) -> onnx.ModelProto:
    stated = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "case", stated, results, stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def loaded(model: onnx.ModelProto, folder: Path) -> Network:
    path = folder / "case.onnx"
    onnx.save(model, path)
    return load_onnx(path).network


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize(
    ("op", "names", "shapes", "attributes"),
    [
        ("QLinearAdd", "x xs xz z zs zz ys yz", {"x": (1, 3, 4, 4), "z": (1, 3, 1, 1)}, {}),
        ("QLinearMul", "x xs xz z zs zz ys yz", {"x": (1, 3, 4, 4), "z": (1, 3, 4, 4)}, {}),
        ("QLinearSigmoid", "x xs xz ys yz", {"x": (1, 3, 4, 4)}, {}),
        ("QLinearLeakyRelu", "x xs xz ys yz", {"x": (1, 3, 4, 4)}, {"alpha": 0.2}),
        ("QLinearGlobalAveragePool", "x xs xz ys yz", {"x": (1, 3, 4, 4)}, {}),
        ("QLinearAveragePool", "x xs xz ys yz", {"x": (1, 3, 6, 6)}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("QLinearConcat", "ys yz x xs xz z zs zz", {"x": (1, 3, 4, 4), "z": (1, 2, 4, 4)}, {"axis": 1}),
        ("QGemm", "x xs xz w ws wz b ys yz", {"x": (5, 12)}, {"transB": 1}),
        ("QGemm", "x xs xz wt ws wz", {"x": (5, 12)}, {}),
    ],
)
def test_values_are_onnxruntimes_to_one_code(
    op: str,
    names: str,
    shapes: Mapping[str, tuple[int, ...]],
    attributes: Mapping[str, Any],
    opset: int,
    tmp_path: Path,
) -> None:
    inputs = {name: codes(*shape) for name, shape in shapes.items()}
    model = case(op, names, inputs, opset=opset, **attributes)
    expected = run_onnxruntime(model, inputs)[0]
    found = GraphExecutor(loaded(model, tmp_path)).outputs(inputs, 0)[0]["q"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(
        found.astype(np.float64), expected, rtol=1e-5, atol=1 if expected.dtype == np.uint8 else 0
    )
    if expected.dtype == np.uint8:
        assert (found == expected).mean() > 0.9


def test_a_softmax_over_the_last_axis(tmp_path: Path) -> None:
    x = {"x": codes(2, 9)}
    model = case("QLinearSoftmax", "x xs xz ps pz", x, axis=-1, opset=13)
    model.graph.node[0].attribute.append(helper.make_attribute("opset", 13))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(1 / 256), "ps"), numpy_helper.from_array(np.uint8(0), "pz")]
    )
    expected = run_onnxruntime(model, x)[0]
    found = GraphExecutor(loaded(model, tmp_path)).outputs(x, 0)[0]["q"]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_quantised_gemm_is_a_layer_with_its_bias_and_scales_per_column(tmp_path: Path) -> None:
    x = {"x": codes(5, 12)}
    model = case("QGemm", "x xs xz w cs cz b ys yz", x, transB=1)
    network = loaded(model, tmp_path)
    layer = network.layers[0]
    assert (layer.op, layer.macs, layer.weight_params, layer.bias_params) == ("linear", 5 * 12 * 6, 72, 6)
    assert not any("unsupported" in note for note in network.notes)
    expected = run_onnxruntime(model, x)[0]
    assert np.abs(GraphExecutor(network).outputs(x, 0)[0]["q"].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("op", "names", "attributes", "opset"),
    [
        ("QLinearGlobalAveragePool", "x xs xz ys yz", {"channels_last": 1}, 17),
        ("QLinearSoftmax", "x xs xz ys yz", {"axis": 1, "opset": 12}, 13),
        ("QLinearSigmoid", "x xs xz", {}, 17),
        ("Unheard", "x xs xz", {}, 17),
    ],
)
def test_forms_that_mean_something_else_stay_unsupported(
    op: str, names: str, attributes: Mapping[str, Any], opset: int, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "last"], ["p"]),
        helper.make_node(op, names.split(), ["q"], name="own", domain="com.microsoft", **attributes),
    ]
    inputs = {"a": np.ones((1, 4), np.float32), "x": codes(1, 4, 4, 3)}
    constants = {**SCALES, "last": np.ones((4, 2), np.float32)}
    outputs = {"p": TensorProto.FLOAT, "q": TensorProto.UINT8}
    model = model_of(nodes, inputs, constants, outputs=outputs, opset=opset)
    assert any(f"unsupported operator com.microsoft.{op} (1 times)" in note for note in loaded(model, tmp_path).notes)
