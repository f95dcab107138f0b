"""Random convolutions whose masks have a structure: rows in groups that keep the same weights, and N:M ladders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from nestling.sim.executor.simd.blocks_kernel import WIDTHS
from nestling.sim.executor.simd.product import Choice
from nestling.workloads.sparsify.nm import ranks_in_groups

from .simd_cases import Case, conv_layers, make_case

LADDERS = ((4, (2,)), (4, (2, 1)), (8, (4, 2, 1)), (8, (8, 3, 0)), (16, (9, 5)), (16, (13, 9, 6, 4, 1)))


def sharing(case: Case, rows: int) -> Case:
    """The case with every ``rows`` rows keeping what the first of them keeps."""
    keep = case.weights.keep[np.arange(case.layer.K) // rows * rows]
    return replace(case, weights=replace(case.weights, keep=keep))


def laddered(case: Case, channels: int, ladder: tuple[int, ...]) -> Case:
    """The case with the N largest of every ``channels`` input channels kept, N by level."""
    rank = ranks_in_groups(np.abs(case.weights.dense(0)) + np.abs(case.weights.values), channels)
    keep = sum((rank < n).astype(np.uint8) for n in ladder)
    return replace(case, weights=replace(case.weights, keep=keep, levels=len(ladder)))


@st.composite
def block_cases(draw: st.DrawFn, *, whole: bool = False) -> tuple[Case, Choice, int]:
    layer = draw(conv_layers())
    rows = draw(st.sampled_from(tuple(WIDTHS)))
    per_group = draw(st.integers(1, 19)) if layer.groups == 1 else rows * draw(st.integers(1, 2))
    layer = replace(layer, K=layer.groups * per_group)
    levels = draw(st.sampled_from((1, 2, 3)))
    density, residual = draw(st.sampled_from((0.0, 0.2, 0.6, 1.0))), draw(st.booleans())
    clamp = draw(st.sampled_from(((-np.inf, np.inf), (0.0, 6.0))))
    seed = draw(st.integers(0, 9999))
    case = make_case(layer, seed, levels=levels, density=density, whole=whole, residual=residual, clamp=clamp)
    vectors = draw(st.sampled_from([v for v in WIDTHS[rows] if v in case.layouts()[1].vectors]))
    window = 0 if layer.groups > 1 else draw(st.sampled_from((0, 0, 1, 5, 40)))
    return sharing(case, rows), Choice("blocks", vectors, window, rows), draw(st.integers(0, levels - 1))


@st.composite
def ladder_cases(draw: st.DrawFn, *, whole: bool = False) -> tuple[Case, Choice, int]:
    layer = draw(conv_layers().filter(lambda layer: layer.groups == 1))
    channels, ladder = draw(st.sampled_from(LADDERS))
    c = draw(st.integers(1, 21)) if layer.R * layer.S == 1 else channels * draw(st.integers(1, 3))
    layer = replace(layer, C=c, K=draw(st.integers(1, 9)))
    clamp, residual = draw(st.sampled_from(((-np.inf, np.inf), (0.0, 6.0)))), draw(st.booleans())
    case = make_case(layer, draw(st.integers(0, 9999)), whole=whole, residual=residual, clamp=clamp)
    vectors = draw(st.sampled_from([v for v in case.layouts()[1].vectors if v in (1, 4, 7)] or [1]))
    window = channels * draw(st.integers(1, 3))
    return (
        laddered(case, channels, ladder),
        Choice("channels", vectors, window, channels),
        draw(st.integers(0, len(ladder) - 1)),
    )


#: Family of kernels -> its random cases.
CASES = {"blocks": block_cases, "channels": ladder_cases}
