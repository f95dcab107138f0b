"""2:4 rows from 4-bit codes: against float64 within the rounding, exactly on whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.rows.nm_rows import CodedRows, power_table
from nestling.sim.executor.simd.team import Team
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError

from .simd_cases import UNIT_ROUNDOFF

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
NO_CLAMP = (np.float32(-np.inf), np.float32(np.inf))


def two_of_four(rows: int, columns: int, seed: int, *, most: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Codes of 4 bits and a mask with up to ``most`` of every 4."""
    random = np.random.default_rng(seed)
    rank = random.random((rows, columns // 4, 4)).argsort(axis=2).argsort(axis=2)
    keep = (rank < random.integers(min(most, 0), most + 1, (rows, columns // 4, 1))) if most < 2 else rank < 2
    return random.integers(0, 16, (rows, columns)).astype(np.uint8), keep.reshape(rows, columns)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 13), st.integers(1, 40), st.integers(0, 999), st.integers(1, 3), st.booleans())
def test_rows_against_float64(rows: int, quads: int, seed: int, threads: int, sparse: bool) -> None:
    codes, keep = two_of_four(rows, 4 * quads, seed, most=1 if sparse else 2)
    random = np.random.default_rng(seed)
    table = random.standard_normal(16).astype(np.float32)
    table[3] = 0
    scales, bias = random.standard_normal((2, rows)).astype(np.float32)
    layer = CodedRows(codes, keep, table=table, scales=scales, threads=threads)
    x = random.standard_normal(4 * quads).astype(np.float32)
    layer.inputs[: len(x)] = x
    Team(threads).run(layer.call(bias, (np.float32(-2), np.float32(2))))
    dense = np.where(keep, table[codes].astype(np.float64), 0)
    expected = np.clip(bias + scales * (dense @ x), -2, 2)
    terms = 2 * quads + 20
    bound = terms * UNIT_ROUNDOFF * (np.abs(scales) * (np.abs(dense) @ np.abs(x)) + np.abs(bias))
    assert (np.abs(layer.outputs[:rows] - expected) <= bound).all()


def test_powers_of_two_are_exact_and_small() -> None:
    codes, keep = two_of_four(64, 256, 0)
    table = power_table(-3)
    layer = CodedRows(codes, keep, table=table, scales=np.ones(64, np.float32))
    x = np.random.default_rng(1).integers(-50, 51, 256).astype(np.float32)
    layer.inputs[:] = x
    layer.call(np.zeros(64, np.float32), NO_CLAMP).run(0)
    np.testing.assert_array_equal(layer.outputs[:64], np.where(keep, table[codes], 0).astype(np.float64) @ x)
    assert layer.nbytes == 64 * 128 * 3 // 4 + 4 * (16 + 64)
    np.testing.assert_array_equal(table[:3], [0.125, 0.25, 0.5])
    np.testing.assert_array_equal(table[8:], -table[:8])


def test_what_does_not_fit_says_so() -> None:
    codes, keep = two_of_four(2, 8, 0)
    good = {"table": power_table(0), "scales": np.ones(2, np.float32)}
    full = np.ones_like(keep)
    with pytest.raises(InputError, match="row 0, columns 0 to 3: more than 2"):
        CodedRows(codes, full, **good)
    with pytest.raises(InputError, match="multiple of 4"):
        CodedRows(codes[:, :7], keep[:, :7], **good)
    with pytest.raises(InputError, match="table of 16"):
        CodedRows(codes, keep, table=power_table(0)[:8], scales=good["scales"])
    with pytest.raises(InputError, match="needs a 0"):
        CodedRows(codes, keep & False, **good)
    with pytest.raises(InputError, match="-126 to 120"):
        power_table(121)
