"""What an execution tells: latency, activation statistics, and how far it is from the dense reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one inference at batch 1 on this machine: median, 10th and 90th percentile (seconds)."""

    median_s: float
    p10_s: float
    p90_s: float
    repeats: int


@dataclass(frozen=True, eq=False)
class ActivationCounts:
    """Exact non-zeros in the input tensor of one weighted layer, summed over all images.

    channel_nonzeros : int64; one entry per input channel of a convolution, per input feature of a linear layer.
    tap_nonzeros : int64 (b*k,); how often, over all images and output positions, the operand of a reduction index
        (c, r, s) is not zero; padding counts as zero. It turns a mask into an exact count of effectual products.
    """

    layer: str
    nonzeros: int
    total: int
    channel_nonzeros: NDArray[np.int64]
    tap_nonzeros: NDArray[np.int64]

    @property
    def density(self) -> float:
        """Fraction of the elements that are not zero."""
        return self.nonzeros / max(1, self.total)


@dataclass(frozen=True)
class SelfCheck:
    """Largest difference from the dense float64 reference, relative to the largest output.

    ``worst_case`` is the a-priori rounding bound of the longest sum, (n + 2) * 2**-24 relative to the sum of its
    products' magnitudes; rounding errors mostly cancel, which is why ``tolerance`` can be much tighter.
    """

    error: float
    tolerance: float
    worst_case: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance
