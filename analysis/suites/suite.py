"""What a validation suite is: rows of someone else's numbers, ours beside them, and the bar they must meet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Check:
    """One number of one reference row. ``group``: how rows are gathered in the detailed table."""

    row: str
    group: str
    quantity: str
    found: float
    expected: float

    @property
    def exact(self) -> bool:
        return self.found == self.expected

    @property
    def error(self) -> float:
        """|found - expected| / |expected|; a wrong zero counts as 1."""
        if self.exact:
            return 0.0
        return abs(self.found - self.expected) / abs(self.expected) if self.expected else 1.0


@dataclass(frozen=True)
class Bar:
    """What a quantity must reach; errors as fractions, None = not asked. ``exact``: share of rows that must be equal.

    ``quantity``/``groups`` say which checks it is about (empty = all). A bar without any demand only reports.
    """

    quantity: str = ""
    groups: tuple[str, ...] = ()
    exact: float | None = None
    mean: float | None = None
    median: float | None = None
    p95: float | None = None
    max: float | None = None

    def applies(self, check: Check) -> bool:
        return (not self.quantity or check.quantity == self.quantity) and (
            not self.groups or check.group in self.groups
        )

    def __str__(self) -> str:
        parts = [] if self.exact is None else [f"{self.exact:.0%} exact"]
        parts += [
            f"{name} <= {limit:.3g}"
            for name in ("mean", "median", "p95", "max")
            if (limit := getattr(self, name)) is not None
        ]
        where = " ".join(part for part in (self.quantity, "/".join(self.groups)) if part)
        return f"{where}: {', '.join(parts) or 'reported'}" if where else ", ".join(parts) or "reported"


@dataclass(frozen=True)
class Summary:
    """Statistics of a set of checks; errors as fractions."""

    rows: int
    checks: int
    exact: int
    mean_error: float
    median_error: float
    p95_error: float
    max_error: float


def summarise(checks: Sequence[Check]) -> Summary:
    """Rows, exact rows (all their checks equal) and error statistics over all checks."""
    errors = np.array([check.error for check in checks]) if checks else np.zeros(1)
    wrong = {check.row for check in checks if not check.exact}
    rows = {check.row for check in checks}
    return Summary(
        rows=len(rows),
        checks=len(checks),
        exact=len(rows) - len(wrong),
        mean_error=float(errors.mean()),
        median_error=float(np.median(errors)),
        p95_error=float(np.percentile(errors, 95)),
        max_error=float(errors.max()),
    )


def failures(bar: Bar, checks: Sequence[Check]) -> list[str]:
    """What of ``bar`` the checks miss, as text; a bar that no check falls under is missed too."""
    chosen = [check for check in checks if bar.applies(check)]
    if not chosen:
        return [f"{bar}: no rows"]
    summary = summarise(chosen)
    missed = []
    if bar.exact is not None and summary.exact < bar.exact * summary.rows:
        missed.append(f"{bar}: {summary.exact} of {summary.rows} rows exact")
    for name in ("mean", "median", "p95", "max"):
        limit, found = getattr(bar, name), getattr(summary, f"{name}_error")
        if limit is not None and found > limit:
            missed.append(f"{bar}: {name} is {found:.4g}")
    return missed


@dataclass(frozen=True)
class Suite:
    """A named set of checks against reference data.

    ``checks(folder)`` recomputes every row of the data found under ``folder`` (laid out like the product's
    ``analysis/reference``); ``bars`` are the demands, all of which must hold.
    """

    name: str
    title: str
    checks: Callable[[Path], Iterable[Check]]
    bars: tuple[Bar, ...]
