"""What each method keeps, against its definition written out element by element."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.sparsify import NM, Block, BlockPunched, Channel, Filter, Magnitude, Pattern, SparsifyWarning
from nestling.workloads.sparsify.pattern import PATTERNS, pattern_masks

Array = np.ndarray


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_magnitude_keeps_the_largest() -> None:
    values = weights(6, 7)
    nested = Magnitude().sparsify_weights(values, [0.5, 0.25])
    order = np.sort(np.abs(values), axis=None)[::-1]
    np.testing.assert_array_equal(nested.mask(0), np.abs(values) >= order[20])
    np.testing.assert_array_equal(
        nested.mask(1), np.abs(values) >= order[9]
    )  # 10.5: the nearer even split is the lower


@settings(max_examples=60, deadline=None)
@given(
    K=st.integers(1, 4),
    C=st.integers(1, 11),
    kernel=st.sampled_from([(1, 1), (2, 3)]),
    m=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_nm_keeps_the_largest_of_each_group(K: int, C: int, kernel: tuple[int, int], m: int, seed: int) -> None:
    values = weights(K, C, *kernel, seed=seed)
    slots = sorted({1, (m + 1) // 2, m}, reverse=True)
    nested = NM(m=m).sparsify_weights(values, [n / m for n in slots])
    for level, n in enumerate(slots):
        mask = nested.mask(level)
        for k in range(K):
            for r, s in np.ndindex(*kernel):
                for first in range(0, C, m):
                    group = np.abs(values[k, first : first + m, r, s])
                    expected = np.sort(group)[::-1][: min(n, group.size)]
                    kept = group[mask[k, first : first + m, r, s]]
                    np.testing.assert_array_equal(np.sort(kept)[::-1], expected)


def test_depthwise_weights_have_one_channel_and_stay() -> None:
    assert (NM(m=8).sparsify_weights(weights(16, 1, 3, 3), [0.125]).keep == 1).all()


def best_subset(scores: list[float], sizes: list[int], target: int) -> set[int]:
    """Units of the greatest total score among all choices of ``target`` weights, by trying every one."""
    choices = [
        c
        for n in range(len(scores) + 1)
        for c in combinations(range(len(scores)), n)
        if sum(sizes[u] for u in c) == target
    ]
    return set(max(choices, key=lambda c: sum(scores[u] for u in c)))


@pytest.mark.parametrize("seed", range(5))
def test_punched_blocks_equal_exhaustive_projection(seed: int) -> None:
    """Blocks of 4 x 2, kernels of 2 x 1: 8 units of 8 weights; the norm of YOLObile, maximised over all choices of 3."""
    values = weights(8, 4, 2, 1, seed=seed)
    nested = BlockPunched(filters=4, channels=2).sparsify_weights(values, [3 / 8])
    units, scores = [], []
    for k, c, r in np.ndindex(2, 2, 2):
        part = np.zeros(values.shape, bool)
        part[4 * k : 4 * k + 4, 2 * c : 2 * c + 2, r] = True
        units.append(part)
        block = values[4 * k : 4 * k + 4, 2 * c : 2 * c + 2, r, 0].astype(float)
        scores.append(sum(np.linalg.norm(block[:, j]) for j in range(2)))
    expected = np.logical_or.reduce([units[u] for u in best_subset(scores, [8] * 8, 24)])
    np.testing.assert_array_equal(nested.mask(0), expected)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_equal_exhaustive_projection(seed: int) -> None:
    values = weights(6, 9, seed=seed)
    nested = Block(filters=2, channels=3).sparsify_weights(values, [4 / 9])
    energy = (values.astype(float) ** 2).reshape(3, 2, 3, 3).sum(axis=(1, 3)).reshape(-1)
    chosen = best_subset(list(energy), [6] * 9, 24)
    expected = np.isin(np.arange(9).reshape(3, 3), list(chosen)).repeat(2, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(nested.mask(0), expected)


def test_edges_are_smaller_blocks() -> None:
    """K = 5 and C = 3 in blocks of 4 x 2: sizes 8, 4, 2, 1; a small block of large weights beats a large one of small."""
    values = np.full((5, 3), 0.1, np.float32)
    values[4, 2] = 1.0
    nested = Block(filters=4, channels=2).sparsify_weights(values, [9 / 15, 1 / 15])
    assert nested.mask(1).sum() == 1
    assert nested.mask(1)[4, 2]
    assert nested.mask(0).sum() == 9


def test_a_layer_smaller_than_a_block_is_one_block() -> None:
    with pytest.warns(SparsifyWarning, match="one unit is kept"):
        nested = Block(filters=16, channels=16).sparsify_weights(weights(3, 3), [0.2])
    assert nested.nonzeros.tolist() == [9]


@pytest.mark.parametrize(("method", "axis"), [(Filter, 0), (Channel, 1)])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_filters_and_channels_by_norm(method: type[Channel], axis: int, norm: str) -> None:
    values = weights(6, 6, 3, 3, seed=4)
    nested = method(norm=norm).sparsify_weights(values, [0.5, 1 / 6])
    others = tuple({0, 1, 2, 3} - {axis})
    exact = np.abs(values.astype(float))
    norms = exact.sum(axis=others) if norm == "l1" else np.sqrt((exact**2).sum(axis=others))
    order = np.argsort(-norms)
    for level, count in enumerate([3, 1]):
        kept = nested.mask(level).all(axis=others)
        assert set(np.flatnonzero(kept)) == set(order[:count])
        np.testing.assert_array_equal(nested.mask(level).any(axis=others), kept)


def test_the_pattern_set() -> None:
    masks = pattern_masks()
    assert masks.shape == (8, 3, 3)
    assert len({mask.tobytes() for mask in masks}) == len(PATTERNS) == 8
    assert (masks.sum(axis=(1, 2)) == 4).all()
    assert masks[:, 1, 1].all()
    # Closed under quarter turns and mirrors: no direction is preferred.
    for turned in (np.rot90(masks, axes=(1, 2)), masks[:, :, ::-1]):
        assert {mask.tobytes() for mask in turned.copy()} == {mask.tobytes() for mask in masks}


def test_kernels_keep_the_best_pattern() -> None:
    values = weights(5, 4, 3, 3)
    nested = Pattern().sparsify_weights(values, [1.0, 4 / 9, 2 / 9, 1 / 45])
    assert nested.nonzeros.tolist() == [180, 80, 40, 4]
    best = np.zeros((5, 4))
    for k, c in np.ndindex(5, 4):
        energies = [(values[k, c][mask].astype(float) ** 2).sum() for mask in pattern_masks()]
        best[k, c] = max(energies)
        np.testing.assert_array_equal(nested.mask(1)[k, c], pattern_masks()[int(np.argmax(energies))])
    kernels = nested.mask(2).any(axis=(2, 3))
    assert kernels.sum() == 10
    assert best[kernels].min() > best[~kernels].max()
    found = Counter(nested.mask(1).reshape(-1, 9).sum(axis=1).tolist())
    assert found == {4: 20}


def test_other_kernel_sizes_use_the_other_method() -> None:
    values = weights(8, 8, 1, 1)
    nested = Pattern(otherwise=NM(m=4)).sparsify_weights(values, [0.25])
    np.testing.assert_array_equal(nested.keep, NM(m=4).sparsify_weights(values, [0.25]).keep)
    plain = Pattern().sparsify_weights(values, [0.7])
    np.testing.assert_array_equal(plain.keep, Magnitude().sparsify_weights(values, [0.7]).keep)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NM(m=1), "group of 1; must be at least 2"),
        (lambda: Block(filters=0), "block of 0 filters x 4 channels; both must be at least 1"),
        (lambda: BlockPunched(channels=-1), "both must be at least 1"),
        (lambda: Filter(norm="l3"), "unknown norm 'l3'"),
    ],
)
def test_mistakes(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
