"""From trained weights to nested SmartDeal weights: decompose, rank coefficient rows, keep fewer at each level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nesting import NestedWeights, from_ranking
from ..network import Network
from .basis_weights import BASIS_BITS, COEFFICIENT_BITS, BasisWeights, encode_powers, quantise_bases
from .decomposition import RCOND, DecompositionOptions, decompose
from .slicing import Slicing, slicing_of

#: What is dropped from level to level: whole coefficient rows (the accelerator's vectors), or single coefficients.
Unit = Literal["row", "coefficient"]


@dataclass(frozen=True, kw_only=True)
class SmartDealOptions:
    """``decomposition``: of each matrix; rows of fully connected layers are never pruned whole (authors' code).

    ``unit``: what a level drops; ``refit``: fit the basis to each level's coefficients anew (bytes: one basis per level);
    ``coefficient_bits``: coefficients too small for the exponents that a stored code tells apart (counted down from the
    layer's largest) become zero and the bases are fitted again; 0 keeps them all. ``basis_bits``: 0 keeps float32 bases;
    ``skip_growing``: leave layers plain whose stored form would exceed 8-bit weights (depthwise: 9 coefficients and 9
    basis elements for 9 weights).
    """

    decomposition: DecompositionOptions = field(default_factory=lambda: DecompositionOptions(row_threshold=True))
    unit: Unit = "row"
    refit: bool = False
    coefficient_bits: int = COEFFICIENT_BITS
    basis_bits: int = BASIS_BITS
    skip_growing: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class SmartDealNetwork:
    """``network``: the same layers with the reconstructed weights of level 0's coefficients; ``bases``: the decomposed
    layers; ``plain``: the layers left as they were, with the reason; ``error``: relative error of the densest level per
    decomposed layer."""

    network: Network
    bases: Mapping[str, BasisWeights]
    plain: Mapping[str, str]
    error: Mapping[str, float]

    def at_level(self, level: int) -> Network:
        """The network of one level on its own (levels = 1), whatever its coefficients share with other levels."""
        weights = {}
        for name, nested in self.network.weights.items():
            values = self.bases[name].dense(level) if name in self.bases else nested.dense(level)
            weights[name] = NestedWeights(values=values, keep=(values != 0).astype(np.uint8), levels=1, name=name)
        biases = {name: bias[level : level + 1] for name, bias in self.network.biases.items()}
        return replace(self.network, weights=weights, biases=biases)


def decompose_network(
    network: Network,
    densities: Sequence[float] | None = None,
    *,
    options: SmartDealOptions | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> SmartDealNetwork:
    """Decompose the densest level of every layer with weights and nest it.

    ``densities``: per level the share of coefficient rows (or coefficients) kept, densest first, by the energy they
    contribute; layers left plain keep the same share of their weights by magnitude. None: the network's own levels, each
    coefficient (row) kept as long as its weight (any weight of its row) is.

    Raises
    ------
    InputError
        if the network has no values, or the densities increase or leave 0..1.
    """
    options = options or SmartDealOptions()
    if not network.has_values:
        raise InputError(f"network '{network.name}' has no weight values to decompose")
    bases: dict[str, BasisWeights] = {}
    plain: dict[str, str] = {}
    weights: dict[str, NestedWeights] = {}
    for name, nested in network.weights.items():
        if options.skip_growing and grows(slicing_of(nested.shape)):
            plain[name] = "it would grow"
            weights[name] = nested if densities is None else _by_magnitude(nested, densities)
        else:
            bases[name] = decompose_weights(nested, densities, options=options, threads=threads)
            weights[name] = _stand_in(bases[name])
        if progress is not None:
            progress(name)
    biases = network.biases
    if densities is not None:
        biases = {name: np.repeat(bias[:1], len(densities), axis=0) for name, bias in biases.items()}
    error = {name: _relative(network.weights[name].dense(0), basis.dense(0)) for name, basis in bases.items()}
    made = replace(network, weights=weights, biases=biases)
    return SmartDealNetwork(network=made, bases=bases, plain=plain, error=error)


def _by_magnitude(nested: NestedWeights, densities: Sequence[float]) -> NestedWeights:
    """The densest level's weights, nested anew by their magnitude."""
    values = nested.dense(0)
    return from_ranking(values, np.abs(values), densities, name=nested.name)


def decompose_weights(
    nested: NestedWeights,
    densities: Sequence[float] | None = None,
    *,
    options: SmartDealOptions | None = None,
    threads: int | None = None,
) -> BasisWeights:
    """One layer's weights, (n, k) or (K, C/groups, R, S), in nested SmartDeal form; ``densities`` as for a network."""
    options = options or SmartDealOptions()
    slicing = slicing_of(nested.shape)
    settings = options.decomposition
    if len(nested.shape) == 2 or nested.shape[2] == nested.shape[3] == 1:
        settings = replace(settings, row_threshold=False)
    matrices = slicing.cut(nested.dense(0).astype(np.float64))
    done = decompose(matrices, settings, threads=threads)
    coefficients, bases = _within_codes(done.coefficients, done.bases, matrices, options)
    codes, lowest = encode_powers(coefficients, name=nested.name)
    if densities is None:
        keep = slicing.cut(nested.keep)
        keep = np.where(codes == 0, np.uint8(0), keep) if options.unit == "coefficient" else keep.max(axis=2)
    else:
        keep = _ranked(coefficients, bases, densities, options.unit)
    basis = BasisWeights(
        codes=codes,
        lowest=lowest,
        bases=bases[None].astype(np.float32),
        keep=keep.astype(np.uint8),
        levels=nested.levels if densities is None else len(densities),
        slicing=slicing,
        name=nested.name,
    )
    if options.refit:
        targets = [nested.dense(x if densities is None else 0) for x in range(basis.levels)]
        basis = refit_bases(basis, targets)
    return replace(basis, bases=quantise_bases(basis.bases, bits=options.basis_bits)) if options.basis_bits else basis


def refit_bases(weights: BasisWeights, targets: Sequence[NDArray[np.float32]]) -> BasisWeights:
    """A basis per level: the least-squares fit of that level's target weights to its coefficients."""
    fits = [
        np.linalg.pinv(weights.coefficients(level).astype(np.float64), rcond=RCOND)
        @ weights.slicing.cut(target.astype(np.float64))
        for level, target in enumerate(targets)
    ]
    return replace(weights, bases=np.stack(fits).astype(np.float32))


def grows(slicing: Slicing) -> bool:
    """True if even 4-bit coefficients and 8-bit bases, without any index, take more bits than 8-bit weights."""
    stored = slicing.rows * slicing.columns * COEFFICIENT_BITS + slicing.columns**2 * BASIS_BITS
    return stored * slicing.slices > 8 * slicing.length


def _within_codes(
    coefficients: NDArray[np.float64],
    bases: NDArray[np.float64],
    matrices: NDArray[np.float64],
    options: SmartDealOptions,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients whose exponents fit the stored code, and bases that fit them; rows need one code for zero."""
    peak = np.abs(coefficients).max(initial=0.0)
    if not options.coefficient_bits or peak == 0.0:
        return coefficients, bases
    exponents = (1 << (options.coefficient_bits - 1)) - (1 if options.unit == "row" else 0)
    small = (coefficients != 0) & (np.abs(coefficients) < peak * 2.0 ** (1 - exponents))
    if not small.any():
        return coefficients, bases
    kept = np.where(small, 0.0, coefficients)
    return kept, np.linalg.pinv(kept, rcond=RCOND) @ matrices


def _ranked(
    coefficients: NDArray[np.float64], bases: NDArray[np.float64], densities: Sequence[float], unit: Unit
) -> NDArray[np.uint8]:
    """Levels that keep each row or coefficient, by the energy it contributes to the weights; zeros are never kept.

    The energy of a row is ||Ce_r B||^2; of a coefficient, c^2 ||B_j||^2 with j its row of the basis.
    """
    if unit == "row":
        energy = ((coefficients @ bases) ** 2).sum(axis=2)
        zero = (coefficients == 0).all(axis=2)
    else:
        energy = coefficients**2 * (bases**2).sum(axis=2)[:, None, :]
        zero = coefficients == 0
    keep = from_ranking(energy.astype(np.float32), np.where(zero, -1.0, energy), densities).keep
    return np.where(zero, np.uint8(0), keep)


def _stand_in(weights: BasisWeights) -> NestedWeights:
    """Plain nested weights of the same non-zeros; for levels whose values differ, those of the densest."""
    if weights.by_row and weights.shared:
        return weights.nested()
    values = weights.dense(0)
    keep = np.zeros(values.shape, np.uint8)
    for level in range(weights.levels):
        rows = np.broadcast_to(weights.kept(level).any(axis=2, keepdims=True), weights.codes.shape)
        keep += weights.slicing.join(rows).astype(np.uint8)
    return NestedWeights(
        values=values, keep=np.where(values == 0, np.uint8(0), keep), levels=weights.levels, name=weights.name
    )


def _relative(values: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    size = float(np.linalg.norm(values))
    return float(np.linalg.norm(values.astype(np.float64) - found)) / size if size else 0.0
