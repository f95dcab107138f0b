"""One pass over a model in topological order: shapes by the library's inference, constants folded on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TypeProto, checker, defs, helper, numpy_helper, shape_inference

from ..errors import InputError
from .control_flow import taken_branch
from .draft import Array, Draft, Dtype, Shape, to_node
from .folding import Folder
from .input_shapes import MAX_ELEMENTS, PinnedInputs
from .model_file import ModelFile, one_line
from .names import NodeNames
from .screening import opset_of, opset_versions

#: Constants up to this many elements are shown to shape inference (shapes, axes, scales).
_SHOWN_ELEMENTS = 1024
_INFERENCE_ERRORS = (
    shape_inference.InferenceError, checker.ValidationError, RuntimeError, ValueError, TypeError, KeyError, IndexError,
)  # fmt: skip
#: Operators that the library has no inference for, whose result is shaped like their first input.
_LIKE_FIRST_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})

#: Operators whose axes may lie behind the last one of their input, or do not matter (quantisation by one scale).
_MAKES_AXES = frozenset({"Flatten", "OneHot", "Unsqueeze", "QuantizeLinear", "DequantizeLinear", "ConcatFromSequence"})


def evaluated(model: onnx.ModelProto, file: ModelFile, pinned: PinnedInputs) -> Draft:
    """The model's nodes that depend on its inputs, with every shape that can be known, and all other values.

    Raises
    ------
    InputError
        naming the node whose operands do not fit it.
    """
    return _Walk(model, file, pinned).draft


class _Walk:
    def __init__(self, model: onnx.ModelProto, file: ModelFile, pinned: PinnedInputs) -> None:
        opset = opset_of(model)
        self.draft = Draft(
            opset=opset,
            inputs={name: (shape, pinned.dtypes[name]) for name, shape in pinned.shapes.items()},
            outputs=tuple(value.name for value in model.graph.output),
            absent=dict(file.absent),
            notes=list(pinned.notes),
        )
        self._versions = opset_versions(model)
        self._imports = [helper.make_opsetid(domain, version) for domain, version in self._versions.items()]
        self._folder = Folder(stored_bytes=file.stored_bytes, opset=opset)
        self._types: dict[str, TypeProto] = {}
        self._stated = {value.name: value.type for value in (*model.graph.value_info, *model.graph.output)}
        self._names = NodeNames()
        for name, (shape, dtype) in {**self.draft.inputs, **file.absent}.items():
            self._know(name, shape, dtype)
        for name, value in file.constants.items():
            self._know(name, value.shape, value.dtype)
            self.draft.constants[name] = value
        self._visit(model.graph.node)
        self.draft.drop_unread()

    def _know(self, name: str, shape: Shape, dtype: Dtype) -> None:
        self.draft.shapes[name], self.draft.dtypes[name] = shape, dtype
        self._types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), shape)

    def _visit(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            taken = taken_branch(node, self.draft.constants) if graphs else None
            if taken is not None:
                self._visit(taken)
                continue
            if graphs:
                self._visit_opaque(node, graphs)
                continue
            _check_axes(node, self.draft.shapes)
            types = self._inferred(node)
            for name, kind in types.items():
                self._learn(node, name, kind)
            if not self._fold(node):
                self.draft.nodes.append(to_node(node, self._names.name(node)))

    def _visit_opaque(self, node: onnx.NodeProto, graphs: Iterable[onnx.GraphProto]) -> None:
        """Control flow: nothing inside is looked at, its results have the shapes that the file states."""
        name = self._names.name(node)
        self.draft.opaque.add(name)
        for graph in graphs:
            self.draft.hidden_reads.update(_names_read(graph))
        for output in node.output:
            if output in self._stated:
                self._learn(node, output, self._stated[output])
        self.draft.nodes.append(to_node(node, name))

    def _inferred(self, node: onnx.NodeProto) -> Mapping[str, TypeProto]:
        """What is known of the node's outputs; empty where it is unknown."""
        stated = {name: self._stated[name] for name in node.output if name in self._stated}
        if node.op_type in _LIKE_FIRST_INPUT and node.input[0] in self._types:
            return {node.output[0]: self._types[node.input[0]]}
        domain = "" if node.domain == "ai.onnx" else node.domain
        try:
            schema = defs.get_schema(node.op_type, self._versions.get(domain, 1), domain)
        except defs.SchemaError:
            return stated
        if any(name and name not in self._types for name in node.input):
            return stated
        return self._run_inference(schema, node) or stated

    def _run_inference(self, schema: defs.OpSchema, node: onnx.NodeProto) -> Mapping[str, TypeProto]:
        names = dict.fromkeys(name for name in node.input if name)
        shown = {name: value for name in names if (value := self._small_constant(name)) is not None}
        try:
            found: Mapping[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, node, {name: self._types[name] for name in names}, shown, opset_imports=self._imports
            )
        except _INFERENCE_ERRORS as error:
            raise InputError(f"node '{node.name}' ({node.op_type}): {one_line(error)}") from None
        return found

    def _small_constant(self, name: str) -> onnx.TensorProto | None:
        value = self.draft.constants.get(name)
        return None if value is None or value.size > _SHOWN_ELEMENTS else numpy_helper.from_array(value, name)

    def _learn(self, node: onnx.NodeProto, name: str, kind: TypeProto) -> None:
        tensor = kind.tensor_type
        if not name or not kind.HasField("tensor_type") or not tensor.elem_type:
            return
        self._types[name] = kind
        if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
            return
        shape = tuple(d.dim_value for d in tensor.shape.dim)
        if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise InputError(f"node '{node.name}' ({node.op_type}): result '{name}' would have the shape {list(shape)}")
        self.draft.shapes[name] = shape
        if tensor.elem_type != onnx.TensorProto.STRING:
            self.draft.dtypes[name] = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Replace the node by its values, if they are known; True if it is not needed any more."""
        draft = self.draft
        if node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx") and node.input[0] in draft.shapes:
            operands: list[Array] = [np.broadcast_to(np.int8(0), draft.shapes[node.input[0]])]
            values: dict[str, Array] | None = {node.output[0]: _shape_of(node, operands[0].shape)}
        elif all(not name or name in draft.constants for name in node.input):
            operands = [draft.constants[name] for name in node.input if name]
            sizes = {n: math.prod(draft.shapes[n]) if n in draft.shapes else None for n in node.output}
            values = self._folder.fold(node, operands, sizes)
        else:
            values = None
        if values is None:
            return self._fold_absent(node)
        for name, value in values.items():
            self._know(name, value.shape, value.dtype)
            draft.constants[name] = value
            self._remember_bits(node, name)
        return True

    def _fold_absent(self, node: onnx.NodeProto) -> bool:
        """A result of constants whose values are missing is a missing constant itself."""
        draft = self.draft
        if not any(name in draft.absent for name in node.input):
            return False
        if not all(not name or draft.is_constant(name) for name in node.input):
            return False
        if not all(name in draft.shapes for name in node.output if name):
            return False
        for name in node.output:
            if name:
                draft.absent[name] = draft.shapes[name], draft.dtypes[name]
                self._remember_bits(node, name)
        return True

    def _remember_bits(self, node: onnx.NodeProto, output: str) -> None:
        """Follow integer weights through their conversion to numbers and any rearrangement behind it."""
        if not node.input or not node.input[0]:
            return
        source = node.input[0]
        if node.op_type == "DequantizeLinear":
            self.draft.integer_bits[output] = integer_bits(self.draft.dtypes[source])
        elif source in self.draft.integer_bits:
            self.draft.integer_bits[output] = self.draft.integer_bits[source]


def integer_bits(dtype: Dtype) -> int:
    """Width of an integer number type; onnx stores 4-bit codes one per byte in memory."""
    return 4 if dtype.name in ("int4", "uint4") else 2 if dtype.name in ("int2", "uint2") else 8 * dtype.itemsize


def _shape_of(node: onnx.NodeProto, shape: Shape) -> Array:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)


def _names_read(graph: onnx.GraphProto) -> set[str]:
    """Every tensor a sub-graph mentions; its own ones do no harm."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _names_read(attribute.g)
    return names - {""}


def _check_axes(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
    """Axes outside the tensor are refused here: not every inference function of the library looks."""
    shape = shapes.get(node.input[0]) if node.input else None
    if shape is None:
        return
    for attribute in node.attribute:
        if attribute.name not in ("axis", "axes", "perm"):
            continue
        beyond = len(attribute.ints) or 1 if node.op_type in _MAKES_AXES else 0
        rank = len(shape) + beyond
        found = attribute.ints if attribute.type == onnx.AttributeProto.INTS else [attribute.i]
        if any(not -rank <= axis < rank for axis in found):
            raise InputError(
                f"node '{node.name}' ({node.op_type}): {attribute.name} = {list(found)} for a tensor of {len(shape)} axes"
            )
