"""Products with stored weights in imported graphs: Conv, ConvTranspose, Gemm, MatMul and their integer forms.

Each is planned as a convolution over the executor's planes (:mod:`geometry`); a matrix product is one of 1x1 windows
over its m positions. The orientation of the weights is the one that :mod:`nestling.workloads.graph` states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.graph import Graph, Node, operand_name
from .geometry import Convolution, Product
from .operators.call import Array, Inputs, decimal, given, integer, integers, optional, text
from .operators.matrix import centred
from .operators.quantised import requantised
from .operators.window import windows_of

Shape = tuple[int, ...]


class Multiplier(Protocol):
    """What carries out the products of one level: the sparse kernels, or a dense reference."""

    def multiply(
        self, layer: str, inputs: Array, bias: Array | None = None, *, rows: slice | None = None
    ) -> NDArray[np.floating]:
        """Products of each of (n, channels*height*width) inputs, plus a bias per row: (n, rows*positions).

        ``rows``: only these rows of the layer's weights. Results are float64 for float64 and integer inputs, else
        float32.
        """
        ...

    def bias(self, layer: str) -> Array | None:
        """The layer's own bias at this level, (K,); None where the network holds none."""
        ...

    def meet(self, layer: str, inputs: Callable[[], Array]) -> None:
        """Told of the (n, channels*height*width) inputs of a product without stored weights, before it runs."""
        ...


#: (operands, multiplier) -> outputs.
Compute = Callable[[Inputs, Multiplier], tuple[Array, ...]]


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedOperator:
    """A planned node: its products with stored weights by layer, and what it computes with them. ``fallback``: the
    ``onnx`` package's reference computes it."""

    node: Node
    products: Mapping[str, Product]
    compute: Compute
    fallback: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class PlanContext:
    """``rows``: rows and columns of every layer's weights. ``dynamic``: layers without any."""

    graph: Graph
    rows: Mapping[str, tuple[int, int]]
    dynamic: frozenset[str]

    def shape(self, node: Node, index: int) -> Shape:
        """Shape of an operand.

        Raises
        ------
        InputError
            if the graph does not know it.
        """
        name = node.inputs[index] if index < len(node.inputs) else ""
        known = self.graph.constants.get(name)
        shape = self.graph.shapes.get(name) if known is None else known.shape
        if shape is None:
            raise InputError(f"node '{node.name}' ({node.op}): the shape of its operand '{name}' is not known")
        return tuple(shape)

    def stored_index(self, node: Node, candidates: Sequence[int]) -> int:
        """Which of two operands the layer's weights stand for."""
        name = operand_name(node.layers[0])
        return next((i for i in candidates if node.inputs[i] == name), candidates[0])


def plan_conv(node: Node, context: PlanContext) -> PlannedOperator:
    """Conv of one or two dimensions; ConvInteger and QLinearConv read their operands in other places."""
    x_shape, layer = context.shape(node, 0), node.layers[0]
    weight_index = 3 if node.op == "QLinearConv" else 1
    kernel = integers(node, "kernel_shape") or context.shape(node, weight_index)[2:]
    if len(x_shape) not in (3, 4):
        raise InputError(f"node '{node.name}' ({node.op}): {len(x_shape) - 2} spatial axes; supported are 1 and 2")
    windows = windows_of(node, x_shape[2:], kernel)

    def plane(sizes: Shape, missing: int) -> tuple[int, int]:
        return (sizes[0], sizes[1]) if len(sizes) == 2 else (missing, sizes[0])

    (top, left), (bottom, right) = plane(windows.before, 0), plane(windows.after, 0)
    height, width = plane(x_shape[2:], 1)
    sizes = Convolution(
        name=layer,
        channels=x_shape[1],
        height=height,
        width=width,
        outputs=context.rows[layer][0],
        kernel=plane(windows.kernel, 1),
        strides=plane(windows.strides, 1),
        dilations=plane(windows.dilations, 1),
        pads=(top, left, bottom, right),
        groups=integer(node, "group", 1),
    )
    product = Product(checked(sizes, node, context), x_shape[0])

    def convolve(x: Array, multiplier: Multiplier, bias: Array | None) -> Array:
        out = multiplier.multiply(layer, x.reshape(len(x), -1), bias)
        return out.reshape(len(x), sizes.outputs, *windows.out)

    return PlannedOperator(node=node, products={layer: product}, compute=_conv_form(node, convolve))


def checked(sizes: Convolution, node: Node, context: PlanContext) -> Convolution:
    """The convolution, if the layer's weights have its rows and columns.

    Raises
    ------
    InputError
        if they have others, or its groups do not divide its channels.
    """
    found = context.rows[sizes.name]
    if sizes.channels % sizes.groups or sizes.outputs % sizes.groups:
        raise InputError(
            f"node '{node.name}' ({node.op}): {sizes.groups} groups do not divide {sizes.channels} inputs and "
            f"{sizes.outputs} outputs"
        )
    needed = (sizes.outputs, sizes.channels // sizes.groups * sizes.kernel[0] * sizes.kernel[1])
    if found != needed:
        raise InputError(
            f"node '{node.name}' ({node.op}): layer '{sizes.name}' has weights of {found} rows and columns, needed are "
            f"{needed}"
        )
    return sizes


def _conv_form(node: Node, convolve: Callable[[Array, Multiplier, Array | None], Array]) -> Compute:
    """The arithmetic around a convolution: none, integer sums, or codes in and out."""
    layer = node.layers[0]

    def plain(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x, own = given(inputs, node, 0), multiplier.bias(layer)
        return (convolve(x, multiplier, optional(inputs, 2) if own is None else own).astype(x.dtype, copy=False),)

    def integers_out(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x = centred(given(inputs, node, 0), optional(inputs, 2))
        return (convolve(x, multiplier, None).astype(np.int32),)

    def codes_out(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x_scale, w_scale, y_scale = (given(inputs, node, i) for i in (1, 4, 6))
        x = centred(given(inputs, node, 0), optional(inputs, 2))
        own = multiplier.bias(layer)
        sums = convolve(x, multiplier, optional(inputs, 8) if own is None else own)
        per_channel = (x_scale * w_scale / y_scale).reshape(-1, *(1,) * (sums.ndim - 2))
        return (requantised(sums, optional(inputs, 7), scale=per_channel),)

    return {"Conv": plain, "ConvInteger": integers_out, "QLinearConv": codes_out}[node.op]


def plan_transposed(node: Node, context: PlanContext) -> PlannedOperator:
    """ConvTranspose of one or two dimensions: one product per input position, its results added where they overlap."""
    x_shape, layer, groups = context.shape(node, 0), node.layers[0], integer(node, "group", 1)
    kernel = integers(node, "kernel_shape") or context.shape(node, 1)[2:]
    size, taps = x_shape[2:], int(np.prod(kernel))
    rows = context.rows[layer][0]
    if rows % taps:
        raise InputError(f"node '{node.name}' ({node.op}): {rows} rows of weights for windows of {tuple(kernel)}")
    sizes = Convolution(layer, x_shape[1], 1, int(np.prod(size)), rows, groups=groups)
    product = Product(checked(sizes, node, context), x_shape[0])
    ones = (1,) * len(size)
    strides, dilations = integers(node, "strides") or ones, integers(node, "dilations") or ones
    whole = tuple((n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, strides, kernel, dilations, strict=True))
    starts, lengths = _transposed_crop(node, size, whole, strides)

    def compute(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x, own = given(inputs, node, 0), multiplier.bias(layer)
        parts = multiplier.multiply(layer, x.reshape(len(x), -1)).reshape(len(x), rows // taps, *kernel, *size)
        end = [max(w, s + n) for w, s, n in zip(whole, starts, lengths, strict=True)]
        out: Array = np.zeros((len(x), rows // taps, *end), parts.dtype)
        for tap in np.ndindex(*kernel):
            begin = [t * d for t, d in zip(tap, dilations, strict=True)]
            place = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(begin, size, strides, strict=True)]
            out[_spatial(place)] += parts[(slice(None), slice(None), *tap)]
        out = out[_spatial([slice(s, s + n) for s, n in zip(starts, lengths, strict=True)])]
        bias = optional(inputs, 2) if own is None else own
        out = out if bias is None else out + bias.reshape(-1, *ones)
        return (out.astype(x.dtype, copy=False),)

    return PlannedOperator(node=node, products={layer: product}, compute=compute)


def _spatial(places: list[slice]) -> tuple[EllipsisType | slice, ...]:
    return (..., *places)


def _transposed_crop(node: Node, size: Shape, whole: Shape, strides: Shape) -> tuple[list[int], list[int]]:
    """First element and length that are kept of each axis (ONNX operator "ConvTranspose", output shape)."""
    extra = integers(node, "output_padding") or (0,) * len(size)
    pads = integers(node, "pads") or (0,) * (2 * len(size))
    wanted, automatic = integers(node, "output_shape"), text(node, "auto_pad", "NOTSET")
    if wanted is not None:
        wanted = wanted[-len(size) :]
    elif automatic in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = tuple(n * s for n, s in zip(size, strides, strict=True))
    if wanted is None:
        before = [0] * len(size) if automatic == "VALID" else list(pads[: len(size)])
        after = [0] * len(size) if automatic == "VALID" else list(pads[len(size) :])
        lengths = [w + e - b - a for w, e, b, a in zip(whole, extra, before, after, strict=True)]
    else:
        totals = [max(0, w + e - n) for w, e, n in zip(whole, extra, wanted, strict=True)]
        before = [t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in totals]
        lengths = list(wanted)
    if min(lengths) < 1:
        raise InputError(f"node '{node.name}' ({node.op}): its pads leave no output")
    return before, lengths


def plan_gemm(node: Node, context: PlanContext) -> PlannedOperator:
    """Gemm with one stored operand; rows (or columns, where the first one is stored) of the other are the positions."""
    stored, layer = context.stored_index(node, (1, 0)), node.layers[0]
    moving = 1 - stored
    # The moving matrix as (k, m): A transposed, or B as it is.
    turned = bool(integer(node, "transB" if moving else "transA", 0)) != (moving == 0)
    shape, n = context.shape(node, moving), context.rows[layer][0]
    k, m = shape[::-1] if turned else shape
    product = Product(checked(Convolution(layer, k, 1, m, n), node, context))
    alpha, beta = decimal(node, "alpha", 1.0), decimal(node, "beta", 1.0)

    def compute(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x, own, c = given(inputs, node, moving), multiplier.bias(layer), optional(inputs, 2)
        out = multiplier.multiply(layer, (x.T if turned else x).reshape(1, -1)).reshape(n, m)
        out = out if alpha == 1.0 else out * alpha
        if own is not None:
            out = out + own[:, None]
        out = out if moving else out.T
        if own is None and c is not None:
            out = out + (c if beta == 1.0 else beta * c)
        return (out.astype(x.dtype, copy=False),)

    return PlannedOperator(node=node, products={layer: product}, compute=compute)


def plan_matmul(node: Node, context: PlanContext) -> PlannedOperator:
    """MatMul, MatMulInteger and QLinearMatMul with one stored operand, first or second."""
    linear = node.op == "QLinearMatMul"
    places = (3, 0) if linear else (1, 0)
    stored = context.stored_index(node, places)
    moving = places[1] if stored == places[0] else places[0]
    first = stored == 0
    shape, layer = context.shape(node, moving), node.layers[0]
    rows, k = context.rows[layer]
    weights = _matrix_shape(node, context, stored, first=first)
    batch = int(np.prod(weights[:-2]))
    view = _MatrixView(shape, weights, rows // batch, first, node)
    sizes = Convolution(layer, batch * k, 1, view.m, rows, groups=batch)
    product = Product(checked(sizes, node, context), view.images)

    def multiply(x: Array, multiplier: Multiplier) -> Array:
        out = view.split(multiplier.multiply(layer, view.columns(x)))
        own = multiplier.bias(layer)
        if own is None:
            return out
        return out + (own.reshape(-1, 1) if first else own)

    def plain(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x = given(inputs, node, moving)
        return (multiply(x, multiplier).astype(x.dtype, copy=False),)

    def integers_out(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        zero = optional(inputs, 2 + moving)
        return (multiply(centred(given(inputs, node, moving), zero, rows=not first), multiplier).astype(np.int32),)

    def codes_out(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        sums = multiply(centred(given(inputs, node, moving), optional(inputs, moving + 2), rows=not first), multiplier)
        a_scale, b_scale, y_scale = (given(inputs, node, i) for i in (1, 4, 6))
        a_scale = a_scale[..., None] if a_scale.ndim and a_scale.size > 1 else a_scale
        return (requantised(sums, optional(inputs, 7), scale=a_scale * b_scale / y_scale),)

    forms: dict[str, Compute] = {"MatMul": plain, "MatMulInteger": integers_out, "QLinearMatMul": codes_out}
    return PlannedOperator(node=node, products={layer: product}, compute=forms[node.op])


def plan_dynamic(plain: PlannedOperator, context: PlanContext) -> PlannedOperator:
    """A MatMul of two activations, with its first operand shown to whoever counts its zeros."""
    node = plain.node
    a, b = context.shape(node, 0), context.shape(node, 1)
    if min(len(a), len(b)) < 2:
        return plain
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    groups, (m, k), n = math.prod(batch), a[-2:], b[-1]
    sizes = Convolution(node.name, groups * k, 1, m, groups * n, groups=groups)

    def compute(inputs: Inputs, multiplier: Multiplier) -> tuple[Array, ...]:
        x = given(inputs, node, 0)
        multiplier.meet(
            node.name, lambda: np.swapaxes(np.broadcast_to(x, (*batch, m, k)), -1, -2).reshape(1, groups * k * m)
        )
        return plain.compute(inputs, multiplier)

    return replace(plain, products={node.name: Product(sizes)}, compute=compute)


def _matrix_shape(node: Node, context: PlanContext, index: int, *, first: bool) -> Shape:
    """Shape of the stored operand as ONNX has it; a plain matrix where the graph does not know it."""
    known = context.graph.shapes.get(node.inputs[index])
    rows, k = context.rows[node.layers[0]]
    shape = (rows, k) if first else (k, rows)
    return shape if known is None else tuple(known)


class _MatrixView:
    """How the moving operand of a MatMul becomes (images, batch*k, m), and the result its ONNX shape."""

    def __init__(self, shape: Shape, weights: Shape, n: int, first: bool, node: Node) -> None:
        self.first, self._vector, self._flat_weights = first, len(shape) == 1, len(weights) == 1
        full = (((*shape, 1) if first else (1, *shape)) if self._vector else shape)[:]
        self._k, moved = (full[-2], full[-1]) if first else (full[-1], full[-2])
        lead = weights[:-2]
        try:
            self._batch = np.broadcast_shapes(full[:-2], lead)
        except ValueError:
            raise InputError(f"node '{node.name}' (MatMul): cannot multiply {shape} by {weights}") from None
        groups = int(np.prod(lead))
        if groups > 1 and self._batch[len(self._batch) - len(lead) :] != lead:
            raise InputError(f"node '{node.name}' (MatMul): stored matrices {weights} repeat over {shape}")
        self._full, self._groups, self._n, self._moved = full, groups, n, moved
        outer = int(np.prod(self._batch)) // groups
        # One matrix for all: every row of every batch is a position of one long product.
        self._joined = groups == 1 and not first
        self.images, self.m = (1, outer * moved) if self._joined else (outer, moved)

    def columns(self, x: Array) -> Array:
        """The moving operand as (images, batch*k*m)."""
        if self._joined:
            return x.reshape(self.m, self._k).T.reshape(1, -1)
        x = np.broadcast_to(x.reshape(self._full), (*self._batch, *self._full[-2:]))
        x = x if self.first else np.swapaxes(x, -1, -2)
        return x.reshape(self.images, -1)

    def split(self, out: Array) -> Array:
        """The product (images, batch*n*m) in the shape of ONNX's result."""
        if self._joined:
            result = out.reshape(self._n, self.m).T.reshape(*self._batch, self._moved, self._n)
        else:
            result = out.reshape(*self._batch, self._n, self._moved)
            result = result if self.first else np.swapaxes(result, -1, -2)
        drop = [axis for axis, gone in self._dropped() if gone]
        return np.squeeze(result, axis=tuple(drop)) if drop else result

    def _dropped(self) -> list[tuple[int, bool]]:
        if self.first:
            return [(-1, self._vector), (-2, self._flat_weights)]
        return [(-2, self._vector), (-1, self._flat_weights)]
