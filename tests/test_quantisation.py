"""Codebooks by definition, k-means against every partition, and quantising with correction against plain rounding."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.sparsify import QUANTISERS, Hessian, hessian_of, quantise, quantise_weights
from nestling.workloads.sparsify.codebooks import round_to

Array = np.ndarray
floats = arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100))


def squared_error(values: Array, codebook: Array) -> float:
    return float(((values[:, None] - codebook) ** 2).min(axis=1).sum())


def nested(shape: tuple[int, ...], *, densities: tuple[float, ...] = (0.5, 0.25), seed: int = 0) -> NestedWeights:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape).astype(np.float32)
    rank = rng.permutation(values.size).reshape(shape)
    keep = sum((rank < d * values.size).astype(np.uint8) for d in densities)
    return NestedWeights(values=values, keep=keep, levels=len(densities))


@settings(max_examples=100, deadline=None)
@given(values=floats, bits=st.integers(2, 5))
@pytest.mark.parametrize("name", QUANTISERS)
def test_codebooks_are_ascending_and_small(name: str, values: Array, bits: int) -> None:
    codebook = QUANTISERS[name](values, bits)
    assert 1 <= codebook.size <= 2**bits
    assert (np.diff(codebook) >= 0).all()
    found = round_to(values, codebook)
    np.testing.assert_array_equal(np.abs(values - found), np.abs(values[:, None] - codebook).min(axis=1))


@settings(max_examples=100, deadline=None)
@given(values=floats, bits=st.integers(2, 5))
def test_k_means_is_never_worse_than_linear(values: Array, bits: int) -> None:
    errors = {name: squared_error(values, QUANTISERS[name](values, bits)) for name in ("linear", "k_means")}
    assert errors["k_means"] <= errors["linear"]


@pytest.mark.parametrize(("bits", "ratio"), [(4, 2.0), (3, 2.0), (2, 2.0)])
def test_k_means_on_normal_weights(bits: int, ratio: float) -> None:
    values = np.random.default_rng(0).standard_normal(20_000)
    errors = {name: squared_error(values, QUANTISERS[name](values, bits)) for name in ("linear", "k_means")}
    assert errors["linear"] > ratio * errors["k_means"]
    # Lloyd-Max distortion of a normal variable with 4, 8, 16 levels (Max, IRE Trans. Inf. Theory 6, 1960, table I).
    optimum = {2: 0.1175, 3: 0.03454, 4: 0.009497}[bits]
    assert optimum * 0.95 < errors["k_means"] / values.size < optimum * 1.1


def test_k_means_finds_clear_clusters() -> None:
    centres = np.array([-3.0, -1.0, 0.5, 4.0])
    values = (centres[:, None] + np.random.default_rng(1).normal(0, 0.01, (4, 50))).reshape(-1)
    found = QUANTISERS["k_means"](values, 2)
    np.testing.assert_allclose(found, values.reshape(4, 50).mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_k_means_is_at_a_fixed_point(seed: int) -> None:
    """The centres are the means of their cells; the optimum over all partitions of a few values is a lower bound."""
    values = np.sort(np.random.default_rng(seed).standard_normal(9))
    found = QUANTISERS["k_means"](values, 2)
    cell = np.abs(values[:, None] - found).argmin(axis=1)
    for i in np.unique(cell):
        assert values[cell == i].mean() == pytest.approx(found[i])
    optimum = min(
        sum(((part - part.mean()) ** 2).sum() for part in np.split(values, cuts))
        for cuts in combinations(range(1, 9), 3)
    )
    assert optimum <= squared_error(values, found) * (1 + 1e-12)


def test_linear_grid() -> None:
    np.testing.assert_allclose(QUANTISERS["linear"](np.array([0.7, -1.4, 0.1]), 3), np.arange(-3, 4) * 1.4 / 3)
    assert QUANTISERS["linear"](np.array([2.0, -8.0]), 2).tolist() == [-8.0, 0.0, 8.0]


@pytest.mark.parametrize(("largest", "top"), [(1.0, 1.0), (0.74, 0.5), (0.76, 1.0), (5.9, 4.0), (6.1, 8.0)])
def test_powers_of_two(largest: float, top: float) -> None:
    found = QUANTISERS["power_of_two"](np.array([largest, -0.1]), 3)
    assert found.tolist() == [-top, -top / 2, -top / 4, 0.0, top / 4, top / 2, top]


@pytest.mark.parametrize("per", ["layer", "row"])
@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("corrected", [False, True])
def test_quantised_weights(name: str, per: str, corrected: bool) -> None:
    start = nested((6, 4, 3, 1))
    inputs = np.random.default_rng(3).standard_normal((80, 12))
    before = start.values.copy()
    found = quantise_weights(start, name, bits=3, per=per, hessian=hessian_of(inputs) if corrected else None)
    np.testing.assert_array_equal(start.values, before)
    np.testing.assert_array_equal(found.weights.keep, start.keep)
    assert found.codebooks.shape[0] == (1 if per == "layer" else 6)
    assert (found.weights.values[start.keep == 0] == 0).all()
    for row in range(6):
        codebook = found.codebooks[0 if per == "layer" else row].astype(np.float32)
        kept = start.keep[row] > 0
        assert np.isin(found.weights.values[row][kept], codebook).all()
    if not corrected:
        assert found.loss is None
        largest = np.abs(start.dense(0)).max() / (2 if name == "power_of_two" else 3)
        assert np.abs(found.weights.values - start.dense(0)).max() <= 0.5 * largest * 2


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", QUANTISERS)
def test_correction_lowers_the_output_error(name: str, bits: int) -> None:
    rng = np.random.default_rng(4)
    inputs = rng.standard_normal((300, 32)) @ rng.standard_normal((32, 32))
    start = nested((20, 32), densities=(0.6,))
    plain, repaired = (quantise_weights(start, name, bits=bits, hessian=h) for h in (None, hessian_of(inputs)))
    errors = [(((x.weights.values - start.dense(0)).astype(float) @ inputs.T) ** 2).sum() for x in (plain, repaired)]
    assert errors[1] < errors[0]
    assert repaired.loss == pytest.approx(errors[1], rel=1e-4)


def test_groups_and_networks() -> None:
    layers = (conv("a", INPUT, C=4, H=5, K=4, R=3, groups=4), linear("b", "a", features_in=36, features_out=6))
    network = Network("n", layers, weights={x.name: nested(x.weight_shape, seed=i) for i, x in enumerate(layers)})
    rng = np.random.default_rng(5)
    calibration = {
        "a": rng.standard_normal((60, 4, 9)) @ rng.standard_normal((9, 9)),
        "b": hessian_of(rng.standard_normal((90, 36))),
    }
    plain = quantise(network, "linear", bits=4)
    repaired = quantise(network, "linear", bits=4, calibration=calibration)
    for name, weights in network.weights.items():
        alone = quantise_weights(weights, "linear", bits=4).weights
        np.testing.assert_array_equal(plain.weights[name].values, alone.values)
        assert (repaired.weights[name].values != alone.values).any()
    one = NestedWeights(values=network.weights["a"].values[2:3], keep=network.weights["a"].keep[2:3], levels=2)
    codebook = np.abs(network.weights["a"].dense(0)).max()
    if np.abs(one.dense(0)).max() == codebook:
        part = quantise_weights(one, "linear", bits=4, hessian=hessian_of(calibration["a"][:, 2]))
        np.testing.assert_array_equal(repaired.weights["a"].values[2:3], part.weights.values)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (0, 4)])
@pytest.mark.parametrize("name", QUANTISERS)
def test_layers_of_zeros(name: str, shape: tuple[int, ...]) -> None:
    weights = NestedWeights(values=np.zeros(shape, np.float32), keep=np.ones(shape, np.uint8), levels=1)
    found = quantise_weights(
        weights, name, bits=2, hessian=hessian_of(np.random.default_rng(0).normal(size=(50, shape[1])))
    )
    assert found.weights.shape == shape
    assert (found.weights.values == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantiser": "kmeans", "bits": 4}, "unknown quantiser 'kmeans'; did you mean 'k_means'"),
        ({"quantiser": "linear", "bits": 1}, "1 bits; allowed are 2 to 8"),
        ({"quantiser": "linear", "bits": 4, "per": "column"}, "unknown extent of a codebook 'column'"),
        ({"quantiser": "linear", "bits": 4, "hessian": Hessian(7)}, "calibration has 1 groups of 7 inputs"),
    ],
)
def test_mistakes(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantise_weights(nested((4, 6)), **arguments)


def test_networks_without_values() -> None:
    layer = linear("a", INPUT, features_in=3, features_out=2)
    with pytest.raises(InputError, match="no weight values to quantise"):
        quantise(Network("n", (layer,)), "linear", bits=4)
