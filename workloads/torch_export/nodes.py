"""What a node of an exported PyTorch graph is: its operator, arguments by name, and sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

#: Operators that change the shape only, row-major order kept: they move nothing.
VIEWS = frozenset(
    {
        "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous", "clone", "detach", "alias",
        "dropout", "feature_dropout", "native_dropout", "identity", "_unsafe_view", "lift_fresh_copy", "to", "_to_copy",
        "getitem",
    }
)  # fmt: skip
#: Operators without products whose cost is the bytes they read and write: kind of data layer -> operators.
_KINDS = {
    "rearrange": "transpose permute t slice select split chunk split_with_sizes unbind stack expand roll flip repeat copy "
    "pixel_shuffle channel_shuffle cat",
    "gather": "index gather index_select",
    "pad": "pad constant_pad_nd",
    "resize": "upsample_nearest2d upsample_bilinear2d",
    "softmax": "softmax _softmax _safe_softmax log_softmax _log_softmax",
    "norm": "rms_norm group_norm native_group_norm instance_norm",
    "reduce": "sum mean max min amax amin argmax cumsum max_pool1d max_pool2d max_pool2d_with_indices avg_pool1d avg_pool2d "
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d",
    "elementwise": "add sub mul div pow rsqrt sqrt exp log neg abs where masked_fill tril triu clamp clamp_min hardtanh gelu "
    "elu hardswish hardsigmoid leaky_relu prelu softplus mish erf",
}
MOVES = {name: kind for kind, names in _KINDS.items() for name in names.split()}
#: Kinds whose output holds elements of the input: zeros stay zeros.
LAYOUTS = frozenset({"rearrange", "gather", "pad"})
_IN_ORDER = frozenset({"transpose", "permute", "t", "slice", "expand"})


def operation(node: Node) -> str:
    """Name of the operator: ``conv2d``; with its namespace where it is not PyTorch's own: ``mylib::foo``."""
    if node.target is operator.getitem:
        return "getitem"
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, _, name = node.target._schema.name.partition("::")
        return name if namespace == "aten" else f"{namespace}::{name}"
    return str(getattr(node.target, "__name__", node.target))


def arguments(node: Node) -> dict[str, Any]:
    """The node's arguments by the names of the operator's schema, defaults included."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    found: dict[str, Any] = {}
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(node.args):
            found[argument.name] = node.args[index]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found


def tensors(node: Node) -> list[torch.Tensor]:
    """The (symbolic) tensors that a node produces."""
    value = node.meta.get("val")
    return [v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, torch.Tensor)]


def shape(node: Node) -> tuple[int, ...]:
    """Sizes of the node's (first) tensor."""
    found = tensors(node)
    return tuple(int(size) for size in found[0].shape) if found else ()


def moved_bytes(node: Node) -> int:
    """Bytes that a node reads and writes: each of its inputs and outputs once."""
    values = [tensor for n in (node, *node.all_input_nodes) for tensor in tensors(n)]
    return sum(tensor.numel() * tensor.element_size() for tensor in values)


def grid(sizes: Sequence[int]) -> tuple[int, int, int]:
    """A tensor's sizes without the batch dimension as (C, H, W); (C, L) becomes C x 1 x L."""
    kept = list(sizes[1:]) if len(sizes) > 1 and sizes[0] == 1 else list(sizes)
    if len(kept) < 3:
        kept = [*kept, 1, 1][:3] if len(kept) < 2 else [kept[0], 1, kept[1]]
    return max(1, math.prod(kept[:-2])), max(1, kept[-2]), max(1, kept[-1])


def keeps_order(node: Node) -> bool:
    """True if a slice takes everything, or a permutation moves only dimensions of size 1: nothing moves."""
    name, before, after = operation(node), shape(node.all_input_nodes[0]), shape(node)
    if name not in _IN_ORDER:
        return False
    if name in {"slice", "expand"}:
        return before == after
    found = arguments(node)
    order = list(range(len(before)))
    if name == "permute":
        order = [axis % len(before) for axis in found["dims"]]
    elif len(before) > 1:
        first, second = (found["dim0"], found["dim1"]) if name == "transpose" else (0, 1)
        order[first], order[second] = order[second], order[first]
    long = [axis for axis in order if before[axis] > 1]
    return long == sorted(long)


def pair(value: Any, *, front: int) -> list[int]:
    """An integer or a list of one or two as a pair (height, width); a single size gets ``front`` as its height."""
    sizes = [int(value)] * 2 if isinstance(value, int) else [int(size) for size in value]
    return sizes if len(sizes) != 1 else [front, *sizes]
