"""What is refused before the library looks at a model: its C++ code does not survive every input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import AttributeProto, TensorProto, checker, helper, inliner

from ..errors import InputError
from .model_file import MAX_TENSORS, ModelFile, one_line
from .onnxruntime_operators import write_out

OPSETS = range(9, 24)
#: The default operator set has two names.
DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})
#: Attributes that divide or count: zero or less is an error (or a crash), and so are absurd values.
_AT_LEAST_ONE = frozenset({"strides", "dilations", "kernel_shape", "group", "blocksize", "num_groups", "hidden_size"})
_AT_LEAST_ZERO = frozenset({"pads", "output_padding", "output_shape", "q_num_heads", "kv_num_heads", "block_size"})
_MOST = 1 << 24
_LONGEST_LIST = 1 << 16


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set.

    Raises
    ------
    InputError
        if it is missing or none of 9 to 23.
    """
    versions = {entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS}
    if len(versions) != 1:
        raise InputError(f"the model states {len(versions)} versions of the ONNX operator set; it must state one")
    version = int(versions.pop())
    if version not in OPSETS:
        raise InputError(f"ONNX operator set {version}; supported are {OPSETS.start} to {OPSETS.stop - 1}")
    return version


def screened(file: ModelFile) -> onnx.ModelProto:
    """The model with its local functions and onnxruntime's own operators written out, after our checks and the library's.

    Raises
    ------
    InputError
        naming the first violated rule.
    """
    model = file.model
    _check_texts(_texts(model))
    opset = opset_of(model)
    _check_nodes(model.graph.node)
    write_out(model.graph, opset)
    for function in model.functions:
        _check_nodes(function.node)
    _declare_initializers(file)
    if model.functions:
        _check_expansion(model)
    unshaped = _shape_all(model)
    try:
        checker.check_model(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except (checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"not a valid ONNX model: {one_line(error)}") from None
    for value in (*model.graph.input, *model.graph.output):
        if value.name in unshaped:
            value.type.tensor_type.ClearField("shape")
    return model


def _shape_all(model: onnx.ModelProto) -> set[str]:
    """The library's check wants a shape for every input and output; where the file has none it gets an empty one, for the
    check only. Returns whose."""
    values = [value for value in (*model.graph.input, *model.graph.output) if value.type.HasField("tensor_type")]
    unshaped = [value for value in values if not value.type.tensor_type.HasField("shape")]
    for value in unshaped:
        value.type.tensor_type.shape.SetInParent()
    return {value.name for value in unshaped}


def _check_texts(texts: Iterable[object]) -> None:
    """The parser hands over bytes where a text is not UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"a name in the file is no text: {text!r}")


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    yield from (entry.domain for entry in model.opset_import)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield value.name
        yield from (dimension.dim_param for dimension in value.type.tensor_type.shape.dim)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)


def _declare_initializers(file: ModelFile) -> None:
    """Initializers become inputs of the graph, so that the library's checks know them without their values."""
    declared = {value.name for value in file.model.graph.input}
    kinds = {name: (value.shape, value.dtype) for name, value in file.constants.items()} | dict(file.absent)
    for name, (shape, dtype) in kinds.items():
        if name not in declared:
            code = helper.np_dtype_to_tensor_dtype(dtype)
            file.model.graph.input.append(helper.make_tensor_value_info(name, code, shape))


def _check_nodes(nodes: Iterable[onnx.NodeProto], depth: int = 0) -> None:
    if depth > 16:
        raise InputError("sub-graphs are nested more than 16 deep")
    for node in nodes:
        _check_texts((node.name, node.op_type, node.domain, *node.input, *node.output))
        _check_texts(attribute.name for attribute in node.attribute)
        for attribute in node.attribute:
            if attribute.name == "num_outputs" and attribute.i != len(node.output):
                raise InputError(
                    f"node '{node.name}' ({node.op_type}): num_outputs = {attribute.i} for {len(node.output)}"
                )
            _check_attribute(node, attribute)
            for graph in _sub_graphs(attribute):
                _check_nodes(graph.node, depth + 1)


def _sub_graphs(attribute: AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _check_attribute(node: onnx.NodeProto, attribute: AttributeProto) -> None:
    where = f"node '{node.name}' ({node.op_type}): {attribute.name}"
    if max(len(attribute.ints), len(attribute.floats), len(attribute.strings)) > _LONGEST_LIST:
        raise InputError(f"{where} has more than {_LONGEST_LIST} values")
    for tensor in (attribute.t, attribute.sparse_tensor.values, *attribute.tensors):
        if tensor.data_location == TensorProto.EXTERNAL or any(size < 0 for size in tensor.dims):
            raise InputError(f"{where} is a tensor in another file or of negative size")
    least = 1 if attribute.name in _AT_LEAST_ONE else 0 if attribute.name in _AT_LEAST_ZERO else None
    if least is None:
        return
    if node.op_type == "Pad" and attribute.name == "pads":  # negative values crop
        least = -_MOST
    found = [*attribute.ints, *([attribute.i] if attribute.type == AttributeProto.INT else [])]
    bad = [value for value in found if not least <= value <= _MOST]
    if bad:
        raise InputError(f"{where} = {bad[0]}; allowed are {least} to {_MOST}")


def _check_expansion(model: onnx.ModelProto) -> None:
    """Local functions that call each other in a circle, or grow beyond bounds when written out, are refused."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], calls: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(size(g.node, calls) for a in node.attribute for g in _sub_graphs(a))
            key = (node.domain, node.op_type)
            if key not in functions:
                continue
            if key in calls or len(calls) > 64:
                raise InputError(f"function '{node.op_type}' calls itself")
            if key not in sizes:
                sizes[key] = size(functions[key].node, (*calls, key))
            total += sizes[key]
        return total

    if size(model.graph.node, ()) > MAX_TENSORS:
        raise InputError(f"the model's functions unfold to more than {MAX_TENSORS} operators")


def opset_versions(model: onnx.ModelProto) -> Mapping[str, int]:
    """Version by domain; the default domain is ''."""
    return {"" if e.domain in DEFAULT_DOMAINS else e.domain: int(e.version) for e in model.opset_import}
