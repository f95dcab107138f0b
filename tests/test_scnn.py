"""SCNN against a plain walk through every PE, and its bookkeeping in a simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays.operands import ConvView, conv_view, tap_nonzeros
from nestling.accel.arrays.scnn import SCNNArray, fold, outputs_per_group, scnn_work
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, design, layer_trace, mixed_network, network


def grid(**changes: Any) -> SCNNArray:
    values = {
        "kind": "scnn", "pes_x": 2, "pes_y": 2, "input_lanes": 4, "weight_lanes": 4, "accumulators": 64, "banks": 32,
        "index_bits": 4, "weight_bits": 8, "activation_bits": 8, "accumulator_bits": 24,
    }  # fmt: skip
    return SCNNArray(**(values | changes))


def walk(view: ConvView, pattern: np.ndarray, keep: np.ndarray, array: Any) -> tuple[int, int, int]:
    """Cycles, products and conflict cycles of a layer of one level, straight from the definition."""
    pad, kernel = view.padding, keep.reshape(view.filters, view.group_channels, view.taps_high, view.taps_wide)
    tile_x = -(-(view.height + 2 * pad) // array.pes_x)
    tile_y = -(-(view.width + 2 * pad) // array.pes_y)
    step, per_group = outputs_per_group(view, array), view.group_filters
    cycles = products = conflicts = 0
    for group in range(view.groups):
        for first in range(group * per_group, (group + 1) * per_group, step):
            outputs = range(first, min(first + step, (group + 1) * per_group))
            for c in range(view.group_channels):
                spent = []
                for pe_x in range(array.pes_x):
                    for pe_y in range(array.pes_y):
                        xs = range(pe_x * tile_x, (pe_x + 1) * tile_x)
                        ys = range(pe_y * tile_y, (pe_y + 1) * tile_y)
                        found = walk_pe(view, pattern[group * view.group_channels + c], kernel[:, c], array,
                                        xs=xs, ys=ys, outputs=outputs)  # fmt: skip
                        spent.append(found[0])
                        products += found[1]
                        conflicts += found[2]
                cycles += max(spent)
    return cycles, products, conflicts


def walk_pe(
    view: ConvView, pattern: np.ndarray, kernel: np.ndarray, array: Any, *, xs: range, ys: range, outputs: range
) -> tuple[int, int, int]:
    cycles = products = conflicts = 0
    stride, pad, dilation = view.stride, view.padding, view.dilation
    for sx in range(stride):
        for sy in range(stride):
            inputs = [
                (x, y)
                for x in xs
                for y in ys
                if x % stride == sx and y % stride == sy
                and pad <= x < pad + view.height and pad <= y < pad + view.width and pattern[x - pad, y - pad]
            ]  # fmt: skip
            weights = [
                (r, s, k)
                for r in range(view.taps_high)
                for s in range(view.taps_wide)
                for k in outputs
                if r * dilation % stride == sx and s * dilation % stride == sy and kernel[k, r, s]
            ]
            for i in range(0, len(inputs), array.input_lanes):
                for f in range(0, len(weights), array.weight_lanes):
                    hits = {}
                    for x, y in inputs[i : i + array.input_lanes]:
                        for r, s, k in weights[f : f + array.weight_lanes]:
                            w, h = (x - r * dilation) // stride, (y - s * dilation) // stride
                            if 0 <= w < view.out_height and 0 <= h < view.out_width:
                                bank = ((k & 4) << 2) ^ ((w & 2) << 3) ^ ((h & 2) << 3)
                                bank = (bank + ((w & 1) << 3) + ((h & 1) << 2) + (k & 3)) % array.banks
                                hits[bank] = hits.get(bank, 0) + 1
                    slowest = max(1, *hits.values()) if hits else 1
                    cycles += slowest
                    conflicts += slowest - 1
                    products += sum(hits.values())
    return cycles, products, conflicts


views = st.builds(
    lambda c, h, w, k, r, s, stride, pad, dilation, groups: ConvView(
        channels=c * groups, height=h, width=w, filters=k * groups, taps_high=r, taps_wide=s, stride=stride,
        padding=pad, dilation=dilation, groups=groups,
    ),
    st.integers(1, 3), st.integers(5, 9), st.integers(5, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 3),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(views, st.integers(0, 2**32), st.sampled_from([(4, 4, 32), (2, 3, 16), (3, 4, 8), (1, 4, 4)]))
def test_counts_equal_a_walk_through_every_pe(view: ConvView, seed: int, lanes: Any) -> None:
    rng = np.random.default_rng(seed)
    array = grid(input_lanes=lanes[0], weight_lanes=lanes[1], banks=lanes[2])
    pattern = rng.random((view.channels, view.height, view.width)) < 0.6
    keep = (rng.random((view.filters, view.group_channels * view.taps)) < 0.5).astype(np.uint8)
    work = scnn_work(view, pattern, keep, array)
    cycles, products, conflicts = walk(view, pattern, keep, array)
    assert work.count("cycles").sum() == cycles
    assert work.count("products").sum() == products
    assert work.count("conflict_slots").sum() == conflicts * array.input_lanes * array.weight_lanes
    taps = tap_nonzeros(pattern, view).reshape(view.groups, 1, -1)
    assert products == (keep.reshape(view.groups, view.group_filters, -1) * taps).sum()  # work is conserved


def test_levels_are_counted_at_once() -> None:
    layer = SHAPES["strided"]
    trace, view = layer_trace(layer), conv_view(layer)
    pattern = np.random.default_rng(1).random((view.channels, view.height, view.width)) < 0.5
    work = scnn_work(view, pattern, trace.keep, grid(), levels=4)
    for level in range(4):
        alone = scnn_work(view, pattern, (trace.keep > level).astype(np.uint8), grid())
        assert np.array_equal(work.counts[level], alone.counts[0])
    assert (np.diff(work.cycles()) <= 0).all()


def test_conventions_differ_only_where_the_stride_does_not_divide_the_padding() -> None:
    rng = np.random.default_rng(5)
    for stride, padding, same in ((1, 1, True), (2, 2, True), (2, 1, False)):
        view = ConvView(
            channels=2, height=9, width=9, filters=4, taps_high=3, taps_wide=3, stride=stride, padding=padding
        )
        pattern, keep = rng.random((2, 9, 9)) < 0.7, np.ones((4, 18), np.uint8)
        exact, dnnsim = (
            scnn_work(view, pattern, keep, grid(), convention=c).count("products").sum() for c in ("exact", "dnnsim")
        )
        assert (exact == dnnsim) == same


def test_folded_classifier_does_the_same_work() -> None:
    rng = np.random.default_rng(2)
    view = ConvView(channels=300, height=1, width=1, filters=10)
    pattern, keep = rng.random((300, 1, 1)) < 0.5, (rng.random((10, 300)) < 0.5).astype(np.uint8)
    folded = fold(view, pattern, keep)
    assert (folded[0].channels, folded[0].height, folded[0].taps) == (2, 16, 256)
    work = scnn_work(*folded, grid())
    assert work.count("products").sum() == (keep * pattern.reshape(-1)).sum()


@pytest.mark.parametrize("name", list(SHAPES))
def test_simulation_balances_and_never_slows_down_with_sparsity(name: str) -> None:
    result = simulate(lower(network(SHAPES[name])), load_design("scnn"))
    for level in result.levels:
        counts = level.layers[0].counts
        assert counts["mac_computed"] + counts["mac_skipped"] == counts["mac_dense"]
        assert counts["pe_slots"] >= counts["mac_computed"]
        assert level.layers[0].utilisation <= 1
    assert (np.diff([level.cycles for level in result.levels]) <= 0).all()
    assert (np.diff([level.energy_j for level in result.levels]) <= 0).all()


def test_effectual_work_is_what_meets_in_the_sample() -> None:
    layer = SHAPES["conv"]
    sample = np.random.default_rng(3).integers(-2, 3, (1, 6, 9, 9)).astype(np.int16)
    trace = lower(network(layer), activations={"conv": Activations(density=0.8, sample=sample)})
    taps = tap_nonzeros(sample[0] != 0, conv_view(layer))
    result = simulate(trace, load_design("scnn"))
    for level in result.levels:
        both = ((trace.layers[0].keep > level.level) * taps).sum()
        assert level.layers[0].counts["mac_computed"] == both


def test_empty_weights_cost_no_products() -> None:
    layer = SHAPES["conv"]
    keep = np.zeros(layer.weight_shape, np.uint8)
    result = simulate(lower(network(layer, keep=keep)), load_design("scnn"))
    assert all(level.layers[0].counts["mac_computed"] == 0 for level in result.levels)


def test_whole_network_runs() -> None:
    result = simulate(lower(mixed_network()), load_design("scnn"))
    assert len(result.levels[0].layers) == 4


def test_map_beyond_the_accumulators_is_refused() -> None:
    small = design("scnn", {"array.accumulators": 1})
    with pytest.raises(InputError, match="needs 4 accumulators in each of the 8 x 8 PEs, which have 1"):
        simulate(lower(network(SHAPES["conv"])), small)


def test_more_products_than_a_bank_can_count_are_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed 127"):
        grid(input_lanes=16, weight_lanes=16)


def test_more_pes_are_not_slower_when_compute_bound() -> None:
    layer = SHAPES["conv"]
    pattern, keep = np.ones((6, 9, 9), bool), np.ones((20, 54), np.uint8)
    cycles = [
        int(scnn_work(conv_view(layer), pattern, keep, grid(pes_x=n, pes_y=n, accumulators=4096)).count("cycles").sum())
        for n in (1, 2, 4)
    ]
    assert cycles == sorted(cycles, reverse=True)
