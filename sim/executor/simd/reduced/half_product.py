"""Sparse products with fp16 multiply-adds inside a window and float32 sums between windows: an option, never a default."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..planes import PlaneLayout
from . import formats_kernel
from .choices import LARGEST
from .reduced import FloatReduced, largest_window

#: Unit roundoffs of IEEE binary16 and binary32, and half the smallest denormal of binary16: what underflow loses at most.
HALF_ROUNDOFF, FLOAT_ROUNDOFF = 2.0**-11, 2.0**-24
HALF_UNDERFLOW = 2.0**-25
#: The default bound of a window's error, as a share of the sum of its products' magnitudes.
SHARE = 1 / 16


def window_for(share: float) -> int:
    """The most non-zeros of a row in a window whose worst error is at most ``share`` of the sum of |value * operand|.

    A window of n non-zeros rounds value and operand once each and its sum n times, so a product carries at most n + 2
    factors (1 + d) with |d| <= u = 2^-11, where FMA hardware is missing (1 + 2^-24)^n more. The error is therefore at
    most gamma(n + 2) = (n + 2) u / (1 - (n + 2) u) of the magnitudes (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), underflow aside; n + 2 = share / (1 + share) / u makes it ``share``.

    Raises
    ------
    InputError
        if not even one non-zero per window meets the bound.
    """
    most = math.floor(share / (1 + share) / (HALF_ROUNDOFF + FLOAT_ROUNDOFF)) - 2
    if most < 1:
        raise InputError(f"an error of {share} of the magnitudes is below what one fp16 product can have: use 0.002 up")
    return most


class HalfProduct(FloatReduced):
    """:class:`Product` with fp16 values and operands: 4 bytes per non-zero instead of 6, and twice the lanes per register.

    Inputs beyond 65504 and sums beyond it inside a window become infinite, as fp16 has it. Native on processors with
    AVX512-FP16 or Arm's FP16; elsewhere every step is rounded through float32: as accurate, and slower than float32.

    Parameters
    ----------
    share : bound of a window's error, see :func:`window_for`; it limits the window's length.

    Raises
    ------
    InputError
        for weights beyond fp16's range, or a processor without fp16 conversions.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        vectors: int,
        share: float = SHARE,
        threads: int = 1,
    ) -> None:
        if not formats_kernel.CONVERTS_HALF:
            raise InputError("fp16 products need a processor with F16C, AVX-512 or Arm's FP16")
        fmt = formats_kernel.HALF
        window = min(window_for(share), largest_window(fmt, vectors), _streams_limit(vectors))
        layouts = (source, target)
        super().__init__(fmt, layer, weights, layouts=layouts, vectors=vectors, window=window, threads=threads)
        streams = self.product.streams
        worst = float(np.abs(streams.values).max(initial=0))
        if worst > LARGEST["float16"]:
            raise InputError(f"{weights.name}: a weight of magnitude {worst:g}; fp16 ends at {LARGEST['float16']:g}")
        self.values = streams.values.astype(np.float16).view(np.uint16)
        places = streams.offsets.astype(np.int64) // (64 * vectors)
        self.offsets = (places * formats_kernel.row_bytes(fmt, vectors)).astype(np.uint16)

    def bound(self, magnitudes: NDArray[np.float64], scale: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The most that outputs may differ from the exact ones.

        ``magnitudes``: |bias| + sum |value * operand| + |residual| per output; ``scale``: the sum of |value| + |operand|
        + 1 over its non-zeros, which underflow is relative to.
        """
        inside = (self.window + 2) * (HALF_ROUNDOFF + FLOAT_ROUNDOFF)
        between = (-(-self.product.reduction.size // self.window) + 2) * FLOAT_ROUNDOFF
        gamma = (inside + between) / (1 - inside - between)
        return gamma * magnitudes + 2 * HALF_UNDERFLOW * scale


def _streams_limit(vectors: int) -> int:
    """Windows are laid out as float32 ones first, whose offsets have 16 bits."""
    return (1 << 16) // (64 * vectors)
