"""Rebuilding weights from codes and bases: equal to the dense product of the reconstructed weights, at every level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.product import Choice, Product
from nestling.sim.executor.simd.rebuild import Rebuild, pattern
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.smartdeal.basis_weights import BasisWeights, quantise_bases
from nestling.workloads.smartdeal.slicing import Slicing

from .simd_cases import UNIT_ROUNDOFF

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")


def basis_weights(
    slicing: Slicing, levels: int, seed: int, *, quantised: bool, shared: bool = True, density: float = 0.5
) -> BasisWeights:
    random = np.random.default_rng(seed)
    shape = (slicing.matrices, slicing.rows, slicing.columns)
    codes = (random.integers(1, 9, shape) * random.choice((-1, 0, 1), shape, p=(0.4, 0.2, 0.4))).astype(np.int8)
    keep = np.where(random.random(shape[:2]) < density, random.integers(1, levels + 1, shape[:2]), 0).astype(np.uint8)
    bases = random.standard_normal((1 if shared else levels, shape[0], shape[2], shape[2])).astype(np.float32)
    if quantised:
        bases = quantise_bases(bases)
    return BasisWeights(codes=codes, lowest=-6, bases=bases, keep=keep, levels=levels, slicing=slicing)


def product_of(weights: BasisWeights, choice: Choice) -> Product:
    k, c, r, s = weights.slicing.shape
    layer = conv("c", "input", C=c, H=4, W=13, K=k, R=r, S=s, padding=1)
    halo = max(r, s, 1)
    source = PlaneLayout(c, 4, 13, halo)
    return Product(layer, pattern(weights), source, PlaneLayout(k, layer.P, layer.Q, halo), choice=choice)


SLICINGS = (
    Slicing(shape=(5, 4, 3, 3), units=5, slices=1, rows=12, columns=3),
    Slicing(shape=(3, 7, 3, 3), units=3, slices=3, rows=7, columns=3),
    Slicing(shape=(4, 10, 1, 1), units=4, slices=2, rows=2, columns=3),
    Slicing(shape=(3, 2, 3, 1), units=3, slices=1, rows=2, columns=3, transposed=True),
)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SLICINGS), st.sampled_from((1, 2, 4)), st.integers(0, 1000), st.booleans(), st.booleans(),
    st.sampled_from((Choice("direct", 2), Choice("windowed", 4, 5), Choice("packed", 1))),
)  # fmt: skip
def test_streams_hold_the_reconstructed_weights(
    slicing: Slicing, levels: int, seed: int, quantised: bool, shared: bool, choice: Choice
) -> None:
    """Exactly for stored (8-bit) bases, whose sums fit 24 bits; else within three roundings."""
    weights = basis_weights(slicing, levels, seed, quantised=quantised, shared=shared)
    product = product_of(weights, choice)
    rebuild = Rebuild(weights, product)
    numbers = np.arange(1, np.prod(slicing.shape) + 1, dtype=np.float32).reshape(slicing.shape)
    numbered = pattern(weights)
    numbered = type(numbered)(values=numbers, keep=numbered.keep, levels=levels)
    order = product.streams_of(numbered).values[:-1].astype(np.int64) - 1
    for level in range(levels):
        product.streams.values[:] = np.nan
        rebuild.call(level).run(0)
        expected = weights.dense(level).reshape(-1)[order]
        used = numbered.mask(level).reshape(-1)[order]
        found = product.streams.values[:-1][used]
        magnitude = slicing.join(np.abs(weights.coefficients(level)) @ np.abs(weights.basis(level)))
        bound = 0 if quantised else (slicing.columns + 1) * UNIT_ROUNDOFF * magnitude.reshape(-1)[order][used]
        assert (np.abs(found - expected[used]) <= bound).all()


def test_a_level_rebuilds_only_its_own_rows() -> None:
    weights = basis_weights(SLICINGS[0], 3, 1, quantised=True)
    product = product_of(weights, Choice("direct", 4))
    rebuild = Rebuild(weights, product)
    product.streams.values[:] = np.nan
    rebuild.call(2).run(0)
    assert int(np.isfinite(product.streams.values[:-1]).sum()) == pattern(weights).nonzeros[2]
    assert rebuild.nbytes > 0


def test_what_cannot_be_rebuilt_says_so() -> None:
    weights = basis_weights(SLICINGS[0], 1, 1, quantised=True)
    product = product_of(weights, Choice("direct", 4))
    single = BasisWeights(
        codes=weights.codes, lowest=-6, bases=weights.bases, keep=np.ones(weights.codes.shape, np.uint8), levels=1,
        slicing=weights.slicing,
    )  # fmt: skip
    with pytest.raises(InputError, match="whole coefficient rows"):
        pattern(single)
    tiny = BasisWeights(
        codes=weights.codes, lowest=-140, bases=weights.bases, keep=weights.keep, levels=1, slicing=weights.slicing
    )
    with pytest.raises(InputError, match="no normal float32"):
        Rebuild(tiny, product)
