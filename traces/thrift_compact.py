"""Reads structures of Thrift's compact protocol, which Parquet's directory and page headers are written in.

Only what is needed to look at a file before it is trusted: a struct becomes a dictionary of field number -> value, nothing is
allocated beyond a small multiple of the bytes read (Apache Thrift, "Thrift compact protocol encoding").
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

#: Structures within structures; Parquet's directory has five.
_MAX_DEPTH = 16
#: A variable-length integer of 64 bits takes at most this many bytes.
_MAX_VARINT_BYTES = 10

Fields = dict[int, Any]


def read_struct(data: bytes) -> Fields:
    """The structure at the start of ``data``; bytes behind it are ignored.

    Raises
    ------
    ValueError
        if ``data`` ends within the structure or is none.
    """
    try:
        return _Cursor(data).fields(0)
    except (IndexError, struct.error):
        raise ValueError("a structure that is cut off") from None


class _Cursor:
    """A position in the bytes; every method reads one thing and moves on."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def fields(self, depth: int) -> Fields:
        if depth > _MAX_DEPTH:
            raise ValueError("structures nested too deeply")
        found: Fields = {}
        number = 0
        while (head := self._byte()) != 0:
            # Four bits of distance to the field before and four of type; distance 0: the number follows.
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind == 12:
            return self.fields(depth + 1)
        if kind in (9, 10):
            return self._list(depth)
        if kind not in _SIMPLE:
            raise ValueError(f"a field of unknown type {kind}")
        return _SIMPLE[kind](self)

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 != 15 else self._varint()
        if size > len(self._data) - self._position:
            raise ValueError(f"a list of {size} entries in {len(self._data)} bytes")
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _varint(self) -> int:
        number = 0
        for place in range(_MAX_VARINT_BYTES):
            byte = self._byte()
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return number
        raise ValueError("an integer of more than 64 bits")

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _double(self) -> float:
        self._position += 8
        return float(struct.unpack_from("<d", self._data, self._position - 8)[0])

    def _binary(self) -> bytes:
        size = self._varint()
        start, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise ValueError(f"a text of {size} bytes in {len(self._data)}")
        return self._data[start : self._position]


#: Type -> how its value is read; in lists a truth value is a byte.
_SIMPLE: dict[int, Callable[[_Cursor], Any]] = {
    1: _Cursor._byte,
    2: _Cursor._byte,
    3: _Cursor._byte,
    4: _Cursor._integer,
    5: _Cursor._integer,
    6: _Cursor._integer,
    7: _Cursor._double,
    8: _Cursor._binary,
}
