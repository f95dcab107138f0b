"""What a hostile or mistaken ONNX file is told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from nestling.analysis.sources import load_workload, parse_shapes
from nestling.workloads.errors import InputError
from nestling.workloads.onnx_import import load_onnx, model_file
from onnx import TensorProto, helper, numpy_helper

from .onnx_cases import DATA, floats, model, node, saved

PLAIN = {"w": floats(4, 5)}


def refusal(path: Path, **options: object) -> str:
    """The message, and that it came soon."""
    begin = time.process_time()
    with pytest.raises(InputError) as caught:
        load_onnx(path, **options)  # type: ignore[arg-type]
    assert time.process_time() - begin < 2
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)
    return str(caught.value)


def matmul(**changes: object) -> onnx.ModelProto:
    return model([node("MatMul", "x w")], {"x": [2, 4]}, PLAIN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [8, 24])
def test_operator_sets_outside_9_to_23(tmp_path: Path, opset: int) -> None:
    assert f"operator set {opset}; supported are 9 to 23" in refusal(saved(tmp_path, matmul(opset=opset)))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a model", os.urandom(1000)])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    assert "ONNX" in refusal(path)


def test_a_folder_a_pipe_and_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a regular file" in refusal(tmp_path)
    assert "not a regular file" in refusal(tmp_path / "pipe.onnx")
    assert "no such file" in refusal(tmp_path / "none.onnx")


def test_missing_shapes_are_all_listed_and_either_form_pins_them(tmp_path: Path) -> None:
    case = model([node("MatMul", "x v", "a"), node("MatMul", "a w")], {"x": ["seq", "wide"], "v": ["wide", 4]}, PLAIN)
    path = saved(tmp_path, case)
    text = refusal(path)
    assert "input 'x' [seq,wide] leaves seq, wide open" in text
    assert "input 'v' [wide,4] leaves wide open; give --shape v=D0,...,D1 or --shape wide=N" in text
    by_name = load_onnx(path, shapes={"seq": 3, "wide": 6}).network
    whole = load_onnx(path, shapes={"x": (3, 6), "v": [6, 4]}).network
    assert by_name.macs == whole.macs == 3 * 6 * 4 + 3 * 4 * 5


def test_wrong_shapes_are_explained(tmp_path: Path) -> None:
    path = saved(tmp_path, model([node("MatMul", "x w")], {"x": ["seq", 4]}, PLAIN))
    assert "did you mean 'seq'" in refusal(path, shapes={"sec": 3})
    assert "the file fixes [?,4]" in refusal(path, shapes={"x": (3, 5)})
    assert "must be at least 1" in refusal(path, shapes={"seq": 0})
    assert "must be at least 1" in refusal(path, shapes={"seq": 1 << 50})


def test_a_batch_dimension_is_one_and_said_so(tmp_path: Path) -> None:
    case = model([node("Conv", "x w")], {"x": [None, 4, 8, 8]}, {"w": floats(2, 4, 3, 3)})
    found = load_onnx(saved(tmp_path, case))
    assert found.network.macs == 36 * 2 * 36
    assert "taken as 1" in found.network.notes[0]


def test_inputs_without_any_shape(tmp_path: Path) -> None:
    path = saved(tmp_path, model([node("MatMul", "x w")], {"x": None}, PLAIN))
    assert "input 'x' has no shape in the file" in refusal(path)
    assert load_onnx(path, shapes={"x": (2, 4)}).network.macs == 40


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "C:\\secret", "", "..\\secret", "x\0y"]
)
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    path = saved(tmp_path, external(location))
    assert "must be a file name inside the model's folder" in refusal(path)


def test_external_data_behind_links_and_pipes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 80)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    assert "link out of the model's folder" in refusal(saved(folder, external("link")))
    assert "not a regular file" in refusal(saved(folder, external("pipe")))


@pytest.mark.parametrize(
    "entries",
    [{"offset": "4"}, {"length": "84"}, {"offset": "-4"}, {"length": "999999999999"}, {"offset": "x"}, {"length": "8"}],
)
def test_external_data_of_the_wrong_size(tmp_path: Path, entries: dict[str, str]) -> None:
    (tmp_path / "data").write_bytes(b"\0" * 80)
    assert "tensor 'w'" in refusal(saved(tmp_path, external("data", entries)))


def external(location: str, entries: dict[str, str] | None = None) -> onnx.ModelProto:
    """A weight of 80 bytes in another file."""
    case = matmul()
    (tensor,) = case.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **(entries or {})}.items():
        tensor.external_data.add(key=key, value=value)
    return case


def _negative(case: onnx.ModelProto) -> None:
    case.graph.initializer[0].dims[0] = -4


def _absurd(case: onnx.ModelProto) -> None:
    case.graph.initializer[0].dims[0] = 1 << 60


def _strings(case: onnx.ModelProto) -> None:
    case.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.STRING, [1], [b"x"]))


def _kind(case: onnx.ModelProto) -> None:
    case.graph.initializer[0].data_type = 99


def _twice(case: onnx.ModelProto) -> None:
    case.graph.initializer.append(case.graph.initializer[0])


def _missing(case: onnx.ModelProto) -> None:
    case.graph.node[0].input[1] = "nothing"


def _cycle(case: onnx.ModelProto) -> None:
    case.graph.node[0].input[0] = "y"


def _no_output(case: onnx.ModelProto) -> None:
    case.graph.output[0].name = "nothing"


def _unfit(case: onnx.ModelProto) -> None:
    case.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def _infinite(case: onnx.ModelProto) -> None:
    case.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 5), np.inf, np.float32), "w"))


def _no_operators(case: onnx.ModelProto) -> None:
    del case.graph.node[:]


def _unknown_operator(case: onnx.ModelProto) -> None:
    case.graph.node[0].op_type = "MatMull"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_negative, "negative dimension"), (_absurd, "tensor 'w'"), (_strings, "holds strings"), (_kind, "tensor 'w'"),
        (_twice, "no name of its own"), (_missing, "nothing"), (_cycle, "topologically sorted"), (_no_output, "nothing"),
        (_unfit, "MatMul"), (_infinite, "NaN or infinite"), (_no_operators, "no operators"),
        (_unknown_operator, "MatMull"),
    ],
)  # fmt: skip
def test_broken_models(tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    case = matmul()
    change(case)
    assert message in refusal(saved(tmp_path, case))


@pytest.mark.parametrize("sizes", [[1 << 40], [1 << 20, 1 << 20], [-1], [1] * 100, [1 << 62, 4], [0, 1 << 62]])
def test_absurd_constants_take_no_memory(tmp_path: Path, sizes: list[int]) -> None:
    nodes = [node("ConstantOfShape", "s", "w"), node("Add", "x w")]
    assert "ConstantOfShape" in refusal(saved(tmp_path, model(nodes, {"x": [2, 4]}, {"s": np.int64(sizes)})))


@pytest.mark.parametrize("op", ["Tile", "Expand", "Concat"])
def test_constants_that_grow_are_not_made(tmp_path: Path, op: str) -> None:
    """Doubling sixty times over: nothing is computed beyond the budget; what the node would give is listed or refused."""
    names = [f"c{i}" for i in range(61)]
    extra = {"Tile": np.int64([2]), "Expand": np.int64([1 << 40]), "Concat": np.int64([0])}[op]
    operands = {"Tile": "{0} k", "Expand": "{0} k", "Concat": "{0} {0}"}[op]
    options = {"axis": 0} if op == "Concat" else {}
    nodes = [node(op, operands.format(a), b, **options) for a, b in pairwise(names)]
    nodes += [node("ReduceMax", "c60", "m", keepdims=0), node("Mul", "x m", "v"), node("MatMul", "v w")]
    case = model(
        nodes, {"x": [2, 4]}, {"c0": np.ones(1 << 10, np.float32)[: 1 if op == "Expand" else None], "k": extra, **PLAIN}
    )
    assert "would have the shape" in refusal(saved(tmp_path, case))


def test_sub_graphs_in_sub_graphs(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("n", TensorProto.FLOAT, [2, 4])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "g", [], [value])
    for _ in range(30):
        inner = helper.make_node("If", ["c"], ["n"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inner], "g", [], [value]) if graph.ByteSize() < 1 << 16 else graph
    nested = graph
    for _ in range(20):
        nested = helper.make_graph([helper.make_node("If", ["c"], ["n"], then_branch=nested)], "g", [], [value])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=nested, else_branch=nested)]
    text = refusal(saved(tmp_path, model(nodes, {"x": [2, 4]}, {"c": np.bool_(True)})))
    assert "nested more than 16 deep" in text or "not a readable ONNX file" in text


@pytest.mark.parametrize("kind", ["circle", "billion"])
def test_functions_that_call_each_other(tmp_path: Path, kind: str) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = []
    for level in range(40):
        following = f"F{(level + 1) % 40}" if kind == "circle" else f"F{level + 1}"
        calls = [helper.make_node(following, ["a" if i == 0 else f"t{i - 1}"], [f"t{i}"], domain="f") for i in range(3)]
        last = [helper.make_node("Neg", ["a"], ["t2"])]
        body = last if kind == "billion" and level == 39 else calls
        functions.append(helper.make_function("f", f"F{level}", ["a"], ["t2"], body, opsets))
    case = model([helper.make_node("F0", ["x"], ["y"], domain="f")], {"x": [2, 4]}, {})
    case.opset_import.append(helper.make_opsetid("f", 1))
    case.functions.extend(functions)
    assert ("calls itself" if kind == "circle" else "unfold to more than") in refusal(saved(tmp_path, case))


def test_functions_are_written_out(tmp_path: Path) -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    function = helper.make_function("f", "Product", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    nodes = [helper.make_node("Product", ["x", "w"], ["y"], domain="f")]
    case = model(nodes, {"x": [2, 4]}, PLAIN)
    case.opset_import.append(helper.make_opsetid("f", 1))
    case.functions.append(function)
    found = load_onnx(saved(tmp_path, case))
    assert (found.network.macs, found.unsupported) == (40, ())


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("Conv", {"strides": [0, 0]}), ("Conv", {"dilations": [-1, 1]}), ("Conv", {"group": 0}),
        ("Conv", {"pads": [1 << 40] * 4}), ("MaxPool", {"kernel_shape": [0, 0]}), ("Split", {"axis": 4}),
        ("Transpose", {"perm": [0, 1, 2, 9]}), ("SpaceToDepth", {"blocksize": 0}), ("Softmax", {"axis": -9}),
    ],
)  # fmt: skip
def test_attributes_that_would_crash_the_library(tmp_path: Path, op: str, options: dict[str, object]) -> None:
    operands = "x w" if op == "Conv" else "x"
    case = model([node(op, operands, **options)], {"x": [1, 4, 8, 8]}, {"w": floats(2, 4, 3, 3)})
    assert op in refusal(saved(tmp_path, case))


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MAX_TENSORS", 50)
    case = matmul()
    for i in range(51):
        case.graph.initializer.add(name=str(i), data_type=TensorProto.FLOAT, dims=[0])
    assert "more than 50" in refusal(saved(tmp_path, case))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "case.onnx"
    path.write_bytes(matmul().SerializeToString().replace(b"matmul_y", b"matmul\xff\xfe"))
    assert "no text" in refusal(path)


def test_sparse_initializers_unfold_within_bounds(tmp_path: Path) -> None:
    case = matmul()
    dense = floats(4, 5)
    del case.graph.initializer[:]
    positions = np.flatnonzero(dense).astype(np.int64)
    values = numpy_helper.from_array(dense.reshape(-1)[positions], "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(positions, "p"), [4, 5])
    case.graph.sparse_initializer.append(sparse)
    network = load_onnx(saved(tmp_path, case)).network
    np.testing.assert_array_equal(network.weights["matmul_y"].dense(0), dense.T)
    case.graph.sparse_initializer[0].dims[:] = [1 << 20, 1 << 20]
    assert "holds only" in refusal(saved(tmp_path, case))


def test_shapes_of_the_command_line() -> None:
    assert parse_shapes(["x:0=1,3,8,8", "seq = 7", "a=b=2"]) == {"x:0": (1, 3, 8, 8), "seq": 7, "a=b": 2}
    with pytest.raises(InputError) as caught:
        parse_shapes(["x", "y=", "z=1,-2", "n=1", "n=2", "=3"])
    assert len(caught.value.problems) == 5
    with pytest.raises(InputError, match="--shape is for ONNX files"):
        load_workload("resnet50", shapes={"x": 1})
    with pytest.raises(InputError, match="leaves tokens open"):
        load_workload(str(DATA / "encoder.onnx"))
