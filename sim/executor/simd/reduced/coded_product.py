"""Sparse products whose values are codes into a table of up to 64 numbers, kept in the offsets' free bits: 2 bytes each."""

from __future__ import annotations

import numpy as np

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..planes import Floats, PlaneLayout
from ..product import windowed
from . import formats_kernel
from .reduced import FloatReduced

#: Offsets are multiples of a cache line: that many codes fit their low bits.
MOST_CODES = formats_kernel.CODE_MASK + 1


class CodedProduct(FloatReduced):
    """:class:`Product` for weights of few different values, such as powers of two: the same float32 products, added one by
    one, which is bit by bit the same where a tile has more than ``windowed_kernel.TWO_SUMS`` vectors.

    A non-zero takes 2 bytes instead of 6: its offset into the window's scratch is a multiple of 64, and its code stands
    in the six bits below.

    Parameters
    ----------
    table : float32, at most 64 numbers, which every weight is one of; None: the weights' own values.

    Raises
    ------
    InputError
        for more than 64 numbers, or a weight that is none of them.
    """

    def __init__(
        self,
        layer: Layer,
        weights: NestedWeights,
        source: PlaneLayout,
        target: PlaneLayout,
        *,
        vectors: int,
        table: Floats | None = None,
        threads: int = 1,
    ) -> None:
        choice = windowed(vectors)
        layouts = (source, target)
        super().__init__(
            formats_kernel.CODED,
            layer,
            weights,
            layouts=layouts,
            vectors=vectors,
            window=choice.window,
            threads=threads,
        )
        every = self.product.streams.values[:-1]
        numbers = np.unique(every if table is None else table)
        if len(numbers) > MOST_CODES:
            raise InputError(f"{weights.name}: {len(numbers)} different values; at most {MOST_CODES} have codes")
        codes = np.searchsorted(numbers, every).clip(max=max(0, len(numbers) - 1))
        missing = every[numbers[codes] != every] if len(numbers) else every
        if missing.size:
            raise InputError(f"{weights.name}: weight {missing[0]} is not in the table")
        self.table = np.zeros(MOST_CODES, np.float32)
        self.table[: len(numbers)] = numbers
        self.offsets[:-1] |= codes.astype(np.uint16)
        self.values = np.zeros(0, np.float32)
