"""Structured sparsity: whole output filters or whole input channels, by norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from .sparsifier import Floats, RankedUnits


@dataclass(frozen=True, kw_only=True)
class Channel(RankedUnits):
    """Removes whole input channels, layer by layer, by the mean ("l1") or root mean square ("l2") of their weights.

    The values stay in place (a masked layer, not a smaller one). A layer with one input channel keeps it.
    """

    norm: Literal["l1", "l2"] = "l1"
    axis: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise unknown_name("norm", self.norm, ("l1", "l2"))

    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        if len(shape) not in (2, 4):
            raise InputError(f"weights of shape {shape} have no filters and channels")
        along = np.arange(shape[self.axis], dtype=np.int64).reshape(
            [-1 if a == self.axis else 1 for a in range(len(shape))]
        )
        return np.broadcast_to(along, shape)

    def scores(self, values: Floats) -> NDArray[np.floating]:
        others = tuple(a for a in range(values.ndim) if a != self.axis)
        exact = values.astype(np.float64)
        if self.norm == "l1":
            return np.asarray(np.abs(exact).mean(axis=others))
        return np.asarray(np.sqrt((exact**2).mean(axis=others)))


@dataclass(frozen=True, kw_only=True)
class Filter(Channel):
    """Removes whole output filters by norm (Li et al., ICLR 2017, arXiv 1608.08710). A removed filter's bias stays."""

    axis: ClassVar[int] = 0
    removes_outputs: ClassVar[bool] = True
