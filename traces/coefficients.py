"""What an accelerator sees of a layer in SmartDeal form: which coefficients every level retains, and their encoded bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError
from ..workloads.smartdeal.basis_weights import BasisWeights
from ..workloads.smartdeal.slicing import Slicing
from .formats.coefficients import COEFFICIENT_FORMATS, coefficient_bytes


@dataclass(frozen=True, eq=False, kw_only=True)
class CoefficientTrace:
    """The coefficients of one layer at every level.

    ``slicing``: how the matrices make up the weights. ``keep``: uint8 (matrices, rows, columns), how many levels, counted
    from the densest, retain each coefficient; 0 where it is zero. ``storage``: coefficient format -> int64 (levels,) exact
    bytes, for the formats that can hold the layer.

    Raises
    ------
    InputError
        if ``keep`` has another shape than the slicing gives.
    """

    slicing: Slicing
    keep: NDArray[np.uint8]
    storage: Mapping[str, NDArray[np.int64]]

    def __post_init__(self) -> None:
        expected = (self.slicing.matrices, self.slicing.rows, self.slicing.columns)
        if self.keep.shape != expected:
            raise InputError(f"coefficient map has shape {self.keep.shape}, the slicing gives {expected}")

    @classmethod
    def of(cls, weights: BasisWeights) -> CoefficientTrace:
        """What hardware sees of these weights."""
        keep = weights.keep[..., None] if weights.by_row else weights.keep
        return cls(
            slicing=weights.slicing,
            keep=np.where(weights.codes == 0, np.uint8(0), keep),
            storage=coefficient_bytes(weights),
        )

    @property
    def row_keep(self) -> NDArray[np.uint8]:
        """Levels that retain a coefficient of each row, uint8 (matrices, rows)."""
        return row_keep(self.keep)

    def nonzeros(self, level: int) -> int:
        """Non-zero coefficients that ``level`` retains."""
        return int(np.count_nonzero(self.keep > level))

    def rows(self, level: int) -> int:
        """Coefficient rows of which ``level`` retains something."""
        return int(np.count_nonzero(self.row_keep > level))

    def bytes(self, storage_format: str, level: int, *, name: str) -> int:
        """Encoded bytes of a level; InputError where the layer does not fit the format."""
        if storage_format not in self.storage:
            raise InputError(
                f"layer '{name}': its coefficients do not fit the format '{storage_format}'; "
                f"they fit {', '.join(sorted(self.storage)) or 'none'}"
            )
        return int(self.storage[storage_format][level])

    def covers(self, weights: NDArray[np.uint8]) -> bool:
        """True if no level has a non-zero weight outside its coefficient rows; ``weights``: keep map, any shape."""
        cut = self.slicing.cut(weights.reshape(self.slicing.shape))
        return bool((row_keep(cut) <= self.row_keep).all())


def row_keep(keep: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest entry of every row (last axis) of a keep map."""
    return reduce(np.maximum, (keep[..., i] for i in range(keep.shape[-1])))


def is_coefficient_format(name: str) -> bool:
    """True for a format of coefficients and bases; layers without them are then stored plain, value by value."""
    return name in COEFFICIENT_FORMATS
