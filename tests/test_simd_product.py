"""Plane kernels: every kind and width against float64, exactly on whole numbers, NaN and denormals, any number of threads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd import dense_kernel, direct_kernel, windowed_kernel
from nestling.sim.executor.simd.dense_product import DenseProduct
from nestling.sim.executor.simd.planes import LANES, VECTORS
from nestling.sim.executor.simd.product import Choice, Product
from nestling.sim.executor.simd.team import Call, Team
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv

from .simd_cases import Case, buffer_of, conv_layers, make_case, only_interior

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
KINDS = ("windowed", "direct", "packed", "dense")
CLAMPS = ((-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0))


def prepared(
    case: Case, kind: str, vectors: int, *, level: int, window: int = 5, threads: int = 1
) -> tuple[Call, Callable[[], np.ndarray]]:
    """The call that runs a case, and a function that reads its output."""
    source, target = case.layouts()
    sparse = Choice("direct" if kind == "dense" else kind, vectors, window)  # type: ignore[arg-type]
    product = Product(case.layer, case.weights, source, target, choice=sparse, threads=threads)
    x, out = buffer_of(source, case.x), target.new()
    out[:] = 0
    if product.packs:
        phases = product.planes.new()
        packing = product.packing(x, phases)
        packing.run(0)
        x = phases
    clamp = np.float32(case.low), np.float32(case.high)
    residual = None if case.residual is None else buffer_of(target, case.residual)
    common = {"bias": case.bias, "clamp": clamp, "residual": residual}
    if kind == "dense":
        dense = DenseProduct(product, case.weights, level, vectors=vectors, threads=threads)
        call = dense.call(x, out, works=[dense.new_work() for _ in range(threads)], **common)
    else:
        works = [product.new_work() for _ in range(threads)]
        call = product.call(x, out, level=level, works=works, **common)

    def read() -> np.ndarray:
        assert only_interior(target, out)
        return np.array(target.view(out))

    return call, read


def run(case: Case, kind: str, vectors: int, *, level: int, window: int = 5) -> np.ndarray:
    call, read = prepared(case, kind, vectors, level=level, window=window)
    call.run(0)
    return read()


def widths(case: Case, kind: str) -> tuple[int, ...]:
    usable = case.layouts()[1].vectors
    return usable if kind != "dense" else tuple(v for v in usable if v in dense_kernel.GROUPS)


@st.composite
def cases(draw: st.DrawFn, *, whole: bool = False) -> tuple[Case, str, int, int, int]:
    layer = draw(conv_layers())
    levels = draw(st.sampled_from((1, 2, 3, 8)))
    case = make_case(
        layer,
        draw(st.integers(0, 10_000)),
        levels=levels,
        density=draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))),
        whole=whole,
        residual=draw(st.booleans()),
        clamp=draw(st.sampled_from(CLAMPS)),
    )
    kind = draw(st.sampled_from(KINDS if layer.groups == 1 else ("direct",)))
    vectors = draw(st.sampled_from(widths(case, kind)))
    return case, kind, vectors, draw(st.integers(0, levels - 1)), draw(st.sampled_from((1, 2, 5, 16, 70)))


@settings(deadline=None, max_examples=150)
@given(cases())
def test_every_kernel_is_within_the_rounding_of_its_sums(drawn: tuple[Case, str, int, int, int]) -> None:
    case, kind, vectors, level, window = drawn
    expected, bound = case.expected(level)
    found = run(case, kind, vectors, level=level, window=window)
    assert (np.abs(found - expected) <= bound).all()


@settings(deadline=None, max_examples=100)
@given(cases(whole=True))
def test_whole_numbers_are_exact(drawn: tuple[Case, str, int, int, int]) -> None:
    case, kind, vectors, level, window = drawn
    np.testing.assert_array_equal(run(case, kind, vectors, level=level, window=window), case.expected(level)[0])


#: Further levels are another loop, compiled in one more second for each width.
EVERY = [
    pytest.param(vectors, levels, marks=pytest.mark.long if levels > 4 and vectors not in (1, 7) else ())
    for vectors, levels in itertools.product(VECTORS, (2, 6))
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("vectors", "levels"), EVERY)
def test_every_compiled_kernel(kind: str, vectors: int, levels: int) -> None:
    """A row of positions that the width divides: every kernel module's every entry runs."""
    layer = conv("c", "input", C=19, H=2, W=8 * vectors, K=5, R=1)
    case = make_case(layer, vectors, levels=levels, residual=True, clamp=(0.0, 6.0))
    assert vectors in widths(case, kind)
    expected, bound = case.expected(1)
    assert (np.abs(run(case, kind, vectors, level=1) - expected) <= bound).all()


def test_kernel_tables_are_complete() -> None:
    assert tuple(dense_kernel.KERNELS) == VECTORS
    for table in (windowed_kernel.KERNELS, direct_kernel.KERNELS):
        assert set(table) == set(itertools.product(VECTORS, (False, True)))


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(2, 4))
def test_threads_change_no_bit(drawn: tuple[Case, str, int, int, int], threads: int) -> None:
    case, kind, vectors, level, window = drawn
    alone = run(case, kind, vectors, level=level, window=window)
    call, read = prepared(case, kind, vectors, level=level, window=window, threads=threads)
    Team(threads).run(call)
    np.testing.assert_array_equal(read(), alone)


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from((np.nan, np.inf, -np.inf)), st.integers(0, 10_000))
@example((make_case(conv("c", "input", C=1, H=1, K=1, R=1), 3), "windowed", 1, 0, 1), np.nan, 0)
def test_nan_and_infinity_reach_what_they_must(
    drawn: tuple[Case, str, int, int, int], value: float, place: int
) -> None:
    """Where a retained weight meets them, or any weight of a dense product; nowhere else, and never in a halo."""
    case, kind, vectors, level, window = drawn
    case.x.reshape(-1)[place % case.x.size] = value
    expected, bound = case.expected(level, dense=kind == "dense")
    found = run(case, kind, vectors, level=level, window=window)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    assert (np.abs(found - expected)[finite] <= np.nan_to_num(bound)[finite]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_denormals_are_zeros_and_cost_nothing(kind: str) -> None:
    layer = conv("c", "input", C=64, H=8, W=56, K=32, R=1)
    case = make_case(layer, 0)
    normal, _ = prepared(case, kind, 7, level=0, window=64)
    case.x[:] = 1e-40
    tiny, read = prepared(case, kind, 7, level=0, window=64)
    seconds = {}
    for name, call in (("normal", normal), ("tiny", tiny)):
        runs = []
        for _ in range(7):
            call.tasks[0] = 0
            start = time.thread_time()
            call.run(0)
            runs.append(time.thread_time() - start)
        seconds[name] = min(runs)
    np.testing.assert_array_equal(read(), np.broadcast_to(case.bias[:, None, None], (32, 8, 56)))
    assert seconds["tiny"] < 3 * seconds["normal"]
    assert np.float32(1e-40) * np.float32(1) != 0  # this thread's own arithmetic is as before


def test_too_large_a_window_says_so() -> None:
    case = make_case(conv("c", "input", C=3, H=8, W=56, K=4, R=1), 0)
    with pytest.raises(InputError, match="scratch"):
        run(case, "windowed", 7, level=0, window=65536 // (4 * LANES * 7) + 1)


def test_a_layer_without_inputs_on_a_side_is_all_padding() -> None:
    """Kernel larger than the input: every operand but one lies in the halo."""
    layer = Layer(name="c", op="conv", C=2, H=1, W=1, K=3, P=1, Q=1, R=3, S=3, padding=1, sources=("input",))
    case = make_case(layer, 1, density=1.0, whole=True)
    for kind in KINDS:
        np.testing.assert_array_equal(run(case, kind, 1, level=0), case.expected(0)[0])


def test_windows_over_grouped_channels_say_so() -> None:
    case = make_case(conv("c", "input", C=4, H=5, W=5, K=4, R=1, groups=2), 0)
    with pytest.raises(InputError, match="there are 2 groups"):
        run(case, "windowed", 1, level=0, window=7)
