"""A graph while it is being rewritten: evaluated, folded, turned into layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, numpy_helper

from ..errors import InputError
from ..graph import Attribute, Node

Array = NDArray[np.generic]
Shape = tuple[int, ...]
Dtype = np.dtype[np.generic]


@dataclass(eq=False, kw_only=True)
class Draft:
    """``constants``: known values; ``absent``: shape and type of constants whose file is missing; ``shapes`` and
    ``dtypes``: of every tensor whose shape is known; ``hidden_reads``: tensors that sub-graphs of nodes read;
    ``opaque``: names of nodes with sub-graphs; ``integer_bits``: width of constants that the file stores as integers."""

    opset: int
    inputs: dict[str, tuple[Shape, Dtype]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    absent: dict[str, tuple[Shape, Dtype]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, Dtype] = field(default_factory=dict)
    hidden_reads: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    integer_bits: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def is_constant(self, name: str) -> bool:
        """True for a tensor that no input changes, whether or not its values are at hand."""
        return name in self.constants or name in self.absent

    def add_constant(self, name: str, value: Array) -> None:
        self.constants[name] = value
        self.shapes[name], self.dtypes[name] = value.shape, value.dtype

    def readers(self) -> Counter[str]:
        """How often each tensor is read, by nodes, sub-graphs and as an output of the graph."""
        counts = Counter(name for node in self.nodes for name in node.inputs if name)
        counts.update(self.outputs)
        counts.update(self.hidden_reads)
        return counts

    def drop_unread(self) -> None:
        """Remove nodes whose results nobody reads, then constants and shapes that no node mentions."""
        needed = {*self.outputs, *self.hidden_reads}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]
        mentioned = needed | {name for node in self.nodes for name in node.outputs} | set(self.inputs)
        for mapping in (self.constants, self.absent, self.shapes, self.dtypes):
            for name in [name for name in mapping if name not in mentioned]:
                del mapping[name]


def to_node(proto: onnx.NodeProto, name: str) -> Node:
    """The node in our form; sub-graphs are left out."""
    attributes = {}
    for attribute in proto.attribute:
        value = _attribute(attribute, f"node '{name}' ({proto.op_type}): {attribute.name}")
        if value is not None:
            attributes[attribute.name] = value
    return Node(
        name=name,
        op=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        domain="" if proto.domain == "ai.onnx" else proto.domain,
        attributes=attributes,
    )


def _attribute(attribute: AttributeProto, where: str) -> Attribute | None:
    kinds = AttributeProto
    try:
        if attribute.type == kinds.TENSOR:
            return np.asarray(numpy_helper.to_array(attribute.t))
        if attribute.type == kinds.STRING:
            return str(attribute.s.decode())
        if attribute.type == kinds.STRINGS:
            return tuple(text.decode() for text in attribute.strings)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where} is not readable ({error})") from None
    plain: dict[int, Attribute] = {
        kinds.INT: int(attribute.i),
        kinds.FLOAT: float(attribute.f),
        kinds.INTS: tuple(int(x) for x in attribute.ints),
        kinds.FLOATS: tuple(float(x) for x in attribute.floats),
    }
    return plain.get(attribute.type)


def whole(node: Node, name: str, default: int) -> int:
    """An integer attribute."""
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise InputError(f"node '{node.name}' ({node.op}): {name} must be a whole number")
    return value


def wholes(node: Node, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """An attribute that lists integers."""
    value = node.attributes.get(name, default)
    if not isinstance(value, tuple) or not all(isinstance(x, int) for x in value):
        raise InputError(f"node '{node.name}' ({node.op}): {name} must be a list of whole numbers")
    return tuple(int(x) for x in value)
