"""Seeded synthetic SmartDeal networks: exact counts of coefficient rows for networks whose weights nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..nesting import NestedWeights, check_densities
from ..network import Network
from .basis_weights import BasisWeights
from .nested import SmartDealNetwork, grows
from .slicing import slicing_of

#: Filters whose coefficient rows are pruned together: groups of the authors' structural variant.
STRUCTURAL_FILTERS = 32


def synthetic_smartdeal(
    network: Network, densities: Sequence[float], *, seed: int = 0, filters: int = STRUCTURAL_FILTERS
) -> SmartDealNetwork:
    """``network`` in SmartDeal form with drawn coefficient rows: no values, no accuracy.

    Every ``filters`` consecutive outputs of a layer keep the same rows, as the structural variant of SmartExchange prunes
    them; which ones is drawn uniformly, exactly ``round(density * rows)`` of a layer at each level, nested. Kept rows have
    no zero coefficient, which is the most that rebuilding their weights can cost. Layers that would grow (depthwise) stay
    plain and whole, as the authors' lists of pruning fractions for MobileNetV2 leave them.

    Raises
    ------
    InputError
        for densities outside 0..1 or not ordered from dense to sparse, a negative seed, or no filters in a group.
    """
    check_densities(densities)
    if seed < 0 or filters < 1:
        raise InputError(f"seed = {seed} must not be negative, filters = {filters} must be at least 1")
    layers = [layer for layer in network.layers if layer.has_weights]
    seeds = np.random.default_rng(seed).integers(1, 1 << 62, size=max(1, len(layers)))
    weights: dict[str, NestedWeights] = {}
    bases: dict[str, BasisWeights] = {}
    plain: dict[str, str] = {}
    for layer, own in zip(layers, seeds, strict=False):
        if grows(slicing_of(layer.weight_shape)):
            keep = np.full(layer.weight_shape, len(densities), dtype=np.uint8)
            weights[layer.name] = NestedWeights(values=None, keep=keep, levels=len(densities), name=layer.name)
            plain[layer.name] = "it would grow"
        else:
            basis = _drawn(layer.weight_shape, densities, seed=int(own), filters=filters)
            bases[layer.name] = replace(basis, name=layer.name)
            weights[layer.name] = _pattern(bases[layer.name])
    stated = ", ".join(f"{density:g}" for density in densities)
    source = (
        f"{network.source}; synthetic coefficient rows of densities {stated}, alike in groups of {filters} filters, "
        f"seed {seed}"
    )
    made = replace(network, weights=weights, source=source)
    return SmartDealNetwork(network=made, bases=bases, plain=plain, error={})


def _drawn(shape: tuple[int, ...], densities: Sequence[float], *, seed: int, filters: int) -> BasisWeights:
    """All coefficients of the kept rows are 1; bases are zero, since nothing computes with them."""
    from ..pattern_kernel import draw_keep

    slicing = slicing_of(shape)
    rows = slicing.slices * slicing.rows
    groups = -(-slicing.units // filters)
    quota = np.array([round(density * groups * rows) for density in densities], dtype=np.int64)
    drawn = draw_keep(groups * rows, quota, np.uint64(seed)).reshape(groups, rows)
    keep = np.repeat(drawn, filters, axis=0)[: slicing.units].reshape(slicing.matrices, slicing.rows)
    codes = slicing.cut(np.ones(shape, dtype=np.int8))  # zero where a row is padding
    return BasisWeights(
        codes=codes,
        lowest=0,
        bases=np.zeros((1, slicing.matrices, slicing.columns, slicing.columns), dtype=np.float32),
        keep=np.where(codes.any(axis=2), keep, np.uint8(0)),
        levels=len(densities),
        slicing=slicing,
    )


def _pattern(basis: BasisWeights) -> NestedWeights:
    """Every weight of a kept row is retained."""
    keep = basis.slicing.join(np.broadcast_to(basis.keep[..., None], basis.codes.shape))
    return NestedWeights(values=None, keep=np.ascontiguousarray(keep), levels=basis.levels, name=basis.name)
