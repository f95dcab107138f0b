"""Normalisation folded away: scale and shift per channel become part of the weights and bias in front of them.

y = s·(W·x + b) + t = (s·W)·x + (s·b + t), with s = gamma / sqrt(variance + epsilon) and t = beta − s·mean of a batch
normalisation (Ioffe and Szegedy, 2015, algorithm 2), or a constant factor and summand per channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from .draft import Array, Draft, Shape, whole

#: Operators that take a scale and shift in, by the position of their weights and of their bias.
_TAKERS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "BatchNormalization": (1, 2)}
_EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class _Affine:
    """``scale`` and ``shift``: float64 per channel (n,). ``present``: False where the file lacks the values."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    present: bool


def fold_affine(draft: Draft) -> int:
    """Fold every scale and shift whose only source is a product with stored weights; returns how many were folded.

    A tensor that something else reads, too, stays as it is.
    """
    readers = draft.readers()
    at: dict[str, int] = {}
    kept: list[Node] = []
    for node in draft.nodes:
        source = _varying_input(draft, node)
        taker = kept[at[source]] if source in at and readers[source] == 1 else None
        affine = _affine(draft, node, source) if taker is not None and taker.op in _TAKERS else None
        with np.errstate(all="ignore"):  # what overflows is refused with the weights
            folded = _fold(draft, taker, affine) if taker is not None and affine is not None else None
        if folded is not None:
            kept[at[source]] = replace(folded, outputs=(node.outputs[0], *folded.outputs[1:]))
            at[node.outputs[0]] = at[source]
            continue
        at.update(dict.fromkeys(node.outputs, len(kept)))
        kept.append(node)
    count = len(draft.nodes) - len(kept)
    draft.nodes = kept
    draft.drop_unread()
    return count


def _varying_input(draft: Draft, node: Node) -> str:
    """The only input that is no constant; empty where there are several."""
    varying = [name for name in node.inputs if name and not draft.is_constant(name)]
    return varying[0] if len(varying) == 1 else ""


def _value(draft: Draft, name: str) -> tuple[NDArray[np.float64], bool]:
    """A constant's values, or ones where the file lacks them, and whether they are there."""
    value = draft.constants.get(name)
    if value is None:
        return np.ones(draft.absent[name][0]), False
    return np.asarray(value, np.float64), True


def _affine(draft: Draft, node: Node, source: str) -> _Affine | None:
    """The node as scale and shift per channel of its input, or None if it is anything else."""
    shape = draft.shapes.get(source)
    if shape is None or len(shape) < 2 or node.domain or draft.shapes.get(node.outputs[0]) != shape:
        return None
    if node.op == "BatchNormalization":
        return _batch_norm(draft, node)
    if node.op in ("Mul", "Add") or (node.op in ("Div", "Sub") and node.inputs[0] == source):
        return _arithmetic(draft, node, source)
    return None


def _arithmetic(draft: Draft, node: Node, source: str) -> _Affine | None:
    """A constant factor or summand per channel (axis 1)."""
    shape = draft.shapes[source]
    values, present = _value(draft, node.inputs[1] if node.inputs[0] == source else node.inputs[0])
    per_channel = _per_channel(values, len(shape), shape[1])
    if per_channel is None:
        return None
    if node.op in ("Add", "Sub"):
        return _Affine(np.ones(shape[1]), per_channel if node.op == "Add" else -per_channel, present)
    with np.errstate(divide="ignore"):  # a factor that is not finite is not folded
        return _Affine(per_channel if node.op == "Mul" else 1 / per_channel, np.zeros(shape[1]), present)


def _batch_norm(draft: Draft, node: Node) -> _Affine | None:
    if any(node.outputs[1:]) or whole(node, "training_mode", 0):
        return None
    parts = [_value(draft, name) for name in node.inputs[1:5]]
    gamma, beta, mean, variance = (values.reshape(-1) for values, _ in parts)
    epsilon = node.attributes.get("epsilon", _EPSILON)
    assert isinstance(epsilon, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
    return _Affine(scale, beta - scale * mean, all(present for _, present in parts))


def _per_channel(values: NDArray[np.float64], rank: int, channels: int) -> NDArray[np.float64] | None:
    """Values that broadcast along axis 1 of a tensor of ``rank`` axes, as (channels,); None for any other shape."""
    if values.ndim > rank:
        return None
    aligned = values.reshape((1,) * (rank - values.ndim) + values.shape)
    if aligned.size not in (1, channels) or aligned.shape[1] != aligned.size:
        return None
    return np.broadcast_to(aligned.reshape(-1), (channels,))


def _fold(draft: Draft, node: Node, affine: _Affine) -> Node | None:
    """``node`` with the scale and shift in its constants; None where they are no constants or not finite."""
    weight_at, bias_at = _TAKERS[node.op]
    inputs = [*node.inputs, *[""] * (bias_at + 1 - len(node.inputs))]
    weight, bias = inputs[weight_at], inputs[bias_at]
    finite = np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()
    if not finite or not draft.is_constant(weight) or (bias and not draft.is_constant(bias)):
        return None
    if draft.dtypes[weight].kind != "f" or (node.op == "BatchNormalization" and whole(node, "training_mode", 0)):
        return None
    attributes = dict(node.attributes)
    bias_scale = 1.0
    if node.op == "Gemm":
        beta = attributes.get("beta", 1.0)
        if not bias or not beta:
            bias, attributes["beta"] = "", 1.0
        else:
            assert isinstance(beta, float)
            bias_scale = beta
    inputs[weight_at] = _scaled(draft, node, weight, affine)
    inputs[bias_at] = _shifted(draft, node, bias, affine=affine, bias_scale=bias_scale, like=weight)
    return replace(node, inputs=tuple(inputs), attributes=attributes)


def _scaled(draft: Draft, node: Node, name: str, affine: _Affine) -> str:
    if (affine.scale == 1).all() and affine.present:
        return name
    weights, result = draft.constants.get(name), f"{node.name}.scaled_weight"
    if weights is None or not affine.present:
        return _absent(draft, result, draft.shapes[name], like=name)
    dtype = np.float64 if weights.dtype == np.float64 else np.float32
    values: NDArray[np.floating] = weights.astype(dtype, copy=False)
    scale: NDArray[np.floating] = affine.scale.astype(dtype)
    if node.op == "ConvTranspose":
        groups = whole(node, "group", 1)
        split = values.reshape(groups, -1, *values.shape[1:])
        along = scale.reshape(groups, 1, -1, *[1] * (values.ndim - 2))
        return _present(
            draft, result, (split * along).reshape(values.shape).astype(weights.dtype, copy=False), like=name
        )
    rows = node.op in ("Conv", "BatchNormalization") or whole(node, "transB", 0)
    along = scale.reshape(-1, *[1] * (values.ndim - 1)) if rows else scale
    return _present(draft, result, (values * along).astype(weights.dtype, copy=False), like=name)


def _shifted(draft: Draft, node: Node, name: str, *, affine: _Affine, bias_scale: float, like: str) -> str:
    """The constant s·b + t, divided by Gemm's ``beta``."""
    result = f"{node.name}.shifted_bias"
    values, present = _value(draft, name) if name else (np.zeros(1), True)
    if not present or not affine.present:
        return _absent(draft, result, affine.shift.shape, like=like)
    return _present(
        draft, result, (values * affine.scale + affine.shift / bias_scale).astype(draft.dtypes[like]), like=like
    )


def _present(draft: Draft, name: str, values: Array, *, like: str) -> str:
    draft.add_constant(name, values)
    if like in draft.integer_bits:
        draft.integer_bits[name] = draft.integer_bits[like]
    return name


def _absent(draft: Draft, name: str, shape: Shape, *, like: str) -> str:
    draft.constants.pop(name, None)
    draft.absent[name] = shape, draft.dtypes[like]
    draft.shapes[name], draft.dtypes[name] = draft.absent[name]
    return name
