"""Reading reference tables: comment lines skipped, missing files and columns named."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ...workloads.errors import InputError


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file (lines that start with ``#`` are comments) that must have ``columns``.

    Raises
    ------
    InputError
        if the file is missing, unreadable, or lacks a column.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text file ({error})") from None
    reader = csv.DictReader(lines)
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: columns {', '.join(missing)} are missing")
    return list(reader)


def whole(row: dict[str, str], column: str, *, path: Path) -> int:
    """A whole number of a row; InputError names file, column and value otherwise."""
    try:
        return int(row[column])
    except (TypeError, ValueError):
        raise InputError(f"{path}: {column} = '{row[column]}' is not a whole number") from None
