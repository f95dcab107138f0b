"""The course of a nested training run: which levels run, when masks change, how dense they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.level_plan import STRATEGIES, LevelPlan

RUNS = st.builds(
    lambda levels, extra, strategy, interval: LevelPlan(
        levels=levels, steps=levels + extra, strategy=strategy, interval=interval
    ),
    st.integers(1, 5), st.integers(0, 200), st.sampled_from(STRATEGIES), st.integers(1, 15),
)  # fmt: skip


@given(RUNS, st.integers(0, 2**32 - 1))
def test_a_step_runs_existing_levels_once_each(plan: LevelPlan, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in range(min(plan.steps, 20)):
        levels = plan.draw_levels(step, rng)
        assert levels == sorted(set(levels))
        assert set(levels) <= set(range(plan.levels))
        if plan.strategy in ("joint", "sandwich"):
            assert {0, plan.levels - 1} <= set(levels)
        else:
            assert len(levels) == 1


@given(RUNS, st.floats(0.01, 1.0))
def test_masks_follow_the_ramp_and_are_final_before_a_part_ends(plan: LevelPlan, target: float) -> None:
    """Replays what a trainer does: draws masks only when they are due."""
    density, level = 1.0, plan.levels - 1
    for step in range(plan.steps):
        now = plan.level_in_training(step)
        if now != level:
            assert (plan.strategy, now) == ("outward", level - 1)
            level, density = now, 1.0
        if plan.masks_due(step):
            assert plan.density(step, target=target) <= density
            density = plan.density(step, target=target)
    assert level == (0 if plan.strategy == "outward" else plan.levels - 1)
    # The last part reaches its target once it is past the ramp.
    part = plan.steps // plan.levels if plan.strategy == "outward" else plan.steps
    last = plan.steps - 1 - (plan.levels - 1 if plan.strategy == "outward" else 0) * part
    if last >= 0.7 * part:
        assert density == target


def test_outward_gives_each_level_an_equal_part() -> None:
    plan = LevelPlan(levels=3, steps=32, strategy="outward")
    assert [plan.level_in_training(step) for step in range(32)] == [2] * 10 + [1] * 10 + [0] * 12
    assert plan.level_in_training(32) == 0


def test_masks_are_not_drawn_again_after_the_ramp() -> None:
    plan = LevelPlan(levels=2, steps=100, interval=10)
    assert [step for step in range(100) if plan.masks_due(step)] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert plan.density(70, target=0.25) == 0.25
    assert plan.density(40, target=0.25) == pytest.approx(0.25 + 0.75 * 0.5**3)


def test_sandwich_and_random_draw_every_level() -> None:
    rng = np.random.default_rng(0)
    for strategy in ("sandwich", "random"):
        plan = LevelPlan(levels=4, steps=400, strategy=strategy)
        drawn = [level for step in range(400) for level in plan.draw_levels(step, rng)]
        assert set(drawn) == {0, 1, 2, 3}
    lengths = [len(LevelPlan(levels=4, steps=1, strategy="sandwich").draw_levels(0, rng)) for _ in range(400)]
    assert 2.4 < np.mean(lengths) < 2.6


def test_switch_points() -> None:
    rng = np.random.default_rng(0)
    plan = LevelPlan(levels=3, steps=1, switch_points=True)
    drawn = {plan.draw_switch([0, 1, 2], 4, rng) for _ in range(300)}
    assert drawn == {(level, layers) for level in (1, 2) for layers in (1, 2, 3)}
    assert plan.draw_switch([0], 4, rng) == plan.draw_switch([0, 1], 1, rng) == (0, 0)
    assert LevelPlan(levels=3, steps=1).draw_switch([0, 1, 2], 4, rng) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": "jont"}, "did you mean 'joint'"),
        ({"steps": 0}, "steps = 0, must be at least 1"),
        ({"steps": 2, "strategy": "outward"}, "steps = 2, must be at least 3"),
        ({"interval": 0}, "interval = 0"),
        ({"ramp": (0.7, 0.1)}, "0 <= start < end <= 1"),
    ],
)
def test_mistakes(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        LevelPlan(**({"levels": 3, "steps": 10} | changes))
