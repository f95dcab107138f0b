"""Which format each stream of a matrix takes for products with a few vectors: by rule, or as measured on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ..lanes_kernel import HAS_PERMUTES
from .nm_rows import pattern_of
from .row_parts import Entries

#: index: 16-bit columns; mask: a bit per weight; pattern: N of M, positions of a few bits.
Format = Literal["index", "mask", "pattern"]
Formats = tuple[Format, ...]
#: Which formats a matrix takes for products with one vector.
RowChooser = Callable[[Entries], Formats]
#: Density of a stream from which a bit per weight is faster than a column per non-zero: 16 columns cost an expansion and
#: a multiply-add, whatever they hold (about 3 cycles on Zen 4, where a non-zero by its column costs 0.7).
MASK_DENSITY = 0.28


def likely_formats(entries: Entries, *, vectors: int = 1) -> Formats:
    """The expected best format of every stream. Without permutes of 16 lanes, and for several vectors: column indices."""
    if vectors > 1 or not HAS_PERMUTES:
        plain: Format = "index"
        return (plain,) * entries.levels
    return tuple(_likely(entries.of({stream})) for stream in range(entries.levels))


def _likely(stream: Entries) -> Format:
    if pattern_of(stream.mask()) is not None:
        return "pattern"
    rows, columns = stream.shape
    return "mask" if len(stream.value) >= MASK_DENSITY * rows * columns else "index"
