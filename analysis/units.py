"""Numbers for people: one unit per column or axis, a fixed number of significant digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIXES = (
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


@dataclass(frozen=True)
class Scale:
    """A unit and its size: ``value / size`` is the number to show beside ``unit``."""

    size: float
    unit: str

    def number(self, value: float, digits: int = 4) -> str:
        """The value in this unit, without the unit."""
        return number(value / self.size, digits)

    def text(self, value: float, digits: int = 4) -> str:
        """The value in this unit, with the unit."""
        return f"{self.number(value, digits)} {self.unit}".rstrip()


def si_scale(values: Iterable[float], unit: str, *, smallest: float = 1e-12) -> Scale:
    """The prefixed unit in which the largest of ``values`` is 1 to 1000; ``smallest``: no prefix below this factor."""
    return _pick(values, tuple((size, prefix + unit) for size, prefix in _PREFIXES if size >= smallest))


def byte_scale(values: Iterable[float]) -> Scale:
    """B, KiB, MiB, ... in which the largest of ``values`` is 1 to 1024."""
    return _pick(values, _BINARY)


def _pick(values: Iterable[float], units: tuple[tuple[float, str], ...]) -> Scale:
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest == 0.0:
        return Scale(1.0, next(unit for size, unit in units if size == 1.0))
    return next((Scale(size, unit) for size, unit in units if largest >= size), Scale(*units[-1]))


def number(value: float, digits: int = 4) -> str:
    """``value`` with ``digits`` significant digits in plain notation, thousands separated; integers stay exact."""
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:,.{min(9, max(0, digits - 1 - magnitude))}f}"


def percent(fraction: float, digits: int = 4) -> str:
    """A fraction as a percentage without trailing zeros: 0.05 -> '5 %'."""
    text = number(100 * fraction, digits)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"
