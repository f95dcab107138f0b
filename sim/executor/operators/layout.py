"""Operators that move, select or join elements without computing (ONNX operator specifications, opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ....workloads.errors import InputError
from ....workloads.graph import Node
from .call import Array, Inputs, Operator, axes_of, given, integer, integers, optional, text


def _reshape(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    wanted = [int(size) for size in given(inputs, node, 1).reshape(-1)]
    if not integer(node, "allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return (x.reshape(wanted),)


def _flatten(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, axis = given(inputs, node, 0), integer(node, "axis", 1)
    axis += x.ndim if axis < 0 else 0
    return (x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))),)


def _transpose(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (given(inputs, node, 0).transpose(integers(node, "perm")),)


def _squeeze(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    axes = axes_of(inputs, node, attribute=opset < 13)
    return (np.squeeze(given(inputs, node, 0), axis=axes),)


def _unsqueeze(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    axes = axes_of(inputs, node, attribute=opset < 13)
    return (np.expand_dims(given(inputs, node, 0), axes or ()),)


def _concat(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    parts = [given(inputs, node, i) for i in range(len(inputs))]
    return (np.concatenate(parts, axis=integer(node, "axis", 0)),)


def _split(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x, axis = given(inputs, node, 0), integer(node, "axis", 0)
    operand = optional(inputs, 1)
    sizes = integers(node, "split") if opset < 13 else None if operand is None else tuple(int(s) for s in operand)
    if sizes is None:
        count = len(node.outputs)
        # Equal parts of the rounded-up size; the last one may be smaller (opset 18).
        part = -(-x.shape[axis] // count)
        sizes = (part,) * (count - 1) + (x.shape[axis] - part * (count - 1),)
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def _slice(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    if opset < 10:
        starts, ends, axes = (integers(node, name) for name in ("starts", "ends", "axes"))
        steps = None
    else:
        parts = [optional(inputs, i) for i in range(1, 5)]
        starts, ends, axes, steps = (None if p is None else tuple(int(v) for v in p.reshape(-1)) for p in parts)
    starts, ends = starts or (), ends or ()
    cut = [slice(None)] * x.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps is not None else 1
        size = x.shape[axis]
        end: int | None = ends[i]
        if step < 0 and ends[i] < -size:  # Python reads -1 as the last element, so "before the first" has no number
            end = None
        cut[axis] = slice(starts[i], end, step)
    return (x[tuple(cut)],)


def _pad(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x, mode = given(inputs, node, 0), text(node, "mode", "constant")
    if opset < 11:
        pads, fill, axes = integers(node, "pads") or (), node.attributes.get("value", 0.0), None
    else:
        pads = tuple(int(p) for p in given(inputs, node, 1).reshape(-1))
        value, picked = optional(inputs, 2), optional(inputs, 3)
        fill = 0 if value is None else value.reshape(-1)[0]
        axes = None if picked is None else [int(axis) % x.ndim for axis in picked.reshape(-1)]
    places = range(x.ndim) if axes is None else axes
    if len(pads) != 2 * len(places):
        raise InputError(f"node '{node.name}' (Pad): {len(pads)} pads for {len(places)} axes; two each are needed")
    widths = [(0, 0)] * x.ndim
    cut = [slice(None)] * x.ndim
    for i, axis in enumerate(places):
        before, after = pads[i], pads[i + len(places)]
        widths[axis] = (max(0, before), max(0, after))
        # Negative pads cut elements off.
        cut[axis] = slice(max(0, -before), x.shape[axis] - max(0, -after))
    return (_padded(x[tuple(cut)], widths, mode, fill),)


def _padded(x: Array, widths: list[tuple[int, int]], mode: str, fill: object) -> Array:
    if mode == "constant":
        return np.pad(x, widths, constant_values=np.asarray(fill, x.dtype)[()])
    if mode not in {"reflect", "edge", "wrap"}:
        raise InputError(f"Pad: mode '{mode}' is not supported; supported are constant, edge, reflect, wrap")
    return np.pad(x, widths, mode=mode)  # type: ignore[call-overload,no-any-return]


def _gather(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.take(given(inputs, node, 0), given(inputs, node, 1), axis=integer(node, "axis", 0)),)


def _gather_elements(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, indices, axis = given(inputs, node, 0), given(inputs, node, 1), integer(node, "axis", 0)
    grid = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    grid[axis] = indices
    return (x[tuple(grid)],)


def _expand(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    wanted = tuple(int(size) for size in given(inputs, node, 1).reshape(-1))
    return (np.broadcast_to(x, np.broadcast_shapes(x.shape, wanted)),)


def _tile(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.tile(given(inputs, node, 0), tuple(int(r) for r in given(inputs, node, 1).reshape(-1))),)


def _shape(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    shape = given(inputs, node, 0).shape
    return (np.array(shape[integer(node, "start", 0) : integer(node, "end", len(shape))], np.int64),)


def _size(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    return (np.array(given(inputs, node, 0).size, np.int64),)


def _constant_of_shape(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))
    return (np.full(tuple(int(s) for s in given(inputs, node, 0).reshape(-1)), value.reshape(-1)[0], value.dtype),)


def _range(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    start, limit, step = (given(inputs, node, i).reshape(())[()] for i in range(3))
    return (np.arange(start, limit, step, dtype=given(inputs, node, 0).dtype),)  # type: ignore[call-overload]


def _depth_to_space(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, block = given(inputs, node, 0), integer(node, "blocksize", 1)
    n, c, h, w = x.shape
    if text(node, "mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return (parts.reshape(n, c // block**2, h * block, w * block),)


def _space_to_depth(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, block = given(inputs, node, 0), integer(node, "blocksize", 1)
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return (parts.reshape(n, c * block**2, h // block, w // block),)


TABLE: Mapping[str, Operator] = {
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": _concat, "Split": _split, "Slice": _slice, "Pad": _pad, "Gather": _gather, "Expand": _expand,
    "GatherElements": _gather_elements, "Tile": _tile, "Shape": _shape, "Size": _size, "Range": _range,
    "ConstantOfShape": _constant_of_shape, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
