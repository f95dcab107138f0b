"""Unstructured magnitude pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..nesting import NestedWeights
from .hessian import Hessian
from .sparsifier import Floats, LayerResult, RankedUnits, check_layer, empty_layer, nearest_count


@dataclass(frozen=True)
class Magnitude(RankedUnits):
    """Keeps the weights of largest absolute value (Han et al., NIPS 2015, arXiv 1506.02626)."""

    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)

    def scores(self, values: Floats) -> NDArray[np.floating]:
        return np.abs(values).reshape(-1)

    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        """As every ranking, but by the values at the cuts: a sorted list of all weights takes ten times their memory."""
        check_layer(values, densities, name=name)
        if not values.size:
            return LayerResult(empty_layer(values, len(densities), name=name))
        scores = self.scores(values)
        counts = [nearest_count(scores.size, d, what=f"{name}, level {i}") for i, d in enumerate(densities)]
        keep = np.zeros(scores.size, np.uint8)
        for count, cut in zip(counts, _cuts(scores.copy(), counts), strict=True):
            kept = scores > cut
            kept[np.flatnonzero(scores == cut)[: count - np.count_nonzero(kept)]] = True
            keep += kept
        shaped = keep.reshape(values.shape)
        return LayerResult(NestedWeights(values=values.copy(), keep=shaped, levels=len(densities), name=name))


def weights_above_threshold(values: Mapping[str, Floats], densities: Sequence[float]) -> list[list[int]]:
    """Per level, how many weights of each layer are among the largest of all layers; equal ones rank by layer."""
    scores = [np.abs(array).reshape(-1) for array in values.values()]
    size = sum(part.size for part in scores)
    counts = [nearest_count(size, density, what=f"network, level {i}") for i, density in enumerate(densities)]
    found = []
    for count, cut in zip(counts, _cuts(np.concatenate(scores), counts), strict=True):
        larger = [int(np.count_nonzero(part > cut)) for part in scores]
        left = count - sum(larger)
        for i, part in enumerate(scores):
            ties = min(left, int(np.count_nonzero(part == cut)))
            larger[i], left = larger[i] + ties, left - ties
        found.append(larger)
    return found


def _cuts(scores: NDArray[np.floating], counts: Sequence[int]) -> NDArray[np.floating]:
    """The ``count``-th largest score for each of ``counts``; reorders ``scores``."""
    places = [scores.size - count for count in counts]
    scores.partition(sorted(set(places)))
    return scores[places]
