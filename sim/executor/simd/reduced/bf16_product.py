"""Dense and block-sparse products of bfloat16 pairs with float32 sums: for block patterns and for the densest level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from .. import packing_kernel
from ..features import has
from ..phases import phases_of
from ..planes import Floats, PlaneLayout, aligned
from ..product import AHEAD
from ..team import Call, call
from . import amx_kernel, formats_kernel, words_blocks_kernel
from .amx import allow_tiles, tile_configuration
from .reduced import UNBOUNDED, Epilogue
from .words_product import WordProduct, WordWork, padded_matrix

#: Columns of a block: 16 words of two bfloat16.
COLUMNS = 32
#: Unit roundoffs of bfloat16 and float32.
BF16_ROUNDOFF, FLOAT_ROUNDOFF = 2.0**-8, 2.0**-24
Path = Literal["vectors", "tiles"]


class Bf16Product(WordProduct):
    """A convolution on float32 planes whose values and operands are rounded to bfloat16, multiplied exactly and added up
    in float32.

    Runs on AMX tiles where the processor has them, else by AVX512-BF16, else by widening to float32: one packing, and
    results that agree within :func:`agreement`. Levels keep whole blocks of 16 rows by 32 columns of the weight matrix
    (K, C*R*S), of which blocks of 32 by 32 are two.

    Parameters
    ----------
    dense : run this level without skipping blocks, zeros included; None: every level, skipping blocks.
    path : "vectors" or "tiles"; None: tiles where the processor and the system have them, for 1, 2 or 4 ``vectors``.
        "tiles" elsewhere keeps them in memory: slow, for tests.

    Raises
    ------
    InputError
        naming a block that a level keeps in part; for groups; for tiles that the system forbids or ``vectors`` do not fit.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        vectors: int,
        dense: int | None = None,
        path: Path | None = None,
        threads: int = 1,
    ) -> None:
        values = weights.dense(0 if dense is None else dense).reshape(weights.shape[0], -1)
        words = bf16_bits(padded_matrix(values, COLUMNS)).view(np.uint32)
        layouts, fmt = (source, target), formats_kernel.BF16
        super().__init__(fmt, layer, weights, words, dense=dense, layouts=layouts, vectors=vectors, threads=threads)
        self.path = _usable(path, vectors)
        #: As of ``product.Product``: a dense level in float32 may stand beside these blocks.
        self.reduction = self._offsets[: layer.C * layer.R * layer.S]
        self.operands = np.append(self.reduction, np.zeros(AHEAD, np.uint32))

    def new_work(self) -> WordWork:
        """Scratch memory of one thread; on tiles their memory, which begins with their configuration."""
        work = super().new_work()
        if self.path == "vectors":
            return work
        memory: NDArray[np.uint8] = aligned(amx_kernel.STATE_BYTES, np.uint8)
        memory[:64] = tile_configuration(amx_kernel.TILES)
        return *work, memory

    def packing(self, x: Floats, out: Floats) -> Call:
        """The call that fills the phase planes ``out`` (``planes``) from ``x``; needed if ``packs``."""
        layer, planes, phases = self.layer, self.planes, phases_of(self.layer)
        grid = (planes.channels, layer.P, layer.Q, *planes.dimensions[3:])
        rest = (phases.first, layer.stride, tuple(phases.reach), np.float32(0))
        return call(packing_kernel.pack_phases, layer.C, x, self.source.dimensions, out, grid, *rest)

    def call(
        self,
        x: Floats,
        out: Floats,
        *,
        level: int,
        bias: Floats,
        clamp: tuple[np.float32, np.float32] = UNBOUNDED,
        residual: Floats | None = None,
        works: Sequence[WordWork],
    ) -> Call:
        """The call that computes out = clamp(bias + W x + residual) at ``level``, halos zero; ``works``: one per thread.

        Raises
        ------
        InputError
            for a level other than the dense one, if there is one.
        """
        tiles = self.path == "tiles"
        kernel = amx_kernel.KERNELS[self.vectors] if tiles else words_blocks_kernel.KERNELS[self.fmt, self.vectors]
        return self._call(
            kernel,
            x,
            out,
            level=level,
            starts=bias,
            epilogue=Epilogue(bias, 0, *clamp),
            residual=residual,
            works=works,
        )


def bf16_bits(values: Floats) -> NDArray[np.uint16]:
    """The nearest bfloat16 of finite float32 numbers, halves to even, as their 16 bits; infinite beyond 3.39e38."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rounding_bound(terms: int, magnitudes: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """The most that outputs of ``terms`` products each may differ from the exact ones of the numbers before rounding.

    Value and operand are rounded once each, |d| <= u = 2^-8, and their products, exact then, are added up in float32 with
    the bias and the residual: ((1 + u)^2 (1 + gamma) - 1) of the magnitudes |bias| + sum |value * operand| + |residual|
    (Higham, sections 3.1 and 4.2). What is below the smallest normal number, 2^-126, may be lost: ``scale`` is the sum of
    |value| + |operand| + 1 over the terms.
    """
    gamma = (terms + 3) * FLOAT_ROUNDOFF
    share = (1 + BF16_ROUNDOFF) ** 2 * (1 + gamma / (1 - gamma)) - 1
    return share * magnitudes + 2.0**-126 * scale


def agreement(terms: int) -> float:
    """How far two paths may differ, as a share of |bias| + sum |value * operand| over bfloat16 numbers.

    Products of bfloat16 numbers are exact in float32 (8 + 8 bits of 24), so each path adds ``terms`` + 1 numbers in
    float32, in its own order: each is within gamma(terms + 1) of the exact sum (Higham, section 4.2). Instructions that
    flush denormals do so alike on all paths.
    """
    gamma = (terms + 2) * FLOAT_ROUNDOFF
    return 2 * gamma / (1 - gamma)


def _usable(path: Path | None, vectors: int) -> Path:
    """The path to take; permission for tiles is asked for here."""
    fits = vectors in amx_kernel.VECTORS
    if path == "vectors" or (path is None and not (fits and has("amx_bf16") and allow_tiles())):
        return "vectors"
    if not fits:
        raise InputError(f"{vectors} vectors; on tiles there are {amx_kernel.VECTORS}")
    if amx_kernel.NATIVE and not allow_tiles():
        raise InputError("the system does not allow AMX tiles (Linux 5.16 or later does)")
    return "tiles"
