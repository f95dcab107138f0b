"""An If whose condition follows from shapes is the branch it takes; any other stays control flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.workloads.network import Network
from nestling.workloads.onnx_import import load_onnx
from onnx import TensorProto, helper, numpy_helper

from .graph_cases import run_onnxruntime

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) - 5


def branch(name: str, nodes: list[onnx.NodeProto], output: str = "inside") -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def chosen(condition: str, source: str, output: str) -> onnx.NodeProto:
    """``source @ w`` if the condition holds, else of its absolute values; both branches call their results alike."""
    product = helper.make_node("MatMul", [source, "w"], ["inside"])
    positive = [helper.make_node("Abs", [source], ["other"]), helper.make_node("MatMul", ["other", "w"], ["inside"])]
    branches = {"then_branch": branch("then", [product]), "else_branch": branch("else", positive)}
    return helper.make_node("If", [condition], [output], name=output, **branches)


def model(rows: int, nodes: list[onnx.NodeProto], *, inputs: tuple[onnx.ValueInfoProto, ...] = ()) -> onnx.ModelProto:
    """``is_one``: whether the input x (rows, 4) has one row."""
    found = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Equal", ["rows", "one"], ["is_one"]),
    ]
    graph = helper.make_graph(
        [*found, *nodes],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4]), *inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(WEIGHTS, "w"),
            numpy_helper.from_array(np.array(0), "zero"),
            numpy_helper.from_array(np.array(1), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loaded(case: onnx.ModelProto, folder: Path) -> Network:
    path = folder / "case.onnx"
    onnx.save(case, path)
    return load_onnx(path).network


@pytest.mark.parametrize("rows", [1, 3])
def test_the_branch_that_shapes_choose_is_imported_and_runs(rows: int, tmp_path: Path) -> None:
    nodes = [chosen("is_one", "x", "a"), chosen("is_one", "x", "b"), helper.make_node("Add", ["a", "b"], ["y"])]
    case = model(rows, nodes)
    network = loaded(case, tmp_path)
    assert network.macs == 2 * rows * 4 * 3
    assert network.notes == ()
    x = {"x": np.random.default_rng(1).standard_normal((rows, 4)).astype(np.float32)}
    (expected,) = run_onnxruntime(case, x)
    np.testing.assert_allclose(GraphExecutor(network).outputs(x, 0)[0]["y"], expected, rtol=1e-5)


def test_a_choice_inside_a_branch(tmp_path: Path) -> None:
    inner = [
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node(
            "If", ["is_one"], ["inside"], then_branch=branch("t", [helper.make_node("Abs", ["negative"], ["u"])], "u"),
            else_branch=branch("e", [helper.make_node("Relu", ["negative"], ["v"])], "v"),
        ),
    ]  # fmt: skip
    outer = helper.make_node(
        "If", ["is_one"], ["a"], then_branch=branch("t", [helper.make_node("Exp", ["x"], ["inside"])]),
        else_branch=branch("e", inner),
    )  # fmt: skip
    case = model(2, [outer, helper.make_node("MatMul", ["a", "w"], ["y"])])
    x = {"x": np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)}
    (expected,) = run_onnxruntime(case, x)
    found = GraphExecutor(loaded(case, tmp_path)).outputs(x, 0)[0]["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_condition_from_the_input_is_not_followed(tmp_path: Path) -> None:
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        chosen("flag", "x", "a"),
        helper.make_node("Add", ["a", "m"], ["y"]),
    ]
    notes = loaded(model(2, nodes, inputs=(flag,)), tmp_path).notes
    assert any("unsupported operator If (1 times)" in note for note in notes)
    assert any("control flow" in note for note in notes)
