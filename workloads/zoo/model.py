"""What the zoo knows of a network: how it is built, where its numbers come from, what a user may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import InputError, unknown_name
from ..layers import Layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One number a user may set: whole where the default is whole, else any number within the range.

    ``multiple``: whole values must be divisible by it.
    """

    default: int | float
    lowest: int | float
    highest: int | float
    multiple: int = 1
    meaning: str

    @property
    def allowed(self) -> str:
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        divisible = f", divisible by {self.multiple}" if self.multiple > 1 else ""
        return f"{kind} from {self.lowest} to {self.highest}{divisible}"

    def checked(self, value: object) -> int | float:
        """``value`` in the parameter's own type; ``ValueError`` if it is not allowed."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        whole = isinstance(self.default, int)
        if not self.lowest <= value <= self.highest or (whole and value % self.multiple):
            raise ValueError
        return int(value) if whole else float(value)


@dataclass(frozen=True, eq=False)
class Model:
    """A network of the zoo. ``builder`` takes exactly the ``parameters``, by name, and returns the layers at batch 1."""

    builder: Callable[..., tuple[Layer, ...]]
    source: str
    parameters: Mapping[str, Parameter]

    def settings(self, name: str, given: Mapping[str, object]) -> dict[str, int | float]:
        """Every parameter's value: given, else default.

        Raises
        ------
        InputError
            listing unknown parameters (nearest match) and values outside their ranges.
        """
        problems = []
        values = {key: parameter.default for key, parameter in self.parameters.items()}
        for key, value in given.items():
            if key not in self.parameters:
                problems.append(str(unknown_name(f"parameter of model '{name}'", key, self.parameters)))
                continue
            parameter = self.parameters[key]
            try:
                values[key] = parameter.checked(value)
            except ValueError:
                problems.append(f"{name}: {key} = {value} ({parameter.meaning}) must be {parameter.allowed}")
        if problems:
            raise InputError(problems)
        return values


def image_size(default: int, *, lowest: int = 32, highest: int = 1024, multiple: int = 1) -> Parameter:
    """Side of the square input image. The lowest value leaves at least one position in front of the classifier."""
    meaning = "height and width of the input image, pixels"
    return Parameter(default=default, lowest=lowest, highest=highest, multiple=multiple, meaning=meaning)


def class_count(default: int) -> Parameter:
    """Outputs of the classifier."""
    return Parameter(default=default, lowest=1, highest=100_000, meaning="outputs of the classifier")


def token_count(default: int, meaning: str, *, highest: int = 8192) -> Parameter:
    """Length of a sequence."""
    return Parameter(default=default, lowest=1, highest=highest, meaning=meaning)


def vocabulary_size(default: int) -> Parameter:
    """Entries of the embedding table."""
    return Parameter(default=default, lowest=2, highest=1_000_000, meaning="entries of the embedding table")


def width_multiplier(default: float) -> Parameter:
    """Factor on every layer's channels (MobileNets)."""
    return Parameter(default=default, lowest=0.1, highest=4.0, meaning="factor on the channels of every layer")
