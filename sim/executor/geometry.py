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


class Convolution(NamedTuple):
    """Sizes of one product over the windows of an image, in elements; ``pads`` are (top, left, bottom, right).

    A matrix product is one of 1x1 windows: ``channels`` = groups * k, ``height`` x ``width`` = its m positions.
    """

    name: str
    channels: int
    height: int
    width: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def reach(self) -> tuple[int, int]:
        """Distance between the first and the last tap of a window."""
        return (self.kernel[0] - 1) * self.dilations[0], (self.kernel[1] - 1) * self.dilations[1]

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width (ONNX operator "Conv")."""
        top, left, bottom, right = self.pads
        high, wide = self.height + top + bottom - self.reach[0], self.width + left + right - self.reach[1]
        return (high - 1) // self.strides[0] + 1, (wide - 1) // self.strides[1] + 1

    @property
    def positions(self) -> int:
        """Output positions of one image: how often each weight is multiplied."""
        return self.out_size[0] * self.out_size[1]


class Product(NamedTuple):
    """One product with a stored matrix: its sizes, and how many images (or time steps) one inference takes through it."""

    sizes: Convolution
    runs: int = 1


class Planes(NamedTuple):
    """Geometry of one convolution over its padded phase planes. All sizes in elements (float32).

    Kernels receive this tuple as it is. ``packed`` is 0 where the input tensor itself already has this layout
    (no padding, unit stride) and is read in place.
    """

    channels: int
    height: int
    width: int
    row_stride: int
    column_stride: int
    top: int
    left: int
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


def convolution_of(layer: Layer) -> Convolution:
    """Sizes of a convolution layer.

    Raises
    ------
    InputError
        if the layer is no convolution.
    """
    if layer.op not in CONV_OPS:
        raise InputError(f"layer '{layer.name}' is a '{layer.op}'; only convolutions have input planes")
    return Convolution(
        name=layer.name,
        channels=layer.C,
        height=layer.H,
        width=layer.W,
        outputs=layer.K,
        kernel=(layer.R, layer.S),
        strides=(layer.stride, layer.stride),
        dilations=(layer.dilation, layer.dilation),
        pads=(layer.padding,) * 4,
        groups=layer.groups,
    )


def planes_of(layer: Layer | Convolution) -> Planes:
    """Plane geometry of a convolution.

    At unit stride, rows are W + the wider padding apart: the zeros to the right of one row are those to the left of the
    next. Output rows are as far apart in a run; where one is longer, its last elements are the next one's first.

    Raises
    ------
    InputError
        if the layer is no convolution or its planes exceed 2**31 elements (offsets are 32 bits wide).
    """
    sizes = layer if isinstance(layer, Convolution) else convolution_of(layer)
    (top, left, _, right), (out_height, out_width), (reach_y, reach_x) = sizes.pads, sizes.out_size, sizes.reach
    # A single output position never moves, so its stride is irrelevant and the input can be read in place.
    row_stride, column_stride = (1, 1) if sizes.positions == 1 else sizes.strides
    columns = out_width + reach_x // column_stride
    packed = max(sizes.pads) > 0 or row_stride > 1 or column_stride > 1
    pitch = sizes.width + max(left, right) if column_stride == 1 else columns
    rows, tail = out_height + reach_y // row_stride, min(left, right) if column_stride == 1 else 0
    planes = Planes(
        channels=sizes.channels,
        height=sizes.height,
        width=sizes.width,
        row_stride=row_stride,
        column_stride=column_stride,
        top=top,
        left=left,
        row_phases=min(row_stride, reach_y + 1),
        column_phases=min(column_stride, reach_x + 1),
        rows=rows,
        columns=columns,
        pitch=pitch,
        plane=round_up(rows * pitch + tail, LINE) if packed else sizes.height * sizes.width,
        packed=int(packed),
        out_height=out_height,
        out_width=out_width,
    )
    if planes.size >= 2**31:
        raise InputError(f"layer '{sizes.name}': {planes.size} input elements; offsets allow at most {2**31 - 1}")
    return planes


def weight_offsets(layer: Layer | Convolution, planes: Planes) -> NDArray[np.int32]:
    """Offset into the planes of the input that each weight meets at output (0, 0).

    Returns
    -------
    int32 of shape (K, C/groups * R * S), rows in the order of the layer's weights.
    """
    sizes = layer if isinstance(layer, Convolution) else convolution_of(layer)
    per_group = sizes.channels // sizes.groups
    group = np.arange(sizes.groups)
    channel = (group[:, None] * per_group + np.arange(per_group))[:, :, None, None]
    row = (np.arange(sizes.kernel[0]) * sizes.dilations[0])[:, None]
    column = np.arange(sizes.kernel[1]) * sizes.dilations[1]
    row_step, column_step = planes.row_stride, planes.column_stride
    phase = (channel * planes.row_phases + row % row_step) * planes.column_phases + column % column_step
    offset = phase * planes.plane + (row // row_step) * planes.pitch + column // column_step
    of_group = offset.reshape(sizes.groups, 1, -1).astype(np.int32)
    shape = (sizes.groups, sizes.outputs // sizes.groups, of_group.shape[2])
    # All rows of one group meet the same inputs: with one group this is a view, however many rows there are.
    return np.broadcast_to(of_group, shape).reshape(sizes.outputs, -1)


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
