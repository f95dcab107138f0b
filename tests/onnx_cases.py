"""Small ONNX models for the tests of the import, written with onnx.helper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DATA = Path(__file__).parent / "data" / "onnx"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

Array = NDArray[np.generic]
Kinds = Mapping[str, tuple[Sequence[int | str | None] | None, int]]
FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None] | None],
    constants: Mapping[str, Array],
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """One graph; outputs have no stated type or shape beyond float."""
    graph = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(folder: Path, case: onnx.ModelProto, name: str = "case.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    path.write_bytes(case.SerializeToString())
    return path


def floats(*shape: int, seed: int = 0, zeros: float = 0.3) -> NDArray[np.float32]:
    """Seeded normal numbers, a share of them exactly zero."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < zeros, np.float32(0), values)


def node(op: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    """A node named after its operator; tensor names separated by blanks, '-' for an absent one."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(
        op, names, outputs.split(), name=f"{op.lower()}_{outputs.split(maxsplit=1)[0]}", **attributes
    )
