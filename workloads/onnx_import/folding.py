"""Constant folding: single nodes run by onnx's reference evaluator, within a budget of bytes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import InputError
from .draft import Array
from .model_file import one_line

#: Operators that compute shapes and rearrange, scale or convert parameters. Nothing with sub-graphs, nothing random,
#: nothing whose time is not bounded by the size of its operands and result.
FOLDABLE = frozenset(
    {
        "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Cos", "CumSum",
        "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
        "GatherND", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Min",
        "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear", "Range", "Reciprocal",
        "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round",
        "ScatterND", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Tile",
        "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
#: The evaluator knows these from that operator set on; the earlier definition is contained in it.
_EVALUATED_AS = {"DequantizeLinear": 21}
#: Results of these are bounded by their operands, so an unknown size is no danger.
_BOUNDED = frozenset({"NonZero", "Constant", "Identity"})
#: Bytes that folding may make: a fixed part and a multiple of what the files hold (4-bit codes become 32-bit numbers).
_BASE_BYTES, _GROWTH = 1 << 26, 8
#: Elements of all constants of one value; they take no memory until they become a layer's weights.
_FILLED_ELEMENTS = 1 << 28
_ITEM_BYTES, _MOST_AXES = 8, 16


class Folder:
    """Evaluates nodes whose operands are all known, until the budget is spent."""

    def __init__(self, *, stored_bytes: int, opset: int) -> None:
        self._left = _BASE_BYTES + _GROWTH * stored_bytes
        self._filled_left = _FILLED_ELEMENTS
        self._opset = opset

    def fold(
        self, node: onnx.NodeProto, operands: Sequence[Array], sizes: Mapping[str, int | None]
    ) -> dict[str, Array] | None:
        """Values of the node's outputs, or None if it is not one to fold here.

        ``sizes``: elements of each output as far as they are known.

        Raises
        ------
        InputError
            if the operator cannot be evaluated on these operands, or fills more memory than any model needs.
        """
        if node.op_type not in FOLDABLE or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type == "ConstantOfShape":
            return {node.output[0]: self._filled(node, operands[0])}
        cost = self._cost(node, operands, sizes)
        if cost is None or cost > self._left:
            return None
        self._left -= cost
        return self._evaluated(node, operands)

    @staticmethod
    def _cost(node: onnx.NodeProto, operands: Sequence[Array], sizes: Mapping[str, int | None]) -> int | None:
        """Bytes of the results, at least; None if they cannot be told."""
        known = [sizes.get(name) for name in node.output if name]
        if node.op_type in _BOUNDED:
            return sum(x.size * max(1, x.ndim) for x in operands) * _ITEM_BYTES
        if any(size is None for size in known):
            return None
        item = max((x.itemsize for x in operands), default=1)
        return sum(size or 0 for size in known) * max(item, 4)

    def _filled(self, node: onnx.NodeProto, shape: Array) -> Array:
        sizes = [int(size) for size in shape.reshape(-1)[: _MOST_AXES + 1]]
        elements = math.prod(sizes)
        fits = all(0 <= size <= _FILLED_ELEMENTS for size in sizes) and elements <= self._filled_left
        if len(sizes) > _MOST_AXES or not fits:
            raise InputError(f"node '{node.name}' (ConstantOfShape): shape {sizes} is negative or too large")
        self._filled_left -= elements
        value: Array = np.zeros(1, np.float32)
        for attribute in node.attribute:
            value = np.asarray(numpy_helper.to_array(attribute.t))
        return np.broadcast_to(value.reshape(-1)[0], sizes)

    def _evaluated(self, node: onnx.NodeProto, operands: Sequence[Array]) -> dict[str, Array]:
        names = [name for name in node.input if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph(
            [node], "constant", [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names)], outputs
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # overflow in a constant of the file is the file's own
                opset = max(self._opset, _EVALUATED_AS.get(node.op_type, 0))
                evaluator = ReferenceEvaluator(graph, opsets={"": opset})
                results = evaluator.run(None, dict(zip(names, operands, strict=True)))
        except Exception as error:  # the evaluator raises whatever NumPy or its operators raise
            raise InputError(f"node '{node.name}' ({node.op_type}): {one_line(error)}") from None
        return {output.name: np.asarray(result) for output, result in zip(outputs, results, strict=True)}
