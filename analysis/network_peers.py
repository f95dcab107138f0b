"""What a user would run a whole network with instead: dense inference of installed libraries, from one ONNX model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError
from ..workloads.layers import CONV_OPS, Layer
from ..workloads.network import Network

#: Called with one image (1, C, H, W).
Session = Callable[[NDArray[np.float32]], Any]


class NetworkPeer(Protocol):
    """Prepares dense inference of a network's weights at ``level``.

    Raises
    ------
    ImportError
        if the library, or onnx, is not installed.
    InputError
        for operators beyond convolutions, poolings, sums and fully connected layers.
    """

    def __call__(self, network: Network, level: int, *, threads: int) -> Session: ...


_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def onnx_runtime(network: Network, level: int, *, threads: int) -> Session:
    """ONNX Runtime, float32.

    Of several threads, those without work sleep: by default they spin on after a run, which slows down whatever is measured
    next by a third and does not change the session's own time (49 and 49 ms for ResNet-50 on two threads, each alone).
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(onnx_model(network, level), options)
    return lambda image: session.run(None, {"input": image})


def openvino(network: Network, level: int, *, threads: int, precision: str) -> Session:
    """OpenVINO, one request at a time; ``precision``: "f32" or "bf16", which its CPU plug-in else chooses by itself."""
    runtime = importlib.import_module("openvino")
    core = runtime.Core()
    settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    model = core.read_model(onnx_model(network, level))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda image: list(request.infer([image]).values())


#: Peers by the name that tables show.
NETWORK_PEERS: Mapping[str, NetworkPeer] = {
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": partial(openvino, precision="f32"),
    "OpenVINO bf16": partial(openvino, precision="bf16"),
}


def onnx_model(network: Network, level: int) -> bytes:
    """The network's layers, one node each beside activations, with dense weights and biases of ``level``."""
    onnx = importlib.import_module("onnx")
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes, constants = [], []
    for layer in network.layers:
        inputs = list(layer.sources)
        if layer.has_weights:
            shape = (layer.K, -1) if layer.op == "linear" else layer.weight_shape
            bias = network.biases.get(layer.name)
            values = np.zeros(layer.K, np.float32) if bias is None else bias[level]
            constants.append(tensor(network.weights[layer.name].dense(level).reshape(shape), f"{layer.name}.w"))
            constants.append(tensor(np.asarray(values, np.float32), f"{layer.name}.b"))
            inputs += [f"{layer.name}.w", f"{layer.name}.b"]
        plain = layer.name if layer.activation == "none" else f"{layer.name}.plain"
        if layer.op == "linear":
            nodes.append(helper.make_node("Flatten", inputs[:1], [f"{layer.name}.row"]))
            inputs[0] = f"{layer.name}.row"
        nodes.append(helper.make_node(_operator(layer), inputs, [plain], **_attributes(layer)))
        if layer.activation != "none":
            nodes.append(helper.make_node(_ACTIVATIONS[layer.activation], [plain], [layer.name]))
    first, last = network.layers[0], network.layers[-1].name
    image = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, first.C, first.H, first.W])
    out = helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, network.name, [image], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _operator(layer: Layer) -> str:
    names = {"maxpool": "MaxPool", "avgpool": "AveragePool", "add": "Add", "linear": "Gemm", "concat": "Concat"}
    known = layer.op in CONV_OPS or layer.op in names
    if not known or layer.activation not in {"none", *_ACTIVATIONS}:
        raise InputError(f"layer '{layer.name}': no ONNX node for '{layer.op}' with '{layer.activation}'")
    return "Conv" if layer.op in CONV_OPS else names[layer.op]


def _attributes(layer: Layer) -> dict[str, Any]:
    if layer.op == "linear":
        return {"transB": 1}
    if layer.op == "concat":
        return {"axis": 1}
    if layer.op == "add":
        return {}
    window = {"kernel_shape": [layer.R, layer.S], "strides": [layer.stride] * 2, "pads": [layer.padding] * 4}
    if layer.op in CONV_OPS:
        return window | {"group": layer.groups, "dilations": [layer.dilation] * 2}
    return window | ({"count_include_pad": 1} if layer.op == "avgpool" else {})
