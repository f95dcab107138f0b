"""Convolutions, matrix products and attention as product layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from .levels import ExportError
from .nodes import operation, shape
from .walk import Value, Walk
from .windows import Window, single_window


def product(
    walk: Walk,
    node: Node,
    x: Value,
    *,
    name: str,
    gemm: tuple[int, int, int, int],
    weight: Sequence[torch.Tensor] | None,
    bias: Sequence[torch.Tensor] | None = None,
    op: str = "linear",
    **fields: Any,
) -> Value:
    """A matrix product (b, m, n, k) of ``x`` with stored weights, or without ``weight`` of all the node's inputs."""
    b, _, n, k = gemm
    sizes = {"C": k, "H": 1, "W": 1, "K": n, "P": 1, "Q": 1, "gemm": list(gemm), **fields}
    if weight is None:
        return walk.add(node, "matmul", name=name, **{"inputs": walk.inputs(node), "join": "*", **sizes})
    value = walk.add(node, op, name=name, inputs=[x], **sizes)
    assert value.owner is not None
    fits = bias is not None and bias[0].numel() == sizes["K"]
    walk.store(value.owner, [w.reshape(b * n, k) for w in weight], bias if fits else None)
    return value


def convolution(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Convolutions of one to three dimensions.

    What a layer cannot state (sides that differ in stride, three dimensions, transposed convolutions) becomes the matrix
    product that it is; padding that differs by side becomes a data layer of its own.
    """
    x, axes = args["input"], len(shape(args["weight"])) - 2
    runs = shape(x)[0] if len(shape(x)) == axes + 2 else 1
    if runs > 1 and walk.batch != 1:
        raise ExportError(f"the example input is a batch of {runs}; give one input (nestling counts at batch 1)")
    transposed = "transpose" in operation(node) or bool(args.get("transposed"))
    stored = args["weight"] in walk.constants
    window = single_window(node, args) if stored and not transposed and axes < 3 else None
    if window is None:
        value = _matrix_convolution(walk, node, args, transposed=transposed, runs=runs)
    else:
        value = _window_convolution(walk, node, args, window=window, runs=runs)
    if stored and value.owner is not None:
        walk.watched[node] = (value.owner, x)
    return value


def _window_convolution(walk: Walk, node: Node, args: dict[str, Any], *, window: Window, runs: int) -> Value:
    weight = walk.constants[args["weight"]]
    K, per_group = weight[0].shape[:2]
    groups = int(args["groups"])
    C, name = per_group * groups, walk.name_of(args["weight"], node.name)
    sizes, value = window._asdict(), walk.values[args["input"]]
    if explicit := sizes.pop("explicit"):
        padded = {"K": C, "P": window.H, "Q": window.W, "notes": f"padding: {explicit}"}
        value = walk.add(node, "pad", name=f"{name}.pad", **padded)._replace(rectified=value.rectified)
    op = "dwconv" if groups == C and groups > 1 else "conv"
    result = walk.add(node, op, name=name, inputs=[value], C=C, K=K, groups=groups, repeat=runs, **sizes)
    assert result.owner is not None
    natural = [w.reshape(K, per_group, window.R, window.S) for w in weight]
    walk.store(result.owner, natural, walk.constants.get(args["bias"]))
    return result


def _matrix_convolution(walk: Walk, node: Node, args: dict[str, Any], *, transposed: bool, runs: int) -> Value:
    """One product per group: outputs = positions x (C/g*R*S) x (K/g); transposed, positions of the *input*."""
    weight, kernel, groups = walk.constants.get(args["weight"]), shape(args["weight"]), int(args["groups"])
    axes = len(kernel) - 2
    if transposed:
        m, n, k = math.prod(shape(args["input"])[-axes:]), math.prod(kernel[1:]), kernel[0] // groups
        weight = None if weight is None else [_columns(w, groups) for w in weight]
    else:
        m, n, k = math.prod(shape(node)[-axes:]), kernel[0] // groups, math.prod(kernel[1:])
    return product(
        walk, node, walk.values[args["input"]], name=walk.name_of(args["weight"], node.name), gemm=(groups, m, n, k),
        weight=weight, bias=walk.constants.get(args["bias"]), K=shape(node)[-axes - 1], repeat=runs,
        notes=f"{operation(node)} as a matrix product",
    )  # fmt: skip


def _columns(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Weights (C, K/g, R, S) of a transposed convolution as the rows (g * K/g*R*S, C/g) of its product."""
    per_group = weight.shape[0] // groups
    return weight.reshape(groups, per_group, -1).transpose(1, 2).reshape(-1, per_group)


def linear(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """x (..., k) times the transpose of a weight (n, k), plus a bias (n)."""
    x, weight = args["input"], walk.constants.get(args["weight"])
    n, k = shape(args["weight"])[0], shape(args["weight"])[-1]
    value = product(
        walk, node, walk.values[x], name=walk.name_of(args["weight"], node.name), weight=weight,
        gemm=(1, math.prod(shape(x)) // k, n, k), bias=walk.constants.get(args["bias"]),
    )  # fmt: skip
    if weight is not None and value.owner is not None:
        walk.watched[node] = (value.owner, x)
    return value


def matmul(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """mm, bmm, matmul, addmm, baddbmm: stored weights on either side, or two activations."""
    sums = operation(node) in {"addmm", "baddbmm"}
    first, second = ([v for key, v in args.items() if isinstance(v, Node)])[-2:]
    a, b = shape(first), shape(second)
    m, k, n = (a[-2] if len(a) > 1 else 1), a[-1], (b[-1] if len(b) > 1 else 1)
    batch = math.prod(shape(node)) // (m * n)
    bias = walk.constants.get(args["self"]) if sums and args["beta"] == args["alpha"] == 1 else None
    fields: dict[str, Any] = (
        {"bias": bias} if not sums or bias else {"notes": "a scaled or dynamic sum joins the product"}
    )
    if second in walk.constants:
        name = walk.name_of(second, node.name)
        if len(b) <= 2:
            gemm, weight = (1, batch * m, n, k), [w.reshape(k, n).T for w in walk.constants[second]]
        else:
            gemm = (batch, m, n, k)
            weight = [w.expand(*shape(node)[:-2], k, n).transpose(-1, -2) for w in walk.constants[second]]
        value = product(walk, node, walk.values[first], name=name, gemm=gemm, weight=weight, **fields)
        assert value.owner is not None
        walk.watched[node] = (value.owner, first)
        return value
    if first in walk.constants and len(a) <= 2:  # weights on the left: the other operand is read by columns
        turned = walk.add(
            node, "rearrange", name=f"{node.name}.transpose", inputs=[walk.values[second]], notes="transpose"
        )
        weight = [w.reshape(m, k) for w in walk.constants[first]]
        return product(
            walk, node, turned, name=walk.name_of(first, node.name), gemm=(1, batch * n, m, k), weight=weight
        )
    return product(walk, node, walk.inputs(node)[0], name=node.name, gemm=(batch, m, n, k), weight=None)


def attention(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Scaled dot-product attention: queries times keys, softmax, scores times values."""
    query, key, value = (args[name] for name in ("query", "key", "value"))
    heads, queries, width = math.prod(shape(query)[:-2]), shape(query)[-2], shape(query)[-1]
    keys, out = shape(key)[-2], shape(value)[-1]
    read = [walk.values[n] if n in walk.values else Value(()) for n in (query, key, value)]
    scores = product(
        walk, node, read[0], name=f"{node.name}.qk", gemm=(heads, queries, keys, width), weight=None, inputs=read[:2]
    )
    sizes = dict(zip("CHWKPQ", (heads, queries, keys) * 2, strict=True))
    weights = walk.add(node, "softmax", name=f"{node.name}.softmax", inputs=[scores], notes="softmax", **sizes)
    return product(
        walk, node, weights, name=f"{node.name}.av", gemm=(heads, queries, out, keys), weight=None,
        inputs=[weights, read[2]],
    )  # fmt: skip
