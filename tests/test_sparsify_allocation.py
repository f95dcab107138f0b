"""Division of density among layers: published ERK sizes, one threshold, and budgets against brute force."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.sparsify import (
    ALLOCATIONS,
    Block,
    Filter,
    Magnitude,
    Options,
    SparsifyWarning,
    budget_densities,
    choose_options,
    er_densities,
    erk_densities,
    global_densities,
    knapsack,
    retained_energy,
    sparsify,
)
from nestling.workloads.sparsify.sparsifier import RankedUnits
from nestling.workloads.zoo import build


@pytest.fixture(scope="module")
def resnet50() -> dict[str, Layer]:
    return {layer.name: layer for layer in build("resnet50").layers if layer.has_weights}


# Sparsity: MB, share of the dense multiply-accumulates. Published (README of RigL's authors): 23.683, 13.499, 8.399, 6.904,
# 4.354 MB and 0.42, 0.24, 0.12, 0.11, 0.05. The last two rows are reached with the first layer dense.
ERK = [
    (0.80, False, "23.684", "0.414"),
    (0.90, False, "13.499", "0.242"),
    (0.95, False, "8.399", "0.122"),
    (0.965, True, "6.904", "0.110"),
    (0.99, True, "4.354", "0.052"),
]


@pytest.mark.parametrize(("sparsity", "first_dense", "megabytes", "macs"), ERK)
def test_erk_of_resnet50(
    resnet50: dict[str, Layer], sparsity: float, first_dense: bool, megabytes: str, macs: str
) -> None:
    """4 bytes per retained weight, one mask bit per weight of a layer that is not dense, a 4-byte bias per output."""
    shapes = {name: layer.weight_shape for name, layer in resnet50.items()}
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    if first_dense:
        shapes.pop("conv1")
    densities = {name: d[0] for name, d in erk_densities(shapes, [1 - sparsity]).items()}
    every = {name: densities.get(name, 1.0) for name in sizes}
    mask_bits = sum(sizes[name] for name, d in every.items() if d < 1)
    biases = sum(layer.K for layer in resnet50.values())
    size = sum(4 * d * sizes[name] for name, d in every.items()) + mask_bits / 8 + 4 * biases
    assert f"{size / 1e6:.3f}" == megabytes
    done = sum(every[name] * layer.macs for name, layer in resnet50.items())
    assert f"{done / sum(layer.macs for layer in resnet50.values()):.3f}" == macs


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(sorted(ALLOCATIONS)),
    shapes=st.lists(st.tuples(*[st.integers(1, 40)] * 2, *[st.integers(1, 5)] * 2), min_size=1, max_size=6),
    densities=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(lambda d: sorted(d, reverse=True)),
)
def test_rules_keep_the_total_and_nest(rule: str, shapes: list[tuple[int, ...]], densities: list[float]) -> None:
    named = {str(i): shape for i, shape in enumerate(shapes)}
    found = ALLOCATIONS[rule](named, densities)
    sizes = np.array([np.prod(shape) for shape in shapes], float)
    for level, density in enumerate(densities):
        layer = np.array([found[name][level] for name in named])
        assert ((layer > 0) & (layer <= 1)).all()
        assert layer @ sizes == pytest.approx(density * sizes.sum(), rel=1e-9)
    assert all(list(d) == sorted(d, reverse=True) for d in found.values())


def test_er_and_erk_ratios() -> None:
    shapes = {"a": (16, 8, 3, 3), "b": (32, 64)}
    er, erk = er_densities(shapes, [0.1]), erk_densities(shapes, [0.1])
    assert er["a"][0] / er["b"][0] == pytest.approx((24 / 128) / (96 / 2048))
    assert erk["a"][0] / erk["b"][0] == pytest.approx((30 / 1152) / (96 / 2048))


def test_full_layers_hand_on_what_they_cannot_take() -> None:
    """Sizes 4 and 1000, shares 4 and 110: at density 0.5 the small layer is dense and the other takes 498."""
    found = erk_densities({"a": (2, 2), "b": (10, 100)}, [0.5])
    assert found["a"] == (1.0,)
    assert found["b"][0] == pytest.approx(0.498)


# --- one threshold ---------------------------------------------------------------------------------------------------


def layers() -> Network:
    rng = np.random.default_rng(0)
    chain = tuple(
        linear(name, source, features_in=20, features_out=20) for name, source in (("a", INPUT), ("b", "a"), ("c", "b"))
    )
    values = {
        x.name: (rng.standard_normal(x.weight_shape) * s).astype(np.float32)
        for x, s in zip(chain, (1, 1.3, 1.7), strict=True)
    }
    weights = {
        name: NestedWeights(values=v, keep=np.ones(v.shape, np.uint8), levels=1, name=name)
        for name, v in values.items()
    }
    return Network("n", chain, weights=weights)


def test_global_threshold() -> None:
    start = layers()
    found = sparsify(start, "magnitude", densities=[0.5, 0.1], allocation="global")
    everything = np.concatenate([w.values.reshape(-1) for w in start.weights.values()])
    for level, count in enumerate([600, 120]):
        threshold = np.sort(np.abs(everything))[-count]
        for name, weights in start.weights.items():
            np.testing.assert_array_equal(found.weights[name].mask(level), np.abs(weights.values) >= threshold)


@pytest.mark.parametrize("method", [Block(), Filter(norm="l2")])
def test_global_threshold_on_units(method: Block) -> None:
    values = {name: w.values for name, w in layers().weights.items()}
    found = global_densities(values, method, [0.4])
    scores = {name: method.scores(v) for name, v in values.items()}
    kept = {name: round(found[name][0] * scores[name].size) for name in values}
    lowest = min(np.sort(scores[name])[-kept[name]] for name in values if kept[name])
    highest = max(np.sort(scores[name])[-kept[name] - 1] for name in values if kept[name] < scores[name].size)
    assert lowest > highest
    assert sum(kept.values()) == round(0.4 * sum(s.size for s in scores.values()))


def test_a_layer_below_the_threshold_keeps_one_weight_and_says_so() -> None:
    values = {"a": np.full((4, 4), 1e-6, np.float32), "b": np.ones((30, 30), np.float32)}
    values["a"][2, 1] = 2e-6
    with pytest.warns(SparsifyWarning, match="level 0: .* would leave 1 layer empty; one unit is kept in each: 'a'$"):
        found = global_densities(values, Magnitude(), [0.1])
    assert found["a"] == (1 / 16,)


def test_many_empty_layers_are_one_warning_per_level() -> None:
    values = {f"a{i}": np.full((4, 4), 1e-6, np.float32) for i in range(6)} | {"b": np.ones((30, 30), np.float32)}
    with pytest.warns(SparsifyWarning, match="would leave 6 layers empty") as caught:
        global_densities(values, Magnitude(), [1.0, 0.1, 0.05])
    assert [str(warning.message).split(":")[0] for warning in caught] == ["level 1", "level 2"]
    assert str(caught[0].message).endswith("'a0', 'a1', 'a2', 'a3' ...")


# --- budgets ---------------------------------------------------------------------------------------------------------

whole = st.integers(0, 12).map(float)


@st.composite
def tables(draw: st.DrawFn) -> list[Options]:
    out = []
    for _ in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 4))
        cost, gain = (np.array(draw(st.lists(whole, min_size=n, max_size=n))) for _ in range(2))
        out.append(Options(np.linspace(1, 0.1, n), gain, cost))
    return out


def totals(options: list[Options], plan: tuple[int, ...]) -> tuple[float, float]:
    pairs = list(zip(options, plan, strict=True))
    return sum(o.importance[i] for o, i in pairs), sum(o.cost[i] for o, i in pairs)


@settings(max_examples=200, deadline=None)
@given(options=tables(), budget=st.integers(0, 40).map(float))
def test_plans_equal_brute_force(options: list[Options], budget: float) -> None:
    every = [totals(options, plan) for plan in itertools.product(*(range(o.cost.size) for o in options))]
    fitting = [(gain, cost) for gain, cost in every if cost <= budget]
    if not fitting:
        with pytest.raises(InputError, match="the cheapest options cost"):
            choose_options(options, budget, resolution=None)
        return
    best = max(fitting, key=lambda pair: (pair[0], -pair[1]))
    assert totals(options, tuple(choose_options(options, budget, resolution=None))) == best
    # Costs are whole numbers and the budget at most 40, so a resolution of the budget itself rounds nothing.
    if budget:
        assert totals(options, tuple(choose_options(options, budget, resolution=int(budget)))) == best


@settings(max_examples=100, deadline=None)
@given(options=tables(), share=st.floats(0.0, 1.0), resolution=st.integers(1, 30))
def test_rounded_costs_keep_the_budget(options: list[Options], share: float, resolution: int) -> None:
    low, high = (sum(getattr(o.cost, f)() for o in options) for f in ("min", "max"))
    budget = low + share * (high - low)
    assume(budget > 0)
    gain, cost = totals(options, tuple(choose_options(options, budget, resolution=resolution)))
    assert cost <= budget * (1 + 1e-9)
    assert gain <= totals(options, tuple(choose_options(options, budget, resolution=None)))[0]


def test_a_budget_far_below_the_costs() -> None:
    options = [Options(np.array([1.0, 0.5]), np.array([2.0, 1.0]), np.array([5.0, 0.0]))] * 2
    assert choose_options(options, 1e-310) == [1, 1]
    assert choose_options(options, 0.0) == [1, 1]


def test_fifty_layers_of_ten_options() -> None:
    """The linear relaxation bounds the optimum from above; a greedy walk along it is within one step of it."""
    rng = np.random.default_rng(1)
    densities = np.linspace(1.0, 0.1, 10)
    options = [Options(densities, np.sqrt(densities) * g, densities * c) for g, c in rng.uniform(1, 10, (50, 2))]
    budget = 0.4 * sum(o.cost[0] for o in options)
    gain, cost = totals(options, tuple(choose_options(options, budget)))
    steps = sorted(
        (
            (
                (o.importance[i] - o.importance[i + 1]) / (o.cost[i] - o.cost[i + 1]),
                o.importance[i] - o.importance[i + 1],
                o.cost[i] - o.cost[i + 1],
            )
            for o in options
            for i in range(9)
        ),
        reverse=True,
    )
    bound, left = sum(o.importance[-1] for o in options), budget - sum(o.cost[-1] for o in options)
    for rate, _, step in steps:
        bound += rate * min(step, left)
        left -= min(step, left)
        if left <= 0:
            break
    assert cost <= budget
    assert 0.998 * bound < gain <= bound


def test_levels_of_a_budget_ladder_nest() -> None:
    rng = np.random.default_rng(2)
    densities = np.array([1.0, 0.5, 0.25, 0.1])
    options = {
        str(i): Options(
            densities,
            retained_energy(rng.standard_normal((30, 30)).astype(np.float32), list(densities)),
            densities * rng.integers(1, 9),
        )
        for i in range(6)
    }
    dense = sum(o.cost[0] for o in options.values())
    budgets = [0.8 * dense, 0.4 * dense, 0.2 * dense]
    found = budget_densities(options, budgets)
    for level, budget in enumerate(budgets):
        cost = sum(found[name][level] * o.cost[0] for name, o in options.items())
        assert cost <= budget
    assert all(list(d) == sorted(d, reverse=True) for d in found.values())
    assert len({d[0] for d in found.values()}) > 1


def test_a_plan_drives_the_sparsifier() -> None:
    start = layers()
    grid = [0.5, 0.25, 0.1]
    options = {
        name: Options(np.array(grid), retained_energy(w.values, grid), 400 * np.array(grid))
        for name, w in start.weights.items()
    }
    plan = budget_densities(options, [400.0, 200.0])
    found = sparsify(start, "magnitude", allocation=plan)
    assert (sum(w.nonzeros for w in found.weights.values()) <= [400, 200]).all()
    for name, w in found.weights.items():
        np.testing.assert_array_equal(w.nonzeros, np.round(400 * np.array(plan[name])))
    assert plan["c"][1] > plan["a"][1]  # its weights are larger


def test_retained_energy() -> None:
    values = np.array([[3.0, -1.0], [2.0, 0.5]], np.float32)
    assert retained_energy(values, [1.0, 0.5, 0.01]).tolist() == [14.25, 13.0, 9.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Options(np.ones(2), np.ones(3), np.ones(2)), "three arrays of one length"),
        (lambda: Options(np.ones(1), np.ones(1), np.array([-1.0])), "cost -1 of an option is negative"),
        (lambda: Options(np.ones(1), np.array([np.nan]), np.ones(1)), "NaN or infinity"),
        (lambda: choose_options([], 1.0), "cheapest options cost 0"),
        (lambda: choose_options([Options(*np.ones((3, 1)))], 1.0, resolution=0), "resolution = 0"),
        (lambda: budget_densities({}, [1.0, 2.0]), "densest level first, not increasing"),
        (
            lambda: budget_densities({"a": Options(*np.ones((3, 1)))}, [1.0, 0.5]),
            "level 1: the cheapest options cost 1",
        ),
        (lambda: erk_densities({}, [0.5]), "no layers with weights"),
    ],
)
def test_mistakes(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_an_exact_search_that_would_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    options = [Options(np.linspace(1, 0.1, 10), *np.sort(rng.uniform(1, 2, (2, 10)))) for _ in range(12)]
    monkeypatch.setattr(knapsack, "MAX_PLANS", 100)
    with pytest.raises(InputError, match="partial plans; give a resolution"):
        choose_options(options, 18.0, resolution=None)
    assert len(choose_options(options, 18.0, resolution=50)) == 12


# --- magnitudes without a sorted list ----------------------------------------------------------------------------------

#: Few different values, so that cuts fall among equal ones.
coarse = st.lists(st.sampled_from([0.0, 0.25, -0.25, 1.0, -2.0]), min_size=6, max_size=6).map(
    lambda v: np.array(v, np.float32).reshape(2, 3)
)
falling = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4).map(lambda d: sorted(d, reverse=True))


@dataclass(frozen=True)
class Sorted(RankedUnits):
    """Magnitudes by the general rule: every weight is a unit, all are sorted."""

    def units(self, shape: tuple[int, ...]) -> np.ndarray:
        return Magnitude().units(shape)

    def scores(self, values: np.ndarray) -> np.ndarray:
        return Magnitude().scores(values)


@pytest.mark.filterwarnings("ignore::nestling.workloads.sparsify.SparsifyWarning")
@given(st.lists(coarse, min_size=1, max_size=4), falling)
def test_cuts_keep_what_a_sorted_list_keeps(arrays: list[np.ndarray], densities: list[float]) -> None:
    values = {f"l{i}": array for i, array in enumerate(arrays)}
    assert global_densities(values, Magnitude(), densities) == global_densities(values, Sorted(), densities)
    for array in arrays:
        found, expected = (method.sparsify_layer(array, densities).weights for method in (Magnitude(), Sorted()))
        np.testing.assert_array_equal(found.keep, expected.keep)
