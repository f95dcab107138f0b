"""What each PyTorch operator becomes: activations, normalisation, sums and pools here; products in their own modules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from .nodes import grid, operation, shape
from .products import attention, convolution, linear, matmul
from .recurrence import recurrent
from .walk import Handler, Value, Walk
from .windows import single_window

_RECTIFIERS = frozenset({"relu", "relu6"})


def activation(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """An activation joins the layer in front of it where that layer's output goes nowhere else."""
    name = _activation_name(node, args)
    if name is None:
        return None
    x = node.all_input_nodes[0]
    value = walk.values[x]
    owner = value.owner if len(x.users) == 1 else None
    if owner is None or owner.get("activation", "none") != "none":
        owner = walk.add(node, "add").owner
        assert owner is not None
    owner["activation"] = name
    return Value((owner["name"],), rectified=name in _RECTIFIERS, owner=owner)


def _activation_name(node: Node, args: dict[str, Any]) -> str | None:
    name = operation(node)
    if name in {"hardtanh", "clamp", "clamp_min"}:
        low, high = args.get("min_val", args.get("min")), args.get("max_val", args.get("max"))
        return ("relu6" if high == 6 else "relu" if high is None else None) if low == 0 else None
    if name == "gelu":
        return "gelu" if args["approximate"] == "none" else None
    if name == "elu":
        return "elu" if (args["alpha"], args["scale"], args["input_scale"]) == (1, 1, 1) else None
    return name


def batch_norm(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Folded into the weights in front of it: w' = w*s, b' = (b - mean)*s + shift, s = scale / sqrt(variance + epsilon)
    (Ioffe and Szegedy, arXiv 1502.03167, at inference); a layer of its own where something stands between."""
    x = args["input"]
    value = walk.values[x]
    sets = [walk.constants.get(args[key]) for key in ("running_mean", "running_var", "weight", "bias")]
    channels = shape(x)[1]
    norm_params = sum(channels for values in sets[2:] if values is not None)
    owner = value.owner if len(x.users) == 1 else None
    if owner is None or sets[0] is None or sets[1] is None or not _takes_norm(walk, owner, channels):
        return walk.add(node, "bn", name=walk.name_of(args["weight"], node.name), norm_params=norm_params)
    name = owner["name"]
    before = walk.biases.get(name, [torch.zeros(channels)] * len(walk.states))
    weights, biases = [], []
    for level, weight in enumerate(walk.weights[name]):
        mean, variance, scale, shift = (None if values is None else values[level] for values in sets)
        factor = torch.rsqrt(variance + args["eps"]) * (1.0 if scale is None else scale)
        weights.append(weight * factor.reshape(-1, *[1] * (weight.dim() - 1)))
        biases.append((before[level] - mean) * factor + (0.0 if shift is None else shift))
    walk.weights[name], walk.biases[name] = weights, biases
    owner["norm_params"] = norm_params
    return value


def _takes_norm(walk: Walk, layer: dict[str, Any], channels: int) -> bool:
    """True if a layer's weights have one row per normalised channel and nothing stands behind them yet."""
    rows = walk.weights.get(layer["name"], [torch.zeros(0)])[0].shape[0]
    vector = layer["op"] != "linear" or layer["gemm"][1] == 1 or "matrix product" in layer.get("notes", "")
    return vector and rows == channels and layer.get("activation", "none") == "none"


def layer_norm(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Normalisation of rows of features."""
    width = math.prod(args["normalized_shape"])
    count = sum(width for key in ("weight", "bias") if args[key] is not None)
    rows = math.prod(shape(args["input"])) // width
    sizes: dict[str, Any] = dict(zip("CHWKPQ", (width, rows, 1) * 2, strict=True))
    return walk.add(node, "layernorm", name=walk.name_of(args["weight"], node.name), norm_params=count, **sizes)


def embedding(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """A table lookup."""
    entries, width = shape(args["weight"])
    rows = math.prod(shape(args["indices"]))
    value = walk.add(
        node, "embed", name=walk.name_of(args["weight"], node.name), inputs=walk.inputs(node), C=entries, H=1, W=1,
        K=width, P=rows, Q=1,
    )  # fmt: skip
    table = walk.constants.get(args["weight"])
    if table is not None and value.owner is not None:
        value.owner["weight_params"] = walk.owned(table[0], value.owner)
    return value


def add_or_multiply(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Sums of equal tensors; products of equal tensors or of an image with one factor per channel."""
    x, y = args["self"], args["other"]
    if x not in walk.values or y not in walk.values or args.get("alpha", 1) != 1:
        return None
    op, grids = operation(node), (grid(shape(x)), grid(shape(y)))
    out = grid(shape(node))
    allowed = {out} if op == "add" else {out, (out[0], 1, 1)}
    if not set(grids) <= allowed:
        return None
    sizes: dict[str, Any] = dict(zip("CHWKPQ", out * 2, strict=True))
    inputs = [walk.values[x], walk.values[y]]
    value = walk.add(node, op, inputs=inputs, join="*" if op == "mul" else "+", **sizes)
    return value._replace(rectified=op == "add" and all(read.rectified for read in inputs))


def concatenate(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Images side by side along the channels."""
    parts, axis = args["tensors"], args["dim"] % max(1, len(shape(node)))
    if any(part not in walk.values for part in parts) or axis != 1 or shape(node)[0] != 1:
        return None
    inputs = [walk.values[part] for part in parts]
    sizes: dict[str, Any] = dict(zip("CHW", grid(shape(node)), strict=True))
    value = walk.add(node, "concat", inputs=inputs, join="|", **sizes)
    return value._replace(rectified=all(read.rectified for read in inputs))


def pool(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Maximum and mean over windows with one stride and padding; others are data movement."""
    mean = "avg" in operation(node)
    if mean and (args.get("divisor_override") or (not args.get("count_include_pad", True) and any(args["padding"]))):
        return None
    window = single_window(node, args)
    if window is None or window.explicit:
        return None
    sizes = window._asdict()
    del sizes["explicit"]
    return _pooled(walk, node, "avgpool" if mean else "maxpool", sizes)


def _pooled(walk: Walk, node: Node, op: str, sizes: dict[str, Any]) -> Value:
    x = node.all_input_nodes[0]
    C = grid(shape(x))[0]
    value = walk.add(node, op, C=C, K=C, groups=C, **sizes)
    return value._replace(rectified=walk.values[x].rectified)


def adaptive_pool(walk: Walk, node: Node, args: dict[str, Any]) -> Value | None:
    """Means or maxima to a given size, where the windows are equal; the mean over an image is the case 1 x 1."""
    x = node.all_input_nodes[0]
    (_, H, W), rank = grid(shape(x)), len(shape(x))
    if operation(node) == "mean":
        axes = sorted(axis % rank for axis in args["dim"] or ())
        if rank != 4 or axes != [2, 3] or shape(x)[0] != 1:
            return None
        P = Q = 1
    else:
        _, P, Q = grid(shape(node))
    if H % P or W % Q or (P * Q > 1 and H // P != W // Q):
        return None
    op = "maxpool" if "max" in operation(node) else "avgpool"
    return _pooled(walk, node, op, {"H": H, "W": W, "P": P, "Q": Q, "R": H // P, "S": W // Q, "stride": H // P})


_FAMILIES: dict[Handler, str] = {
    convolution: "conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d",
    linear: "linear",
    matmul: "mm bmm matmul addmm baddbmm",
    attention: "scaled_dot_product_attention",
    recurrent: "lstm gru rnn_tanh rnn_relu",
    activation: "relu relu6 silu gelu elu sigmoid tanh hardtanh clamp clamp_min",
    batch_norm: "batch_norm _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm",
    layer_norm: "layer_norm native_layer_norm",
    embedding: "embedding",
    add_or_multiply: "add mul",
    concatenate: "cat",
    pool: "max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d",
    adaptive_pool: "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean",
}
#: Operator name -> handler.
HANDLERS: dict[str, Handler] = {name: handler for handler, names in _FAMILIES.items() for name in names.split()}
