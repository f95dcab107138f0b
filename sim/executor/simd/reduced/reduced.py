"""Windowed products in reduced formats: the streams and geometry of a :class:`Product`, with other values and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..planes import LANES, Floats, PlaneLayout, aligned
from ..product import WINDOW_BYTES, Choice, Product, Work
from ..team import Call, call
from . import formats_kernel, reduced_kernel

#: What nothing is clamped to.
UNBOUNDED = (np.float32(-np.inf), np.float32(np.inf))


class Epilogue(NamedTuple):
    """What follows a product, fused: a factor per row and a zero point (int8 outputs only), and the clamp."""

    scales: Floats
    zero: int
    lowest: np.float32
    highest: np.float32


class Reduced:
    """A convolution on planes in one of the windowed formats of ``formats_kernel``; its subclasses give it values.

    ``packs``, ``planes``, ``tasks``, ``reduction``, ``operands``: as of :class:`Product`. ``values``, ``offsets`` and
    ``table`` are what the kernel reads; offsets count bytes of the format's scratch.

    Raises
    ------
    InputError
        for a layer with groups: its rows share no window of operands.
    """

    def __init__(
        self,
        fmt: int,
        layer: Layer,
        weights: NestedWeights,
        *,
        layouts: tuple[PlaneLayout, PlaneLayout],
        vectors: int,
        window: int,
        threads: int,
    ) -> None:
        if layer.groups != 1:
            raise InputError(f"layer '{layer.name}' has {layer.groups} groups; windowed products take 1")
        self.fmt, self.vectors, self.window = fmt, vectors, window
        self.product = Product(layer, weights, *layouts, choice=Choice("windowed", vectors, window), threads=threads)
        self.layer, self.source, self.target = layer, *layouts
        self.packs, self.planes, self.tasks = self.product.packs, self.product.planes, self.product.tasks
        self.reduction, self.operands = self.product.reduction, self.product.operands
        streams = self.product.streams
        self.offsets: NDArray[np.uint16] = streams.offsets.astype(np.uint16)
        self.values: NDArray[Any] = streams.values
        self.table: Floats = np.zeros(1, np.float32)
        self._operands = self.product.operands // np.uint32(4 // formats_kernel.INPUT_BYTES[fmt])
        self._masks = self.target.masks(vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of values, offsets, table and row bounds."""
        s = self.product.streams
        bounds = s.starts.nbytes + s.skips.nbytes + s.rows.nbytes + s.counts.nbytes
        return self.values.nbytes + self.offsets.nbytes + self.table.nbytes + bounds

    def new_work(self) -> Work:
        """Scratch memory of one thread."""
        scratch = self.window * formats_kernel.row_bytes(self.fmt, self.vectors) // 4
        sums = self.product.streams.rows_total * LANES * self.vectors
        return aligned(scratch), aligned(sums), np.zeros(2 * self.product.streams.levels, np.int64)

    def _call(
        self,
        fmt: int,
        x: NDArray[Any],
        out: NDArray[Any],
        *,
        level: int,
        bias: NDArray[Any],
        epilogue: Epilogue,
        residual: NDArray[Any] | None,
        works: Sequence[Work],
    ) -> Call:
        s, target = self.product.streams, self.target
        shape = (s.rows_total, s.reduction, self.window, s.blocks, s.levels, s.levels - level)
        bounds = (s.starts.reshape(-1), s.skips.reshape(-1), s.rows, s.counts.reshape(-1))
        streams = (*bounds, self.offsets, self.values, self.table, bias)
        added = out if residual is None else residual
        planes = (x, self._operands, out, target.lead, target.stride, self._masks, added)
        kernel = reduced_kernel.KERNELS[fmt, self.vectors]
        last = (residual is not None, *epilogue)
        return call(kernel, self.tasks, shape, streams, planes, last, extras=[(work,) for work in works])


class FloatReduced(Reduced):
    """A reduced product from float32 planes to float32 planes: called as :class:`Product` is."""

    def packing(self, x: Floats, out: Floats) -> Call:
        """The call that fills the phase planes ``out`` (``planes``) from ``x``; needed if ``packs``."""
        return self.product.packing(x, out)

    def call(
        self,
        x: Floats,
        out: Floats,
        *,
        level: int,
        bias: Floats,
        clamp: tuple[np.float32, np.float32] = UNBOUNDED,
        residual: Floats | None = None,
        works: Sequence[Work],
    ) -> Call:
        """The call that computes out = clamp(bias + W x + residual) at ``level``, halos zero; ``works``: one per thread.

        ``x``: the source planes, or the phase planes that ``packing`` fills where ``packs``.
        """
        epilogue = Epilogue(bias, 0, *clamp)  # scales are not read
        return self._call(self.fmt, x, out, level=level, bias=bias, epilogue=epilogue, residual=residual, works=works)


def largest_window(fmt: int, vectors: int) -> int:
    """Operands per window whose copies fill about the same share of the first-level cache as a float32 product's."""
    return max(1, WINDOW_BYTES // formats_kernel.row_bytes(fmt, vectors))
