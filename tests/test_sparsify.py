"""The contract of every sparsifier: nested, dense as asked, deterministic, input untouched, never an empty layer."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.sparsify import (
    METHODS,
    NM,
    OBC,
    SparsifyWarning,
    find_method,
    hessian_of,
    sparsify,
    sparsify_with_report,
)
from nestling.workloads.sparsify.sparsifier import kernel_shape

SHAPES = [(1, 1, 1, 1), (1, 1), (3, 1, 3, 3), (5, 3, 3, 3), (16, 12, 3, 3), (9, 10, 1, 1), (7, 33), (4, 2, 5, 5)]
#: Three levels that every method can have: multiples of 1/4, at most 4/9 or 1.
LEVELS = [1.0, 0.25, 0.25]


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(name: str, values: np.ndarray, densities: list[float]) -> NestedWeights:
    """The method on one layer, with calibration inputs where it needs them."""
    method = METHODS[name]
    inputs = np.random.default_rng(1).standard_normal((200, max(1, int(np.prod(values.shape[1:])))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SparsifyWarning)
        return method.sparsify_weights(values, densities, hessian=hessian_of(inputs) if method.calibrated else None)


def largest_unit(name: str, shape: tuple[int, ...]) -> int:
    """Weights of the largest unit a method removes: a density can be missed by half of it."""
    K, C, R, S = kernel_shape(shape)
    return {
        "block": min(4, K) * min(4, C) * R * S,
        "block_punched": min(8, K) * min(4, C),
        "pattern": 4 if (R, S) == (3, 3) else 1,
        "filter": C * R * S,
        "channel": K * R * S,
        "obc_block": min(4, C),
    }.get(name, 1)


def expected_slots(shape: tuple[int, ...], n: int) -> int:
    K, C, R, S = kernel_shape(shape)
    return K * R * S * (C // 4 * n + min(n, C % 4))


def check_counts(name: str, nested: NestedWeights, densities: list[float]) -> None:
    size = nested.keep.size
    for density, nonzeros in zip(densities, nested.nonzeros, strict=True):
        assert nonzeros > 0
        if name in ("nm", "obc_nm"):
            assert nonzeros == expected_slots(nested.shape, round(4 * density))
        else:
            unit = largest_unit(name, nested.shape)
            assert abs(nonzeros - density * size) <= max(unit / 2, 1) or nonzeros <= unit


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str, shape: tuple[int, ...]) -> None:
    values = weights(shape)
    before = values.copy()
    nested, again = run(name, values, LEVELS), run(name, values, LEVELS)
    assert nested.shape == shape
    assert nested.levels == 3
    check_counts(name, nested, LEVELS)
    for dense, sparse in pairwise(nested.mask(level) for level in range(3)):
        assert not (sparse & ~dense).any()
    np.testing.assert_array_equal(values, before)
    assert not np.shares_memory(nested.values, values)
    np.testing.assert_array_equal(nested.keep, again.keep)
    np.testing.assert_array_equal(nested.values, again.values)
    if not METHODS[name].calibrated:
        np.testing.assert_array_equal(nested.values, before)


@pytest.mark.parametrize("levels", [1, 8])
@pytest.mark.parametrize("name", METHODS)
def test_one_and_eight_levels(name: str, levels: int) -> None:
    densities = [0.25] * levels
    if name not in ("nm", "obc_nm"):
        densities = [0.44 - 0.05 * level for level in range(levels)]
    nested = run(name, weights((16, 12, 3, 3)), densities)
    assert nested.levels == levels
    check_counts(name, nested, densities)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", METHODS)
def test_equal_weights_are_not_all_removed_or_all_kept(name: str, value: float) -> None:
    nested = run(name, np.full((16, 12, 3, 3), value, np.float32), LEVELS)
    check_counts(name, nested, LEVELS)


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_without_weights_stays_one(name: str) -> None:
    nested = run(name, weights((0, 4)), LEVELS)
    assert nested.shape == (0, 4)
    assert nested.nonzeros.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("nm", "obc_nm")])
def test_a_level_that_would_be_empty_keeps_one_unit_and_says_so(name: str) -> None:
    values = weights((4, 4, 3, 3))
    inputs = hessian_of(np.random.default_rng(1).standard_normal((200, 36)))
    with pytest.warns(SparsifyWarning, match="weights, level 1: .* one unit is kept"):
        nested = METHODS[name].sparsify_weights(
            values, [1.0, 1e-6], hessian=inputs if METHODS[name].calibrated else None
        )
    assert 0 < nested.nonzeros[1] <= largest_unit(name, values.shape)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(METHODS)),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1, 1), (3, 3), (2, 1)])),
    densities=st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_any_small_layer(name: str, shape: tuple[int, int, tuple[int, int]], densities: list[float], seed: int) -> None:
    K, C, kernel = shape
    ordered = [0.25] * len(densities) if name == "pattern" else sorted(densities, reverse=True)
    nested = run(name, weights((K, C, *kernel), seed), ordered)
    check_counts(name, nested, ordered)
    assert (np.diff(nested.nonzeros) <= 0).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ([], "no densities given"),
        ([0.25, 0.5], "give the densest level first"),
        ([1.5], "outside 0..1"),
        ([0.5, 0.0], "density 0 of level 1 would empty the layer"),
        ([float("nan")], "outside 0..1"),
    ],
)
def test_mistaken_densities(name: str, densities: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(name, weights((8, 8)), densities)


@pytest.mark.parametrize("name", METHODS)
def test_mistaken_weights(name: str) -> None:
    broken = weights((8, 8))
    broken[3, 4] = np.nan
    with pytest.raises(InputError, match="1 weights are NaN or infinite"):
        run(name, broken, [0.25])
    with pytest.raises(InputError, match="must be float32"):
        run(name, weights((8, 8)).astype(np.float64), [0.25])
    with pytest.raises(InputError, match="must be float32"):
        run(name, weights((8,)), [0.25])


# --- whole networks --------------------------------------------------------------------------------------------------

LAYERS = (
    conv("a", INPUT, C=3, H=6, K=8, R=3, padding=1),
    conv("b", "a", C=8, H=6, K=8, R=3, padding=1, groups=8),
    conv("c", "b", C=8, H=6, K=12, R=1),
    linear("d", "c", features_in=432, features_out=5),
)


def network() -> Network:
    nested = {
        layer.name: NestedWeights(
            values=weights(layer.weight_shape, i), keep=np.full(layer.weight_shape, 2, np.uint8), levels=2
        )
        for i, layer in enumerate(LAYERS)
    }
    biases = {"a": np.arange(16, dtype=np.float32).reshape(2, 8)}
    return Network("n", LAYERS, weights=nested, biases=biases, source="test")


def calibration() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "a": rng.standard_normal((100, 27)),
        "b": rng.standard_normal((50, 8, 9)),
        "c": rng.standard_normal((50, 8)),
        "d": rng.standard_normal((500, 432)),
    }


@pytest.mark.filterwarnings("ignore::nestling.workloads.sparsify.SparsifyWarning")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_network(name: str) -> None:
    start = network()
    found = sparsify(start, name, densities=[0.25, 0.25], calibration=calibration())
    assert found.levels == 2
    assert set(found.weights) == {"a", "b", "c", "d"}
    np.testing.assert_array_equal(found.biases["a"], np.tile(np.arange(8, dtype=np.float32), (2, 1)))
    assert found.source.startswith("test; sparsified: ")
    assert (start.weights["a"].keep == 2).all()
    assert found.weights["c"].nonzeros[0] < 96


def test_starting_point_is_the_densest_level() -> None:
    start = network()
    half = sparsify(start, "magnitude", densities=[0.5])
    quarter = sparsify(half, "magnitude", densities=[0.25])
    direct = sparsify(start, "magnitude", densities=[0.25])
    for name in half.weights:
        np.testing.assert_array_equal(quarter.weights[name].dense(0), direct.weights[name].dense(0))


def test_patterns_name_the_levels() -> None:
    found = sparsify(network(), "nm", patterns=["4:8", "2:8", "1:8"], dense=["a", "b"])
    assert found.weights["c"].nonzeros.tolist() == [48, 24, 12]
    assert (found.weights["a"].keep == 3).all()
    same = sparsify(network(), NM(m=8), densities=[0.5, 0.25, 0.125], dense=["a", "b"])
    np.testing.assert_array_equal(found.weights["c"].keep, same.weights["c"].keep)


def test_filters_of_the_last_layer_stay() -> None:
    with pytest.warns(SparsifyWarning, match="d: left dense, its outputs are the network's"):
        found = sparsify(network(), "filter", densities=[0.5])
    assert (found.weights["d"].keep == 1).all()
    assert found.weights["a"].nonzeros.tolist() == [108]


def test_levels_with_their_own_values() -> None:
    method = OBC(values="per_level")
    with pytest.raises(InputError, match="use sparsify_with_report"):
        sparsify(network(), method, densities=[0.5, 0.25], calibration=calibration())
    done = sparsify_with_report(network(), method, densities=[0.5, 0.25], calibration=calibration(), dense=["b"])
    alone = done.level_network(1)
    assert alone.levels == 1
    assert done.extra_values == sum(done.network.weights[name].nonzeros[1] for name in "acd")
    np.testing.assert_array_equal(alone.weights["c"].keep, done.network.weights["c"].mask(1))
    assert (alone.weights["c"].values != done.network.weights["c"].dense(1)).any()
    assert (alone.weights["b"].keep == 1).all()
    assert set(done.layers) == {"a", "c", "d"}
    assert done.layers["c"].report.samples == 50


def test_shared_values_as_separate_networks() -> None:
    done = sparsify_with_report(network(), "magnitude", densities=[0.5, 0.25])
    assert done.extra_values == 0
    for level in range(2):
        np.testing.assert_array_equal(
            done.level_network(level).weights["c"].values, done.network.weights["c"].dense(level)
        )


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("magnitud", {"densities": [0.5]}, "unknown sparsifier 'magnitud'; did you mean 'magnitude'"),
        ("magnitude", {}, "no densities given"),
        ("magnitude", {"patterns": ["2:4"]}, "takes densities, not patterns"),
        ("nm", {"patterns": ["2:4"], "densities": [0.5]}, "give densities or patterns, not both"),
        ("nm", {"patterns": ["2:4", "1:8"]}, "different M"),
        ("nm", {"patterns": ["5:4"]}, "'5:4' is not N:M with 1 <= N <= M"),
        ("nm", {"patterns": ["1:4", "2:4"]}, "give the densest level first"),
        ("nm", {"patterns": []}, "no patterns given"),
        ("nm", {"densities": [0.3]}, "density 0.3 of level 0 is not a multiple of 1/4; nearest are 1:4 = 0.25 and 2:4"),
        ("pattern", {"densities": [0.5]}, "reaches at most 4/9 = 0.444444, or 1"),
        ("pattern", {"patterns": ["2:9"]}, "allowed are 9:9 and 4:9"),
        ("obc", {"densities": [0.5]}, "unknown layer with calibration inputs 'a'"),
        ("magnitude", {"densities": [0.5], "dense": ["e"]}, "unknown layer with weights 'e'"),
        ("magnitude", {"densities": [0.5], "dense": list("abcd")}, "every layer is left dense"),
        ("magnitude", {"densities": [0.5], "allocation": "erq"}, "unknown allocation 'erq'; did you mean 'er'"),
        ("nm", {"densities": [0.5], "allocation": "global"}, "needs one score per unit"),
        ("magnitude", {"allocation": {"a": [0.5]}}, "has no densities for b, c, d"),
        ("magnitude", {"allocation": {"z": [0.5]}}, "unknown layer of the allocation 'z'"),
        ("magnitude", {"allocation": {"a": [0.5]}, "densities": [0.5]}, "say it twice"),
        (
            "magnitude",
            {"allocation": {"a": [0.5], "b": [0.5, 0.2], "c": [0.5], "d": [0.5]}},
            "different numbers of levels",
        ),
    ],
)
def test_mistakes(method: str, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparsify(network(), method, **arguments)


def test_a_network_without_values() -> None:
    with pytest.raises(InputError, match="no weight values to sparsify"):
        sparsify(Network("n", LAYERS), "magnitude", densities=[0.5])


def test_unknown_method() -> None:
    with pytest.raises(InputError, match="did you mean 'obc_nm'"):
        find_method("obcnm")


def test_no_compiler_is_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, nestling.workloads.sparsify; print([m for m in ('numba', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
