"""Nested sparsity: one set of values, and per weight how many levels keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

#: ``keep`` is one byte per weight.
MAX_LEVELS = 255


@dataclass(frozen=True, eq=False)
class NestedWeights:
    """One layer's weights at every sparsity level.

    ``keep[i]`` is the number of levels, counted from the densest, that retain weight ``i``; 0 = pruned everywhere.
    Level 0 is the densest; ``mask(l) = keep > l``. Every level's non-zeros are therefore a subset of the denser one's,
    with equal values: nesting holds by construction (Qin et al., arXiv 2112.10930).

    Parameters
    ----------
    values : float32, shape of the layer's weights; None for a pattern without values (shape-only studies).
    keep : uint8, same shape.
    levels : number of levels L, 1..255.

    Raises
    ------
    InputError
        if shapes differ, ``keep`` exceeds ``levels``, or a value is NaN or infinite.
    """

    values: NDArray[np.float32] | None
    keep: NDArray[np.uint8]
    levels: int
    name: str = "weights"
    _counts: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MAX_LEVELS:
            raise InputError(f"{self.name}: {self.levels} levels; allowed are 1 to {MAX_LEVELS}")
        if self.keep.dtype != np.uint8:
            raise InputError(f"{self.name}: keep has dtype {self.keep.dtype}, must be uint8")
        highest = int(self.keep.max(initial=0))
        if highest > self.levels:
            raise InputError(f"{self.name}: keep reaches {highest}, but there are {self.levels} levels")
        # One comparison per level: a histogram would widen every byte to an index of eight first.
        counts = [np.count_nonzero(self.keep > level) for level in range(self.levels)]
        object.__setattr__(self, "_counts", np.array(counts, dtype=np.int64))
        if self.values is not None:
            self._check_values(self.values)

    def _check_values(self, values: NDArray[np.float32]) -> None:
        if values.shape != self.keep.shape:
            raise InputError(f"{self.name}: values have shape {values.shape}, keep has {self.keep.shape}")
        if values.dtype != np.float32:
            raise InputError(f"{self.name}: values have dtype {values.dtype}, must be float32")
        bad = ~np.isfinite(values)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(f"{self.name}: {int(bad.sum())} weights are NaN or infinite, the first at {first}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.keep.shape

    @property
    def nonzeros(self) -> NDArray[np.int64]:
        """Retained weights per level, shape (levels,), densest first."""
        return self._counts

    @property
    def densities(self) -> NDArray[np.float64]:
        return self._counts / max(self.keep.size, 1)

    def check_level(self, level: int) -> None:
        if not 0 <= level < self.levels:
            raise InputError(f"{self.name}: level {level} does not exist; levels are 0 to {self.levels - 1}")

    def mask(self, level: int) -> NDArray[np.bool_]:
        """Boolean mask of the weights that ``level`` retains, shape of the weights."""
        self.check_level(level)
        return self.keep > level

    def dense(self, level: int) -> NDArray[np.float32]:
        """The weights of ``level`` with explicit zeros, float32."""
        if self.values is None:
            raise InputError(f"{self.name}: this network carries a sparsity pattern only, it has no weight values")
        return np.where(self.mask(level), self.values, np.float32(0))


def from_masks(
    values: NDArray[np.float32], masks: Sequence[NDArray[np.bool_]], *, name: str = "weights"
) -> NestedWeights:
    """Nested weights from one mask per level, densest first.

    Raises
    ------
    InputError
        naming the first level and index where a sparser level keeps a weight that the denser one pruned.
    """
    if not masks:
        raise InputError(f"{name}: no level given")
    keep = np.zeros(values.shape, dtype=np.uint8)
    for level, mask in enumerate(masks):
        if mask.shape != values.shape or mask.dtype != np.bool_:
            raise InputError(
                f"{name}: the mask of level {level} is {mask.dtype}{mask.shape}, must be bool{values.shape}"
            )
        outside = mask & (keep != level)
        if level and outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            raise InputError(f"{name}: level {level} keeps weight {first}, which level {level - 1} prunes: not nested")
        keep += mask.astype(np.uint8)
    return NestedWeights(values=values, keep=keep, levels=len(masks), name=name)


def from_ranking(
    values: NDArray[np.float32],
    scores: NDArray[np.floating],
    densities: Sequence[float],
    *,
    name: str = "weights",
) -> NestedWeights:
    """Nested weights that keep, at each level, the ``round(density * size)`` highest scores (ties: lowest index first).

    ``densities`` must not increase from level to level and must lie in [0, 1].
    """
    check_densities(densities)
    if scores.shape != values.shape or np.isnan(scores).any():
        raise InputError(f"{name}: scores of shape {scores.shape} must be numbers of shape {values.shape}")
    order = np.argsort(-scores.reshape(-1), kind="stable")
    keep = np.zeros(values.size, dtype=np.uint8)
    for density in densities:
        keep[order[: round(density * values.size)]] += 1
    return NestedWeights(values=values, keep=keep.reshape(values.shape), levels=len(densities), name=name)


def check_densities(densities: Sequence[float]) -> None:
    """Raise InputError unless the densities lie in [0, 1] and do not increase."""
    if not densities:
        raise InputError("no densities given; an example is 0.5,0.25,0.13")
    if len(densities) > MAX_LEVELS:
        raise InputError(f"{len(densities)} levels; allowed are 1 to {MAX_LEVELS}")
    for level, density in enumerate(densities):
        if not 0.0 <= density <= 1.0:
            raise InputError(f"density {density} of level {level} is outside 0..1")
        if level and density > densities[level - 1]:
            raise InputError(
                f"level {level} (density {density}) is denser than level {level - 1} ({densities[level - 1]}); "
                "give the densest level first"
            )
