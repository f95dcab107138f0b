"""The planner of imported graphs: which code runs each node, and when each tensor is no longer needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...workloads.errors import InputError
from ...workloads.graph import Graph, Node
from ...workloads.layers import DYNAMIC_OPS
from ...workloads.network import Network
from .geometry import Product
from .graph_einsum import plan_einsum
from .graph_products import (
    Compute,
    Multiplier,
    PlanContext,
    PlannedOperator,
    plan_conv,
    plan_dynamic,
    plan_gemm,
    plan_matmul,
    plan_transposed,
)
from .graph_recurrent import plan_recurrent
from .operators import OPERATORS, operator_for
from .operators.call import Array, Inputs, Operator, integer, text
from .operators.fallback import available

_Planner = Callable[[Node, PlanContext], PlannedOperator]
#: Operators that may have stored weights, name -> planner.
STORED: Mapping[str, _Planner] = {
    "Conv": plan_conv, "ConvInteger": plan_conv, "QLinearConv": plan_conv, "ConvTranspose": plan_transposed,
    "Gemm": plan_gemm, "MatMul": plan_matmul, "MatMulInteger": plan_matmul, "QLinearMatMul": plan_matmul,
    "Einsum": plan_einsum, "LSTM": plan_recurrent, "GRU": plan_recurrent, "RNN": plan_recurrent,
}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphStep:
    """One node, ready to run. ``finished``: tensors that no later node reads."""

    node: Node
    compute: Compute
    finished: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphPlan:
    """``products``: what each layer's weights multiply. ``dynamic``: matrix products without stored weights, their first
    operand seen as the input (for statistics only). ``dynamic_macs``: products of two activations, by node name.
    ``fallbacks``: operators that the ``onnx`` package's reference computes, with their counts."""

    steps: tuple[GraphStep, ...]
    products: Mapping[str, Product]
    dynamic: Mapping[str, Product]
    dynamic_macs: Mapping[str, int]
    fallbacks: Mapping[str, int]


def plan_graph(network: Network, graph: Graph) -> GraphPlan:
    """Plan the execution of a network's graph.

    Raises
    ------
    InputError
        listing every operator that cannot be computed, with its count, and every node whose weights or shapes do not
        fit.
    """
    if graph.absent:
        raise InputError(
            f"network '{network.name}' cannot be executed: no values for {', '.join(sorted(graph.absent))}"
        )
    context = PlanContext(
        graph=graph,
        rows={layer: _rows(network, layer) for layer in network.weights},
        dynamic=frozenset(layer.name for layer in network.layers if layer.op in DYNAMIC_OPS),
    )
    found = [_planned(node, context) for node in graph.nodes]
    missing = Counter(operator for operator in found if isinstance(operator, str))
    problems = [problem for operator in found if isinstance(operator, InputError) for problem in operator.problems]
    planned = [operator for operator in found if isinstance(operator, PlannedOperator)]
    products = {name: product for operator in planned for name, product in operator.products.items()}
    problems += _missing(missing) + ([] if problems else _idle(network, products))
    if problems:
        raise InputError([f"network '{network.name}' cannot be executed: {problem}" for problem in problems])
    return GraphPlan(
        steps=tuple(
            GraphStep(node=operator.node, compute=operator.compute, finished=done)
            for operator, done in zip(planned, _last_reads(graph), strict=True)
        ),
        products={name: product for name, product in products.items() if name in network.weights},
        dynamic={name: product for name, product in products.items() if name not in network.weights},
        dynamic_macs=_dynamic_macs(network, graph),
        fallbacks=Counter(operator.node.op for operator in planned if operator.fallback),
    )


def _planned(node: Node, context: PlanContext) -> PlannedOperator | InputError | str:
    """The operator; or what is wrong with it, or the name of one that nobody knows."""
    if node.layers:
        try:
            return _plan_stored(node, context)
        except InputError as error:
            return error
    opset = context.graph.opset
    operator = operator_for(node, opset)
    if operator is None:
        return f"{node.domain}.{node.op}" if node.domain else node.op
    plain = PlannedOperator(
        node=node,
        products={},
        compute=_plain(operator, node, opset),
        fallback=operator is not OPERATORS.get(node.op),
    )
    return plan_dynamic(plain, context) if node.op == "MatMul" and node.name in context.dynamic else plain


def _rows(network: Network, layer: str) -> tuple[int, int]:
    shape = network.weights[layer].shape
    return shape[0], int(np.prod(shape[1:]))


def _plan_stored(node: Node, context: PlanContext) -> PlannedOperator:
    unknown = [name for name in node.layers if name not in context.rows]
    if unknown:
        raise InputError(f"node '{node.name}' ({node.op}): no weights for layer '{unknown[0]}'")
    if node.op not in STORED or node.domain not in {"", "ai.onnx"}:
        raise InputError(
            f"node '{node.name}' ({node.op}): products with stored weights are supported in {', '.join(sorted(STORED))}"
        )
    return STORED[node.op](node, context)


def _plain(operator: Operator, node: Node, opset: int) -> Compute:
    def compute(inputs: Inputs, _: Multiplier) -> tuple[Array, ...]:
        return operator(inputs, node, opset)

    return compute


def _missing(missing: Mapping[str, int]) -> list[str]:
    if not missing:
        return []
    names = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
    hint = "" if available() else "; with the extra 'onnx' installed more operators are known"
    return [f"operators that cannot be computed, with their counts: {names}{hint}"]


def _idle(network: Network, products: Mapping[str, Product]) -> list[str]:
    weighted = [layer.name for layer in network.layers if layer.has_weights]
    return [
        f"layer '{name}' has weights, but no node of the graph uses them" for name in weighted if name not in products
    ]


def _last_reads(graph: Graph) -> list[tuple[str, ...]]:
    """Per node the tensors that are read or produced there for the last time; outputs of the graph never end."""
    held = {"", *graph.constants, *graph.outputs}
    finished: list[tuple[str, ...]] = []
    for node in reversed(graph.nodes):
        names = dict.fromkeys((*node.inputs, *node.outputs))
        finished.append(tuple(name for name in names if name not in held))
        held.update(names)
    return finished[::-1]


def _dynamic_macs(network: Network, graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of the products of two activations that are layers, from the shapes of their operands."""
    layers = [layer.name for layer in network.layers if layer.op in DYNAMIC_OPS]
    found = {}
    for node in graph.nodes:
        shapes = [graph.shapes.get(name, ()) for name in (*node.inputs, node.outputs[0])]
        # Attention is two layers: scores and context.
        is_layer = any(name == node.name or name.startswith(f"{node.name}.") for name in layers)
        if is_layer and not node.layers and node.op in _COUNTERS:
            found[node.name] = _COUNTERS[node.op](node, shapes)
    return found


_Shapes = list[tuple[int, ...]]


def _matrix_macs(node: Node, shapes: _Shapes) -> int:
    k = shapes[0][0 if node.op == "Gemm" and integer(node, "transA", 0) else -1]
    return math.prod(shapes[-1]) * k


def _einsum_macs(node: Node, shapes: _Shapes) -> int:
    """One per combination of all letters."""
    terms = text(node, "equation", "").replace(" ", "").split("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=False)
        for letter, size in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


def _attention_macs(node: Node, shapes: _Shapes) -> int:
    """Scores (queries x keys) and context (scores x values); operands (batch, heads, tokens, features) or packed."""
    q, k, v = shapes[:3]
    past = shapes[4][2] if len(node.inputs) > 4 and node.inputs[4] else 0
    seen = k[-2] + past
    groups = (q[1] // v[1]) if len(q) == 4 else integer(node, "q_num_heads", 1) // integer(node, "kv_num_heads", 1)
    return q[-2] * seen * (math.prod(q) // q[-2] + groups * (math.prod(v) // v[-2]))


_COUNTERS: Mapping[str, Callable[[Node, _Shapes], int]] = {
    "MatMul": _matrix_macs, "Gemm": _matrix_macs, "MatMulInteger": _matrix_macs, "QLinearMatMul": _matrix_macs,
    "Einsum": _einsum_macs, "Attention": _attention_macs,
}  # fmt: skip
