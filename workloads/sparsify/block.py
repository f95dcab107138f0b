"""Block sparsity: whole blocks of filters x input channels, with all their kernel positions or position by position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .sparsifier import Floats, RankedUnits, kernel_shape


@dataclass(frozen=True, kw_only=True)
class Block(RankedUnits):
    """Removes blocks of ``filters`` x ``channels`` kernels, each with all its R x S weights.

    Score: root mean square of the block's weights. Blocks at the edges are smaller where the sizes do not divide K and
    C, and a layer smaller than one block is one block. Block-sparse weights: Gray et al., "GPU kernels for block-sparse
    weights", 2017; blocks for linear layers and 1 x 1 kernels: Gong et al., arXiv 2111.11581.
    """

    filters: int = 4
    channels: int = 4

    def __post_init__(self) -> None:
        if self.filters < 1 or self.channels < 1:
            raise InputError(f"block of {self.filters} filters x {self.channels} channels; both must be at least 1")

    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return block_units(shape, filters=self.filters, channels=self.channels, punched=False)

    def scores(self, values: Floats) -> NDArray[np.floating]:
        return root_mean_squares(values, self.units(values.shape))


def block_units(shape: tuple[int, ...], *, filters: int, channels: int, punched: bool) -> NDArray[np.int64]:
    """Block of each weight; with ``punched`` each kernel position of a block is a unit of its own."""
    K, C, R, S = kernel_shape(shape)
    columns = -(-C // channels)
    block = (np.arange(K) // filters)[:, None] * columns + np.arange(C) // channels
    place = np.arange(R * S) if punched else np.zeros(R * S, np.int64)
    unit = block[:, :, None] * (R * S if punched else 1) + place
    return unit.reshape(shape)


def root_mean_squares(values: Floats, units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Root mean square of the weights of each unit, float64 (units,)."""
    flat, unit = values.reshape(-1).astype(np.float64), units.reshape(-1)
    return np.sqrt(np.bincount(unit, weights=flat * flat) / np.bincount(unit))
