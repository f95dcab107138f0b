"""Convolutions: as layers where one stride, padding and dilation says it, else padded first or as products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..graph import Node
from ..layers import Gemm, Layer, output_size
from .draft import Shape, whole, wholes
from .products import Operand, float_weights, params_note
from .table import LayerTable

#: Operator -> positions of the image, the weights, the weights' zero point and the bias (None: it has none).
_POSITIONS: Mapping[str, tuple[int, int, int | None, int | None]] = {
    "Conv": (0, 1, None, 2),
    "ConvTranspose": (0, 1, None, 2),
    "QLinearConv": (0, 3, 5, 8),
    "ConvInteger": (0, 1, 3, None),
}


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A convolution over (H, W): an image of one dimension has H = 1. ``pads``: top, left, bottom, right."""

    batch: int
    C: int
    size: tuple[int, int]
    K: int
    kernel: tuple[int, int]
    output: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    groups: int


def convolution(table: LayerTable, node: Node) -> None:
    """Conv, QLinearConv, ConvInteger of one or two dimensions; of three, a gap with its MACs."""
    image_at, weight_at, _, _ = _POSITIONS[node.op]
    shape, kernel, made = table.shape(node, image_at), table.shape(node, weight_at), table.output_shape(node)
    groups = whole(node, "group", 1)
    if len(shape) < 3 or len(kernel) != len(shape) or shape[1] != kernel[1] * groups or kernel[0] % groups:
        raise InputError(f"node '{node.name}' ({node.op}): weights {list(kernel)} do not fit the input {list(shape)}")
    macs = math.prod(made) * math.prod(kernel[1:])
    if not table.draft.is_constant(node.inputs[weight_at]):
        table.gap(node, macs=macs, reason="its weights are computed, not stored")
    elif len(shape) > 4:
        table.gap(node, macs=macs, reason=f"convolutions of {len(shape) - 2} dimensions have no layer")
    elif 0 in made or 0 in shape:
        table.gap(node, macs=0, reason="it makes an empty tensor")
    else:
        _append(table, node, _window(node, shape=shape, kernel=kernel, made=made))


def transposed_convolution(table: LayerTable, node: Node) -> None:
    """ConvTranspose as a product per group, m = H*W input positions, n = M/groups*R*S, k = C/groups: every input times
    every tap, also those whose sums the padding cuts off; sums over overlapping windows (col2im) are additions."""
    shape, kernel = table.shape(node, 0), table.shape(node, 1)
    groups = whole(node, "group", 1)
    if len(shape) < 3 or len(kernel) != len(shape) or shape[1] != kernel[0] or shape[1] % groups:
        raise InputError(f"node '{node.name}' ({node.op}): weights {list(kernel)} do not fit the input {list(shape)}")
    macs = math.prod(shape) * math.prod(kernel[1:])
    if not table.draft.is_constant(node.inputs[1]) or len(shape) > 4 or not macs:
        reason = "only stored weights and images of one or two dimensions have a layer"
        table.gap(node, macs=macs, reason=reason)
        return
    gemm = Gemm(groups, math.prod(shape[2:]), math.prod(kernel[1:]), kernel[0] // groups)
    _append_product(table, node, gemm, batch=shape[0], notes="transposed convolution: product, then col2im")


def _append(table: LayerTable, node: Node, window: _Window) -> None:
    """The window as one layer, behind a padding layer if its padding differs by side."""
    step = _common(window)
    if step is None:
        gemm = Gemm(
            window.groups, math.prod(window.output), window.K // window.groups,
            window.C // window.groups * math.prod(window.kernel),
        )  # fmt: skip
        notes = f"im2col: strides {list(window.strides)}, dilations {list(window.dilations)}"
        _append_product(table, node, gemm, batch=window.batch, notes=notes)
        return
    stride, dilation = step
    image_at, weight_at, zero_at, bias_at = _POSITIONS[node.op]
    tensor = node.inputs[image_at]
    origin = table.origin(tensor)
    sources, (H, W), padding = table.sources([tensor]), window.size, window.pads[0]
    if len(set(window.pads)) > 1:
        padding = 0
        H, W = H + window.pads[0] + window.pads[2], W + window.pads[1] + window.pads[3]
        pad = Layer(
            name=table.sub_name(f"{node.name}.pad"), op="pad", sources=sources, relu_in=origin.rectified,
            C=window.C, H=window.size[0], W=window.size[1], K=window.C, P=H, Q=W,
            notes=f"zeros: {list(window.pads)} at top, left, bottom, right",
        )  # fmt: skip
        table.add(pad)
        sources = (pad.name,)
    shared, notes = params_note(table, node, weight_at)
    layer = Layer(
        name=node.name, op="dwconv" if window.groups == window.C > 1 else "conv",
        C=window.C, H=H, W=W, K=window.K, P=window.output[0], Q=window.output[1],
        R=window.kernel[0], S=window.kernel[1], stride=stride, padding=padding, dilation=dilation,
        groups=window.groups, repeat=window.batch, sources=sources, relu_in=origin.rectified,
        weight_params=0 if shared else math.prod(table.shape(node, weight_at)),
        bias_params=window.K if bias_at is not None and table.has(node, bias_at) else 0, notes=notes,
    )  # fmt: skip
    table.add(layer, makes=node.outputs)
    table.tie(node, [layer], [(weight_at, float_weights(table, node, Operand(weight_at, zero_at)))])


def _append_product(table: LayerTable, node: Node, gemm: Gemm, *, batch: int, notes: str) -> None:
    image_at, weight_at, zero_at, bias_at = _POSITIONS[node.op]
    operand = Operand(weight_at, zero_at)
    shared, note = params_note(table, node, weight_at)
    layer = Layer(
        name=node.name, op="linear", C=gemm.b * gemm.k, K=gemm.b * gemm.n, repeat=batch, gemm=gemm,
        sources=table.sources([node.inputs[image_at]]), relu_in=table.origin(node.inputs[image_at]).rectified,
        weight_params=0 if shared else math.prod(table.shape(node, weight_at)),
        bias_params=table.output_shape(node)[1] if bias_at is not None and table.has(node, bias_at) else 0,
        notes="; ".join(text for text in (notes, note) if text),
    )  # fmt: skip
    table.add(layer, makes=node.outputs)
    values = float_weights(table, node, operand)
    if values is not None and node.op == "ConvTranspose":
        values = _transposed_rows(values, gemm.b)
    table.tie(node, [layer], [(weight_at, values)])


def _transposed_rows(operand: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Operand (C, M/groups, R, S) -> rows (group, M/groups, R, S), columns: the group's input channels."""
    C = operand.shape[0]
    return np.moveaxis(operand.reshape(groups, C // groups, -1), 1, 2).reshape(-1, C // groups)


def _common(window: _Window) -> tuple[int, int] | None:
    """One stride and dilation that give both axes' output sizes, or None. An axis of one tap has no dilation of its own,
    an axis of one output no stride."""
    pads = window.pads if len(set(window.pads)) > 1 else (0, 0, 0, 0)
    padding = 0 if any(pads) else window.pads[0]
    sizes = (window.size[0] + pads[0] + pads[2], window.size[1] + pads[1] + pads[3])
    dilations = {d for d, taps in zip(window.dilations, window.kernel, strict=True) if taps > 1} or {1}
    strides = {s for s, count in zip(window.strides, window.output, strict=True) if count > 1} or set(window.strides)
    if len(dilations) > 1:
        return None
    dilation = dilations.pop()
    for stride in sorted(strides):
        found = tuple(
            output_size(size, kernel=taps, stride=stride, padding=padding, dilation=dilation)
            for size, taps in zip(sizes, window.kernel, strict=True)
        )
        if found == window.output:
            return stride, dilation
    return None


def _window(node: Node, *, shape: Shape, kernel: Shape, made: Shape) -> _Window:
    axes = len(shape) - 2
    strides = wholes(node, "strides", (1,) * axes)
    dilations = wholes(node, "dilations", (1,) * axes)
    if not len(strides) == len(dilations) == axes:
        raise InputError(f"node '{node.name}' ({node.op}): strides and dilations must have {axes} values")
    pads = _pads(node, shape=shape, kernel=kernel, made=made, strides=strides, dilations=dilations)
    flat = axes == 1  # an image of one row
    return _Window(
        batch=shape[0],
        C=shape[1],
        size=(1, shape[2]) if flat else (shape[2], shape[3]),
        K=kernel[0],
        kernel=(1, kernel[2]) if flat else (kernel[2], kernel[3]),
        output=(1, made[2]) if flat else (made[2], made[3]),
        strides=(strides[0], strides[0]) if flat else (strides[0], strides[1]),
        dilations=(dilations[0], dilations[0]) if flat else (dilations[0], dilations[1]),
        pads=(0, pads[0], 0, pads[1]) if flat else (pads[0], pads[1], pads[2], pads[3]),
        groups=whole(node, "group", 1),
    )


def _pads(
    node: Node, *, shape: Shape, kernel: Shape, made: Shape, strides: Shape, dilations: Shape
) -> tuple[int, ...]:  # fmt: skip
    """Padding at the begin of every axis, then at the end; "same" padding follows from the sizes (ONNX, Conv)."""
    mode, axes = node.attributes.get("auto_pad", "NOTSET"), len(shape) - 2
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (made[2 + i] - 1) * strides[i] + (kernel[2 + i] - 1) * dilations[i] + 1 - shape[2 + i])
            for i in range(axes)
        ]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
    pads = wholes(node, "pads", (0,) * 2 * axes) if mode != "VALID" else (0,) * 2 * axes
    if len(pads) != 2 * axes:
        raise InputError(f"node '{node.name}' ({node.op}): pads must have {2 * axes} values")
    return pads


HANDLERS: Mapping[str, Callable[[LayerTable, Node], None]] = {
    "Conv": convolution,
    "QLinearConv": convolution,
    "ConvInteger": convolution,
    "ConvTranspose": transposed_convolution,
}
