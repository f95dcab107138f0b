"""Text files of a user: read whole, or as a CSV table whose comment lines are skipped."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError


def read_text(path: Path, *, most_bytes: int | None = None) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises
    ------
    InputError
        if the file is missing, is none, is larger than ``most_bytes``, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file")
    try:
        if most_bytes is not None and path.stat().st_size > most_bytes:
            raise InputError(f"{path}: {path.stat().st_size} bytes; tables over {most_bytes} bytes are refused")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text file ({error})") from None


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file (lines that start with ``#`` are comments) that must have ``columns``.

    Raises
    ------
    InputError
        if the file is missing, unreadable, or lacks a column.
    """
    reader = csv.DictReader(line for line in read_text(path).splitlines() if not line.startswith("#"))
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: columns {', '.join(missing)} are missing")
    try:
        return list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error})") from None
