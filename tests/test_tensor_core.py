"""Tensor cores: patterns, cycles against a slow formulation on real masks, identities of the simulation, bad input."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.arrays.tensor_core import TensorCoreArray, flattened_keep, issued_per_row, plans
from nestling.accel.arrays.tensor_core_gemm import (
    DENSE,
    CoreMapping,
    GemmRun,
    TensorCore,
    WeightPattern,
    best_mapping,
    evaluate,
    mappings,
    pattern_for_density,
    pattern_of,
    price,
)
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.network import INPUT
from pydantic import ValidationError

from .spine_cases import SHAPES, design, layer_trace, network

UNITS = dict.fromkeys(
    (
        "mac", "lrf", "lrf_metadata", "rf_read", "rf_write", "smem_read", "smem_write", "smem_metadata_read",
        "smem_metadata_write", "dram_read", "dram_write",
    ),
    1.0,
)  # fmt: skip


def run(**changes: object) -> GemmRun:
    values = {"core": TensorCore(), "rows": 128, "reduction": 1152, "columns": 1024, "pattern": DENSE} | changes
    return GemmRun(**values)  # type: ignore[arg-type]


# --- one GEMM --------------------------------------------------------------------------------------------------------


def test_patterns_by_density() -> None:
    assert pattern_for_density("dense", 0.25) == DENSE
    assert pattern_for_density("stc_2_4", 0.6) == DENSE
    assert pattern_for_density("stc_2_4", 0.25) == WeightPattern(2, 4, 2)
    assert pattern_for_density("flexible_2_m", 0.3333) == WeightPattern(2, 6, 3)
    assert pattern_for_density("flexible_2_m", 0.3333, index="run_length") == WeightPattern(2, 6, 2)
    assert pattern_for_density("flexible_2_m", 0.26) == WeightPattern(2, 6, 3)
    assert pattern_for_density("flexible_2_m", 0.01) == WeightPattern(2, 8, 3)
    ratios = [pattern_of(group, "coordinate").metadata_ratio for group in (4, 6, 8)]
    assert ratios == [Fraction(1, 4), Fraction(1, 2), Fraction(1, 2)]
    with pytest.raises(InputError, match="weight density 0"):
        pattern_for_density("stc_2_4", 0.0)


def test_bandwidth_identity_of_the_reference() -> None:
    """2:8 with packed 3-bit coordinates: (1.5 * 294912 + 2359296) / 42 -> 66,707."""
    result = best_mapping(run(pattern=pattern_of(8, "coordinate")), UNITS)
    assert result.cycles == 66707
    assert result.actions["mac"] == 128 * 1152 * 1024 // 4


def test_compute_bound_core() -> None:
    assert best_mapping(run(), UNITS).cycles == 128 * 1152 * 1024 // 1024


def test_compressed_inputs_lift_the_bandwidth_bound() -> None:
    plain = run(pattern=pattern_of(8, "coordinate"))
    small = run(pattern=pattern_of(8, "coordinate"), compressed_inputs=True, input_density=0.44)
    assert best_mapping(small, UNITS).cycles == 42271 < best_mapping(plain, UNITS).cycles


def test_refetch_follows_the_loop_order() -> None:
    one = run(rows=256, reduction=16, columns=256)
    for rows_inner, weights, inputs in ((True, 2, 1), (False, 1, 4)):
        mapping = CoreMapping(stationary=128, row_supertiles=4, column_supertiles=2, rows_inner=rows_inner)
        fetched = evaluate(one, mapping).actions["dram_read"]
        assert fetched == 256 * 16 * weights + 16 * 256 * inputs


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.sampled_from([4, 6, 8, 1]))
def test_bounds_of_any_gemm(rows: int, reduction: int, columns: int, group: int) -> None:
    pattern = DENSE if group == 1 else pattern_of(group, "coordinate")
    one = run(rows=rows, reduction=reduction, columns=columns, pattern=pattern)
    result = best_mapping(one, UNITS)
    assert result.cycles * one.core.macs >= one.issued_macs >= rows * reduction * columns * pattern.density
    assert result.actions["dram_read"] >= one.weight_words + one.input_words
    evaluated = [evaluate(one, mapping) for mapping in mappings(one)]
    assert result.cycles == min(other.cycles for other in evaluated)
    least = min(price(other, UNITS) for other in evaluated if other.cycles == result.cycles)
    assert price(result, UNITS) == least


def test_gemms_that_cannot_run() -> None:
    with pytest.raises(InputError, match="empty GEMM 0 x"):
        run(rows=0)
    with pytest.raises(InputError, match=r"input density 1\.5"):
        run(input_density=1.5)
    with pytest.raises(InputError, match="too large for any tiling"):
        best_mapping(run(core=TensorCore(smem_bytes=512)), UNITS)
    with pytest.raises(InputError, match="no unit energy for lrf"):
        best_mapping(run(), {"mac": 1.0} | {k: 0.0 for k in UNITS if not k.startswith("lrf")})


# --- actual masks ----------------------------------------------------------------------------------------------------


def slow_slots(rows: np.ndarray, groups: tuple[int, ...]) -> int:
    """Weights issued per row of a tile: the sparsest pattern that every row obeys."""
    for group in groups:
        parts = [rows[:, i : i + group] for i in range(0, rows.shape[1], group)]
        if all(part.sum(axis=1).max() <= 2 for part in parts):
            return sum(min(2, part.shape[1]) for part in parts)
    return rows.shape[1]


@pytest.mark.parametrize("name", ["conv", "pointwise", "grouped", "linear", "odd", "depthwise"])
@pytest.mark.parametrize(("accel", "groups"), [("stc-2-4", (4,)), ("stc-flexible", (8, 6, 4))])
def test_issued_weights_against_a_slow_formulation(name: str, accel: str, groups: tuple[int, ...]) -> None:
    trace = layer_trace(SHAPES[name])
    gemm = trace.layer.gemm
    assert gemm is not None
    tile = 24
    hardware = design(accel, {"array.reduction_tile": tile, "array.rows": 2, "array.partitions": 2})
    taps = trace.layer.R * trace.layer.S if trace.layer.op != "linear" else 1
    keep = trace.keep
    assert keep is not None
    keep = keep.reshape(len(keep), -1, taps).transpose(0, 2, 1).reshape(keep.shape).reshape(gemm.b, gemm.n, gemm.k)
    for plan in plans(trace, range(trace.levels), hardware):
        expected = 0
        for b in range(gemm.b):
            for row in range(0, gemm.n, 4):
                block = keep[b, row : row + 4] > plan.level
                slots = sum(slow_slots(block[:, k : k + tile], groups) for k in range(0, gemm.k, tile))
                expected += slots * len(block) * gemm.m
        assert plan.tiles.totals()["mac_issued"] == expected


def test_structured_weights_halve_the_cycles_of_a_dense_tile() -> None:
    layer = conv("c", INPUT, C=384, H=16, K=64, R=1)
    keep = np.zeros((64, 384, 1, 1), np.uint8)
    keep[:, 0::4] = keep[:, 3::4] = 2
    keep[:, 0::8] = 3  # level 2 is 1:8
    trace = layer_trace(layer, keep=keep, levels=3)
    hardware = design("stc-2-4", {"array.smem_bytes_per_cycle": 4096})
    flexible = design("stc-flexible", {"array.smem_bytes_per_cycle": 4096})
    dense = int(384 / 16 * 256)
    assert [int(p.tiles.steps.sum()) for p in plans(trace, [0, 2], hardware)] == [dense // 2, dense // 2]
    assert [int(p.tiles.steps.sum()) for p in plans(trace, [0, 2], flexible)] == [dense // 2, dense // 4]
    narrow = design("stc-flexible")  # 42 bytes per cycle: the inputs of four times the reduction
    assert next(int(p.tiles.steps.sum()) for p in plans(trace, [2], narrow)) > 1.5 * dense // 4


def test_compressed_inputs_take_less_bandwidth_unless_they_are_dense() -> None:
    trace = layer_trace(SHAPES["pointwise"])  # half of its inputs are assumed zero
    dense = layer_trace(SHAPES["linear"])
    plain, small = design("stc-flexible"), design("stc-flexible", {"array.compressed_inputs": True})
    for level in range(trace.levels):
        before, after = (next(iter(plans(trace, [level], hardware))).tiles.totals() for hardware in (plain, small))
        assert after["input_buffer_read_bytes"] < before["input_buffer_read_bytes"]
        assert after["mac_issued"] == before["mac_issued"]
    before, after = (next(iter(plans(dense, [0], hardware))).tiles.totals() for hardware in (plain, small))
    assert after["input_buffer_read_bytes"] == before["input_buffer_read_bytes"]


def test_channels_are_innermost() -> None:
    trace = layer_trace(
        conv("c", INPUT, C=2, H=3, K=1, R=2), keep=np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2) % 3, levels=2
    )
    np.testing.assert_array_equal(flattened_keep(trace), [[0, 1, 1, 2, 2, 0, 0, 1]])


def test_partial_groups_issue_no_more_than_they_hold() -> None:
    pattern = pattern_of(8, "coordinate")
    np.testing.assert_array_equal(issued_per_row(np.array([0, 1, 2, 7, 8, 9]), pattern), [0, 1, 2, 2, 2, 3])


@pytest.mark.parametrize("accel", ["stc-2-4", "stc-flexible"])
def test_every_shape_keeps_the_identities(accel: str) -> None:
    hardware = design(accel)
    for layer in SHAPES.values():
        for level in simulate(lower(network(layer)), hardware).levels:
            counts = level.layers[0].counts
            assert counts["mac_computed"] + counts["mac_gated"] + counts["mac_skipped"] == counts["mac_dense"]


def test_all_zero_level_runs() -> None:
    layer = SHAPES["conv"]
    keep = np.ones(layer.weight_shape, np.uint8)
    keep[0] = 0
    result = simulate(lower(network(layer, keep=keep * 1, levels=2)), design("stc-2-4"))
    assert result.levels[1].layers[0].counts["mac_skipped"] > 0


def test_bad_designs() -> None:
    with pytest.raises(ValidationError, match="reduction_tile = 100 must be a multiple of the groups of 8, 6, 4"):
        design("stc-flexible", {"array.reduction_tile": 100})
    with pytest.raises(ValidationError, match="lanes = 15 does not hold whole groups"):
        design("stc-2-4", {"array.lanes": 15})
    with pytest.raises(ValidationError):
        design("stc-2-4", {"array.rows": 0})
    with pytest.raises(InputError, match="weights = gate"):
        simulate(lower(network(SHAPES["conv"])), design("stc-2-4", {"zero_handling.weights": "gate"}))
    assert TensorCoreArray.model_fields["mode"].is_required()
