"""What the digits tables hold: accuracies per method, level and seed, and the claims they do or do not support."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .digits import DIGITS_RECORD
from .errors import InputError
from .level_plan import Strategy

#: Densities of the levels, densest first.
LEVELS = (0.20, 0.08, 0.03)
COLUMNS = tuple(f"{density:.0%}" for density in LEVELS)
#: Rows of the table of levels that train nested levels.
NESTED: tuple[Strategy, ...] = ("joint", "sandwich", "random", "outward")
#: Bars of the claims: points of accuracy, and how many times smaller an error is.
MOST_POINTS_LOST, FEWEST_POINTS_WON, LEAST_ERROR_RATIO = 1.0, 10.0, 5.0


@dataclass(frozen=True)
class Row:
    """One method of a table.

    ``cells``: column -> one value per seed (accuracy 0..1, or a ratio). ``epochs`` of one training run; ``passes``: forward
    and backward passes over the data for the whole row. ``peak_rate``: learning rate. Zeros where nothing is trained.
    """

    table: str
    method: str
    epochs: str
    passes: float
    peak_rate: float
    cells: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """A statement about a measured figure, which must be "at most" or "at least" the bar to hold."""

    text: str
    measured: float
    relation: str
    bar: float
    holds: bool


@dataclass(frozen=True)
class DigitsRecord:
    """The tables of one run of the command, with all that is needed to judge and repeat it."""

    seeds: Sequence[int]
    rows: Sequence[Row]
    settings: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)
    cpu_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def row(self, table: str, method: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if (row.table, row.method) == (table, method))

    def mean(self, table: str, method: str, column: str) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.row(table, method).cells[column]))

    def to_json(self) -> dict[str, Any]:
        """Everything, with the claims."""
        return {
            **asdict(self),
            "claims": [asdict(claim) for claim in claims(self)],
            "row_notes": list(ROW_NOTES),
            "not_shown": list(NOT_SHOWN),
        }


#: What the rows are.
ROW_NOTES = (
    "passes: forward and backward passes over the training images for the whole row; rate: peak of the learning rate",
    "independent: one gradually pruned model per level; post-hoc threshold: the densest of them, cut further untrained",
    "joint, sandwich, random, outward: one set of nested weights; outward trains one level after the other",
    "scratch: random weights under the fixed masks of joint; E: same epochs; B: as many as cost the same multiplications as "
    "the dense run (same FLOPs), capped at twice its epochs",
    "90%: a tenth of every layer's weights is kept; 2:4: two of four inputs; the error ratio is magnitude's squared error "
    "of a layer's output over OBC's, the smallest of all layers and seeds",
)

#: What data this small cannot decide, so that nobody reads it out of the tables.
NOT_SHOWN = (
    "LBC against SR-STE, and either against fine-tuning one-shot masks: on a task this easy they differ by less than the "
    "spread over seeds",
    "one nested strategy against another: their differences are of the size of the spread",
    "scratch against inherited weights beyond this task: on ImageNet unstructured masks favour fine-tuning (Liu et al., "
    "arXiv 1810.05270)",
)


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds (n - 1 in the denominator); NaN for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def claims(record: DigitsRecord) -> list[Claim]:
    """The claims that this data set can decide, on means over the seeds; error ratios on the worst layer and seed."""
    middle = COLUMNS[1]
    found = []
    for method in NESTED:
        lost = max(_points(record.mean("levels", "independent", c) - record.mean("levels", method, c)) for c in COLUMNS)
        text = f"{method}: points behind independent models, worst level"
        found.append(Claim(text, lost, "at most", MOST_POINTS_LOST, lost <= MOST_POINTS_LOST))
        won = _points(record.mean("levels", method, middle) - record.mean("levels", "post-hoc threshold", middle))
        found.append(_at_least(f"{method}: points ahead of the post-hoc threshold at {middle}", won, FEWEST_POINTS_WON))
    for trained in ("ASP fine-tune", "SR-STE", "LBC"):
        won = _points(record.mean("N:M", trained, "1:8") - record.mean("N:M", "one-shot", "1:8"))
        found.append(_at_least(f"1:8 {trained}: points ahead of one-shot", won, FEWEST_POINTS_WON))
    won = _points(record.mean("post-training", "OBC", "90%") - record.mean("post-training", "magnitude", "90%"))
    found.append(_at_least("OBC at 90 % sparsity: points ahead of magnitude", won, FEWEST_POINTS_WON))
    ratio = min(record.row("post-training", "error ratio").cells["2:4"])
    found.append(_at_least("2:4: layer error of magnitude over OBC, smallest", ratio, LEAST_ERROR_RATIO))
    return found


def _points(share: float) -> float:
    """In percent, without the noise of the last bits: a loss of exactly one point is one point."""
    return round(100 * share, 9)


def _at_least(text: str, measured: float, bar: float) -> Claim:
    return Claim(text, measured, "at least", bar, measured >= bar)


def read_record(path: Path = DIGITS_RECORD) -> DigitsRecord:
    """A record that the command wrote (``to_json``).

    Raises
    ------
    InputError
        if the file is missing or is no such record.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in content["rows"]]
        kept = {name: content[name] for name in ("seeds", "settings", "notes", "cpu_s", "versions")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a record of `nestling train digits` ({error})") from error
    return DigitsRecord(rows=rows, **kept)
