"""Seeded synthetic sparsity for networks whose weights nobody has: exact counts, no values, no accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layers import Layer
from .nesting import NestedWeights, check_densities
from .network import Network


@dataclass(frozen=True, eq=False)
class SyntheticLevels:
    """Unstructured nested patterns of uniform density in every prunable layer of ``network``, each drawn when asked for.

    Each layer keeps exactly ``round(density * size)`` weights per level; which ones is drawn uniformly without replacement
    from a seeded generator, so the pattern is what magnitude pruning of independent weights would leave. A layer's pattern
    depends on the seed and on its place in the network, not on which layers were drawn before.

    Raises
    ------
    InputError
        for densities outside 0..1 or not ordered from dense to sparse, or a negative seed.
    """

    network: Network
    level_densities: tuple[float, ...]
    seed: int = 0
    _seeds: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_densities(self.level_densities)
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative")
        names = [layer.name for layer in self.network.layers if layer.has_weights]
        seeds = np.random.default_rng(self.seed).integers(1, 1 << 62, size=len(names))
        object.__setattr__(self, "_seeds", dict(zip(names, map(int, seeds), strict=True)))

    @property
    def levels(self) -> int:
        return len(self.level_densities)

    @property
    def source(self) -> str:
        """Where network and patterns come from."""
        stated = ", ".join(f"{d:g}" for d in self.level_densities)
        return f"{self.network.source}; synthetic levels {stated}, seed {self.seed}"

    @property
    def weights(self) -> int:
        """Prunable weights of the whole network: the bytes that all patterns take in memory."""
        return sum(_size(layer) for layer in self.network.layers if layer.has_weights)

    @property
    def densities(self) -> NDArray[np.float64]:
        """Fraction of the prunable weights that each level retains, shape (levels,): ``Network.densities`` without masks."""
        sizes = [_size(layer) for layer in self.network.layers if layer.has_weights]
        kept = [sum(round(d * size) for size in sizes) for d in self.level_densities]
        return np.array(kept, dtype=np.int64) / max(1, sum(sizes))

    def pattern(self, layer: Layer) -> NestedWeights:
        """The pattern of one prunable layer, shape ``layer.weight_shape``, without values."""
        from .pattern_kernel import draw_keep

        size = _size(layer)
        quota = np.array([round(d * size) for d in self.level_densities], dtype=np.int64)
        keep = draw_keep(size, quota, np.uint64(self._seeds[layer.name])).reshape(layer.weight_shape)
        return NestedWeights(values=None, keep=keep, levels=self.levels, name=layer.name)


def with_synthetic_levels(network: Network, densities: Sequence[float], *, seed: int = 0) -> Network:
    """``network`` with the patterns of :class:`SyntheticLevels` in every prunable layer, all in memory.

    There are no values: such a network can be simulated, not executed, and its accuracy is reported as "not measured".
    Errors as there.
    """
    levels = SyntheticLevels(network, tuple(densities), seed)
    weights = {layer.name: levels.pattern(layer) for layer in network.layers if layer.has_weights}
    return replace(network, weights=weights, source=levels.source)


def _size(layer: Layer) -> int:
    return int(np.prod(layer.weight_shape, dtype=np.int64))
