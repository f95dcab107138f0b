"""The plan of a nested training run: allocation, density ramp, ranking, learning rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.nesting import from_masks
from nestling.workloads.schedule import (
    Progress,
    Recipe,
    allocation_order,
    cubic_density,
    erk_shares,
    keep_from_ranking,
    layer_counts,
    learning_rate,
    scratch_b_epochs,
)

SHAPES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    min_size=1,
)
DENSITIES = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(lambda x: sorted(x, reverse=True))


def total(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(s)) for s in shapes.values())


@given(shapes=SHAPES, density=st.floats(0, 1))
def test_allocation_is_exact_and_within_the_layers(shapes, density):
    counts = layer_counts(allocation_order(shapes), density=density, layers=len(shapes))
    assert counts.dtype == np.int64
    assert counts.sum() == round(density * total(shapes))
    assert (counts <= [np.prod(s) for s in shapes.values()]).all()


@settings(max_examples=30)
@given(shapes=SHAPES)
def test_no_layer_loses_weights_when_the_total_grows(shapes):
    order = allocation_order(shapes)
    steps = np.stack([np.bincount(order[:n], minlength=len(shapes)) for n in range(order.size + 1)])
    assert (np.diff(steps, axis=0) >= 0).all()
    assert (np.diff(steps.sum(axis=1)) == 1).all()


@settings(max_examples=40)
@given(shapes=SHAPES, density=st.floats(0.01, 1))
def test_allocation_follows_the_capped_erk_rule(shapes, density):
    """Oracle: ERK's own procedure (scale epsilon, layers that would exceed 1 become dense, repeat)."""
    wanted = round(density * total(shapes))
    sizes = np.array([int(np.prod(s)) for s in shapes.values()], float)
    share = np.array([sum(s) for s in shapes.values()], float)
    dense = np.zeros(len(sizes), bool)
    while not dense.all():
        epsilon = (wanted - sizes[dense].sum()) / share[~dense].sum()
        over = ~dense & (epsilon * share > sizes)
        if not over.any():
            break
        dense |= over
    expected = np.where(dense, sizes, 0.0 if dense.all() else epsilon * share)
    counts = layer_counts(allocation_order(shapes), density=density, layers=len(shapes))
    # Each rounding errs by at most 1/2, and the common divisor spreads at most n/2 over the layers.
    assert np.abs(counts - expected).max() <= 0.5 + len(shapes) / 2


def test_erk_keeps_small_layers_denser():
    shapes = {"first": (24, 1, 3, 3), "wide": (64, 64, 3, 3), "classifier": (10, 64)}
    assert erk_shares(shapes) == {"first": 31.0, "wide": 134.0, "classifier": 74.0}
    counts = layer_counts(allocation_order(shapes), density=0.05, layers=3)
    first, wide, classifier = counts / [np.prod(s) for s in shapes.values()]
    assert first == 1.0
    assert wide < 0.05 < classifier


@given(
    progress=st.lists(st.floats(0, 1), min_size=2, max_size=20).map(sorted),
    target=st.floats(0, 1),
    start=st.floats(0, 0.4),
    end=st.floats(0.5, 1),
)
def test_cubic_density_falls_from_one_to_the_target(progress, target, start, end):
    values = [cubic_density(p, target=target, start=start, end=end) for p in progress]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    assert cubic_density(start, target=target, start=start, end=end) == pytest.approx(1.0, abs=1e-12)
    assert cubic_density(end, target=target, start=start, end=end) == target
    middle = cubic_density((start + end) / 2, target=target, start=start, end=end)
    assert middle == pytest.approx(target + (1 - target) / 8, abs=1e-12)


@given(progress=st.floats(0, 1), low=st.floats(0, 1), high=st.floats(0, 1))
def test_ramps_of_two_levels_never_cross(progress, low, high):
    low, high = sorted((low, high))
    assert cubic_density(progress, target=np.nextafter(low, 0)) <= cubic_density(progress, target=low)
    assert cubic_density(progress, target=low) <= cubic_density(progress, target=high)


@settings(max_examples=50)
@given(shapes=SHAPES, densities=DENSITIES, seed=st.integers(0, 2**32 - 1))
def test_keep_is_nested_exact_and_takes_the_highest(shapes, densities, seed):
    rng = np.random.default_rng(seed)
    # Few distinct values, so that ties occur.
    scores = {n: rng.integers(0, 5, s).astype(np.float32) for n, s in shapes.items()}
    keep = keep_from_ranking(scores, densities)
    for level, density in enumerate(densities):
        assert sum(int((k > level).sum()) for k in keep.values()) == round(density * total(shapes))
        for name, k in keep.items():
            kept, pruned = scores[name][k > level], scores[name][k <= level]
            assert not kept.size or not pruned.size or kept.min() >= pruned.max()
    for name, k in keep.items():
        masks = [k > level for level in range(len(densities))]
        assert np.array_equal(from_masks(scores[name], masks).keep, k)


def test_ties_go_to_the_lower_index():
    keep = keep_from_ranking({"a": np.ones((2, 3), np.float32)}, [0.5])
    assert keep["a"].tolist() == [[1, 1, 1], [0, 0, 0]]


def test_a_given_order_changes_nothing():
    scores = {"a": np.arange(12.0).reshape(3, 4), "b": np.arange(40.0).reshape(5, 8)}
    order = allocation_order({n: s.shape for n, s in scores.items()})
    with_order, without = keep_from_ranking(scores, [0.7, 0.2], order=order), keep_from_ranking(scores, [0.7, 0.2])
    assert all(np.array_equal(with_order[n], without[n]) for n in scores)


def test_learning_rate_warms_up_and_ends_at_zero():
    rates = [learning_rate(p, peak=0.1, warmup=0.25) for p in np.linspace(0, 1, 101)]
    assert rates[0] == 0.0
    assert rates[25] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(np.diff(rates[:26]) > 0)
    assert all(np.diff(rates[25:]) < 0)
    assert learning_rate(0.0, peak=0.1, warmup=0.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: erk_shares({}), "no layers with weights"),
        (lambda: erk_shares({"a": (3, 0)}), r"layer 'a': weight shape \(3, 0\)"),
        (lambda: erk_shares({"a": ()}), "layer 'a'"),
        (lambda: cubic_density(0.5, target=0.1, start=0.7, end=0.7), "needs 0 <= start < end <= 1"),
        (lambda: cubic_density(0.5, target=1.1), "outside 0..1"),
        (lambda: cubic_density(0.5, target=-0.1), "outside 0..1"),
        (lambda: keep_from_ranking({"a": np.ones((2, 2))}, [0.1, 0.5]), "is denser than level 0"),
        (lambda: layer_counts(np.zeros(3, np.int64), density=2.0, layers=1), "outside 0..1"),
    ],
)
def test_wrong_settings_are_input_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_scratch_b_is_the_flop_rule_with_its_cap():
    assert scratch_b_epochs(60, 0.8) == 75
    assert scratch_b_epochs(60, 1.0) == 60
    assert [scratch_b_epochs(60, share) for share in (0.2, 0.08, 0.03)] == [120, 120, 120]


def test_recipe_lists_every_wrong_setting():
    with pytest.raises(InputError) as caught:
        Recipe(epochs=0, seed=0, peak_rate=0.0, batch=0, distillation=2.0)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert all(name in text for name in ("epochs", "batch", "distillation", "peak_rate"))


def test_progress_reads_as_one_line():
    line = str(Progress("nested", 3, 12, 0.15789, (1.0, 0.4)))
    assert line == "nested: epoch 3 of 12, loss 0.1579, densities 100.0%, 40.0%"
