"""Operators without a vectorised form here: the reference implementation of the ``onnx`` package, one node at a time.

The package evaluates by operator name and opset; nothing in the file is code.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ....workloads.graph import Attribute, Node

if TYPE_CHECKING:
    from .call import Array, Inputs, Operator

#: Operators whose result is drawn at random, or that decode files: not computed, whatever the package can do.
_REFUSED = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
    | {"ImageDecoder", "StringNormalizer", "RegexFullMatch", "StringSplit", "StringConcat", "TfIdfVectorizer"}
    | {"If", "Loop", "Scan", "SequenceMap", "SplitToSequence", "SequenceConstruct", "SequenceEmpty", "Optional"}
)


def available() -> bool:
    """True if the extra ``onnx`` is installed."""
    return find_spec("onnx") is not None


def reference_operator(node: Node, opset: int) -> Operator | None:
    """The ``onnx`` package's operator for ``node``; None where there is none (or no package)."""
    if node.op in _REFUSED or node.domain not in {"", "ai.onnx"} or not available():
        return None
    from onnx import defs

    if not defs.has(node.op, opset):
        return None
    evaluator = _evaluator(node, opset)
    if evaluator is None:
        return None

    def call(inputs: Inputs, _: Node, __: int) -> tuple[Array, ...]:
        feed = {f"i{i}": value for i, value in enumerate(inputs) if value is not None}
        return tuple(np.asarray(out) for out in evaluator.run(None, feed))

    return call


def _evaluator(node: Node, opset: int) -> Any:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    inputs = [f"i{i}" if name else "" for i, name in enumerate(node.inputs)]
    outputs = [f"o{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = helper.make_node(node.op, inputs, outputs)
    proto.attribute.extend(_attributes(node.attributes))
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_empty_tensor_value_info(name) for name in inputs if name],
        [helper.make_empty_tensor_value_info(name) for name in outputs if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        return ReferenceEvaluator(model)
    # The package says "I have no implementation" with errors of several classes.
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None


def _attributes(attributes: Mapping[str, Attribute]) -> list[Any]:
    from onnx import helper, numpy_helper

    found = []
    for name, value in attributes.items():
        plain = list(value) if isinstance(value, tuple) else value
        if plain != [] or isinstance(value, np.ndarray):
            tensor = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else plain
            found.append(helper.make_attribute(name, tensor))
    return found
