"""Seeded synthetic sparsity for networks whose weights nobody has: exact counts, no values, no accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .errors import InputError
from .nesting import NestedWeights, check_densities
from .network import Network


def with_synthetic_levels(network: Network, densities: Sequence[float], *, seed: int = 0) -> Network:
    """``network`` with unstructured nested patterns of uniform density in every prunable layer.

    Each layer keeps exactly ``round(density * size)`` weights per level; which ones is drawn uniformly without replacement
    from a seeded generator, so the pattern is what magnitude pruning of independent weights would leave. There are no
    values: such a network can be simulated, not executed, and its accuracy is reported as "not measured".

    Raises
    ------
    InputError
        for densities outside 0..1 or not ordered from dense to sparse, or a negative seed.
    """
    from .pattern_kernel import draw_keep

    check_densities(densities)
    if seed < 0:
        raise InputError(f"seed {seed} is negative")
    prunable = [layer for layer in network.layers if layer.has_weights]
    seeds = np.random.default_rng(seed).integers(1, 1 << 62, size=len(prunable))
    weights = {}
    for layer, layer_seed in zip(prunable, seeds, strict=True):
        size = int(np.prod(layer.weight_shape))
        quota = np.array([round(d * size) for d in densities], dtype=np.int64)
        keep = draw_keep(size, quota, np.uint64(layer_seed)).reshape(layer.weight_shape)
        weights[layer.name] = NestedWeights(values=None, keep=keep, levels=len(densities), name=layer.name)
    stated = ", ".join(f"{d:g}" for d in densities)
    return replace(network, weights=weights, source=f"{network.source}; synthetic levels {stated}, seed {seed}")
