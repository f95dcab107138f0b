"""What every family of kernels for structured masks must keep: float64's sums, whole numbers, bits, NaN and infinity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.vectors_kernel import COMPILES

from .simd_cases import check_exact, check_rounding, check_threads, check_wrong_value
from .structured_cases import CASES

pytestmark = [
    pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form"),
    pytest.mark.parametrize("family", CASES),
]


@settings(deadline=None, max_examples=110)
@given(st.data())
def test_sums_are_within_their_rounding(family: str, data: st.DataObject) -> None:
    check_rounding(data.draw(CASES[family]()))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whole_numbers_are_exact(family: str, data: st.DataObject) -> None:
    check_exact(data.draw(CASES[family](whole=True)))


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(2, 4))
def test_threads_change_no_bit(family: str, data: st.DataObject, threads: int) -> None:
    check_threads(data.draw(CASES[family]()), threads)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from((np.nan, np.inf)), st.integers(0, 9999))
def test_nan_and_infinity_reach_what_they_must(family: str, data: st.DataObject, value: float, place: int) -> None:
    check_wrong_value(data.draw(CASES[family]()), value, place)
