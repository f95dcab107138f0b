"""The branch that an If takes whenever its condition does not depend on the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from .screening import DEFAULT_DOMAINS


def taken_branch(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> list[onnx.NodeProto] | None:
    """The operators that stand for ``node``; None if it is no If, its condition is not among ``constants``, or its branch
    brings weights of its own.

    Results inside the branch get names of their own: branches of different operators may use the same ones.
    """
    condition = constants.get(node.input[0]) if node.op_type == "If" and node.input else None
    if condition is None or condition.size != 1 or node.domain not in DEFAULT_DOMAINS:
        return None
    wanted = "then_branch" if condition.reshape(())[()] else "else_branch"
    graph = next((attribute.g for attribute in node.attribute if attribute.name == wanted), None)
    if graph is None or graph.initializer or graph.sparse_initializer or len(graph.output) != len(node.output):
        return None
    made = {name for inner in graph.node for name in inner.output if name}
    names = {name: f"{node.output[0]}/{name}" for name in made}
    nodes = [_renamed(inner, names) for inner in graph.node]
    for inner, outer in zip(graph.output, node.output, strict=True):
        if outer:
            nodes.append(helper.make_node("Identity", [names.get(inner.name, inner.name)], [outer]))
    return nodes


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy with other tensor names, in its sub-graphs, too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for field in (copy.input, copy.output):
        field[:] = [names.get(name, name) for name in field]
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            inner = [_renamed(below, names) for below in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for result in attribute.g.output:
                result.name = names.get(result.name, result.name)
    return copy
