"""onnxruntime's own quantised operators (domain com.microsoft, "Contrib Operators" in its documentation), written out.

Its quantiser (``QuantFormat.QOperator``) makes operators that ONNX does not define. Each is "dequantise operands, compute,
quantise the result", and becomes just that, so that shapes, work and values are known as in any QDQ graph. Results may
differ from onnxruntime's integer arithmetic by one code where a value lies between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

_DOMAIN = "com.microsoft"
#: Operator -> its ONNX form, and how many quantised operands (tensor, scale, zero point) it reads.
_ELEMENTWISE: Mapping[str, tuple[str, int]] = {
    "QLinearAdd": ("Add", 2), "QLinearMul": ("Mul", 2), "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1), "QLinearSoftmax": ("Softmax", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1), "QLinearAveragePool": ("AveragePool", 1),
}  # fmt: skip
#: Attributes of onnxruntime's operators alone.
_OWN_ATTRIBUTES = frozenset({"channels_last", "opset"})

_Nodes = list[onnx.NodeProto]


def write_out(graph: onnx.GraphProto, opset: int) -> None:
    """Replace the operators in place; those whose form depends on what ``opset`` cannot say stay as they are."""
    if opset < 10 or not any(node.domain == _DOMAIN for node in graph.node):
        return  # QuantizeLinear came with operator set 10
    nodes = [part for node in graph.node for part in _parts(node, opset)]
    del graph.node[:]
    graph.node.extend(nodes)


def _parts(node: onnx.NodeProto, opset: int) -> Sequence[onnx.NodeProto]:
    form: Callable[[_Writer], None] | None = None
    if node.domain == _DOMAIN and len(node.output) == 1:
        form = {"QGemm": _gemm, "QLinearConcat": _concat}.get(node.op_type)
        if node.op_type in _ELEMENTWISE and _is_onnx(node, opset):
            form = _elementwise
    if form is None:
        return [node]
    writer = _Writer(node, opset)
    form(writer)
    return writer.nodes if writer.complete else [node]


def _is_onnx(node: onnx.NodeProto, opset: int) -> bool:
    """False for the channel-last layout, and for attributes that mean something else in this operator set."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    if numbers.get("channels_last"):
        return False
    # Before operator set 13, the axis of Softmax divides a matrix.
    return node.op_type != "QLinearSoftmax" or bool((numbers.get("opset", opset) >= 13) == (opset >= 13))


class _Writer:
    """Collects the nodes that stand for one; ``complete`` is False if it lacks inputs."""

    def __init__(self, node: onnx.NodeProto, opset: int) -> None:
        self.node, self.opset = node, opset
        self.nodes: _Nodes = []
        self.complete = True

    def input(self, index: int) -> str:
        """A tensor's name; '' where it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attributes: int) -> str:
        """One more node; its result's name."""
        part = len(self.nodes)
        output = output or f"{self.node.output[0]}.{op}{part}"
        name = self.node.name and f"{self.node.name}.{op}{part}"
        self.nodes.append(helper.make_node(op, _without_end(inputs), [output], name=name, **attributes))
        return output

    def dequantised(self, first: int, *, axis: int | None = None) -> str:
        """Operand (tensor, scale, zero point) from input ``first`` on, as numbers."""
        tensor, scale, zero = (self.input(first + i) for i in range(3))
        self.complete = self.complete and bool(tensor and scale)
        if axis is None or self.opset < 13:
            return self.add("DequantizeLinear", [tensor, scale, zero])
        return self.add("DequantizeLinear", [tensor, scale, zero], axis=axis)

    def compute(self, op: str, inputs: Sequence[str], scale_at: int) -> None:
        """The operation itself, which keeps the node's name and attributes, and its result's codes."""
        scale, zero = self.input(scale_at), self.input(scale_at + 1)
        result = self.node.output[0]
        made = helper.make_node(
            op, _without_end(inputs), [f"{result}.values" if scale else result], name=self.node.name
        )
        made.attribute.extend(a for a in self.node.attribute if a.name not in _OWN_ATTRIBUTES)
        self.nodes.append(made)
        if scale:
            self.add("QuantizeLinear", [f"{result}.values", scale, zero], result)


def _without_end(inputs: Sequence[str]) -> list[str]:
    """Inputs without absent ones at the end."""
    names = list(inputs)
    while names and not names[-1]:
        names.pop()
    return names


def _elementwise(writer: _Writer) -> None:
    op, operands = _ELEMENTWISE[writer.node.op_type]
    values = [writer.dequantised(3 * i) for i in range(operands)]
    writer.complete = writer.complete and bool(writer.input(3 * operands))
    writer.compute(op, values, 3 * operands)


def _concat(writer: _Writer) -> None:
    """The result's scale and zero point come first."""
    values = [writer.dequantised(first) for first in range(2, len(writer.node.input), 3)]
    writer.complete = writer.complete and bool(values and writer.input(0))
    writer.compute("Concat", values, 0)


def _gemm(writer: _Writer) -> None:
    """The bias holds 32-bit codes in units of alpha * scale of A * scale of B; without a result's scale it is real."""
    numbers = dict(_numbers(writer.node))
    a = writer.dequantised(0)
    b = writer.dequantised(3, axis=0 if numbers.get("transB") else 1)
    bias = ""
    if writer.input(6):
        unit = writer.add("Mul", [writer.input(1), writer.input(4)])
        codes = writer.add("Cast", [writer.input(6)], to=TensorProto.FLOAT)
        bias = writer.add("Mul", [codes, unit])
    # Gemm multiplies the product alone by alpha.
    writer.complete = writer.complete and (not bias or numbers.get("alpha", 1.0) == 1.0)
    writer.compute("Gemm", [a, b, bias], 7)


def _numbers(node: onnx.NodeProto) -> Iterator[tuple[str, float]]:
    for attribute in node.attribute:
        yield attribute.name, attribute.f if attribute.type == onnx.AttributeProto.FLOAT else attribute.i
