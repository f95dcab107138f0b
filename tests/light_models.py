"""The light models that ship inside the onnx package, with random weights in place of their constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def randomised(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """The model with every ``ConstantOfShape`` weight drawn at random: with equal weights all outputs would be equal.

    Matrices are scaled by their fan-in, so that activations keep their size; vectors (biases, statistics of
    normalisations) are positive. A soft maximum at the end is left out: it would hide differences.
    """
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    rng = np.random.default_rng(seed)
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    drawn, kept = [], []
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        known = onnx.shape_inference.infer_shapes(model).graph.value_info
        model.graph.output[0].CopyFrom(next(value for value in known if value.name == last.input[0]))
        model.graph.node.remove(last)
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = tuple(int(size) for size in sizes[node.input[0]])
        drawn.append(numpy_helper.from_array(_values(rng, shape), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(drawn)
    read = {tensor for node in kept for tensor in node.input}
    for field in (model.graph.initializer, model.graph.input):
        used = [entry for entry in field if entry.name in read]
        del field[:]
        field.extend(used)
    return model


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 2:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
