"""The contract of a storage format: exact size, encoder and decoder of one weight matrix at one sparsity level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.nesting import MAX_LEVELS
from .bitpack import BitReader, bits_for, to_codes
from .statistics import KeepStatistics, check_keep

MAX_VALUE_BITS = 16

#: Signed codes int32 (rows, columns), zero where nothing is stored, and the boolean mask of retained weights.
Decoded = tuple[NDArray[np.int32], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class MatrixSpec:
    """What reader and writer agree on outside the stream: shape, level, number of levels, bits of a value.

    Raises
    ------
    InputError
        for a negative size, a level outside 0..levels-1, or ``value_bits`` outside 1..16.
    """

    rows: int
    columns: int
    level: int
    levels: int
    value_bits: int

    def __post_init__(self) -> None:
        if self.rows < 0 or self.columns < 0:
            raise InputError(f"shape ({self.rows}, {self.columns}) is negative")
        check_level(self.level, self.levels)
        check_value_bits(self.value_bits)

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    @property
    def count_bits(self) -> int:
        """Bits of a count of 0..elements."""
        return count_header_bits(self.elements)

    @property
    def column_bits(self) -> int:
        return bits_for(self.columns)


class StorageFormat(ABC):
    """How one weight matrix at one level is laid out in memory. Subclasses document their bits, field by field.

    ``exact_mask`` is False where the layout cannot tell a retained weight whose code is 0 from a pruned one: the
    decoded mask is then ``values != 0``. The decoded values are exact in every format.
    """

    name: str
    title: str
    exact_mask: bool = True

    @abstractmethod
    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        """Bits that must be read to use each level, metadata included, int64 (levels,)."""

    @abstractmethod
    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        """The stream of checked input; ``codes`` is zero where ``keep`` is."""

    @abstractmethod
    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        """Decode from the reader's position, consuming exactly the bits of ``spec.level`` (and its padding)."""

    def bits_per_level(self, keep: NDArray[np.uint8], levels: int, *, value_bits: int) -> NDArray[np.int64]:
        """Exact size in bits at every level, int64 (levels,), densest first; bytes = ceil(bits / 8).

        ``keep``: uint8 (rows, columns). To size several formats, use ``sizes_by_format``: it shares the statistics.
        """
        check_value_bits(value_bits)
        return self.sizes(KeepStatistics(keep, levels), value_bits)

    def bits(self, keep: NDArray[np.uint8], level: int, *, levels: int, value_bits: int) -> int:
        """Exact size in bits at one level, metadata included."""
        check_level(level, levels)
        return int(self.bits_per_level(keep, levels, value_bits=value_bits)[level])

    def encode(
        self, values: NDArray[np.integer], keep: NDArray[np.uint8], *, level: int, levels: int, value_bits: int
    ) -> bytes:
        """The packed stream of one level: ceil(bits / 8) bytes.

        Parameters
        ----------
        values : signed integer codes (rows, columns) in -2**(value_bits-1) .. 2**(value_bits-1)-1 where ``keep`` is
            not zero; others are ignored.
        keep : uint8 (rows, columns).
        level, levels : which level, of how many; 0 is the densest.

        Raises
        ------
        InputError
            for shapes or types that do not fit, or a code outside the range (naming the first).
        """
        check_keep(keep, levels)
        rows, columns = keep.shape
        spec = MatrixSpec(rows, columns, level, levels, value_bits)
        return self.write(_checked_codes(values, keep, value_bits), keep, spec)

    def decode(self, data: bytes, shape: tuple[int, int], *, level: int, levels: int, value_bits: int) -> Decoded:
        """Values (int32, zero where pruned) and mask (bool) of one level, both (rows, columns).

        ``data`` may be longer than the level needs. Raises InputError for a stream that is cut off or inconsistent.
        """
        return self.read(BitReader(data), MatrixSpec(*shape, level, levels, value_bits))


def count_header_bits(elements: int) -> int:
    """Width of the header field that counts stored entries, 0..elements: ceil(log2(elements + 1))."""
    return bits_for(elements + 1)


def check_level(level: int, levels: int) -> None:
    """Raise InputError unless 0 <= level < levels and ``levels`` is 1..255."""
    if not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"{levels} levels; allowed are 1 to {MAX_LEVELS}")
    if not 0 <= level < levels:
        raise InputError(f"level {level} does not exist; levels are 0 to {levels - 1}")


def check_value_bits(value_bits: int) -> None:
    """Raise InputError unless a value has 1..16 bits."""
    if not 1 <= value_bits <= MAX_VALUE_BITS:
        raise InputError(f"value_bits = {value_bits}; allowed are 1 to {MAX_VALUE_BITS}")


def _checked_codes(values: NDArray[np.integer], keep: NDArray[np.uint8], value_bits: int) -> NDArray[np.int64]:
    if values.shape != keep.shape or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"values have shape {values.shape} and dtype {values.dtype}; they must be integers of shape {keep.shape}"
        )
    low, high = -(1 << (value_bits - 1)), (1 << (value_bits - 1)) - 1
    bad = (keep > 0) & ((values < low) | (values > high))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"code {int(values[row, column])} at ({row}, {column}) does not fit {value_bits} bits ({low} to {high})"
        )
    return np.where(keep > 0, values, 0).astype(np.int64)


def check_stored(ok: bool, what: str) -> None:
    """Raise InputError for an encoded stream that contradicts itself."""
    if not ok:
        raise InputError(f"encoded weights are inconsistent: {what}")


def scatter(positions: NDArray[np.int64], fields: NDArray[np.uint64], spec: MatrixSpec) -> Decoded:
    """Place two's complement fields at flat row-major positions; the mask is True there."""
    check_stored(not positions.size or int(positions.max()) < spec.elements, "a position lies outside the matrix")
    values = np.zeros(spec.elements, dtype=np.int32)
    mask = np.zeros(spec.elements, dtype=np.bool_)
    values[positions] = to_codes(fields, spec.value_bits)
    mask[positions] = True
    return values.reshape(spec.rows, spec.columns), mask.reshape(spec.rows, spec.columns)
