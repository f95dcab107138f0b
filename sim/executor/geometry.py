"""Where weights and windows find their inputs: padded planes of convolutions, windows of pooling layers.

Direct sparse convolution (Park et al., SkimCaffe; Pietron and Zurek, arXiv 2112.15445) multiplies every non-zero
weight with a whole, shifted input plane: ``out[k, y, x] += v * planes[offset + y*pitch + x]``. That form needs unit
steps in x. A stride of s is therefore unfolded into up to s*s *phase planes* per channel (phase (i, j) holds the padded
rows i, i+s, ... and columns j, j+s, ...), so that neighbouring outputs always read neighbouring inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.layers import CONV_OPS, Layer

#: Output runs over packed planes are rounded up to this many floats, so that vector loops have no scalar rest.
LANES = 32
#: Planes start at multiples of this many floats: one 64-byte cache line.
LINE = 16


class Planes(NamedTuple):
    """Geometry of one convolution over its padded phase planes. All sizes in elements (float32).

    Kernels receive this tuple as it is. ``packed`` is 0 where the input tensor itself already has this layout
    (no padding, unit stride) and is read in place.
    """

    channels: int
    height: int
    width: int
    stride: int
    padding: int
    row_phases: int
    column_phases: int
    rows: int
    columns: int
    pitch: int
    plane: int
    packed: int
    out_height: int
    out_width: int

    @property
    def size(self) -> int:
        """Elements of all planes of one image, the slack behind the last plane included."""
        planes = self.channels * self.row_phases * self.column_phases * self.plane
        return planes + LANES if self.packed else planes

    @property
    def lanes(self) -> int:
        """Multiple to which run lengths are rounded up: only packed planes have slack behind them."""
        return LANES if self.packed else 1

    def run_size(self, rows: int) -> int:
        """Sums that a run over ``rows`` output rows needs, gaps between the rows and rounding included."""
        return round_up((rows - 1) * self.pitch + self.out_width, self.lanes)


class Window(NamedTuple):
    """Geometry of one pooling layer, in elements. The kernel receives this tuple as it is."""

    channels: int
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride: int
    padding: int
    dilation: int
    out_height: int
    out_width: int


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``size``."""
    return -(-size // multiple) * multiple


def planes_of(layer: Layer) -> Planes:
    """Plane geometry of a convolution layer.

    At unit stride, rows are W + padding apart: the zeros to the right of one row are the zeros to the left of the next.
    Output rows are as far apart in a run; where one is longer than that, its last elements are the next one's first.

    Raises
    ------
    InputError
        if the layer is no convolution or its planes exceed 2**31 elements (offsets are 32 bits wide).
    """
    if layer.op not in CONV_OPS:
        raise InputError(f"layer '{layer.name}' is a '{layer.op}'; only convolutions have input planes")
    # A single output position never moves, so its stride is irrelevant and the input can be read in place.
    stride = 1 if layer.P == layer.Q == 1 else layer.stride
    reach_y, reach_x = (layer.R - 1) * layer.dilation, (layer.S - 1) * layer.dilation
    columns = layer.Q + reach_x // stride
    packed = layer.padding > 0 or stride > 1
    pitch = layer.W + layer.padding if stride == 1 else columns
    rows = layer.P + reach_y // stride
    tail = layer.padding if stride == 1 else 0
    plane = round_up(rows * pitch + tail, LINE) if packed else layer.H * layer.W
    planes = Planes(
        channels=layer.C,
        height=layer.H,
        width=layer.W,
        stride=stride,
        padding=layer.padding,
        row_phases=min(stride, reach_y + 1),
        column_phases=min(stride, reach_x + 1),
        rows=rows,
        columns=columns,
        pitch=pitch,
        plane=plane,
        packed=int(packed),
        out_height=layer.P,
        out_width=layer.Q,
    )
    if planes.size >= 2**31:
        raise InputError(f"layer '{layer.name}': {planes.size} input elements; offsets allow at most {2**31 - 1}")
    return planes


def weight_offsets(layer: Layer, planes: Planes) -> NDArray[np.int32]:
    """Offset into the planes of the input that each weight meets at output (0, 0).

    Returns
    -------
    int32 of shape (K, C/groups * R * S), rows in the order of the layer's weights.
    """
    per_group = layer.C // layer.groups
    group = np.arange(layer.K) // (layer.K // layer.groups)
    channel = (group[:, None] * per_group + np.arange(per_group))[:, :, None, None]
    row = (np.arange(layer.R) * layer.dilation)[:, None]
    column = np.arange(layer.S) * layer.dilation
    phase = (channel * planes.row_phases + row % planes.stride) * planes.column_phases + column % planes.stride
    offset = phase * planes.plane + (row // planes.stride) * planes.pitch + column // planes.stride
    return offset.reshape(layer.K, -1).astype(np.int32)


def window_of(layer: Layer) -> Window:
    """Window geometry of a pooling layer."""
    return Window(
        channels=layer.C,
        height=layer.H,
        width=layer.W,
        kernel_height=layer.R,
        kernel_width=layer.S,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        out_height=layer.P,
        out_width=layer.Q,
    )
