"""Products with coded values: those of the float32 kernel with the decoded values, bit by bit where both add in one order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.product import Product, windowed
from nestling.sim.executor.simd.reduced.coded_product import MOST_CODES, CodedProduct
from nestling.sim.executor.simd.rows.nm_rows import power_table
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.sim.executor.simd.windowed_kernel import TWO_SUMS
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv

from .reduced_runs import run_floats
from .simd_cases import Case, conv_layers, make_case

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
Array = np.ndarray


def outputs(case: Case, vectors: int, *, level: int, table: Array | None, threads: int) -> list[Array]:
    """Outputs of the coded product and of the float32 one."""
    source, target = case.layouts()
    coded = CodedProduct(case.layer, case.weights, source, target, vectors=vectors, table=table, threads=threads)
    plain = Product(case.layer, case.weights, source, target, choice=windowed(vectors), threads=threads)
    return [run_floats(product, case, level=level, threads=threads) for product in (coded, plain)]


@settings(deadline=None, max_examples=50)
@given(
    conv_layers().filter(lambda one: one.groups == 1),
    st.integers(0, 9999),
    st.sampled_from((1, 3)),
    st.sampled_from((0.0, 0.3, 1.0)),
    st.booleans(),
    st.sampled_from(("powers", "any")),
    st.integers(1, 2),
)
def test_outputs_equal_the_float32_kernel(
    layer: object, seed: int, levels: int, density: float, residual: bool, kind: str, threads: int
) -> None:
    case = make_case(layer, seed, levels=levels, density=density, residual=residual, clamp=(-3.0, 6.0))  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    table = power_table(-4) if kind == "powers" else random.standard_normal(MOST_CODES).astype(np.float32)
    case.weights.values[:] = random.choice(table, case.weights.shape)
    usable = [v for v in case.layouts()[1].vectors if v in (1, 4, 7, 8, 13)] or [1]
    vectors, level = usable[seed % len(usable)], seed % levels
    given_table = table if seed % 2 else None
    coded, plain = outputs(case, vectors, level=level, table=given_table, threads=threads)
    if vectors > TWO_SUMS:
        np.testing.assert_array_equal(coded.view(np.uint32), plain.view(np.uint32))
    exact, bound = case.expected(level)
    assert (np.abs(coded - exact) <= bound).all()


def test_a_non_zero_takes_two_bytes() -> None:
    case = make_case(conv("c", "input", C=500, H=4, W=28, K=60, R=1), 0, density=0.5)
    case.weights.values[:] = np.random.default_rng(0).choice(power_table(-4), case.weights.shape)
    source, target = case.layouts()
    coded = CodedProduct(case.layer, case.weights, source, target, vectors=7)
    nonzeros = int(case.weights.nonzeros[0])
    assert coded.product.streams.nbytes - coded.nbytes == 4 * (nonzeros + 1) - coded.table.nbytes
    assert coded.offsets.nbytes == 2 * (nonzeros + 1)
    assert coded.values.nbytes == 0


def test_what_does_not_fit_says_so() -> None:
    case = make_case(conv("c", "input", C=50, H=1, W=16, K=4, R=1), 0, density=1.0)
    source, target = case.layouts()
    with pytest.raises(InputError, match="different values; at most 64 have codes"):
        CodedProduct(case.layer, case.weights, source, target, vectors=1)
    with pytest.raises(InputError, match="is not in the table"):
        CodedProduct(case.layer, case.weights, source, target, vectors=1, table=power_table(0))
