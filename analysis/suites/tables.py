"""Reading reference tables: comment lines skipped, missing files and columns named."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ...workloads.errors import InputError

ModelT = TypeVar("ModelT", bound=BaseModel)
#: Counts and sizes of a table lie below this; what is larger is a slip, and its products would leave int64.
_LARGEST = 1 << 53


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
        found = int(row[column])
    except (TypeError, ValueError):
        raise InputError(f"{path}: {column} = '{row[column]}' is not a whole number") from None
    if abs(found) > _LARGEST:
        raise InputError(f"{path}: {column} = {found} is larger than 2^53")
    return found


def real(row: dict[str, str], column: str, *, path: Path) -> float:
    """A finite number of a row; InputError names file, column and value otherwise."""
    try:
        found = float(row[column])
    except (TypeError, ValueError):
        found = float("nan")
    if not isfinite(found):
        raise InputError(f"{path}: {column} = '{row[column]}' is not a number")
    return found


def described(model: type[ModelT], values: Mapping[str, Any], *, path: Path) -> ModelT:
    """The array that a row describes; InputError names file, setting and value if there is no such array."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [(".".join(map(str, each["loc"])), each) for each in error.errors()]
        raise InputError(
            [f"{path}: {name} = {each['input']}: {each['msg'].lower()}" for name, each in problems]
        ) from None
