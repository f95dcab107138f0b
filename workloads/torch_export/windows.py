"""Strided windows of convolutions and pools as the one stride, padding and dilation that a layer states."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.fx import Node

from .nodes import grid, pair, shape


class Window(NamedTuple):
    """Sizes of a window operator; ``explicit`` says which padding the input sizes H and W already include."""

    H: int
    W: int
    P: int
    Q: int
    R: int
    S: int
    stride: int
    padding: int
    dilation: int
    explicit: str = ""


def single_window(node: Node, args: dict[str, Any]) -> Window | None:
    """The window of a convolution or pool of one or two dimensions; None if its sides differ in stride or dilation.

    A side with one output position takes any stride, a side of one tap any dilation. Padding that differs by side is
    counted into H and W.
    """
    _, H, W = grid(shape(args.get("input", node.all_input_nodes[0])))
    _, P, Q = grid(shape(node))
    kernel = pair(shape(args["weight"])[2:] if "weight" in args else args["kernel_size"], front=1)
    one_dimensional = "1d" in str(node.target) or ("weight" in args and len(shape(args["weight"])) == 3)
    if one_dimensional:
        kernel[0] = 1
    strides = pair(args["stride"] or kernel, front=1)
    dilations = pair(args.get("dilation", 1), front=1)
    pads = _paddings(args["padding"], kernel=kernel, dilations=dilations)
    if one_dimensional:
        pads[0] = (0, 0)
    padding, explicit = pads[0][0], ""
    if len({pads[0], pads[1], (padding, padding)}) > 1:
        H, W, padding = H + sum(pads[0]), W + sum(pads[1]), 0
        explicit = f"{pads[0][0]}+{pads[0][1]} rows, {pads[1][0]}+{pads[1][1]} columns"
    stride = _common(strides, [P > 1, Q > 1])
    dilation = _common(dilations, [size > 1 for size in kernel])
    if stride is None or dilation is None:
        return None
    floors = not args.get("ceil_mode")
    for size, taps, found in ((H, kernel[0], P), (W, kernel[1], Q)):
        if floors and (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1 != found:
            return None
    return Window(H, W, P, Q, kernel[0], kernel[1], stride, padding, dilation, explicit)


def _paddings(padding: Any, *, kernel: list[int], dilations: list[int]) -> list[tuple[int, int]]:
    """Zeros before and after, per axis."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        totals = [dilation * (size - 1) for size, dilation in zip(kernel, dilations, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(size, size) for size in pair(padding, front=0)]


def _common(values: list[int], matters: list[bool]) -> int | None:
    """The value of all axes where it matters; None if they differ."""
    relevant = {value for value, counts in zip(values, matters, strict=True) if counts} or {max(values)}
    return relevant.pop() if len(relevant) == 1 else None
