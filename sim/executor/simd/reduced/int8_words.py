"""Dense int8 products with exact int32 sums, four operands to a word: what an int8 level runs whose zeros are too few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..planes import PlaneLayout
from ..team import Call
from . import formats_kernel, words_blocks_kernel, words_kernel
from .int8_planes import ByteInputs, Bytes, Requantise, check_planes, phase_sources
from .int8_product import check_int8, epilogue_of, shifted_bias
from .words_product import WordProduct, WordWork, padded_matrix

#: Columns of a block: 16 words of four int8.
COLUMNS = 64


class Int8WordProduct(ByteInputs, WordProduct):
    """:class:`Int8Product` without skipping single zeros: by AVX512-VNNI where the processor has it, else by int32
    multiplications, with equal results.

    Exactness: int32 sums wrap around, so only the final sum has to fit, which ``call`` checks. Operands are raised by
    128 to be unsigned; the rows' starting values are lowered by 128 times the sum of the row's weights.

    Parameters
    ----------
    weights : whole numbers in -128..127.
    dense : run this level without skipping blocks; None: every level, skipping blocks of 16 rows by 64 columns.
    source_zero : zero point of the input; halos and padding hold it.

    Raises
    ------
    InputError
        naming a weight that is no int8, or a block that a level keeps in part; for groups.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        vectors: int,
        dense: int | None = 0,
        source_zero: int = 0,
        threads: int = 1,
    ) -> None:
        check_int8(weights)
        values = weights.dense(0 if dense is None else dense).reshape(weights.shape[0], -1)
        words = padded_matrix(values.astype(np.int8), COLUMNS).view(np.uint32)
        layouts, fmt = (source, target), formats_kernel.INT32
        super().__init__(fmt, layer, weights, words, dense=dense, layouts=layouts, vectors=vectors, threads=threads)
        self.whole, self.source_zero = weights, source_zero
        self.sources = phase_sources(layer, source, self.planes) if self.packs else None

    def call(
        self,
        x: Bytes,
        out: NDArray[np.int32] | Bytes,
        *,
        level: int,
        bias: NDArray[np.int32],
        requantise: Requantise | None = None,
        works: Sequence[WordWork],
    ) -> Call:
        """As :meth:`Int8Product.call`.

        Raises
        ------
        InputError
            if a sum might leave int32, planes have the wrong type or size, or the level is not the dense one.
        """
        starts = shifted_bias(self.whole, level, bias, self.source_zero, raised=words_kernel.OFFSET)
        check_planes(x, self.planes, np.int8)
        check_planes(out, self.target, np.int32 if requantise is None else np.int8)
        fmt = formats_kernel.INT32 if requantise is None else formats_kernel.INT8
        return self._call(
            words_blocks_kernel.KERNELS[fmt, self.vectors],
            x,
            out,
            level=level,
            starts=starts,
            epilogue=epilogue_of(requantise, len(starts)),
            residual=None,
            works=works,
        )
