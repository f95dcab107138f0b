"""Values of reference tables, judged; what is wrong is named with its place."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ...workloads.errors import InputError

ModelT = TypeVar("ModelT", bound=BaseModel)
#: Counts and sizes of a table lie below this; what is larger is a slip, and its products would leave int64.
_LARGEST = 1 << 53


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
