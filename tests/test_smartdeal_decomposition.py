"""The decomposition: kernel against plain NumPy, the authors' rows, defined edge cases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.analysis.suites import smartdeal as suite
from nestling.analysis.suites.suite import failures
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError
from nestling.workloads.smartdeal.decomposition import (
    MAX_RESTARTS,
    RCOND,
    ROW_FACTOR,
    DecompositionOptions,
    decompose,
)
from nestling.workloads.smartdeal.decomposition_kernel import fit_basis, pseudo_inverse
from nestling.workloads.smartdeal.lapack import decompose_one, quantise


@st.composite
def _cases(draw):
    m, n = draw(st.integers(1, 24)), draw(st.integers(1, 7))
    seed = draw(st.integers(0, 2**31))
    matrix = np.random.default_rng(seed).normal(0, draw(st.sampled_from([0.01, 0.05, 1.0, 200.0])), (m, n))
    matrix[:, draw(st.integers(0, n - 1))] *= draw(st.sampled_from([0.0, 1.0]))
    options = DecompositionOptions(
        iterations=draw(st.integers(1, 12)),
        threshold=draw(st.sampled_from([0.0, 4e-3, 0.03])),
        threshold_decay=draw(st.sampled_from([0.1, 0.5])),
        row_threshold=draw(st.booleans()),
        scale=draw(st.booleans()),
        smallest=draw(st.sampled_from([0.0, 2.0**-7])),
        tie=draw(st.sampled_from(["lower", "upper"])),
    )
    return matrix, options


@settings(max_examples=120, deadline=None)
@given(_cases())
def test_kernel_equals_the_plain_numpy_steps(case):
    matrix, options = case
    found = decompose(matrix[None], options, threads=1)
    row_factor = ROW_FACTOR if options.row_threshold else 0.0
    codes, basis, fits, restarts = decompose_one(matrix, options, (row_factor, RCOND, MAX_RESTARTS))
    assert np.array_equal(found.coefficients[0], codes)
    assert (found.fits[0], found.restarts[0]) == (fits, restarts)
    np.testing.assert_allclose(found.bases[0], basis, rtol=1e-7, atol=1e-9 * np.abs(basis).max(initial=1e-30))


def test_every_shown_row_of_the_authors_code_is_reproduced():
    checks = list(suite.checks(REFERENCE))
    assert len(checks) > 1000
    assert [missed for bar in suite.SUITE.bars for missed in failures(bar, checks)] == []


def test_suite_names_a_missing_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"decompose\.csv: no such file"):
        list(suite.checks(tmp_path))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**31))
def test_pseudo_inverse_equals_lapack(n, lost, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, n))
    matrix[:, : min(lost, n)] = matrix[:, -1:] * rng.normal(size=min(lost, n))
    out = np.empty((n, n))
    pseudo_inverse(matrix, RCOND, out)
    expected = np.linalg.pinv(matrix, rcond=RCOND)
    # Backward stable: forward error <= eps * condition * a small polynomial in n.
    bound = 1e-13 * np.linalg.norm(expected, 2) ** 2 * np.linalg.norm(matrix, 2) + 1e-13
    assert np.abs(out - expected).max() <= bound


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**31))
def test_basis_is_the_minimum_norm_least_squares_fit(m, n, seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice([0.0, 0.5, -1.0, 2.0], size=(m, n))
    target = rng.normal(size=(m, n))
    basis = np.empty((n, n))
    fit_basis(target, codes, RCOND, basis, np.empty((max(m, n), n)))
    expected = np.linalg.lstsq(codes, target, rcond=RCOND)[0]
    np.testing.assert_allclose(basis, expected, rtol=1e-9, atol=1e-10)


@given(st.floats(2.0**-60, 2.0**20), st.sampled_from(["lower", "upper"]))
def test_quantise_takes_the_linearly_nearest_power(value, tie):
    options = DecompositionOptions(largest=2.0**30, tie=tie)
    code = float(quantise(np.array([[value]]), options)[0, 0])
    powers = 2.0 ** np.arange(-70, 31)
    distance = np.abs(powers - value)
    nearest = powers[distance == distance.min()]
    assert code == (nearest[0] if tie == "lower" else nearest[-1])


def test_result_does_not_depend_on_threads():
    matrices = np.random.default_rng(3).normal(0, 0.05, (600, 24, 3))
    one, four = decompose(matrices, threads=1), decompose(matrices, threads=4)
    assert one.coefficients.tobytes() == four.coefficients.tobytes()
    assert one.bases.tobytes() == four.bases.tobytes()


def test_zero_constant_tiny_and_rank_deficient_matrices_are_defined():
    zero = decompose(np.zeros((1, 6, 3)))
    assert not zero.coefficients.any()
    assert not zero.bases.any()
    assert zero.error[0] == 0
    constant = decompose(np.full((1, 6, 3), 0.25))
    assert constant.error[0] < 1e-12  # rank one, and 0.25 is a power of two: the fit is exact
    tiny = decompose(np.full((1, 4, 3), 1e-6))
    assert not tiny.coefficients.any()  # everything lies under the threshold
    assert tiny.error[0] == 1
    small = np.random.default_rng(0).normal(0, 1e-5, (1, 12, 3))
    rescued = decompose(small, DecompositionOptions(scale=True, threshold=0.9))
    assert rescued.restarts[0] > 0
    assert rescued.error[0] < 1
    empty = decompose(np.zeros((0, 4, 3)))
    assert empty.coefficients.shape == (0, 4, 3)
    assert empty.error.shape == (0,)


def test_a_zero_column_does_not_restart_for_ever():
    matrix = np.random.default_rng(1).normal(size=(1, 10, 3))
    matrix[..., 1] = 0
    done = decompose(matrix, DecompositionOptions(scale=True))
    assert done.restarts[0] <= MAX_RESTARTS
    assert np.isfinite(done.bases).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"iterations": 0}, "iterations = 0, must be at least 1"),
        ({"threshold": -1.0}, "threshold = -1.0, must be 0 or larger"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"threshold_decay": 1.0}, "threshold_decay = 1.0, must lie between 0 and 1"),
        ({"largest": 3.0}, "largest = 3.0, must be a power of two"),
        ({"smallest": 0.3}, "smallest = 0.3, must be 0 or a power of two"),
        ({"smallest": 64.0}, "smallest = 64.0 exceeds largest = 32.0"),
        ({"tie": "even"}, "tie = 'even', allowed are lower and upper"),
    ],
)
def test_wrong_options_are_named(change, text):
    with pytest.raises(InputError, match=text):
        replace(DecompositionOptions(), **change)


def test_wrong_matrices_are_named():
    with pytest.raises(InputError, match=r"shape \(4, 3\)"):
        decompose(np.zeros((4, 3)))
    bad = np.zeros((2, 4, 3))
    bad[1, 2, 0] = np.nan
    with pytest.raises(InputError, match=r"matrix 1 .* NaN or infinity at \(2, 0\)"):
        decompose(bad)
