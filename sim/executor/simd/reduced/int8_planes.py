"""int8 tensors in planes: the geometry of the float32 planes, one byte per element, halos at the zero point."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from ..phases import phases_of
from ..planes import Floats, PlaneLayout, aligned
from ..team import Call, call
from . import reduced_kernel

Bytes = NDArray[np.int8]
#: The range of int8.
LOWEST, HIGHEST = -128, 127
#: Elements of a task of copies.
_STEP = 1 << 15


class Requantise(NamedTuple):
    """int32 sums brought back to int8: y = clamp(round(sum * scale) + zero), halves to even, as ONNX QLinearConv does.

    ``scales``: float32 (rows,), x_scale * w_scale / y_scale of each row; ``lowest``, ``highest``: of the result, so that
    an activation such as ReLU is a higher ``lowest``.
    """

    scales: Floats
    zero: int = 0
    lowest: int = LOWEST
    highest: int = HIGHEST

    def checked(self, rows: int) -> Requantise:
        """This, or InputError for scales that do not fit or are no positive numbers, or limits outside int8."""
        good = np.isfinite(self.scales) & (self.scales > 0)
        if self.scales.shape != (rows,) or self.scales.dtype != np.float32 or not good.all():
            raise InputError(f"needed are {rows} positive float32 scales, one per row")
        if not LOWEST <= self.lowest <= self.highest <= HIGHEST or not LOWEST <= self.zero <= HIGHEST:
            raise InputError(f"zero {self.zero}, limits {self.lowest} to {self.highest}: all must lie in -128 to 127")
        return self


def new_bytes(layout: PlaneLayout, zero: int = 0) -> Bytes:
    """An int8 tensor whose every element, halos included, is the zero point."""
    buffer: Bytes = aligned(layout.size, np.int8)
    buffer[:] = zero
    return buffer


def new_sums(layout: PlaneLayout) -> NDArray[np.int32]:
    """An int32 tensor of zeros."""
    buffer: NDArray[np.int32] = aligned(layout.size, np.int32)
    return buffer


def byte_view(layout: PlaneLayout, buffer: NDArray[np.generic]) -> NDArray[Any]:
    """The tensor (channels, height, width) inside a buffer of any element type, without halos; writes go through."""
    return layout.view(cast(Floats, buffer))


def check_planes(buffer: NDArray[np.generic], layout: PlaneLayout, dtype: type[np.generic]) -> None:
    """Raise InputError unless a buffer holds a tensor of the layout: kernels read and write by address."""
    if buffer.dtype != dtype or buffer.size < layout.size or not buffer.flags.c_contiguous:
        raise InputError(
            f"planes are {buffer.dtype} with {buffer.size} elements; needed are {layout.size} of {dtype.__name__}, contiguous"
        )


def phase_sources(layer: Layer, source: PlaneLayout, planes: PlaneLayout) -> NDArray[np.int32]:
    """Element of the input planes that each element of the phase planes copies; -1 where it lies outside the input."""
    phases = phases_of(layer)
    above, below, left, right = phases.reach
    found = np.full(planes.size, -1, np.int32)
    u, v = np.arange(-above, layer.P + below)[:, None], np.arange(-left, layer.Q + right)[None]
    for channel in range(layer.C):
        for phase, (first_row, first_column) in enumerate(phases.first):
            y, x = u * layer.stride + first_row, v * layer.stride + first_column
            inside = (y >= 0) & (y < source.height) & (x >= 0) & (x < source.width)
            to = (channel * len(phases.first) + phase) * planes.stride + planes.lead + u * planes.pitch + v
            found[to[inside]] = (channel * source.stride + source.lead + y * source.pitch + x)[inside]
    return found


class ByteInputs:
    """What int8 products share: input planes that may have to be split into phases first.

    ``sources``: see :func:`phase_sources`; None where the product reads its input planes in place.
    """

    layer: Layer
    source_zero: int
    sources: NDArray[np.int32] | None

    def packing(self, x: Bytes, out: Bytes) -> Call:
        """The call that fills the phase planes ``out`` (``planes``) from ``x``; needed if ``packs``."""
        if self.sources is None:
            raise InputError(f"layer '{self.layer.name}' reads its input planes in place")
        tasks = -(-self.sources.size // _STEP)
        return call(reduced_kernel.pick, tasks, x, self.sources, _STEP, out, np.int8(self.source_zero))
