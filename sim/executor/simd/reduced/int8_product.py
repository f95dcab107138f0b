"""Sparse int8 products with exact int32 sums, on planes, at every level from one set of streams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..planes import Floats, PlaneLayout
from ..product import Work, windowed
from ..team import Call
from . import formats_kernel
from .int8_planes import HIGHEST, LOWEST, ByteInputs, Bytes, Requantise, check_planes, phase_sources
from .reduced import Epilogue, Reduced

#: Non-zeros of a row in one window whose float32 sum is exact: 1024 * 2^14 = 2^24.
EXACT_WINDOW = 1024
_MOST = (1 << 31) - 1


class Int8Product(ByteInputs, Reduced):
    """A convolution from int8 planes to int32 planes, or to int8 planes requantised: exact, see ``reduced_kernel``.

    3 bytes per non-zero. Multiply-adds run in float32, where whole numbers up to 2^24 are exact: any processor with
    fused multiply-adds runs it at the speed of float32.

    Parameters
    ----------
    weights : whole numbers in -128..127, symmetric (their zero point is 0).
    source_zero : zero point of the input; halos and padding hold it. uint8 inputs are shifted by 128 first.

    Raises
    ------
    InputError
        naming a weight that is no int8.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        vectors: int,
        source_zero: int = 0,
        threads: int = 1,
    ) -> None:
        check_int8(weights)
        window = windowed(vectors).window
        layouts, fmt = (source, target), formats_kernel.INT32
        super().__init__(fmt, layer, weights, layouts=layouts, vectors=vectors, window=window, threads=threads)
        streams = self.product.streams
        crowd = int(streams.counts.sum(axis=0, dtype=np.int64).max(initial=0))
        if crowd > EXACT_WINDOW:
            raise InputError(f"{weights.name}: {crowd} non-zeros of a row in one window; {EXACT_WINDOW} are exact")
        self.weights, self.source_zero = weights, source_zero
        self.values = streams.values.astype(np.int8).view(np.uint8)
        self.table = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
        self.sources = phase_sources(layer, source, self.planes) if self.packs else None

    def call(
        self,
        x: Bytes,
        out: NDArray[np.int32] | Bytes,
        *,
        level: int,
        bias: NDArray[np.int32],
        requantise: Requantise | None = None,
        works: Sequence[Work],
    ) -> Call:
        """The call that computes out = bias + W (x - source_zero) at ``level``; ``works``: one per thread.

        ``out``: int32 planes with halos zero, or int8 planes (``new_bytes`` of the zero point) with ``requantise``.

        Raises
        ------
        InputError
            if a sum might leave int32, or planes have the wrong type or size.
        """
        shifted = shifted_bias(self.weights, level, bias, self.source_zero)
        check_planes(x, self.planes, np.int8)
        check_planes(out, self.target, np.int32 if requantise is None else np.int8)
        epilogue = epilogue_of(requantise, len(shifted))
        fmt = formats_kernel.INT32 if requantise is None else formats_kernel.INT8
        return self._call(fmt, x, out, level=level, bias=shifted, epilogue=epilogue, residual=None, works=works)


def check_int8(weights: NestedWeights) -> None:
    """Raise InputError unless there are values and all are whole numbers in -128..127."""
    values = weights.values
    if values is None:
        raise InputError(f"{weights.name}: no weight values to execute")
    wrong = (values != np.rint(values)) | (values < LOWEST) | (values > HIGHEST)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f"{weights.name}: weight {values[where]} at {where} is no whole number in -128 to 127")


def shifted_bias(
    weights: NestedWeights, level: int, bias: NDArray[np.int32], source_zero: int, *, raised: int = 0
) -> NDArray[np.int32]:
    """bias - (source_zero + raised) * (sum of the row's weights), wrapped to int32: products may then read the input as
    it is stored, or ``raised`` by that much.

    Raises
    ------
    InputError
        if a row's sum might leave int32 for some input.
    """
    rows = weights.dense(level).reshape(weights.shape[0], -1).astype(np.int64)
    if bias.shape != (len(rows),) or bias.dtype != np.int32:
        raise InputError(f"{weights.name}: the bias must be int32 ({len(rows)},), is {bias.dtype} {bias.shape}")
    totals = rows.sum(axis=1)
    shifted = bias.astype(np.int64) - source_zero * totals
    reach = np.abs(shifted) + -LOWEST * np.abs(rows).sum(axis=1)
    if int(reach.max(initial=0)) > _MOST:
        raise InputError(f"{weights.name}: row {int(reach.argmax())} may sum to {int(reach.max())}, beyond int32")
    wrapped: NDArray[np.int32] = (shifted - raised * totals).astype(np.int32)
    return wrapped


def epilogue_of(requantise: Requantise | None, rows: int) -> Epilogue:
    """What the kernels do with finished sums."""
    if requantise is None:
        nothing: Floats = np.ones(rows, np.float32)
        return Epilogue(nothing, 0, np.float32(0), np.float32(0))
    q = requantise.checked(rows)
    return Epilogue(q.scales, q.zero, np.float32(q.lowest - q.zero), np.float32(q.highest - q.zero))
