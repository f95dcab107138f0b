"""Level files that are nested, and the first weight where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.level_check import check_nested
from safetensors.numpy import save_file

State = dict[str, np.ndarray]


def states() -> list[State]:
    """Three levels of two weights; biases and statistics differ."""
    rng = np.random.default_rng(0)
    base = {"a.weight": rng.standard_normal((4, 3, 2, 2)), "b.weight": rng.standard_normal((5, 4))}
    found = []
    for level, density in enumerate((1.0, 0.5, 0.2)):
        state = {
            name: np.where(np.argsort(np.argsort(-abs(w), axis=None)).reshape(w.shape) < round(density * w.size), w, 0)
            for name, w in base.items()
        }
        state = {name: w.astype(np.float32) for name, w in state.items()}
        found.append({**state, "a.bias": np.full(4, level, np.float32), "n": np.array([[level]])})
    return found


def test_nested_levels_and_their_densities(tmp_path: Path) -> None:
    levels = states()
    report = check_nested(levels)
    assert report.nested
    assert report.weights == 48 + 20
    assert report.densities == (1.0, 34 / 68, (round(0.2 * 48) + 4) / 68)
    paths = []
    for i, state in enumerate(levels):
        paths.append(tmp_path / f"{i}.safetensors")
        save_file(state, paths[-1])
    assert check_nested(paths) == report


@settings(max_examples=50, deadline=None)
@given(level=st.integers(1, 2), index=st.integers(0, 47), change=st.sampled_from(["value", "sign", "nan"]))
def test_the_first_break_is_named(level: int, index: int, change: str) -> None:
    levels = states()
    weights = levels[level]["a.weight"].reshape(-1)
    old = float(weights[index])
    weights[index] = {"value": old + 1.0, "sign": -old or 1.0, "nan": np.nan}[change]
    problem = check_nested(levels).problem
    # At the last level a kept weight of the middle one may also be the one that breaks: only a change breaks.
    assert problem is not None
    assert (problem.tensor, problem.level) == ("a.weight", level)
    assert problem.index == tuple(int(i) for i in np.unravel_index(index, (4, 3, 2, 2)))
    assert f"'a.weight' {problem.index}" in str(problem)


def test_masks_of_torch_prune_are_applied() -> None:
    levels = states()
    masked = [
        {"b.weight_orig": levels[0]["b.weight"], "b.weight_mask": (state["b.weight"] != 0).astype(np.float32)}
        for state in levels
    ]
    assert check_nested(masked).nested
    assert check_nested([levels[0] | {"a.weight": np.ones((1, 1))}, masked[1] | {"a.weight": np.zeros((1, 1))}]).nested
    problem = check_nested(masked[::-1]).problem
    assert problem is not None
    assert (problem.tensor, problem.level, problem.allowed) == ("b.weight", 1, 0.0)


def test_levels_that_cannot_be_compared(tmp_path: Path) -> None:
    first, second, _ = states()
    with pytest.raises(InputError, match="1 level given"):
        check_nested([first])
    with pytest.raises(InputError, match=r"level 0 and level 1 do not hold the same weights; the first is 'c'"):
        check_nested([first, second | {"c": np.ones((2, 2))}])
    with pytest.raises(InputError, match=r"'b.weight' has shapes \(5, 4\) and \(1, 4\)"):
        check_nested([first, second | {"b.weight": np.ones((1, 4))}])
    with pytest.raises(InputError, match="hold no weights"):
        check_nested([{}, {}])
    with pytest.raises(InputError, match="no such file"):
        check_nested([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
