"""Packed bit streams: fixed-width fields, most significant bit first, no gaps between fields.

Bit 0 of a stream is the highest bit of its first byte. Only the end of a stream is padded, with zeros, to a whole byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError

#: Unsigned fields of one width: (values, bits per value). Values must fit the width; the formats guarantee it.
Section = tuple[NDArray[np.uint64], int]


def bits_for(choices: int) -> int:
    """ceil(log2(choices)): bits of a field that distinguishes ``choices`` values; 0 for one choice or none."""
    return max(choices - 1, 0).bit_length()


def pack(sections: Sequence[Section]) -> bytes:
    """Concatenate sections into one stream of ceil(total bits / 8) bytes."""
    from .format_kernels import pack_fields

    out = np.zeros((count_bits(sections) + 7) // 8, dtype=np.uint8)
    position = 0
    for fields, width in sections:
        if width and fields.size:
            pack_fields(np.ascontiguousarray(fields, dtype=np.uint64), width, position, out)
        position += fields.size * width
    return out.tobytes()


def count_bits(sections: Sequence[Section]) -> int:
    """Bits of the sections before padding."""
    return sum(fields.size * width for fields, width in sections)


def single(value: int, width: int) -> Section:
    """A section of one field."""
    return np.array([value], dtype=np.uint64), width


class BitReader:
    """Sequential reader of a packed stream.

    ``position`` is the number of bits consumed so far: no bit at or after it has been looked at.
    """

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, dtype=np.uint8)
        self.position = 0

    def take(self, count: int, width: int) -> NDArray[np.uint64]:
        """The next ``count`` fields of ``width`` bits, uint64 (count,).

        Raises InputError if the stream is too short.
        """
        from .format_kernels import unpack_fields

        needed = self.position + count * width
        if needed > 8 * self._data.size:
            raise InputError(
                f"encoded weights are cut off: {self._data.size} bytes, the layout needs {-(-needed // 8)}"
            )
        out = np.zeros(count, dtype=np.uint64)
        if count and width:
            unpack_fields(self._data, self.position, width, out)
        self.position = needed
        return out

    def take_one(self, width: int) -> int:
        """The next single field of ``width`` bits."""
        return int(self.take(1, width)[0])

    def align(self) -> None:
        """Skip the padding up to the next whole byte."""
        self.position = -(-self.position // 8) * 8


def to_fields(codes: NDArray[np.int64], value_bits: int) -> NDArray[np.uint64]:
    """Two's complement fields of signed codes."""
    return (codes & ((1 << value_bits) - 1)).astype(np.uint64)


def to_codes(fields: NDArray[np.uint64], value_bits: int) -> NDArray[np.int64]:
    """Signed codes of two's complement fields; higher bits of a field are ignored."""
    sign = 1 << (value_bits - 1)
    low = (fields & np.uint64((1 << value_bits) - 1)).astype(np.int64)
    return np.asarray((low ^ sign) - sign)
