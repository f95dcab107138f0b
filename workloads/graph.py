"""The executable form of an imported network: ONNX operators, their constants, and which of them are layers.

``Network.layers`` says what hardware sees; the graph says what is computed, down to the last reshape. Both share the
weights: a node whose product has stored weights names its layer, and the values come from ``Network.weights``. Such an
operand is called ``operand_name(layer)`` in the graph (W and R of a recurrent operator: of the first direction's layers)
and never stands among the constants, even if the file uses the tensor elsewhere, too; ``shapes`` has its shape.

How ``Network.weights[layer]`` relates to the ONNX operand (rows are outputs, columns the reduction; any shape with these
rows and columns in C order):

* Conv: the operand itself, (K, C/groups, kernel...); a Conv of one dimension counts the same.
* ConvTranspose, operand (C, M/groups, R, S): a product with b = groups, m = H*W input positions, n = M/groups*R*S and
  k = C/groups; rows run over (group, M/groups, R, S), columns over the group's input channels.
* Gemm: rows are output features, so the operand if ``transB`` is 1, its transpose otherwise.
* MatMul, stored second operand (..., k, n): rows run over (batch, n), columns over k. Stored first operand (..., n, k):
  the operand itself.
* LSTM, GRU, RNN: the matrices of one direction, rows in ONNX's gate order.
* QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger: as their float namesakes; values are the codes minus their
  zero point (integers), scales and zero points stay in ``constants``.
* Einsum: rows over the letters that are shared and kept, then the operand's own; columns over the summed ones; letters
  in the operand's order.

``Network.biases[layer]`` replaces the node's own bias operand (for Gemm after alpha and beta); an operator without one
adds it along its outputs. A node with stored weights needs ``shapes`` of the activation it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

#: What an ONNX attribute may hold here; sub-graphs (If, Loop, Scan) are refused by the importer.
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | NDArray[np.generic]


def operand_name(layer: str) -> str:
    """What a graph calls the operand whose values are ``layer``'s weights."""
    return f"weights:{layer}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operator with ONNX semantics at the graph's opset.

    ``inputs``: tensor names, empty where an optional input is absent. ``layers``: the network's layers that stand for
    this node's products, in the order of its weight operands (one for Conv, Gemm and MatMul; two, input and recurrent,
    per direction for LSTM and GRU; none for operators without stored weights).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """Nodes in topological order.

    ``inputs``: name -> (shape, dtype) of the tensors a caller gives, batch dimension included; ``constants``: every
    tensor that does not depend on them, except the weights that ``Network.weights`` holds; ``shapes``: of every tensor
    that is known, weight operands included. ``absent``: constants whose values the files did not hold; a graph that has
    some, or a network without weights, cannot be executed.

    Raises
    ------
    InputError
        if a node reads a tensor that nothing before it produces, or an output does not exist.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[np.generic]]
    shapes: Mapping[str, tuple[int, ...]]
    opset: int
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        known = {"", *self.inputs, *self.constants, *self.absent}
        problems = []
        for node in self.nodes:
            weights = set(node.inputs) - known if node.layers else set()
            missing = set(node.inputs) - known - weights
            problems += [
                f"node '{node.name}' ({node.op}) reads '{name}', which nothing produces" for name in sorted(missing)
            ]
            known.update(node.outputs)
        problems += [f"output '{name}' is not produced" for name in self.outputs if name not in known]
        if problems:
            raise InputError(problems)
