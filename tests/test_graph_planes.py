"""Imported graphs as plain layers: the same outputs as onnxruntime, and a reason wherever the layers would say less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.sim.executor.graph_planes import NotPlainError, plane_form
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from onnx import helper

from .graph_cases import imported, model_of, nested_models, relative_error, run_onnxruntime
from .light_models import randomised

pytestmark = pytest.mark.skipif(not COMPILES, reason="vector kernels need the compiler")

#: As of the executor's own check: rounding of sums of some thousand products, relative to the largest output.
BOUND = 1e-5
IMAGE = np.random.default_rng(5).standard_normal((1, 4, 9, 8)).astype(np.float32)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}.{output}", **attributes)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "w1": floats(8, 4, 3, 3), "b1": floats(8), "w2": floats(8, 1, 3, 3), "w3": floats(8, 8, 1, 1), "w4": floats(5, 8),
    "b4": floats(5), "w5": floats(160, 5), "six": np.float32(6), "zero": np.float32(0), "row": np.array([1, -1]),
    "scale": floats(8), "shift": floats(8), "mean": floats(8), "variance": np.abs(floats(8)) + np.float32(0.1),
    "axes": np.array([2, 3]), "w6": floats(288, 3),
}  # fmt: skip
STEM = node("Conv", "x w1 b1", "c", pads=[1, 1, 1, 1])
HEAD = [node("GlobalAveragePool", "h", "g"), node("Flatten", "g", "f"), node("Gemm", "f w4 b4", "y", transB=1)]
PLAIN = {
    "residual": [STEM, node("Relu", "c", "r"), node("Conv", "r w3", "d"), node("Add", "d r", "s"), node("Relu", "s", "h")],
    "sum first": [STEM, node("Conv", "c w3", "d"), node("Sum", "c d", "h")],
    "clipped depthwise": [
        STEM, node("Clip", "c zero six", "r"), node("Conv", "r w2", "h", group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
    ],
    "far padding": [STEM, node("Conv", "c w2", "h", group=8, auto_pad="SAME_UPPER")],
    "dilated": [STEM, node("Conv", "c w2", "h", group=8, dilations=[2, 2], pads=[2, 2, 2, 2])],
    "gated": [
        STEM, node("Sigmoid", "c", "s"), node("Mul", "c s", "m"), node("ReduceMean", "m", "p", axes=[2, 3], keepdims=1),
        node("Conv", "p w3", "e"), node("Sigmoid", "e", "q"), node("Mul", "m q", "h"),
    ],
    "pools": [
        STEM, node("MaxPool", "c", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
        node("AveragePool", "p", "h", kernel_shape=[2, 2], strides=[1, 1]),
    ],
    "padded means": [
        STEM, node("AveragePool", "c", "h", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, strides=[1, 1]),
    ],
    "normalised behind": [
        STEM, node("Relu", "c", "r"), node("BatchNormalization", "r scale shift mean variance", "n"), node("Tanh", "n", "h"),
    ],
    "identity": [STEM, node("Identity", "c", "i"), node("Relu", "i", "h")],
    "tensor named as a node": [
        STEM, node("MaxPool", "c", "Conv.d", kernel_shape=[2, 2]), node("Conv", "Conv.d w3", "d"), node("Relu", "d", "h"),
    ],
    "tensor named input": [STEM, node("MaxPool", "c", "input", kernel_shape=[2, 2]), node("Conv", "input w3", "h")],
    "whole map and padding": [STEM, node("MaxPool", "c", "h", kernel_shape=[9, 8], pads=[0, 0, 1, 1])],
}  # fmt: skip
HEADLESS = {
    "flat image": [node("Conv", "x w1", "c", strides=[2, 2], pads=[1, 1, 1, 1]), node("Reshape", "c row", "f"),
                   node("MatMul", "f w5", "y")],
    "image as a row": [node("Flatten", "x", "f"), node("MatMul", "f w6", "y")],
    "soft end": [STEM, node("GlobalMaxPool", "c", "g"), node("Flatten", "g", "f"),
                 node("Gemm", "f w4", "z", transB=1, beta=2.0), node("Softmax", "z", "y", axis=-1)],
    "channels joined": [STEM, node("Conv", "x w1", "d", pads=[1, 1, 1, 1]), node("Relu", "d", "r"),
                        node("Concat", "c r", "y", axis=1)],
}  # fmt: skip


@pytest.mark.parametrize("name", [*PLAIN, *HEADLESS])
def test_plain_graphs_equal_onnxruntime_at_every_level(name: str, tmp_path: Path) -> None:
    nodes = [*PLAIN[name], *HEAD] if name in PLAIN else HEADLESS[name]
    used = {operand for each in nodes for operand in each.input}
    model = model_of(nodes, inputs={"x": IMAGE}, constants={k: v for k, v in CONSTANTS.items() if k in used})
    network, models = nested_models(model, tmp_path, levels=3)
    executor = GraphExecutor(network)
    assert executor.single_image_notes == ()
    for level, one in enumerate(models):
        expected = run_onnxruntime(one, {"x": IMAGE})[0]
        planes = executor.planes
        assert planes is not None
        assert relative_error(executor._single(planes, IMAGE, level), expected.reshape(-1)) <= BOUND
        assert executor.check({"x": IMAGE}, level).passed


NOT_PLAIN = {
    "LRN": ([STEM, node("LRN", "c", "y", size=3)], "LRN 'LRN.y': no kernel on planes"),
    "strides": ([node("Conv", "x w1", "y", strides=[2, 1])], "differ by axis"),
    "pads": ([node("Conv", "x w1", "y", pads=[1, 0, 1, 0])], "differ by axis"),
    "constant": ([STEM, node("Add", "c map", "y")], "operands of shapes"),
    "transposed": ([STEM, node("Transpose", "c", "y", perm=[0, 2, 3, 1])], "Transpose"),
    "means": (
        [STEM, node("AveragePool", "c", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], "padding does not count",
    ),
    "limits": ([STEM, node("Clip", "c zero one", "y")], "limits [0.0, 1.0]"),
    "read twice": ([STEM, node("Relu", "c", "r"), node("Add", "c r", "y")], "of a tensor that others read"),
    "means of overhanging windows": (
        [STEM, node("AveragePool", "c", "y", kernel_shape=[3, 3], pads=[0, 0, 1, 1])], "output size formula",
    ),
    "factors by column": (
        [STEM, node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f"), node("Mul", "c f", "y")], "differ in rank",
    ),
    "row plus column": (
        [STEM, node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "f"), node("Add", "g f", "y")], "differ in rank",
    ),
    "factors by place": (
        [node("Conv", "x w1", "c", strides=[4, 4]), node("GlobalAveragePool", "c", "g"), node("Conv", "c one_w", "m"),
         node("Mul", "g m", "y")], "not one factor per channel",
    ),
    "two outputs": ([STEM, node("Relu", "c", "y"), node("Tanh", "c", "z")], "1 inputs and 2 outputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_graphs_that_are_more_than_their_layers(name: str, tmp_path: Path) -> None:
    nodes, reason = NOT_PLAIN[name]
    known = CONSTANTS | {"one": np.float32(1), "map": floats(1, 1, 9, 8), "one_w": floats(1, 8, 1, 1)}
    used = {operand for each in nodes for operand in each.input}
    outputs = ("y", "z") if name == "two outputs" else ("y",)
    constants = {key: value for key, value in known.items() if key in used}
    network = imported(model_of(nodes, inputs={"x": IMAGE}, constants=constants, outputs=outputs), tmp_path)
    with pytest.raises(NotPlainError, match=re.escape(reason)):
        plane_form(network)
    executor = GraphExecutor(network)
    assert reason in executor.single_image_notes[0]
    assert executor.measure({"x": IMAGE}, 0, repeats=2).repeats == 2


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e3])
def test_the_check_sees_planes_that_are_wrong(wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = {key: CONSTANTS[key] for key in ("w1", "b1")}
    model = model_of([node("Conv", "x w1 b1", "y", pads=[1] * 4)], inputs={"x": IMAGE}, constants=constants)
    executor = GraphExecutor(imported(model, tmp_path))
    right = executor.planes
    assert right is not None
    assert executor.check({"x": IMAGE}, 0).passed
    output = right.run(IMAGE, 0)
    output[3] = wrong
    monkeypatch.setattr(right, "run", lambda image, level: output)
    assert not executor.check({"x": IMAGE}, 0).passed


def test_other_types_than_float32_are_not_computed_on_planes(tmp_path: Path) -> None:
    image, weights = IMAGE.astype(np.float16), CONSTANTS["w1"].astype(np.float16)
    network = imported(model_of([node("Conv", "x w", "y")], inputs={"x": image}, constants={"w": weights}), tmp_path)
    with pytest.raises(NotPlainError, match="computes in float16"):
        plane_form(network)
    assert GraphExecutor(network).check({"x": image}, 0).passed


def test_levels_by_layer_mean_the_same_layers_on_planes(tmp_path: Path) -> None:
    """A normalisation of its own is one more layer with weights there."""
    nodes = [*PLAIN["normalised behind"], *HEAD]
    used = {operand for each in nodes for operand in each.input}
    model = model_of(nodes, inputs={"x": IMAGE}, constants={k: v for k, v in CONSTANTS.items() if k in used})
    executor = GraphExecutor(nested_models(model, tmp_path, levels=3)[0])
    assert executor.planes is not None
    assert executor.check({"x": IMAGE}, [2, 1]).passed
    assert executor.measure({"x": IMAGE}, [2, 1], repeats=2).repeats == 2


def test_a_published_network_runs_on_planes(tmp_path: Path) -> None:
    model = randomised("squeezenet")
    network = imported(model, tmp_path)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    found = PlaneNetwork(plane_form(network)).run(image, 0)
    expected = run_onnxruntime(model, {next(iter(network.graph.inputs)): image})[0]  # type: ignore[union-attr]
    assert relative_error(found, expected.reshape(-1)) <= BOUND
