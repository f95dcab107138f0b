"""Independent answers for imported ONNX files: multiply-accumulates from the library's own shapes, and an imported graph
turned back into an ONNX model, so that onnxruntime can run both."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from nestling.workloads.graph import Graph, Node, operand_name
from nestling.workloads.network import Network
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

Array = NDArray[np.generic]


def counted_macs(model: onnx.ModelProto) -> int:
    """MACs of all Conv, Gemm and MatMul nodes, from shapes that onnx infers on the untouched file: elements of the result
    times length of the sum."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    shapes |= {i.name: list(i.dims) for i in inferred.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            flipped = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if flipped else -1]
    return total


def run_file(path: Path, feeds: dict[str, Array]) -> list[Array]:
    """The file's outputs from onnxruntime."""
    return _run(path.read_bytes() if not _external(path) else str(path), feeds)


def run_network(network: Network, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of an imported network's graph from onnxruntime: its nodes, its constants, and operands made again from the
    layers' weights."""
    graph = network.graph
    assert graph is not None
    constants = dict(graph.constants)
    for node in graph.nodes:
        if node.layers:
            constants |= _operands(node, network, graph)
    kinds = {name: (dtype, shape) for name, (shape, dtype) in graph.inputs.items()}
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(n.op, n.inputs, n.outputs, name=n.name, domain=n.domain, **_attributes(n))
                for n in graph.nodes
            ],
            "again",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(d), s) for n, (d, s) in kinds.items()],
            [onnx.ValueInfoProto(name=name) for name in graph.outputs],
            [numpy_helper.from_array(value.copy(order="C"), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=10,
    )
    return _run(model.SerializeToString(), feeds)


def _external(path: Path) -> bool:
    model = onnx.load(path, load_external_data=False)
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


def _run(model: bytes | str, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [np.asarray(x) for x in session.run(None, feeds)]


def _attributes(node: Node) -> dict[str, object]:
    made: dict[str, object] = {}
    for name, value in node.attributes.items():
        made[name] = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
    return made


def _operands(node: Node, network: Network, graph: Graph) -> dict[str, Array]:
    """Weight operands by input name, element by element from the rules in graph.py."""
    values = [network.weights[layer].dense(0) for layer in node.layers]
    if node.op in ("LSTM", "GRU", "RNN"):
        made = {0: np.stack(values[0::2]), 1: np.stack(values[1::2])}
        return {operand_name(node.layers[i]): made[i] for i in (0, 1)}
    name = operand_name(node.layers[0])
    shape, at = graph.shapes[name], node.inputs.index(name)
    rows = values[0].reshape(-1, values[0].shape[-1]) if node.op not in _CONVOLUTIONS else values[0]
    if node.op in _CONVOLUTIONS:
        operand = rows.reshape(shape)
    elif node.op == "ConvTranspose":
        operand = _transposed(rows, shape, int(node.attributes.get("group", 1)))  # type: ignore[arg-type]
    elif node.op == "Gemm":
        direct = bool(node.attributes.get("transB", 0)) if at else not node.attributes.get("transA", 0)
        operand = rows if direct else rows.T
    elif at == 0 or len(shape) == 1:
        operand = rows.reshape(shape)
    else:
        operand = np.swapaxes(rows.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)
    zero_at = _ZERO_POINTS.get((node.op, at))
    if zero_at is None:
        return {name: operand}
    offset = graph.constants[node.inputs[zero_at]] if zero_at < len(node.inputs) else np.zeros((), np.uint8)
    spread = offset.reshape(-1, *[1] * (operand.ndim - 1)) if node.op in _CONVOLUTIONS and offset.size > 1 else offset
    return {name: (operand + spread.astype(np.float32)).astype(offset.dtype)}


_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_ZERO_POINTS = {("QLinearConv", 3): 5, ("ConvInteger", 1): 3, ("QLinearMatMul", 3): 5, ("MatMulInteger", 1): 3}


def _transposed(rows: NDArray[np.float32], shape: tuple[int, ...], groups: int) -> NDArray[np.float32]:
    """Operand[c, m, ...] of a ConvTranspose: row (group of c, m, ...), column c within its group."""
    C, M = shape[0] // groups, shape[1]
    taps = math.prod(shape[2:])
    operand = np.empty((shape[0], M, taps), np.float32)
    for c in range(shape[0]):
        for m in range(M):
            for tap in range(taps):
                operand[c, m, tap] = rows[((c // C) * M + m) * taps + tap, c % C]
    return operand.reshape(shape)
