"""Storage formats of sparse weight matrices: exact sizes, real encoders and decoders, and the smallest per level.

A format is an object of ``StorageFormat`` in the dictionary ``FORMATS``; to add one, write a class and add an entry.
All streams are packed most significant bit first and padded with zeros to a whole byte (``bitpack``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError, unknown_name
from .bitmap import Bitmap, Dense
from .bitpack import BitReader
from .coordinate import CompressedRows, Coordinate
from .level_ordered import LevelOrdered, LevelTag, streams_per_level
from .nm import GroupedSlots, PackedSlots
from .runlength import RunLength
from .statistics import KeepStatistics, entropy_bound_bits
from .storage import Decoded, MatrixSpec, StorageFormat, check_value_bits

__all__ = [
    "FORMATS",
    "BitReader",
    "Decoded",
    "GroupedSlots",
    "KeepStatistics",
    "MatrixSpec",
    "PackedSlots",
    "StorageFormat",
    "entropy_bound_bits",
    "find_format",
    "pick",
    "sizes_by_format",
    "streams_per_level",
]

#: Name -> format, in the order that breaks ties of ``pick``: simpler layouts first.
FORMATS: dict[str, StorageFormat] = {
    entry.name: entry
    for entry in (
        Dense(),
        Bitmap(),
        CompressedRows(),
        Coordinate(),
        RunLength(),
        GroupedSlots(4),
        GroupedSlots(8),
        GroupedSlots(16),
        PackedSlots(4),
        PackedSlots(8),
        PackedSlots(16),
        LevelOrdered(),
        LevelTag(),
    )
}


def find_format(name: str) -> StorageFormat:
    """The registered format of that name; InputError with the nearest match if there is none."""
    if name not in FORMATS:
        raise unknown_name("storage format", name, FORMATS)
    return FORMATS[name]


def sizes_by_format(
    keep: NDArray[np.uint8], levels: int, *, value_bits: int, allowed: Sequence[str] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Bits per level, int64 (levels,), of every allowed format (default: all), in registry order.

    The formats share one set of statistics, so this costs a few passes over ``keep``, whatever their number.

    Raises
    ------
    InputError
        for an unknown format name, an empty choice, a ``keep`` that does not fit ``levels``, or ``value_bits``
        outside 1..16.
    """
    check_value_bits(value_bits)
    chosen = {name: find_format(name) for name in (FORMATS if allowed is None else allowed)}
    if not chosen:
        raise InputError(f"no storage format is allowed; choose from {', '.join(FORMATS)}")
    statistics = KeepStatistics(keep, levels)
    return {name: FORMATS[name].sizes(statistics, value_bits) for name in FORMATS if name in chosen}


def pick(
    keep: NDArray[np.uint8], levels: int, *, value_bits: int, allowed: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Name of the format with the fewest bits at each level, densest first; ties go to the earlier registry entry.

    The choice minimises what is read at a level. Picking different formats for two levels means storing both streams;
    only ``level_ordered`` and ``level_tag`` serve all levels from one. Errors as in ``sizes_by_format``.
    """
    sizes = sizes_by_format(keep, levels, value_bits=value_bits, allowed=allowed)
    names = tuple(sizes)
    best = np.stack([sizes[name] for name in names]).argmin(axis=0)
    return tuple(names[i] for i in best)
