"""Block-punched sparsity: the same kernel positions removed throughout a block of filters x input channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .block import Block, block_units
from .sparsifier import Floats


@dataclass(frozen=True, kw_only=True)
class BlockPunched(Block):
    """Removes one kernel position (r, s) from all ``filters`` x ``channels`` kernels of a block at once.

    Score of a unit: mean over its channels of the root mean square over its filters. For whole blocks that is the order
    of the projection in YOLObile (Cai et al., AAAI 2021, arXiv 2009.05697): sum over channels of the L2 norm over
    filters; dividing by the sizes makes the smaller blocks at the edges comparable. The index costs one bit per unit.
    """

    filters: int = 8

    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return block_units(shape, filters=self.filters, channels=self.channels, punched=True)

    def scores(self, values: Floats) -> NDArray[np.floating]:
        columns = block_units(values.shape, filters=self.filters, channels=1, punched=True).reshape(-1)
        units, flat = self.units(values.shape).reshape(-1), values.reshape(-1).astype(np.float64)
        # One column = one channel and kernel position of the unit, over its filters.
        heights = np.bincount(columns)
        norms = np.sqrt(np.bincount(columns, weights=flat * flat) / heights)
        owner = np.empty(heights.size, np.int64)
        owner[columns] = units
        return np.bincount(owner, weights=norms) / np.bincount(owner)
