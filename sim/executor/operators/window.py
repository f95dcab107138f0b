"""Sliding windows of any number of dimensions: their paddings and the pooling operators (ONNX, opsets 9 to 23)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import EllipsisType

import numpy as np

from ....workloads.errors import InputError
from ....workloads.graph import Node
from .call import Array, Inputs, Operator, given, integer, integers, text

Sizes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows over the spatial axes of a tensor (N, C, spatial...); one entry per spatial axis."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    after: Sizes
    out: Sizes

    def views(self, x: Array, fill: float) -> list[Array]:
        """One view (N, C, out...) of the padded input per tap of the window, taps in C order."""
        size = x.shape[2:]
        reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in self._each(self.out)]
        far = [max(0, r - n - b) for r, n, b in zip(reach, size, self.before, strict=True)]
        widths = [(0, 0), (0, 0), *zip(self.before, far, strict=True)]
        if any(b or f for b, f in widths):
            x = np.pad(x, widths, constant_values=np.asarray(fill).astype(x.dtype))
        views = []
        for tap in product(*(range(k) for k in self.kernel)):
            starts = [t * d for t, d in zip(tap, self.dilations, strict=True)]
            ends = [start + (o - 1) * s + 1 for start, o, s in zip(starts, self.out, self.strides, strict=True)]
            places: tuple[EllipsisType | slice, ...] = (..., *map(slice, starts, ends, self.strides))
            views.append(x[places])
        return views

    def _each(self, out: Sizes) -> zip[tuple[int, int, int, int]]:
        return zip(out, self.strides, self.kernel, self.dilations, strict=True)


def windows_of(node: Node, size: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Windows of a convolution or pooling node over an input of spatial ``size``.

    Raises
    ------
    InputError
        for attributes of the wrong length or values, or a window larger than the padded input.
    """
    ones = (1,) * len(size)
    strides = integers(node, "strides") or ones
    dilations = integers(node, "dilations") or ones
    pads = integers(node, "pads") or (0,) * (2 * len(size))
    lengths = {len(kernel), len(strides), len(dilations), len(pads) // 2, len(size)}
    if len(lengths) > 1 or min((*kernel, *strides, *dilations), default=1) < 1 or min(pads, default=0) < 0:
        raise InputError(
            f"node '{node.name}' ({node.op}): kernel {tuple(kernel)}, strides {strides}, dilations {dilations} and pads "
            f"{pads} do not describe windows over {len(size)} axes"
        )
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = _pads(node, size, (reach, strides), pads)
    out = [
        _length(node, n + b + a - r, (n + b, s))
        for n, b, a, r, s in zip(size, before, after, reach, strides, strict=True)
    ]
    if min(out, default=1) < 1:
        raise InputError(f"node '{node.name}' ({node.op}): windows of {reach} do not fit an input of {tuple(size)}")
    return Windows(
        kernel=tuple(kernel), strides=strides, dilations=dilations, before=before, after=after, out=tuple(out)
    )


def _pads(
    node: Node, size: Sequence[int], window: tuple[Sequence[int], Sequence[int]], pads: Sizes
) -> tuple[Sizes, Sizes]:
    """Padding before and after each axis, by ``auto_pad``."""
    automatic = text(node, "auto_pad", "NOTSET")
    if automatic == "NOTSET":
        return pads[: len(size)], pads[len(size) :]
    if automatic == "VALID":
        return (0,) * len(size), (0,) * len(size)
    if automatic not in {"SAME_UPPER", "SAME_LOWER"}:
        raise InputError(f"node '{node.name}' ({node.op}): auto_pad '{automatic}' is not supported")
    totals = [max(0, (-(-n // s) - 1) * s + r - n) for n, r, s in zip(size, *window, strict=True)]
    less, more = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (less, more) if automatic == "SAME_UPPER" else (more, less)


def _length(node: Node, room: int, start: tuple[int, int]) -> int:
    """Output length; ``room``: padded size less the window, ``start``: (size with the front padding, stride)."""
    reached, stride = start
    if room < 0:
        return 0
    if not integer(node, "ceil_mode", 0):
        return room // stride + 1
    length = -(-room // stride) + 1
    # A window that would start in the padding behind the input does not count.
    return length - 1 if (length - 1) * stride >= reached else length


def _max_pool(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    lowest = -np.inf if np.issubdtype(x.dtype, np.floating) else float(np.iinfo(x.dtype).min)
    views = windows_of(node, x.shape[2:], _kernel(node)).views(x, lowest)
    out = views[0].copy()
    for view in views[1:]:
        np.maximum(out, view, out=out)
    return (out,)


def _sum_of(views: Sequence[Array]) -> Array:
    out: Array = views[0].astype(np.float64 if views[0].dtype == np.float64 else np.float32)
    for view in views[1:]:
        out += view
    return out


def _average_pool(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    """Padding is left out of the average unless ``count_include_pad``; what ``ceil_mode`` adds always is."""
    x = given(inputs, node, 0)
    windows = windows_of(node, x.shape[2:], _kernel(node))
    counted = np.ones((1, 1, *x.shape[2:]), np.float32)
    if integer(node, "count_include_pad", 0):
        padding = list(zip(windows.before, windows.after, strict=True))
        counted = np.pad(counted, [(0, 0), (0, 0), *padding], constant_values=1)
        nothing = (0,) * len(padding)
        counts = _sum_of(replace(windows, before=nothing, after=nothing).views(counted, 0.0))
    else:
        counts = _sum_of(windows.views(counted, 0.0))
    return ((_sum_of(windows.views(x, 0.0)) / counts).astype(x.dtype),)


def _power_pool(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x, p = given(inputs, node, 0), integer(node, "p", 2)
    total = _sum_of(windows_of(node, x.shape[2:], _kernel(node)).views(np.abs(x) ** p, 0.0))
    return ((total ** (1 / p)).astype(x.dtype),)


def _global_pool(inputs: Inputs, node: Node, _: int) -> tuple[Array, ...]:
    x = given(inputs, node, 0)
    axes = tuple(range(2, x.ndim))
    if node.op == "GlobalMaxPool":
        return (np.max(x, axis=axes, keepdims=True),)
    if node.op == "GlobalAveragePool":
        return (np.mean(x, axis=axes, keepdims=True).astype(x.dtype),)
    p = integer(node, "p", 2)
    return (np.sum(np.abs(x) ** p, axis=axes, keepdims=True) ** np.asarray(1 / p, x.dtype),)


def _kernel(node: Node) -> Sizes:
    kernel = integers(node, "kernel_shape")
    if kernel is None:
        raise InputError(f"node '{node.name}' ({node.op}) has no kernel_shape")
    return kernel


TABLE: Mapping[str, Operator] = {
    "MaxPool": _max_pool, "AveragePool": _average_pool, "LpPool": _power_pool, "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool, "GlobalLpPool": _global_pool,
}  # fmt: skip
