"""Nested weights: masks, counts and densities against plain loops over levels; every mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.nesting import MAX_LEVELS, NestedWeights, check_densities, from_masks, from_ranking


@st.composite
def nested(draw: st.DrawFn) -> NestedWeights:
    levels = draw(st.sampled_from([1, 2, 4, 8, 255]))
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keep = rng.integers(0, levels + 1, size=shape).astype(np.uint8)
    return NestedWeights(rng.standard_normal(shape).astype(np.float32), keep, levels)


@given(nested())
def test_masks_counts_and_values_of_every_level(weights: NestedWeights) -> None:
    assert weights.values is not None
    denser = np.ones(weights.shape, dtype=bool)
    for level in range(weights.levels):
        mask = weights.mask(level)
        assert not (mask & ~denser).any()  # nested
        assert weights.nonzeros[level] == np.count_nonzero(mask)
        assert weights.densities[level] == np.count_nonzero(mask) / max(1, mask.size)
        dense = weights.dense(level)
        assert dense.dtype == np.float32
        np.testing.assert_array_equal(dense[mask], weights.values[mask])
        assert not dense[~mask].any()
        denser = mask
    assert weights.nonzeros.dtype == np.int64


@given(nested())
def test_masks_rebuild_the_same_weights(weights: NestedWeights) -> None:
    assert weights.values is not None
    again = from_masks(weights.values, [weights.mask(level) for level in range(weights.levels)])
    np.testing.assert_array_equal(again.keep, weights.keep)
    assert again.levels == weights.levels


@given(
    size=st.integers(1, 60),
    densities=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    ties=st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_ranking_keeps_the_highest_scores(size: int, densities: list[float], ties: int, seed: int) -> None:
    densities = sorted(densities, reverse=True)
    scores = np.random.default_rng(seed).integers(0, ties, size).astype(np.float64)
    weights = from_ranking(np.zeros(size, np.float32), scores, densities)
    ranked = sorted(range(size), key=lambda i: (-scores[i], i))
    for level, density in enumerate(densities):
        expected = set(ranked[: round(density * size)])
        assert set(np.flatnonzero(weights.mask(level)).tolist()) == expected


def test_a_pattern_without_values_has_masks_only() -> None:
    pattern = NestedWeights(None, np.array([0, 1, 2], np.uint8), 2, "conv1")
    assert pattern.nonzeros.tolist() == [2, 1]
    with pytest.raises(InputError, match="conv1: this network carries a sparsity pattern only"):
        pattern.dense(0)


@pytest.mark.parametrize("level", [-1, 2, 99])
def test_levels_that_do_not_exist(level: int) -> None:
    weights = NestedWeights(None, np.zeros(3, np.uint8), 2, "conv1")
    with pytest.raises(InputError, match=rf"conv1: level {level} does not exist; levels are 0 to 1"):
        weights.mask(level)


KEEP = np.array([[1, 0], [2, 1]], np.uint8)
VALUES = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("values", "keep", "levels", "message"),
    [
        (VALUES, KEEP, 0, "0 levels; allowed are 1 to 255"),
        (VALUES, KEEP, 256, "256 levels"),
        (VALUES, KEEP, 1, "keep reaches 2, but there are 1 levels"),
        (VALUES, KEEP.astype(np.int64), 2, "keep has dtype int64, must be uint8"),
        (VALUES[:1], KEEP, 2, r"values have shape \(1, 2\), keep has \(2, 2\)"),
        (VALUES.astype(np.float64), KEEP, 2, "values have dtype float64, must be float32"),
        (VALUES * np.array([[1, np.nan], [np.inf, 1]], np.float32), KEEP, 2, r"2 weights are NaN .* first at \(0, 1\)"),
    ],
)
def test_mistakes(values: np.ndarray, keep: np.ndarray, levels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NestedWeights(values, keep, levels)


def test_masks_that_are_not_nested_name_the_place() -> None:
    dense, sparse = np.array([[True, False], [True, True]]), np.array([[True, False], [False, True]])
    stray = np.array([[False, True], [False, False]])
    with pytest.raises(InputError, match=r"w: level 1 keeps weight \(0, 1\), which level 0 prunes: not nested"):
        from_masks(VALUES, [dense, stray], name="w")
    with pytest.raises(InputError, match=r"level 2 keeps weight \(1, 0\), which level 1 prunes"):
        from_masks(VALUES, [dense, sparse, dense])
    with pytest.raises(InputError, match="no level given"):
        from_masks(VALUES, [])
    with pytest.raises(InputError, match=r"mask of level 0 is bool\(2,\), must be bool\(2, 2\)"):
        from_masks(VALUES, [np.ones(2, bool)])
    with pytest.raises(InputError, match="must be bool"):
        from_masks(VALUES, [np.full((2, 2), 2)])


@pytest.mark.parametrize("scores", [np.ones((2, 1)), np.ones((3, 2)), np.array([[1, np.nan], [0, 1]])])
def test_scores_must_rank_every_weight(scores: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"w: scores of shape .* must be numbers of shape \(2, 2\)"):
        from_ranking(VALUES, scores, [0.5], name="w")


@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ([], "no densities given"),
        ([0.5, 1.1], r"density 1\.1 of level 1 is outside 0\.\.1"),
        ([-0.1], "density -0.1 of level 0"),
        ([float("nan")], "density nan of level 0"),
        ([0.2, 0.5], r"level 1 \(density 0\.5\) is denser than level 0 \(0\.2\)"),
        ([0.5] * (MAX_LEVELS + 1), "256 levels; allowed are 1 to 255"),
    ],
)
def test_density_mistakes(densities: Sequence[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_densities(densities)
