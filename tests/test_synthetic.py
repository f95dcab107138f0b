"""Synthetic levels: exact counts, nested, the same for the same seed, and uniform over positions."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.network import INPUT, Network
from nestling.workloads.pattern_kernel import draw_keep
from nestling.workloads.synthetic import with_synthetic_levels
from scipy.stats import chi2

NETWORK = Network(
    "n",
    (
        conv("a", INPUT, C=5, H=6, K=7, R=3, padding=1),
        conv("b", "a", C=7, H=6, K=7, R=3, padding=1, groups=7),
        linear("c", "b", features_in=252, features_out=11),
    ),
)
densities = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(lambda d: sorted(d, reverse=True))


@settings(max_examples=50, deadline=None)
@given(levels=densities, seed=st.integers(0, 2**63))
def test_exact_counts_nested_and_reproducible(levels: list[float], seed: int) -> None:
    network = with_synthetic_levels(NETWORK, levels, seed=seed)
    again = with_synthetic_levels(NETWORK, levels, seed=seed)
    assert set(network.weights) == {"a", "b", "c"}
    for name, weights in network.weights.items():
        size = weights.keep.size
        masks = [weights.keep > level for level in range(len(levels))]
        assert [int(m.sum()) for m in masks] == [round(d * size) for d in levels]
        assert all(not (sparse & ~dense).any() for dense, sparse in pairwise(masks))
        assert weights.values is None
        np.testing.assert_array_equal(weights.keep, again.weights[name].keep)


@pytest.mark.parametrize("levels", [[1.0], [0.0], [1.0, 1.0], [1.0, 0.0], [0.9 - 0.1 * i for i in range(8)]])
def test_level_counts_one_and_eight_and_the_ends(levels: list[float]) -> None:
    network = with_synthetic_levels(NETWORK, levels)
    assert network.levels == len(levels)
    sizes = np.array([315, 63, 2772])
    kept = [sum(round(d * int(s)) for s in sizes) for d in levels]
    np.testing.assert_allclose(network.densities, np.array(kept) / sizes.sum(), rtol=1e-15)


def test_seeds_and_layers_differ() -> None:
    twins = Network("n", (conv("a", INPUT, C=5, H=6, K=7, R=3), conv("b", INPUT, C=5, H=6, K=7, R=3)))
    first, second = (with_synthetic_levels(twins, [0.5], seed=s) for s in (0, 1))
    assert (first.weights["a"].keep != second.weights["a"].keep).any()
    assert (first.weights["a"].keep != first.weights["b"].keep).any()


def test_every_arrangement_is_equally_likely() -> None:
    """2 levels on 6 weights, quota 3 and 1: C(6,3) * 3 = 60 arrangements. Pearson's statistic over 12,000 draws against the
    chi-square quantile that a uniform source exceeds once in 10^6 tests."""
    size, draws = 6, 12_000
    counts: dict[bytes, int] = {}
    seeds = np.random.default_rng(5).integers(1, 1 << 62, draws)
    for seed in seeds:
        keep = draw_keep(size, np.array([3, 1]), np.uint64(seed))
        counts[keep.tobytes()] = counts.get(keep.tobytes(), 0) + 1
    arrangements = {
        bytes(2 if i == deep else int(i in kept) for i in range(size))
        for kept in combinations(range(size), 3)
        for deep in kept
    }
    assert set(counts) == arrangements
    expected = draws / len(arrangements)
    statistic = sum((n - expected) ** 2 / expected for n in counts.values())
    assert statistic < chi2.isf(1e-6, len(arrangements) - 1)


def test_positions_of_a_long_layer_are_uniform() -> None:
    """100,000 kept of 10^6 weights in 100 bins. Without replacement the counts are hypergeometric: Pearson's statistic,
    scaled by 1 / (1 - density), is chi-square with 99 degrees of freedom."""
    size, kept, bins = 1_000_000, 100_000, 100
    keep = draw_keep(size, np.array([kept]), np.uint64(7))
    counts = keep.reshape(bins, -1).sum(axis=1, dtype=np.int64)
    expected = kept / bins
    statistic = float(((counts - expected) ** 2 / expected).sum()) / (1 - kept / size)
    assert counts.sum() == kept
    assert chi2.ppf(1e-6, bins - 1) < statistic < chi2.isf(1e-6, bins - 1)


def test_neighbours_are_independent() -> None:
    """Both of two neighbours are kept about density^2 * size times; 6 standard deviations of that count."""
    size = 1_000_000
    keep = draw_keep(size, np.array([size // 4]), np.uint64(11)).astype(np.int64)
    pairs = int((keep[::2] * keep[1::2]).sum())
    probability = 1 / 16
    deviation = np.sqrt(size / 2 * probability * (1 - probability))
    assert abs(pairs - size / 2 * probability) < 6 * deviation


@pytest.mark.parametrize(
    ("levels", "seed", "message"),
    [
        ([], 0, "no densities given"),
        ([0.2, 0.4], 0, "denser than level 0"),
        ([1.5], 0, "outside 0..1"),
        ([0.5], -1, "seed -1 is negative"),
    ],
)
def test_mistakes(levels: list[float], seed: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_synthetic_levels(NETWORK, levels, seed=seed)
