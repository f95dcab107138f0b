"""N:M sparsity along input channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nesting import NestedWeights
from .hessian import Hessian
from .sparsifier import (
    Floats,
    LayerResult,
    Sparsifier,
    check_layer,
    empty_layer,
    kernel_shape,
    parse_patterns,
    slots_per_group,
)


@dataclass(frozen=True, kw_only=True)
class NM(Sparsifier):
    """Of every M consecutive input channels of one filter and kernel position, keeps the N largest weights.

    The weights are grouped in the order (K, R, S, C). Where M does not divide C, the last group has fewer channels and
    is treated as if zeros filled it up: it keeps min(N, channels left) weights. So an input with one channel (depthwise
    convolutions) stays dense. One magnitude ranking per group decides all levels: 1:8 lies inside 2:8 inside 4:8.
    Densities must be multiples of 1/M. Pattern: Mishra et al., arXiv 2104.08378; several M: Zhou et al. (SR-STE),
    arXiv 2102.04010.
    """

    m: int = 4

    def __post_init__(self) -> None:
        if self.m < 2:
            raise InputError(f"N:M group of {self.m}; must be at least 2")

    def with_patterns(self, patterns: Sequence[str]) -> tuple[Sparsifier, tuple[float, ...]]:
        m, densities = parse_patterns(patterns)
        return replace(self, m=m), densities

    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        check_layer(values, densities, name=name)
        slots = slots_per_group(densities, self.m)
        if not values.size:
            return LayerResult(empty_layer(values, len(slots), name=name))
        rank = ranks_in_groups(np.abs(values), self.m)
        keep = np.zeros(values.shape, np.uint8)
        for n in slots:
            keep += rank < n
        return LayerResult(NestedWeights(values=values.copy(), keep=keep, levels=len(slots), name=name))


def ranks_in_groups(scores: Floats, m: int) -> NDArray[np.int64]:
    """Rank of each weight, 0 = highest score, within its group of ``m`` input channels; equal scores rank by channel.

    ``scores``: (K, C, R, S) or (outputs, inputs); the result has the same shape.
    """
    K, C, R, S = kernel_shape(scores.shape)
    channels_last = np.moveaxis(scores.reshape(K, C, R, S), 1, 3)
    padded = np.pad(channels_last, ((0, 0), (0, 0), (0, 0), (0, -C % m)), constant_values=-np.inf)
    groups = padded.reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    rank = np.empty(groups.shape, np.int64)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(m), groups.shape), axis=1)
    return np.moveaxis(rank.reshape(padded.shape)[..., :C], 3, 1).reshape(scores.shape)
