"""How a layer's weights become the tall matrices that are decomposed, and back.

Convolutions with a kernel wider than one: each filter is a (C*R) x S matrix, cut along its rows into equal slices of at
most 64*S rows. Fully connected layers and 1 x 1 convolutions: each output's weights are a vector, folded into rows of 3
(zeros at its end where 3 does not divide it). Both as in the authors' released code; kernels other than 3 x 3, which that
code leaves alone, follow the same rule with their own S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

T = TypeVar("T", bound=np.generic)

#: Columns of the matrices made from vectors (authors' code).
VECTOR_COLUMNS = 3
#: A convolution's slice has at most this many rows per column (authors' code: 64 input channels of a 3 x 3 kernel).
ROWS_PER_COLUMN = 64
#: Input features -> (slices, rows per slice) of a weight vector: table VEC_2_SHAPE of the authors' code. Other lengths
#: make one slice of ceil(C / 3) rows.
VECTOR_SLICES = {
    4096: (8, 171), 2048: (4, 171), 1280: (3, 143), 1024: (2, 171), 960: (2, 160), 576: (1, 192), 512: (1, 171),
    384: (1, 128), 320: (1, 107), 256: (1, 86), 192: (1, 64), 160: (1, 54), 144: (1, 48), 128: (1, 43), 96: (1, 32),
    64: (1, 22), 32: (1, 11), 24: (1, 8), 16: (1, 6),
}  # fmt: skip


@dataclass(frozen=True)
class Slicing:
    """``units`` outputs (filters or rows), each as ``slices`` matrices of ``rows`` x ``columns``; ``shape``: of the
    weights; ``transposed``: the kernel is a column (S = 1 < R), so its rows and columns change places."""

    shape: tuple[int, ...]
    units: int
    slices: int
    rows: int
    columns: int
    transposed: bool = False

    @property
    def matrices(self) -> int:
        return self.units * self.slices

    @property
    def length(self) -> int:
        """Weights of one unit, padding excluded."""
        return int(np.prod(self.shape[1:]))

    @property
    def padding(self) -> int:
        """Zeros added at the end of each unit's weights."""
        return self.slices * self.rows * self.columns - self.length

    def cut(self, weights: NDArray[T]) -> NDArray[T]:
        """Matrices (units * slices, rows, columns) of weights, or of anything else of their shape.

        Raises
        ------
        InputError
            if ``weights`` has another shape.
        """
        if weights.shape != self.shape:
            raise InputError(f"weights of shape {weights.shape} do not fit a slicing of {self.shape}")
        flat = (weights.swapaxes(2, 3) if self.transposed else weights).reshape(self.units, -1)
        padded = np.zeros((self.units, self.length + self.padding), dtype=weights.dtype)
        padded[:, : self.length] = flat
        return padded.reshape(self.matrices, self.rows, self.columns)

    def join(self, matrices: NDArray[T]) -> NDArray[T]:
        """The inverse of :meth:`cut`; the padding is dropped."""
        flat = matrices.reshape(self.units, -1)[:, : self.length]
        if not self.transposed:
            return flat.reshape(self.shape)
        k, c, r, s = self.shape
        return flat.reshape(k, c, s, r).swapaxes(2, 3)


def slicing_of(shape: tuple[int, ...]) -> Slicing:
    """The slicing of weights of ``shape``: (K, C/groups, R, S) of a convolution, or (n, k).

    Raises
    ------
    InputError
        unless the shape has two or four axes, none empty.
    """
    if len(shape) not in (2, 4) or 0 in shape:
        raise InputError(f"weights of shape {shape} cannot be decomposed; needed is (n, k) or (K, C/groups, R, S)")
    if len(shape) == 2 or shape[2] == shape[3] == 1:
        slices, rows = VECTOR_SLICES.get(shape[1], (1, -(-shape[1] // VECTOR_COLUMNS)))
        return Slicing(shape, shape[0], slices, rows, VECTOR_COLUMNS)
    transposed = shape[3] == 1
    columns = shape[2] if transposed else shape[3]
    total = shape[1] * (1 if transposed else shape[2])
    rows = slice_rows(total, ROWS_PER_COLUMN * columns)
    return Slicing(shape, shape[0], total // rows, rows, columns, transposed)


def slice_rows(total: int, limit: int) -> int:
    """Rows per slice: ``total`` if it fits or is prime, else the largest divisor of ``total`` up to ``limit``."""
    if total <= limit:
        return total
    divisors = [d for i in range(1, int(total**0.5) + 1) if total % i == 0 for d in (i, total // i) if d <= limit]
    largest = max(divisors)
    return total if largest == 1 else largest
