"""One design with each of its mechanisms turned over in turn: the switches are the boolean fields of its array."""

from __future__ import annotations

from ..workloads.errors import InputError
from .design import Design

#: Without its rebuild engines an array reads weights as they are; with them, coefficients and bases.
REBUILD_SWITCH = "rebuild_engine"
_STORED = {True: "smartdeal_row_direct", False: "dense"}


def switches(design: Design) -> list[str]:
    """Names of the array's switches, in the order of its description."""
    return [name for name, value in design.array if isinstance(value, bool)]


def ablations(design: Design) -> list[Design]:
    """The design, and one more per switch with that switch turned over; their names say which.

    Raises
    ------
    InputError
        if the array has no switches.
    """
    names = switches(design)
    if not names:
        raise InputError(f"design '{design.name}': arrays of kind '{design.array.kind}' have no switches to ablate")
    return [design, *(_turned(design, name) for name in names)]


def _turned(design: Design, switch: str) -> Design:
    on = not getattr(design.array, switch)
    update: dict[str, object] = {
        "name": f"{design.name}.{switch}-{'on' if on else 'off'}",
        "array": design.array.model_copy(update={switch: on}),
    }
    if switch == REBUILD_SWITCH:
        update["weight_format"] = _STORED[on]
    return design.model_copy(update=update)
