"""Unstructured magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sparsifier import Floats, RankedUnits


@dataclass(frozen=True)
class Magnitude(RankedUnits):
    """Keeps the weights of largest absolute value (Han et al., NIPS 2015, arXiv 1506.02626)."""

    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)

    def scores(self, values: Floats) -> NDArray[np.floating]:
        return np.abs(values).reshape(-1)
