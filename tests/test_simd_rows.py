"""Products with 1 to 16 vectors in every format: against float64 within the bound of the summation length, on every path."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor import reference
from nestling.sim.executor.executor import TOLERANCE
from nestling.sim.executor.simd.lanes_kernel import HAS_PERMUTES
from nestling.sim.executor.simd.network import PlaneNetwork, unsupported
from nestling.sim.executor.simd.rows import few_kernel, mask_kernel, nm_kernel, rows_kernel
from nestling.sim.executor.simd.rows.few_vectors import BatchedLinear
from nestling.sim.executor.simd.rows.fully_connected import RowProduct
from nestling.sim.executor.simd.rows.nm_rows import CodedRows, PatternRows, pattern_of
from nestling.sim.executor.simd.rows.row_formats import likely_formats
from nestling.sim.executor.simd.rows.row_parts import FewRows, IndexedRows, entries_of, likely_window
from nestling.sim.executor.simd.rows.row_planner import candidates, measured_formats
from nestling.sim.executor.simd.team import Team
from nestling.sim.executor.simd.vectors_kernel import COMPILES, REVISION
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, linear
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network

from .simd_cases import UNIT_ROUNDOFF

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
FREE = (np.float32(-np.inf), np.float32(np.inf))
X86 = platform.machine().lower() in ("x86_64", "amd64")
Array = np.ndarray


def nested(shape: tuple[int, int], levels: int, density: float, seed: int) -> NestedWeights:
    """Random nested weights; some rows, some columns and some streams are empty."""
    random = np.random.default_rng(seed)
    keep = np.where(random.random(shape) < density, random.integers(1, levels + 1, shape), 0)
    keep[random.random(shape[0]) < 0.15] = 0
    keep[:, random.random(shape[1]) < 0.15] = 0
    keep[keep == random.integers(1, levels + 2)] = 0
    return NestedWeights(
        values=random.standard_normal(shape).astype(np.float32), keep=keep.astype(np.uint8), levels=levels
    )


def of_pattern(rows: int, columns: int, kept: tuple[int, ...], group: int, seed: int = 0) -> NestedWeights:
    """Level l keeps ``kept[l]`` of every ``group`` columns, densest first, and of a cut last group its first column."""
    random = np.random.default_rng(seed)
    whole = columns // group * group
    rank = random.random((rows, whole // group, group)).argsort(axis=2).argsort(axis=2).reshape(rows, whole)
    keep = np.zeros((rows, columns), np.uint8)
    for count in kept:
        keep[:, :whole] += rank < count
        keep[:, whole : whole + 1] += count == kept[0]
    values = random.standard_normal(keep.shape).astype(np.float32)
    return NestedWeights(values=values, keep=keep, levels=len(kept))


def computed(product: RowProduct, level: int, bias: Array, x: Array, clamp: tuple[float, float] = FREE) -> Array:
    product.inputs[:] = x
    product.outputs[:] = np.nan
    for call in product.calls(level, bias, (np.float32(clamp[0]), np.float32(clamp[1]))):
        Team(1).run(call)
    return product.outputs.copy()


def check(product: RowProduct, bias: Array, x: Array, clamp: tuple[float, float] = (-1.5, 2.0)) -> None:
    """Every level, clamped, against float64."""
    weights = product.weights
    terms = product.shape[1] + 24 + weights.levels  # products, sums over lanes, passes
    for level in range(weights.levels):
        dense = weights.dense(level).reshape(product.shape).astype(np.float64)
        wide = bias.reshape(-1, *[1] * (x.ndim - 1)).astype(np.float64)
        found = computed(product, level, bias, x, clamp)
        bound = terms * UNIT_ROUNDOFF * (np.abs(dense) @ np.abs(x) + np.abs(wide))
        assert (np.abs(found - np.clip(dense @ x + wide, *clamp)) <= bound).all()


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 4), st.floats(0, 1), st.data())
def test_every_format_of_one_vector(rows: int, columns: int, levels: int, density: float, data: st.DataObject) -> None:
    weights = nested((rows, columns), levels, density, data.draw(st.integers(0, 999)))
    formats = data.draw(st.tuples(*[st.sampled_from(("index", "mask"))] * levels))
    random = np.random.default_rng(1)
    x, bias = random.standard_normal(columns).astype(np.float32), random.standard_normal(rows).astype(np.float32)
    product = RowProduct(weights, formats=formats, threads=data.draw(st.integers(1, 3)))
    check(product, bias, x)
    assert product.nbytes >= 4 * int(weights.nonzeros[0])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 200), st.integers(2, 16), st.integers(1, 3), st.floats(0, 1))
def test_a_few_vectors(rows: int, columns: int, vectors: int, levels: int, density: float) -> None:
    weights = nested((rows, columns), levels, density, rows + columns)
    random = np.random.default_rng(2)
    x = random.standard_normal((columns, vectors)).astype(np.float32)
    check(RowProduct(weights, vectors=vectors, threads=2), random.standard_normal(rows).astype(np.float32), x)


@pytest.mark.parametrize("window_bytes", [64, 1 << 10, 1 << 16])
def test_windows_change_rounding_only(window_bytes: int) -> None:
    weights = nested((9, 333), 3, 0.4, 5)
    product = RowProduct(weights, vectors=5)
    product.parts = [FewRows(entries_of(weights), width=8, window_bytes=window_bytes)]
    x = np.random.default_rng(3).standard_normal((333, 5)).astype(np.float32)
    check(product, np.ones(9, np.float32), x)


def test_windows_for_long_rows_only() -> None:
    long = entries_of(from_ranking(np.ones((1, 2048), np.float32), np.ones((1, 2048)), (0.5,)))
    short = entries_of(from_ranking(np.ones((1, 2048), np.float32), np.ones((1, 2048)), (0.05,)))
    assert likely_window(long, 8) == 1 << 14
    assert likely_window(short, 8) == 1 << 16


@pytest.mark.parametrize("columns", [64, 128, 129, 135, 300])
@pytest.mark.parametrize("pattern", nm_kernel.PATTERNS)
@pytest.mark.parametrize("coded", [False, True])
def test_exact_patterns(columns: int, pattern: tuple[int, int], coded: bool) -> None:
    kept, group = pattern
    weights = of_pattern(7, columns, (kept,), group)
    if coded:
        powers = np.exp2(np.arange(-3.0, 4.0)).astype(np.float32)
        values = np.random.default_rng(4).choice(np.append(powers, -powers), weights.shape)
        weights = NestedWeights(values=values, keep=weights.keep, levels=1)
    x = np.random.default_rng(5).standard_normal(columns).astype(np.float32)
    product = RowProduct(weights, formats=("pattern",))
    assert isinstance(product.parts[0], PatternRows)
    assert product.parts[0].coded == coded
    check(product, np.linspace(-1, 1, 7, dtype=np.float32), x)


@pytest.mark.parametrize("pattern", nm_kernel.PATTERNS)
def test_codes_with_scales(pattern: tuple[int, int]) -> None:
    kept, group = pattern
    random = np.random.default_rng(6)
    keep = of_pattern(5, 8 * group, (kept,), group).keep.astype(bool)
    codes = random.integers(0, 16, keep.shape).astype(np.uint8)
    table = random.standard_normal(16).astype(np.float32)
    scales = random.standard_normal(5).astype(np.float32)
    layer = CodedRows(codes, keep, table=table, scales=scales, pattern=pattern)
    x = random.standard_normal(keep.shape[1]).astype(np.float32)
    layer.inputs[: len(x)] = x
    layer.call(np.zeros(5, np.float32), FREE).run(0)
    dense = np.where(keep, table[codes].astype(np.float64), 0)
    bound = (keep.shape[1] + 20) * UNIT_ROUNDOFF * np.abs(scales) * (np.abs(dense) @ np.abs(x))
    assert (np.abs(layer.outputs[:5] - scales * (dense @ x)) <= bound).all()


def test_a_ladder_of_patterns_is_a_prefix_of_passes() -> None:
    weights = of_pattern(6, 384, (4, 2, 1), 8)
    product = RowProduct(weights, formats=("pattern",) * 3)
    check(product, np.zeros(6, np.float32), np.random.default_rng(7).standard_normal(384).astype(np.float32))
    assert [len(product.calls(level, np.zeros(6, np.float32), FREE)) for level in range(3)] == [3, 2, 1]
    one = RowProduct(of_pattern(6, 384, (4,), 8), formats=("pattern",))
    assert product.nbytes < 1.05 * one.nbytes


def test_what_counts_as_a_pattern() -> None:
    assert pattern_of(of_pattern(4, 64, (2,), 4).keep > 0) == (2, 4)
    assert pattern_of(of_pattern(4, 64, (1,), 4).keep > 0) == (1, 4)
    assert pattern_of(of_pattern(4, 67, (4,), 8).keep > 0) == (4, 8)
    assert pattern_of(of_pattern(4, 64, (3,), 8).keep > 0) is None
    assert pattern_of(np.ones((4, 3), bool)) is None
    missing = of_pattern(4, 64, (2,), 4).keep > 0
    missing[2, np.flatnonzero(missing[2])[0]] = False
    assert pattern_of(missing) is None
    crowded = of_pattern(4, 67, (1,), 4).keep > 0
    crowded[0, 64:] = True
    assert pattern_of(crowded) is None


@pytest.mark.parametrize("formats", [("index",), ("mask",), ("pattern",)])
def test_a_pruned_column_hides_infinity_and_a_kept_one_does_not(formats: tuple[str, ...]) -> None:
    weights = of_pattern(8, 69, (2,), 8, seed=8)
    kept = weights.mask(0)
    x = np.ones(69, np.float32)
    x[[3, 20, 66]] = np.nan, np.inf, -np.inf
    found = computed(RowProduct(weights, formats=formats), 0, np.zeros(8, np.float32), x)  # type: ignore[arg-type]
    values = np.where(kept, weights.values, np.float32(0))
    clean = (values * np.where(np.isfinite(x), x, 0)).sum(axis=1)
    expected = np.where(kept[:, 20], np.copysign(np.inf, values[:, 20]), clean)
    expected[kept[:, 3]] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isnan(found).any()
    assert np.isinf(found).any()
    assert np.isfinite(found).any()


def test_a_few_vectors_hide_infinity_too() -> None:
    weights = NestedWeights(
        values=np.ones((2, 3), np.float32), keep=np.array([[1, 0, 1], [1, 1, 1]], np.uint8), levels=1
    )
    x = np.array([[1, 1], [np.nan, np.inf], [1, 1]], np.float32)
    found = computed(RowProduct(weights, vectors=2), 0, np.zeros(2, np.float32), x, (0, np.inf))
    np.testing.assert_array_equal(found, [[2, 2], [np.nan, np.inf]])


def test_empty_levels_and_rows_give_the_clamped_bias() -> None:
    keep = np.zeros((3, 5), np.uint8)
    keep[1] = 1
    weights = NestedWeights(values=np.ones((3, 5), np.float32), keep=keep, levels=2)
    bias = np.array([-1, 0.5, 3], np.float32)
    for formats in (("index", "index"), ("mask", "mask"), ("index", "mask")):
        product = RowProduct(weights, formats=formats)  # type: ignore[arg-type]
        found = computed(product, 1, bias, np.ones(5, np.float32), (0, 2))
        np.testing.assert_array_equal(found, [0, 0.5, 2])
        found = computed(product, 0, bias, np.ones(5, np.float32), (0, 2))
        np.testing.assert_array_equal(found, [0, 2, 2])


@pytest.mark.skipif(not X86, reason="the register of x86")
def test_denormals_count_as_zeros() -> None:
    weights = from_ranking(np.full((4, 32), 1e20, np.float32), np.ones((4, 32)), (1.0,))
    for vectors, formats in ((1, ("index",)), (1, ("mask",)), (3, ("index",))):
        product = RowProduct(weights, vectors=vectors, formats=formats)  # type: ignore[arg-type]
        tiny = np.full(product.inputs.shape, 1e-40, np.float32)
        assert not computed(product, 0, np.zeros(4, np.float32), tiny).any()


def test_wide_indices() -> None:
    weights = nested((2, 70_000), 2, 0.01, 9)
    x = np.random.default_rng(9).standard_normal(70_000).astype(np.float32)
    check(RowProduct(weights, formats=("index", "index")), np.zeros(2, np.float32), x, FREE)
    check(RowProduct(weights, vectors=2), np.zeros(2, np.float32), np.stack([x, -x], axis=1), FREE)
    narrow = nested((5, 300), 2, 0.5, 10)
    product = RowProduct(narrow, formats=("index", "index"))
    bits = computed(product, 0, np.zeros(5, np.float32), x[:300])
    product.parts = [IndexedRows(entries_of(narrow), (0, 1), wide=True)]
    np.testing.assert_array_equal(computed(product, 0, np.zeros(5, np.float32), x[:300]), bits)


@pytest.mark.parametrize("vectors", [1, 3, 20])
def test_threads_change_no_bit(vectors: int) -> None:
    weights = nested((37, 200), 3, 0.5, 11)
    x = np.random.default_rng(11).standard_normal((vectors, 200)).astype(np.float32)
    alone = BatchedLinear(weights, vectors=vectors)
    for threads in (2, 5):
        together = BatchedLinear(weights, vectors=vectors, threads=threads)
        for level in range(3):
            np.testing.assert_array_equal(together.run(x, level), alone.run(x, level))


@pytest.mark.parametrize("vectors", [1, 2, 16, 17, 40])
def test_a_layer_on_its_own(vectors: int) -> None:
    weights = nested((10, 70), 2, 0.6, vectors)
    random = np.random.default_rng(12)
    x, bias = random.standard_normal((vectors, 70)).astype(np.float32), random.standard_normal(10).astype(np.float32)
    layer = BatchedLinear(weights, vectors=vectors, bias=bias, clamp=(0, np.inf))
    for level in range(2):
        dense = weights.dense(level).astype(np.float64)
        bound = 100 * UNIT_ROUNDOFF * (np.abs(x) @ np.abs(dense).T + np.abs(bias))
        found = layer.run(x, level)
        assert found.shape == (vectors, 10)
        kept = found.copy()
        layer.run(-x, level)
        np.testing.assert_array_equal(found, kept)  # later runs leave it alone
        assert (np.abs(found - np.maximum(x @ dense.T + bias, 0)) <= bound).all()


def test_dense_rows_are_masked_sparse_ones_indexed_and_patterns_found() -> None:
    values = np.random.default_rng(13).standard_normal((16, 256)).astype(np.float32)
    ladder = entries_of(from_ranking(values, np.abs(values), (0.6, 0.1)))
    assert likely_formats(ladder) == (("index", "mask") if HAS_PERMUTES else ("index", "index"))
    exact = entries_of(of_pattern(16, 256, (2, 1), 8))
    assert likely_formats(exact) == (("pattern", "pattern") if HAS_PERMUTES else ("index", "index"))
    assert likely_formats(exact, vectors=4) == ("index", "index")


def test_measuring_chooses_a_candidate() -> None:
    weights = of_pattern(32, 256, (4, 2, 1), 8)
    found = candidates(entries_of(weights))
    assert len(set(found)) == len(found) >= 4
    assert {("index",) * 3, ("mask",) * 3, ("pattern",) * 3} <= set(found)
    assert measured_formats(weights) in found


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17, 40])
def test_networks_of_several_row_vectors(rows: int) -> None:
    size = {"features_out": 50, "rows": rows}
    first = linear("first", "input", features_in=37, activation="relu", **size)
    left = linear("left", "first", features_in=50, activation="gelu", **size)
    right = linear("right", "first", features_in=50, **size)
    total = Layer(name="total", op="add", K=50, sources=("left", "right"), activation="relu6")
    last = linear("last", "total", features_in=50, features_out=9, rows=rows)
    random = np.random.default_rng(rows)
    weights, biases = {}, {}
    for layer in (first, left, right, last):
        values = (random.standard_normal(layer.weight_shape) / 6).astype(np.float32)
        weights[layer.name] = from_ranking(values, np.abs(values), (0.9, 0.4, 0.1))
        biases[layer.name] = random.standard_normal((3, layer.K)).astype(np.float32)
    network = Network("rows", (first, left, right, total, last), weights=weights, biases=biases)
    x = random.standard_normal((rows, 37)).astype(np.float32)
    assert unsupported(network) == []
    for level in range(3):
        expected = reference.forward(network, x[None], [level] * 4).reshape(-1)
        found = PlaneNetwork(network).run(x, level)
        assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
        np.testing.assert_array_equal(PlaneNetwork(network, threads=3).run(x, level), found)


SCRIPT = """
import sys
import numpy as np
from nestling.sim.executor.simd.rows.fully_connected import RowProduct
from nestling.sim.executor.simd.rows.nm_rows import CodedRows
from nestling.workloads.nesting import NestedWeights
r = np.random.default_rng(5)
v = r.standard_normal((9, 192)).astype('f')
rank = r.random((9, 24, 8)).argsort(2).argsort(2).reshape(9, 192)
weights = NestedWeights(values=v, keep=((rank < 4).astype(np.uint8) + (rank < 2)).astype(np.uint8), levels=2)
free = (np.float32(-np.inf), np.float32(np.inf))
for vectors, formats in ((1, 'index'), (1, 'mask'), (1, 'pattern'), (3, 'index'), (8, 'index'), (16, 'index')):
    p = RowProduct(weights, vectors=vectors, formats=(formats,) * 2)
    p.inputs[:] = np.random.default_rng(6).standard_normal(p.inputs.shape)
    for call in p.calls(0, np.ones(9, 'f'), free):
        call.run(0)
    sys.stdout.write(np.ascontiguousarray(p.outputs).tobytes().hex() + '\\n')
table, scales = r.standard_normal((2, 16)).astype('f')
p = CodedRows(r.integers(0, 16, (9, 192)).astype(np.uint8), rank < 4, table=table, scales=scales[:9], pattern=(4, 8))
p.inputs[:] = r.standard_normal(192)
p.call(np.ones(9, 'f'), free).run(0)
sys.stdout.write(p.outputs.tobytes().hex())
"""


@pytest.mark.skipif(not X86, reason="names of x86 processors")
@pytest.mark.parametrize("processor", [pytest.param("generic", marks=pytest.mark.long), "haswell"])
def test_other_processors_give_the_same_bits(processor: str) -> None:
    """AVX2 and plain SSE2: without permutes and expansions, and where a fused multiply-add is a library call."""
    features = {"generic": "", "haswell": "+avx2,+fma"}[processor]
    shown = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            check=True,
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        for env in ({}, {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features})
    ]
    assert shown[0] == shown[1]
    assert len(shown[0].split()) == 7


def test_every_kernel_carries_the_revision_of_the_intrinsics() -> None:
    kernels = [k for module in (rows_kernel, few_kernel, nm_kernel) for k in module.KERNELS.values()]
    kernels.append(mask_kernel.masked_rows)
    assert len(kernels) == 2 + 3 + 10 + 1
    for kernel in kernels:
        assert REVISION in [cell.cell_contents for cell in kernel.py_func.__closure__]


def test_what_does_not_fit_says_so() -> None:
    weights = nested((3, 8), 2, 0.9, 0)
    with pytest.raises(InputError, match="17 vectors; allowed are 1 to 16"):
        RowProduct(weights, vectors=17)
    with pytest.raises(InputError, match="for 2 levels"):
        RowProduct(weights, formats=("index",))
    with pytest.raises(InputError, match="3 vectors"):
        RowProduct(weights, vectors=3, formats=("mask", "mask"))
    with pytest.raises(InputError, match="is no pattern"):
        RowProduct(weights, formats=("pattern", "pattern"))
    with pytest.raises(InputError, match="level 2 does not exist"):
        RowProduct(weights).calls(2, np.zeros(3, np.float32), FREE)
    with pytest.raises(InputError, match="no weight values"):
        RowProduct(NestedWeights(values=None, keep=weights.keep, levels=2))
    with pytest.raises(InputError, match="at least 1 of each"):
        BatchedLinear(weights, vectors=0)
    with pytest.raises(InputError, match=r"bias of shape \(2,\)"):
        BatchedLinear(weights, vectors=1, bias=np.zeros(2, np.float32))
    with pytest.raises(InputError, match=r"x has shape \(8,\), needed is \(1, 8\)"):
        BatchedLinear(weights, vectors=1).run(np.zeros(8, np.float32), 0)
    for level in (0.5, "0", None):
        with pytest.raises(InputError, match="no whole number"):
            BatchedLinear(weights, vectors=1).run(np.zeros((1, 8), np.float32), level)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="x holds complex numbers"):
        BatchedLinear(weights, vectors=1).run(np.zeros((1, 8), complex), 0)
    with pytest.raises(InputError, match="pattern"):
        CodedRows(
            np.zeros((2, 8), np.uint8),
            np.zeros((2, 8), bool),
            table=np.zeros(16, np.float32),
            scales=np.ones(2, np.float32),
            pattern=(3, 8),
        )
