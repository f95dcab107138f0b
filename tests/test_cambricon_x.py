"""Cambricon-X: cycles from actual masks, groups that share the PEs, tiles that fit small buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS
from nestling.accel.arrays.cambricon_x import CambriconXArray, tile_blocking, window_cycles
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, design, layer_trace, network


def chip(pes: int = 4, multipliers: int = 3) -> CambriconXArray:
    return CambriconXArray(
        kind="cambricon_x", pes=pes, multipliers=multipliers, index_bits=4, weight_bits=8, activation_bits=8,
        accumulator_bits=24,
    )  # fmt: skip


def cycles_by_hand(keep: np.ndarray, *, groups: int, level: int, array: Any) -> int:
    """ceil(non-zeros / multipliers) of the fullest filter among those that run together."""
    n = len(keep) // groups
    filters = -(-(keep > level).sum(axis=1) // array.multipliers)
    if n < array.pes:  # whole groups share the PEs
        rows = n * (array.pes // n)
        return sum(int(filters[i : i + rows].max()) for i in range(0, len(filters), rows))
    return sum(
        int(filters[g * n + i : min(g * n + i + array.pes, g * n + n)].max())
        for g in range(groups)
        for i in range(0, n, array.pes)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_cycles_are_those_of_the_fullest_filter_in_any_tiling(
    groups: int, n: int, k: int, block_k: int, seed: int
) -> None:
    keep = np.random.default_rng(seed).integers(0, 4, (groups * n, k)).astype(np.uint8)
    cycles, nonzeros = window_cycles(keep, groups=groups, levels=3, block_k=block_k, array=chip())
    assert cycles.min() >= 0
    for level in range(3):
        assert cycles[level].sum() == cycles_by_hand(keep, groups=groups, level=level, array=chip())
        assert nonzeros[level].sum() == (keep > level).sum()
    assert (np.diff(cycles.sum(axis=(1, 2, 3))) <= 0).all()


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("small", [False, True])
def test_tiles_add_up_to_the_layer(name: str, small: bool) -> None:
    described = design("cambricon-x", {"buffers.weights.bytes": 1024, "buffers.inputs.bytes": 512} if small else {})
    trace, gemm = layer_trace(SHAPES[name]), SHAPES[name].gemm
    keep = trace.keep if trace.keep is not None else np.full((gemm.b * gemm.n, gemm.k), trace.levels, np.uint8)
    for plan in ARRAYS["cambricon_x"].plans(trace, range(trace.levels), described):
        per_window = cycles_by_hand(keep, groups=gemm.b, level=plan.level, array=described.array)
        assert plan.tiles.steps.sum() == per_window * gemm.m
        assert plan.tiles.actions["mac_issued"].sum() + plan.mac_skipped == gemm.macs


def test_small_buffers_cut_the_reduction() -> None:
    trace = layer_trace(SHAPES["pointwise"])
    whole = tile_blocking(trace, load_design("cambricon-x"))
    cut = tile_blocking(trace, design("cambricon-x", {"buffers.weights.bytes": 512}))
    assert whole.k == 17
    assert cut.k < 17


@pytest.mark.parametrize("name", list(SHAPES))
def test_sparser_levels_are_neither_slower_nor_hungrier(name: str) -> None:
    levels = simulate(lower(network(SHAPES[name])), load_design("cambricon-x")).levels
    assert (np.diff([level.cycles for level in levels]) <= 0).all()
    assert (np.diff([level.energy_j for level in levels]) <= 0).all()


def test_empty_level_issues_nothing() -> None:
    keep = np.zeros(SHAPES["conv"].weight_shape, np.uint8)
    level = simulate(lower(network(SHAPES["conv"], keep=keep)), load_design("cambricon-x")).levels[0]
    assert level.layers[0].counts["mac_computed"] == 0
    assert level.layers[0].counts["pe_slots"] == 0


def test_dense_inputs_cannot_be_skipped() -> None:
    with pytest.raises(InputError, match=r"zero_handling.inputs = skip"):
        simulate(lower(network(SHAPES["conv"])), design("cambricon-x", {"zero_handling.inputs": "skip"}))
