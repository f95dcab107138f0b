"""Activations in planes with halos: how one tensor (channels, height, width) lies in memory.

Every row is followed by ``halo`` zeros, which serve as its right and the next row's left padding; a plane begins with
enough zeros to serve as the top padding of its own first row and the bottom padding of the plane before it. A convolution
then reads at a constant distance from where it writes, and a run of output positions is a run of memory::

    plane:  | lead: zeros | row 0, halo | row 1, halo | ... | zeros up to a whole number of tiles |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....workloads.errors import InputError

#: float32 elements of a vector, a cache line.
LANES = 16
_LINE = 64
#: Vectors per tile that kernels exist for, and the most that may be read beyond the last plane.
VECTORS = (1, 2, 4, 7, 8, 13, 14)
SLACK = LANES * max(VECTORS)
#: Positions computed for nothing that a planner may trade for a better tile.
WASTE = 1.12

Floats = NDArray[np.float32]
#: Kinds of NumPy types that are no real numbers, in words.
_NOT_REAL = {
    "c": "complex numbers",
    "O": "objects",
    "U": "text",
    "S": "bytes",
    "V": "records",
    "M": "dates",
    "m": "times",
}


def aligned(elements: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
    """Zeros whose first element lies at a multiple of 64 bytes."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(elements * size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + elements * size].view(dtype)


@dataclass(frozen=True)
class PlaneLayout:
    """Geometry of a tensor in planes; sizes in float32 elements."""

    channels: int
    height: int
    width: int
    halo: int

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        return self.width + self.halo

    @property
    def positions(self) -> int:
        """Positions of a plane in memory order, halos between rows included."""
        return self.height * self.pitch

    @property
    def vectors(self) -> tuple[int, ...]:
        """Vectors per tile of the kernels that may write this tensor."""
        return usable_vectors(self.positions)

    def tiles(self, vectors: int) -> int:
        """Tiles of 16 * ``vectors`` positions that cover a plane."""
        return -(-self.positions // (LANES * vectors))

    @property
    def lead(self) -> int:
        """Zeros before the first row: a multiple of the line, so that rows of tiles start aligned."""
        return -(-(self.halo * self.pitch + self.halo) // LANES) * LANES

    @property
    def stride(self) -> int:
        """From one plane to the next: an odd number of lines, so that planes do not share cache sets."""
        lines = self.lead // LANES + max(self.tiles(v) * v for v in self.vectors)
        return LANES * (lines + 1 - lines % 2)

    @property
    def size(self) -> int:
        """Elements of the whole tensor, with the bottom padding of the last plane and what kernels over-read."""
        return self.channels * self.stride + self.lead + SLACK

    @property
    def dimensions(self) -> tuple[int, int, int, int, int, int]:
        """The layout as the packing kernels take it."""
        return self.channels, self.height, self.width, self.pitch, self.lead, self.stride

    def new(self) -> Floats:
        """A tensor of zeros, aligned."""
        return aligned(self.size)

    def view(self, buffer: Floats) -> Floats:
        """The tensor (channels, height, width) inside its buffer, without halos; writes go through."""
        planes = buffer[: self.channels * self.stride].reshape(self.channels, self.stride)
        rows = planes[:, self.lead : self.lead + self.positions].reshape(self.channels, self.height, self.pitch)
        return rows[:, :, : self.width]

    def masks(self, vectors: int) -> NDArray[np.uint16]:
        """Per vector of a plane's tiles the lanes that are no halo, lane 0 in the lowest bit."""
        position = np.arange(self.tiles(vectors) * vectors * LANES)
        inside = (position % self.pitch < self.width) & (position < self.positions)
        return np.packbits(inside.reshape(-1, LANES), axis=1, bitorder="little").view(np.uint16).reshape(-1).copy()

    def offset(self, channel: int, row: int, column: int) -> int:
        """Bytes from the buffer's start to an element; rows and columns may lie in the halo."""
        return 4 * (channel * self.stride + self.lead + row * self.pitch + column)


@lru_cache
def usable_vectors(positions: int) -> tuple[int, ...]:
    """Vectors per tile that waste, by rounding up to whole tiles, at most :data:`WASTE` more than the best."""
    covered = {v: -(-positions // (LANES * v)) * v for v in VECTORS}
    return tuple(v for v, vectors in covered.items() if vectors <= WASTE * min(covered.values()))


def real_floats(values: ArrayLike, name: str, shape: str) -> Floats:
    """``values`` as float32; nothing is copied where they are. ``name``, ``shape``: what they are and should be, for errors.

    Raises
    ------
    InputError
        for lists of uneven lengths, or values that are not real numbers of float32's range.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.float32:
        return values  # at once: a small network takes less than 100 us
    try:
        found = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} is a nested list of uneven lengths; needed is one array, {shape}") from None
    if found.dtype.kind not in "fiub":
        kind = _NOT_REAL.get(found.dtype.kind, str(found.dtype))
        raise InputError(f"{name} holds {kind}; needed are real numbers: floats, integers or booleans")
    try:
        with np.errstate(over="raise"):
            return found.astype(np.float32, copy=False)
    except FloatingPointError:
        raise InputError(
            f"{name} is {found.dtype} with values beyond float32, {np.finfo(np.float32).max:.3g}"
        ) from None
