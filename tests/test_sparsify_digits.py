"""Post-training sparsifiers on a network trained on handwritten digits: what correction is worth, in points."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.sim.executor.executor import Executor
from nestling.workloads.network import Network
from nestling.workloads.sparsify import OBC, quantise, sparsify, sparsify_with_report

from .digits_cases import Digits, train_digits

pytestmark = pytest.mark.filterwarnings("ignore::nestling.workloads.sparsify.SparsifyWarning")


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Less training than in the measured tables, to stay quick."""
    return train_digits(0, epochs=20)


def layer_errors(digits: Digits, network: Network) -> np.ndarray:
    """Squared error of every layer's output on the calibration images, (layers,)."""
    inputs = digits.calibration()
    moves = {
        name: network.weights[name].dense(0).astype(float) - weights.dense(0)
        for name, weights in digits.network.weights.items()
    }
    return np.array([((moves[name] @ x.T) ** 2).sum() for name, x in inputs.items()])


def gap_at_90_percent(digits: Digits) -> float:
    """Points that OBC is ahead of magnitude pruning at 90 % sparsity, equal in every layer."""
    found = [
        sparsify(digits.network, method, densities=[0.1], calibration=digits.calibration())
        for method in ("obc", "magnitude")
    ]
    assert found[0].densities == pytest.approx(found[1].densities)
    return 100 * (digits.accuracy(found[0]) - digits.accuracy(found[1]))


def ratios_at_2_of_4(digits: Digits) -> np.ndarray:
    """Layer output error of magnitude 2:4 over that of OBC 2:4."""
    corrected, plain = (
        sparsify(digits.network, method, patterns=["2:4"], calibration=digits.calibration())
        for method in ("obc_nm", "nm")
    )
    return layer_errors(digits, plain) / layer_errors(digits, corrected)


def test_correction_is_worth_ten_points_at_90_percent(digits: Digits) -> None:
    assert digits.accuracy(digits.network) > 0.95
    assert gap_at_90_percent(digits) >= 10.0


def test_correction_cuts_layer_errors_five_times_at_2_of_4(digits: Digits) -> None:
    assert (ratios_at_2_of_4(digits) >= 5.0).all()


def test_reported_losses_are_the_layer_errors(digits: Digits) -> None:
    done = sparsify_with_report(digits.network, "obc", densities=[0.5], calibration=digits.calibration())
    reported = [result.report.losses[0] for result in done.layers.values()]
    np.testing.assert_allclose(reported, layer_errors(digits, done.network), rtol=1e-3)
    # Three border pixels of the images are always zero, more in a sample: those inputs are dead.
    assert done.layers["fc1"].report.dead_inputs == (digits.calibration()["fc1"] == 0).all(axis=0).sum() > 0


def test_levels_of_one_trace(digits: Digits) -> None:
    """Own values per level are better than the densest level's for all, and the executor agrees on the accuracy."""
    levels = [0.3, 0.1, 0.05]
    own = sparsify_with_report(
        digits.network, OBC(values="per_level"), densities=levels, calibration=digits.calibration()
    )
    shared = sparsify(digits.network, "obc", densities=levels, calibration=digits.calibration())
    assert digits.accuracy(own.level_network(0)) == digits.accuracy(shared, 0)
    assert digits.accuracy(own.level_network(2)) > digits.accuracy(shared, 2)
    images = digits.test.reshape(-1, 64, 1, 1)
    assert Executor(own.level_network(1)).accuracy(images, digits.labels, 0) == pytest.approx(
        digits.accuracy(own.level_network(1)), abs=0.0023
    )


def test_quantising_with_correction_at_two_bits(digits: Digits) -> None:
    plain = quantise(digits.network, "linear", bits=2)
    repaired = quantise(digits.network, "linear", bits=2, calibration=digits.calibration())
    assert layer_errors(digits, plain).sum() > 5 * layer_errors(digits, repaired).sum()
    assert digits.accuracy(repaired) > digits.accuracy(plain) + 0.1


@pytest.mark.long
def test_five_seeds() -> None:
    trained = [train_digits(seed) for seed in range(5)]
    assert min(gap_at_90_percent(one) for one in trained) >= 10.0
    assert min(ratios_at_2_of_4(one).min() for one in trained) >= 5.0
