"""Eyeriss v2: exact counting, barriers and windows against slow formulations, identities, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.arrays.eyeriss_v2 import (
    EyerissV2Array,
    cluster_cycles,
    plans,
    single_pe_cycles,
    skipped_computes,
    uniform_cycles,
)
from nestling.accel.arrays.eyeriss_v2_kernel import pe_cycles
from nestling.accel.arrays.operands import conv_view, input_pattern
from nestling.accel.arrays.windows import count_positions, window_pattern
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from pydantic import ValidationError

from .spine_cases import SHAPES, design, layer_trace, network

SMALL = {
    "array.clusters": 2, "array.pes_per_cluster": 3, "array.rows_per_pe": 2, "array.reduction_tile": 7,
    "array.positions_per_cluster": 4,
}  # fmt: skip


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 7), st.integers(0, 99))
def test_one_pe_counts_every_pair_of_nonzeros(positions: int, k: int, features: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, weights = rng.random((positions, k)) < 0.5, rng.random((features, k)) < 0.4
    cycles = cluster_cycles(inputs, weights, pes=1, per_pixel=True)
    assert cycles == single_pe_cycles(inputs.sum(axis=0), weights.sum(axis=0))
    assert cycles == int((inputs.astype(int) @ weights.T.astype(int)).sum())
    assert skipped_computes(int(inputs.sum()), features=features, cycles=cycles) == int(
        (inputs.astype(int) @ (~weights).T.astype(int)).sum()
    )


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_barriers_against_a_slow_formulation(positions: int, k: int, features: int, pes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, weights = rng.random((positions, k)) < 0.6, rng.random((features, k)) < rng.random((features, 1))
    rows = -(-features // pes)
    work = [[int((weights[p * rows : (p + 1) * rows] & i).sum()) for p in range(pes)] for i in inputs]
    per_pixel = cluster_cycles(inputs, weights, pes=pes, per_pixel=True)
    per_tile = cluster_cycles(inputs, weights, pes=pes, per_pixel=False)
    assert per_pixel == sum(max(row) for row in work)
    assert per_tile == max(map(sum, zip(*work, strict=True)))
    assert per_pixel >= per_tile >= sum(map(sum, work)) / pes


def test_imbalance_shows_where_densities_see_none() -> None:
    """One dense and one empty half: twice the cycles of evenly spread weights of the same density."""
    inputs = np.ones((5, 8), np.bool_)
    uneven, even = np.zeros((4, 8), np.bool_), np.zeros((4, 8), np.bool_)
    uneven[:2], even[:, ::2] = True, True
    assert uneven.sum() == even.sum()
    assert (
        cluster_cycles(inputs, even, pes=2, per_pixel=True)
        == uniform_cycles(5 * 4 * 8, input_density=1.0, weight_density=0.5, pes=2)
        == 40
    )
    assert cluster_cycles(inputs, uneven, pes=2, per_pixel=True) == 80


def slow_cycles(inputs: np.ndarray, weights: np.ndarray, *, macs: int, per_pixel: bool) -> int:
    """All tiles of one group: inputs bool (k, m), weights bool (n, k); sizes of SMALL."""
    (n, k), m, total = weights.shape, inputs.shape[1], 0
    for row in range(0, n, 6):
        for column in range(0, m, 8):
            for first in range(0, k, 7):
                ends = []
                for start in (column, column + 4):
                    spent = np.zeros((3, max(0, min(m, start + 4) - start)), int)
                    for pe in range(3):
                        block = weights[row + 2 * pe : row + 2 * pe + 2, first : first + 7].sum(axis=0)
                        found = block @ inputs[first : first + 7, start : start + 4].astype(int)
                        spent[pe] = -(-found // macs)
                    ends.append(int(spent.max(axis=0).sum()) if per_pixel else int(spent.sum(axis=1).max()))
                total += max(ends)
    return total


@pytest.mark.parametrize("name", ["conv", "strided", "grouped", "linear", "odd", "depthwise", "m=1"])
@pytest.mark.parametrize(("barrier", "macs"), [("pixel", 2), ("pixel", 1), ("tile", 1)])
def test_plans_against_a_slow_formulation(name: str, barrier: str, macs: int) -> None:
    trace = layer_trace(SHAPES[name])
    hardware = design("eyeriss-v2", SMALL | {"array.barrier": barrier, "array.macs_per_pe": macs})
    gemm, pattern = trace.layer.gemm, window_pattern(trace)
    assert gemm is not None
    assert trace.keep is not None
    keep = trace.keep.reshape(gemm.b, gemm.n, gemm.k)
    for plan in plans(trace, range(trace.levels), hardware):
        kept = keep > plan.level
        expected = sum(slow_cycles(pattern[b], kept[b], macs=macs, per_pixel=barrier == "pixel") for b in range(gemm.b))
        assert int(plan.tiles.steps.sum()) == expected
        effectual = sum(int((kept[b].astype(int) @ pattern[b].astype(int)).sum()) for b in range(gemm.b))
        assert plan.mac_dense - plan.mac_skipped == effectual


@pytest.mark.parametrize("name", ["conv", "strided", "dilated", "grouped", "odd", "linear", "matmul"])
def test_windows_against_indexing(name: str) -> None:
    trace = layer_trace(SHAPES[name])
    view, pattern, found = conv_view(trace.layer), input_pattern(trace), window_pattern(trace)
    per_group = view.group_channels * view.taps
    assert found.shape == (view.groups, per_group, view.out_height * view.out_width)
    rng = np.random.default_rng(1)
    for _ in range(60):
        b, j, p = (int(rng.integers(size)) for size in found.shape)
        c, r, s = np.unravel_index(j, (view.group_channels, view.taps_high, view.taps_wide))
        y = p // view.out_width * view.stride - view.padding + r * view.dilation
        x = p % view.out_width * view.stride - view.padding + s * view.dilation
        inside = 0 <= y < view.height and 0 <= x < view.width
        assert found[b, j, p] == (inside and pattern[b * view.group_channels + c, y, x])
    np.testing.assert_array_equal(count_positions(found, 5)[..., 0], found[..., :5].sum(axis=2))


def test_every_shape_keeps_the_identities_and_sparser_levels_take_no_more_steps() -> None:
    hardware = design("eyeriss-v2")
    for layer in SHAPES.values():
        trace = lower(network(layer))
        steps = [int(p.tiles.steps.sum()) for p in plans(trace.layers[0], range(trace.levels), hardware)]
        assert steps == sorted(steps, reverse=True)
        for level in simulate(trace, hardware).levels:
            counts = level.layers[0].counts
            assert counts["mac_computed"] + counts["mac_skipped"] == counts["mac_dense"]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="3 channels of inputs, 4 of weights"):
        single_pe_cycles(np.zeros(3, np.int64), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="do not divide among 2 PEs"):
        pe_cycles(
            np.ones((1, 2, 3), np.bool_), np.ones((1, 3, 5), np.int32),
            pes=2, depth=1, positions=1, clusters=1, macs=1, per_pixel=True,
        )  # fmt: skip
    with pytest.raises(ValueError, match="do not share groups and reduction"):
        pe_cycles(
            np.ones((1, 2, 3), np.bool_), np.ones((1, 4, 2), np.int32),
            pes=2, depth=1, positions=1, clusters=1, macs=1, per_pixel=True,
        )  # fmt: skip
    with pytest.raises(ValidationError):
        design("eyeriss-v2", {"array.clusters": 0})
    with pytest.raises(InputError, match="weights = gate"):
        simulate(lower(network(SHAPES["conv"])), design("eyeriss-v2", {"zero_handling.weights": "gate"}))
    assert isinstance(design("eyeriss-v2").array, EyerissV2Array)
