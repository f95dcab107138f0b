"""Einsum with one stored operand, where the equation is one batched matrix product."""

from __future__ import annotations

import math

import numpy as np

from ...workloads.errors import InputError
from ...workloads.graph import Node
from .geometry import Convolution, Product
from .graph_products import Multiplier, PlanContext, PlannedOperator, checked
from .operators.call import Array, Inputs, given, text


def plan_einsum(node: Node, context: PlanContext) -> PlannedOperator:
    """Plan ``letters,letters->letters``.

    Letters fall into shared and kept (b), summed (k), the stored operand's own (n) and the moving one's own (m), each in
    the order of the stored operand (m: of the moving one).

    Raises
    ------
    InputError
        for an equation that is no matrix product of two operands.
    """
    operands, result = _terms(node)
    stored = context.stored_index(node, (1, 0))
    fixed, moving = operands[stored], operands[1 - stored]
    batch = [x for x in fixed if x in moving and x in result]
    summed = [x for x in fixed if x in moving and x not in result]
    rows = [x for x in fixed if x not in moving]
    columns = [x for x in moving if x not in fixed]
    if sorted(batch + rows + columns) != sorted(result) or len(set(moving)) != len(moving):
        raise InputError(f"node '{node.name}' (Einsum): {operands} -> {result} is not one matrix product")
    sizes = dict(zip(moving, context.shape(node, 1 - stored), strict=True))
    layer = node.layers[0]
    groups = math.prod(sizes[x] for x in batch)
    outputs, k = context.rows[layer]
    positions = math.prod(sizes[x] for x in columns)
    convolution = checked(Convolution(layer, groups * k, 1, positions, outputs, groups=groups), node, context)
    known = dict(zip(fixed, context.shape(node, stored), strict=True)) | sizes
    read = [moving.index(x) for x in (*batch, *summed, *columns)]
    made = [*batch, *rows, *columns]
    write = [made.index(x) for x in result]

    def compute(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x = given(inputs, node, 1 - stored)
        out = multiplier.multiply(layer, x.transpose(read).reshape(1, -1), multiplier.bias(layer))
        shaped = out.reshape([known[letter] for letter in made]).transpose(write)
        return (np.asarray(shaped, x.dtype),)

    return PlannedOperator(node=node, products={layer: Product(convolution)}, compute=compute)


def _terms(node: Node) -> tuple[list[str], str]:
    """Letters of the two operands, and of the result."""
    equation = text(node, "equation", "").replace(" ", "")
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    if len(operands) != 2 or "->" not in equation or "." in equation:
        raise InputError(f"node '{node.name}' (Einsum): equation '{equation}' is not a product of two operands")
    return operands, result
