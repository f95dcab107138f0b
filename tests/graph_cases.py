"""ONNX models for tests: written to a file, run by onnxruntime, imported and run by nestling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import Network
from nestling.workloads.onnx_import import load_onnx
from onnx import helper, numpy_helper

Arrays = Mapping[str, np.ndarray]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Arrays,
    constants: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model whose inputs have the shapes and types of ``inputs``."""
    stated = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "case",
        stated,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run_onnxruntime(model: onnx.ModelProto | Path, inputs: Arrays) -> list[np.ndarray]:
    """The oracle's outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options)
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def imported(model: onnx.ModelProto, folder: Path) -> Network:
    """The network that nestling reads from the model's file."""
    path = folder / "case.onnx"
    onnx.save(model, path)
    return load_onnx(path).network


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest expected value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max(initial=0.0) / max(np.abs(expected).max(initial=0.0), 1e-30))


def nested_models(
    model: onnx.ModelProto, folder: Path, *, levels: int, seed: int = 0, empty_last: bool = False
) -> tuple[Network, list[onnx.ModelProto]]:
    """One network with several nested levels, and per level the model with that level's zeros in its weights.

    Weights are all float or integer constants of two axes or more whose name starts with "w". The importer reads every
    level's model by itself, so that the orientation of its weights is not assumed here.
    """
    rng = np.random.default_rng(seed)
    models = [onnx.ModelProto.FromString(model.SerializeToString()) for _ in range(levels)]
    for index, tensor in enumerate(model.graph.initializer):
        if not tensor.name.startswith("w"):
            continue
        values = numpy_helper.to_array(tensor)
        # At level 0 about one weight in levels + 1 is gone already.
        keep = rng.integers(0, levels + (0 if empty_last else 1), values.shape)
        for level, copy in enumerate(models):
            masked = np.where(keep > level, values, np.zeros((), values.dtype))
            copy.graph.initializer[index].CopyFrom(numpy_helper.from_array(masked, tensor.name))
    networks = [imported(copy, folder) for copy in models]
    weights = {}
    for name, first in networks[0].weights.items():
        keep = np.sum([network.weights[name].keep for network in networks], axis=0).astype(np.uint8)
        weights[name] = NestedWeights(values=first.values, keep=keep, levels=levels, name=name)
    return replace(networks[0], weights=weights), models
