"""Address mapping of a DRAM: which address bits name channel, rank, bank group, bank, row and column.

A mapping is written from the least significant bit above the access size, as fields with the number of their bits:
``bg2 co7 ba2 ro16``. A field may appear in parts (``co3 bg2 co4``); without a number it takes all its remaining bits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError

#: Field codes, as in DRAMsim3's mapping strings.
FIELDS = {"ch": "channel", "ra": "rank", "bg": "bank group", "ba": "bank", "ro": "row", "co": "column"}


@dataclass(frozen=True, slots=True)
class Segment:
    """``bits`` address bits from bit ``low`` on; they are bits ``field_low`` and up of a field."""

    field: str
    low: int
    bits: int
    field_low: int


@dataclass(frozen=True, slots=True)
class AddressMapping:
    """A complete mapping: every address bit from ``access_bits`` up to ``address_bits`` belongs to one segment."""

    segments: tuple[Segment, ...]
    access_bits: int

    @property
    def address_bits(self) -> int:
        """Bits of a byte address; 2**address_bits is the capacity in bytes."""
        return self.access_bits + sum(segment.bits for segment in self.segments)

    def decode(self, addresses: NDArray[np.int64], field: str) -> NDArray[np.int64]:
        """Values of one field (a key of :data:`FIELDS`) of byte addresses."""
        value = np.zeros_like(addresses)
        for segment in self.segments:
            if segment.field == field:
                value |= (addresses >> segment.low & ((1 << segment.bits) - 1)) << segment.field_low
        return value

    def __str__(self) -> str:
        return " ".join(f"{segment.field}{segment.bits}" for segment in self.segments)


def parse_mapping(text: str, *, widths: Mapping[str, int], access_bits: int) -> AddressMapping:
    """Mapping from its bit-field string.

    Parameters
    ----------
    text : fields from the least significant bit above the access, e.g. ``bg2 co7 ba2 ro16``.
    widths : bits of every field of the device.
    access_bits : log2 of the bytes of one access.

    Raises
    ------
    InputError
        with all problems: unknown fields (nearest match), and fields whose bits are not covered exactly once; and how a
        mapping is written, with an example.
    """
    problems, segments = [], []
    used = dict.fromkeys(FIELDS, 0)
    low = access_bits
    for token in text.split():
        match = re.fullmatch(r"([a-z]+)(\d*)", token)
        if match is None or match[1] not in FIELDS:
            problems.append(_unknown_field(token))
            continue
        field = match[1]
        bits = int(match[2]) if match[2] else max(0, widths[field] - used[field])
        if bits:
            segments.append(Segment(field, low, bits, used[field]))
        used[field] += bits
        low += bits
    for field, name in FIELDS.items():
        if used[field] != widths[field] and not problems:
            problems.append(f"{used[field]} bits for '{field}' ({name}), the device has {widths[field]}")
    if problems:
        raise InputError(f"address mapping '{text}': {'; '.join(problems)}. Needed: {mapping_syntax(widths)}")
    return AddressMapping(tuple(segments), access_bits)


def mapping_syntax(widths: Mapping[str, int]) -> str:
    """How a mapping of a device with fields of ``widths`` bits is written, with an example that it takes."""
    example = " ".join(f"{field}{bits}" for field, bits in widths.items() if bits)
    fields = ", ".join(f"{field} ({name})" for field, name in FIELDS.items() if widths[field])
    return (
        f"fields from the lowest address bit on, separated by spaces, such as '{example}' (a field without a number takes "
        f"all bits it has left; each bit once): {fields}"
    )


def _unknown_field(token: str) -> str:
    """What is wrong with a part of a mapping; names as well as codes have a nearest code, in any case."""
    word = re.sub(r"[\W\d]+$", "", token)
    codes = {code: code for code in FIELDS} | {name: code for code, name in FIELDS.items()}
    close = difflib.get_close_matches(word.lower(), codes, n=1, cutoff=0.5)
    return f"unknown address field '{word or token}'" + (f" (did you mean '{codes[close[0]]}'?)" if close else "")
