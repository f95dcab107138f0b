"""A layer made denser in steps: against float64 and against the direct run, exactly where sums are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.product import Choice, Product
from nestling.sim.executor.simd.refine import later_streams, refine
from nestling.sim.executor.simd.team import Team
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv

from .simd_cases import Case, buffer_of, conv_layers, make_case, only_interior, operands_in_planes, run_choice

compiled = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
LEVELS = 4


@st.composite
def refinements(draw: st.DrawFn, *, whole: bool = False) -> tuple[Case, Choice, int, int]:
    """A case, a kernel, and the levels from and to which its output is refined."""
    layer = draw(conv_layers())
    kinds = [Choice("direct", 1), Choice("packed", 1), Choice("windowed", 1, draw(st.sampled_from((1, 3, 8, 40))))]
    rows = draw(st.sampled_from((2, 4, 8)))
    kinds += [Choice("blocks", 1, 0, rows), Choice("blocks", 1, 6, rows)]
    choice = draw(st.sampled_from(kinds if layer.groups == 1 else kinds[:1]))
    density, residual = draw(st.sampled_from((0.1, 0.5, 1.0))), draw(st.booleans())
    seed = draw(st.integers(0, 9999))
    case = make_case(layer, seed, levels=LEVELS, density=density, whole=whole, residual=residual)
    if choice.group:
        keep = case.weights.keep[np.arange(layer.K) // rows * rows]
        case = replace(case, weights=replace(case.weights, keep=keep))
    coarser = draw(st.integers(1, LEVELS - 1))
    return case, choice, coarser, draw(st.integers(0, coarser - 1))


def refined(case: Case, choice: Choice, coarser: int, level: int, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Output at ``coarser``, and what becomes of it at ``level``, clamped, written over it."""
    source, target = case.layouts()
    product = Product(case.layer, case.weights, source, target, choice=choice, threads=threads)
    x, out = operands_in_planes(case, product), target.new()
    residual = None if case.residual is None else buffer_of(target, case.residual)
    works = [product.new_work() for _ in range(threads)]
    team = Team(threads)
    team.run(product.call(x, out, level=coarser, bias=case.bias, residual=residual, works=works))
    before = np.array(target.view(out))
    clamp = np.float32(case.low), np.float32(case.high)
    team.run(refine(product, out, level, coarser=coarser, x=x, out=out, clamp=clamp, works=works))
    assert only_interior(target, out)
    return before, np.array(target.view(out))


@compiled
@settings(deadline=None, max_examples=120)
@given(refinements())
def test_refined_outputs_are_within_the_rounding_of_their_sums(drawn: tuple[Case, Choice, int, int]) -> None:
    case, choice, coarser, level = drawn
    expected, bound = case.expected(level)
    _, found = refined(case, choice, coarser, level)
    assert (np.abs(found - expected) <= bound).all()
    direct = run_choice(case, choice, level=level)
    assert (np.abs(found - direct) <= 2 * bound).all()


@compiled
@settings(deadline=None, max_examples=80)
@given(refinements(whole=True))
def test_whole_numbers_give_the_bits_of_the_direct_run(drawn: tuple[Case, Choice, int, int]) -> None:
    case, choice, coarser, level = drawn
    _, found = refined(case, choice, coarser, level)
    np.testing.assert_array_equal(found, run_choice(case, choice, level=level))


@compiled
@settings(deadline=None, max_examples=40)
@given(refinements(), st.integers(2, 4))
def test_rows_without_new_weights_and_threads_change_no_bit(drawn: tuple[Case, Choice, int, int], threads: int) -> None:
    case, choice, coarser, level = drawn
    before, found = refined(case, choice, coarser, level, threads=threads)
    np.testing.assert_array_equal(found, refined(case, choice, coarser, level)[1])
    grown = (case.weights.mask(level) != case.weights.mask(coarser)).reshape(case.layer.K, -1).any(axis=1)
    np.testing.assert_array_equal(found[~grown], before[~grown])


@compiled
def test_steps_down_the_levels_end_at_the_densest() -> None:
    """One step after the other, several windows per row, each from what the last one left."""
    layer = conv("c", "input", C=40, H=6, W=16, K=24, R=3, padding=1)
    case = make_case(layer, 3, levels=LEVELS, whole=True)
    source, target = case.layouts()
    product = Product(layer, case.weights, source, target, choice=Choice("windowed", 2, 37))
    x, works = buffer_of(source, case.x), [product.new_work()]
    out = target.new()
    product.call(x, out, level=LEVELS - 1, bias=case.bias, works=works).run(0)
    for level in reversed(range(LEVELS - 1)):
        refine(product, out, level, coarser=level + 1, x=x, out=out, works=works).run(0)
        np.testing.assert_array_equal(target.view(out), case.expected(level)[0])


def test_only_row_bounds_are_made_anew() -> None:
    case = make_case(conv("c", "input", C=9, H=1, W=16, K=12, R=1), 5, levels=3)
    source, target = case.layouts()
    streams = Product(case.layer, case.weights, source, target, choice=Choice("windowed", 1, 4), threads=3).streams
    later = later_streams(streams, 1)
    assert later.values is streams.values
    assert later.offsets is streams.offsets
    assert later.levels == 2
    np.testing.assert_array_equal(later.counts.ravel(), streams.counts.reshape(3, -1)[1:].ravel())
    windows = later.skips.shape[1]
    for block, (first, last) in enumerate(streams.starts[:, :2]):
        for window in range(windows):
            begin = first * windows + window * (last - first)
            sums = streams.counts.reshape(3, -1)[1:, begin : begin + last - first].cumsum(axis=0)
            fronts = [next((i for i, n in enumerate(row) if n), last - first) for row in sums]
            np.testing.assert_array_equal(later.skips[block, window], fronts)


@pytest.mark.parametrize(("coarser", "level"), [(1, 1), (1, 2), (3, 0), (2, -1)])
def test_levels_that_do_not_fit_say_so(coarser: int, level: int) -> None:
    case = make_case(conv("c", "input", C=3, H=1, W=16, K=4, R=1), 0, levels=3)
    source, target = case.layouts()
    product = Product(case.layer, case.weights, source, target, choice=Choice("direct", 1))
    planes = target.new()
    with pytest.raises(InputError, match=f"from level {coarser} to level {level}: needed is"):
        refine(product, planes, level, coarser=coarser, x=source.new(), out=planes, works=[product.new_work()])
