"""Resize and Upsample: one small interpolation matrix per axis (ONNX operator "Resize", opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.graph import Node
from .call import Array, Inputs, Operator, decimal, given, integer, integers, optional, text

Positions = NDArray[np.float64]
#: (output positions, input length, output length, scale) -> input positions.
_COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
_ROUNDINGS: Mapping[str, Callable[[Positions], Positions]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def supports(node: Node) -> bool:
    """True for the modes that are separable and need no crop box; the rest is left to the fallback."""
    return (
        text(node, "mode", "nearest") in {"nearest", "linear", "cubic"}
        and text(node, "coordinate_transformation_mode", "half_pixel") in (*_COORDINATES, "tf_half_pixel_for_nn")
        and text(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        and not integer(node, "antialias", 0)
    )


def _resize(inputs: Inputs, node: Node, opset: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    axes = [axis % x.ndim for axis in integers(node, "axes") or range(x.ndim)]
    scales, sizes = _wanted(inputs, node, opset)
    out: Array = x
    for i, axis in enumerate(axes):
        length = x.shape[axis]
        wanted = sizes[i] if sizes is not None else int(np.floor(length * scales[i]))
        scale = scales[i] if sizes is None else wanted / length
        if wanted != length or scale != 1.0:
            out = _along(out, axis, node, lengths=(length, wanted), scale=scale, opset=opset)
    return (out,)


def _wanted(inputs: Inputs, node: Node, opset: int) -> tuple[Sequence[float], Sequence[int] | None]:
    """Scales, and output sizes where these are given instead."""
    places = (1, None) if opset < 11 else (2, 3)
    scales = optional(inputs, places[0])
    sizes = None if places[1] is None else optional(inputs, places[1])
    if sizes is not None and sizes.size:
        return (), [int(size) for size in sizes.reshape(-1)]
    if scales is None or not scales.size:
        raise InputError(f"node '{node.name}' ({node.op}) has neither scales nor sizes")
    return [float(scale) for scale in scales.reshape(-1)], None


def _along(x: Array, axis: int, node: Node, *, lengths: tuple[int, int], scale: float, opset: int) -> Array:
    position = _positions(node, lengths, scale, opset)
    mode = text(node, "mode", "nearest")
    if mode == "nearest":
        default = "floor" if opset < 11 else "round_prefer_floor"
        rounded = _ROUNDINGS[text(node, "nearest_mode", default)](position)
        return np.take(x, np.clip(rounded, 0, lengths[0] - 1).astype(np.int64), axis=axis)
    matrix = _linear(position, lengths[0]) if mode == "linear" else _cubic(position, lengths[0], node)
    moved = np.moveaxis(x, axis, -1) @ matrix.T.astype(x.dtype)
    return np.moveaxis(moved, -1, axis)


def _positions(node: Node, lengths: tuple[int, int], scale: float, opset: int) -> Positions:
    """Where each output element lies on the input axis."""
    size, wanted = lengths
    index = np.arange(wanted, dtype=np.float64)
    mode = text(node, "coordinate_transformation_mode", "half_pixel") if opset >= 11 else "asymmetric"
    if mode == "asymmetric":
        return index / scale
    if mode == "align_corners":
        return index * (size - 1) / (wanted - 1) if wanted > 1 else index * 0
    if mode == "pytorch_half_pixel" and wanted == 1:
        return index * 0
    if mode == "tf_half_pixel_for_nn":
        return (index + 0.5) / scale
    centred = (index + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        centred += size / 2 * (1 - wanted / (scale * size))
    return centred


def _linear(position: Positions, size: int) -> Positions:
    position = np.clip(position, 0, size - 1)
    low = np.floor(position).astype(np.int64)
    part = position - low
    matrix = np.zeros((position.size, size))
    rows = np.arange(position.size)
    matrix[rows, low] = 1 - part
    matrix[rows, np.minimum(low + 1, size - 1)] += part
    return matrix


def _cubic(position: Positions, size: int, node: Node) -> Positions:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981)."""
    a = decimal(node, "cubic_coeff_a", -0.75)
    low = np.floor(position).astype(np.int64)
    matrix = np.zeros((position.size, size))
    rows = np.arange(position.size)
    for tap in range(-1, 3):
        distance = np.abs(position - (low + tap))
        inner = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        outer = ((distance - 5) * distance + 8) * distance * a - 4 * a
        weight = np.where(distance <= 1, inner, outer)
        place = low + tap
        if integer(node, "exclude_outside", 0):
            weight = np.where((place < 0) | (place >= size), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(place, 0, size - 1)), weight)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


TABLE: Mapping[str, Operator] = {"Resize": _resize, "Upsample": _resize}
