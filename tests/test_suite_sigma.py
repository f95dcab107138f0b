"""Suite `sigma` on the product's copy, the generator of its matrices, and broken tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.glibc_random_kernel import glibc_random, random_masks
from nestling.analysis.suites.sigma import SUITE
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError

from .test_suite_systolic import rewrite


def test_every_row_is_exact() -> None:
    """The bar asks for a median error of the cycles; all of them are equal."""
    outcome = run_suite("sigma")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 717
    assert {check.quantity for check in outcome.checks} == {
        *("cycles", "iterations", "multiplications", "stationary reads", "streamed reads"),
        *("psum reads", "psum writes", "most vectors"),
    }


def test_the_generator_is_glibcs() -> None:
    """The first numbers of rand() after srand(1) and srand(42) on any GNU/Linux machine."""
    assert glibc_random(5).tolist() == [1804289383, 846930886, 1681692777, 1714636915, 1957747793]
    assert glibc_random(3, seed=42).tolist() == [71876166, 708592740, 1483128881]
    assert (glibc_random(4, seed=0) == glibc_random(4, seed=1)).all()


def test_masks_have_the_non_zeros_of_the_tool() -> None:
    left, right = random_masks(((16, 64), (64, 16)), (0, 0))
    assert (left.sum(), right.sum()) == (1013, 1017)
    (empty,) = random_masks(((3, 4),), (99,))
    assert not empty.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataflow": "KM_STA"}, "dataflow = 'KM_STA'; allowed are"),
        ({"num_ms": "96"}, "multipliers = 96"),
        ({"M": "x"}, "M = 'x' is not a whole number"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    shutil.copytree(REFERENCE / "stonne", tmp_path / "stonne")
    rewrite(tmp_path / "stonne" / "sigma_sparse_gemm.csv", lambda row: row | change)
    with pytest.raises(InputError, match=message):
        list(SUITE.checks(tmp_path))


def test_reordered_rows_pack_differently(tmp_path: Path) -> None:
    """Rows with ``optimize`` = 1 keep their multiplications whatever order they are packed in."""
    shutil.copytree(REFERENCE / "stonne", tmp_path / "stonne")
    rewrite(tmp_path / "stonne" / "sigma_sparse_gemm.csv", lambda row: row | {"optimize": "1"})
    checks = list(SUITE.checks(tmp_path))
    assert all(check.exact for check in checks if check.quantity == "multiplications")
    assert not all(check.exact for check in checks if check.quantity == "iterations")
