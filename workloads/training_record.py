"""What a table of training methods holds: one value per method, level and seed, and the claims that follow or do not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .errors import InputError


@dataclass(frozen=True)
class Row:
    """One method of a table.

    ``cells``: column -> one value per seed (accuracy 0..1, or a ratio), of the first seeds only if the run was stopped.
    ``epochs`` of its training runs; ``passes``: forward and backward passes over the data for the whole row; ``rate``: peak
    of the learning rate. "-" where nothing is trained.
    """

    table: str
    method: str
    epochs: str
    passes: float
    rate: str
    cells: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """A statement about a measured figure, which must be "at most" or "at least" the bar to hold."""

    text: str
    measured: float
    relation: str
    bar: float
    holds: bool


def at_least(text: str, measured: float, bar: float) -> Claim:
    """The claim that ``measured`` reaches ``bar``."""
    return Claim(text, measured, "at least", bar, measured >= bar)


def at_most(text: str, measured: float, bar: float) -> Claim:
    """The claim that ``measured`` stays within ``bar``."""
    return Claim(text, measured, "at most", bar, measured <= bar)


@dataclass(frozen=True)
class TrainingRecord:
    """The tables of one run of a command, with all that is needed to judge and repeat it."""

    #: Stem of the files, and the command that makes the record.
    stem: ClassVar[str]
    command: ClassVar[str]
    #: Where the bundled record stands.
    bundled: ClassVar[Path]
    #: Test images behind every accuracy.
    test_images: ClassVar[int]
    #: Table -> title; what the rows are; what such data cannot decide, so that nobody reads it out of the tables.
    titles: ClassVar[Mapping[str, str]]
    row_notes: ClassVar[Sequence[str]]
    not_shown: ClassVar[Sequence[str]]

    seeds: Sequence[int]
    rows: Sequence[Row]
    settings: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)
    cpu_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def claims(self) -> list[Claim]:
        """What the figures are held against."""
        return []

    def row(self, table: str, method: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if (row.table, row.method) == (table, method))

    def mean(self, table: str, method: str, column: str) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.row(table, method).cells[column]))

    def points(self, better: str, worse: str, column: str, *, table: str = "levels") -> float:
        """Points of accuracy between two rows, without the noise of the last bits: exactly one point is one point."""
        return round(100 * (self.mean(table, better, column) - self.mean(table, worse, column)), 9)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the claims and notes."""
        return {
            "command": self.command,
            **asdict(self),
            "claims": [asdict(claim) for claim in self.claims()],
            "row_notes": list(self.row_notes),
            "not_shown": list(self.not_shown),
        }

    def text(self) -> str:
        """The record as JSON, one line per row."""
        content = self.to_json()
        listed = {key: content.pop(key) for key in ("rows", "claims", "row_notes", "not_shown", "notes")}
        head = json.dumps(content, indent=1).removesuffix("\n}")
        blocks = [
            f' "{key}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"
            for key, entries in listed.items()
        ]
        return head + ",\n" + ",\n".join(blocks) + "\n}\n"

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """A record that the command wrote; None: the bundled one.

        Raises
        ------
        InputError
            if the file is missing or is no such record.
        """
        path = path or cls.bundled
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kept = {entry.name: content[entry.name] for entry in fields(cls)}
            kept["rows"] = read_rows(kept["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a record of `{cls.command}` ({error})") from error
        return cls(**kept)


def read_rows(content: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows from their JSON form."""
    return [Row(**row) for row in content]


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds (n - 1 in the denominator); NaN for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def merge(per_seed: Sequence[Sequence[Row]]) -> list[Row]:
    """The same rows of several seeds as one list of rows; ``passes`` are averaged."""
    merged = []
    for rows in zip(*per_seed, strict=True):
        cells = {column: [row.cells[column][0] for row in rows] for column in rows[0].cells}
        merged.append(replace(rows[0], cells=cells, passes=float(np.mean([row.passes for row in rows]))))
    return merged
