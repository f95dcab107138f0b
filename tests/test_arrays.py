"""One contract for every array and design over awkward shapes; independent counts; fold cycles of SCALE-Sim."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS, LayerPlan
from nestling.accel.arrays.count_kernel import count_blocks, group_steps
from nestling.accel.arrays.nm_lanes import lane_geometry
from nestling.accel.design import DESIGNS, Design
from nestling.accel.energy import BOOKKEEPING
from nestling.accel.schedule import order_tiles
from nestling.accel.strict import ZeroHandling
from nestling.sim.pipeline import DramTiming, run_recurrence
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import LayerTrace
from nestling.workloads.layers import linear
from nestling.workloads.zoo import build

from .spine_cases import SHAPES, design, layer_trace, network

DATA = Path(__file__).parent / "data"
Changes = dict[str, Any]
VARIANTS: dict[str, tuple[str, Changes]] = {name: (name, {}) for name in DESIGNS} | {
    "systolic ws": ("systolic-16x16", {"array.dataflow": "weight_stationary", "array.rows": 8}),
    "systolic is": ("systolic-16x16", {"array.dataflow": "input_stationary", "array.columns": 4}),
    "systolic os, compressed": ("systolic-16x16", {"weight_format": "level_ordered", "array.rows": 5}),
    "systolic, small buffers": (
        "systolic-16x16",
        {"buffers.weights.bytes": 2048, "buffers.inputs.bytes": 1024, "buffers.outputs.bytes": 1024},
    ),
    "lanes, layer control": ("nm-lanes-16x8", {"array.step_control": "layer", "array.operand_feed": "systolic"}),
    "lanes, M = 4": (
        "nm-lanes-16x8",
        {"array.group": 4, "array.lanes": 1, "array.rows": 3, "array.groups_per_tile": 2},
    ),
    "lanes, small buffers": (
        "nm-lanes-16x8",
        {"buffers.weights.bytes": 8192, "buffers.inputs.bytes": 4096, "buffers.outputs.bytes": 512},
    ),
}

#: Arrays that pack what is left of several filters anew at every level: fewer weights may pack worse and take more steps.
PACKING = frozenset({"sigma"})


def plans(trace: LayerTrace, described: Design) -> list[LayerPlan]:
    found = list(ARRAYS[described.array.kind].plans(trace, range(trace.levels), described))
    assert [p.level for p in found] == list(range(trace.levels))
    return found


def check_work(trace: LayerTrace, plan: LayerPlan) -> None:
    gemm, tiles = trace.layer.gemm, plan.tiles
    assert gemm is not None
    totals = tiles.totals()
    assert totals["mac_weight_nonzero"] == int(trace.nonzeros[plan.level]) * gemm.m
    assert totals["mac_issued"] + plan.mac_skipped == plan.mac_dense == gemm.macs
    assert totals["dram_read_bytes"] == plan.tiling.dram_bytes >= plan.compulsory_bytes
    assert totals["dram_write_bytes"] == gemm.b * gemm.m * gemm.n
    assert plan.pe_slots >= totals["mac_issued"]
    assert 0 <= plan.mac_weight_zero_issued <= plan.mac_dense
    for name, column in tiles.columns().items():
        assert column.dtype == np.int64
        assert name == "after" or column.min() >= 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("levels", [1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_conserved(variant: str, levels: int, shape: str) -> None:
    trace = layer_trace(SHAPES[shape], levels=levels, seed=levels)
    for plan in plans(trace, design(*VARIANTS[variant])):
        check_work(trace, plan)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fill", [0, 1])
def test_empty_levels_and_empty_layers(variant: str, fill: int) -> None:
    """Everything pruned at every level, and at all levels but the densest."""
    layer = SHAPES["conv"]
    keep = np.full(layer.weight_shape, fill, np.uint8)
    trace = layer_trace(layer, levels=3, keep=keep)
    described = design(*VARIANTS[variant])
    found = plans(trace, described)
    for plan in found:
        check_work(trace, plan)
    empty = simulate(lower(network(layer, levels=3, keep=keep)), described).levels[2].layers[0]
    assert empty.cycles > 0  # outputs are still written
    if described.zero_handling.weights == ZeroHandling.GATE:
        assert empty.counts["mac_computed"] == 0
    if described.zero_handling.weights == ZeroHandling.SKIP:  # a structured array still fills its slots with zeros
        assert empty.counts["mac_skipped"] > 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sparser_level_never_does_more(variant: str, shape: str) -> None:
    """No count of an energy-bearing action rises, hence no energy. Cycles: what the array does per tile never rises, so its
    time without DRAM does not either (``PACKING`` arrays excepted). With DRAM a level may end a few cycles later although it
    fetches less, because the bytes of a layer are shared out by non-zeros: a sparser level's first tile may get more."""
    result = simulate(lower(network(SHAPES[shape], levels=6, seed=5)), design(*VARIANTS[variant]))
    for dense, sparse in zip(result.levels, result.levels[1:], strict=False):
        before, after = dense.layers[0], sparse.layers[0]
        for name, count in after.counts.items():
            if name not in BOOKKEEPING | {"mac_gated"}:
                assert count <= before.counts[name], name
        for component, joules in after.energy_j.items():
            # Gating turns multiplications into cheaper gated ones; leakage follows the cycles.
            if component != "leakage":
                assert joules <= before.energy_j[component] * (1 + 1e-12), component
    trace = layer_trace(SHAPES[shape], levels=6, seed=5)
    if design(*VARIANTS[variant]).array.kind in PACKING:
        return
    found = plans(trace, design(*VARIANTS[variant]))
    for denser, sparser in itertools.pairwise(found):
        for column in ("steps", "load_beats", "drain_words"):
            if denser.tiling == sparser.tiling:
                assert (getattr(sparser.tiles, column) <= getattr(denser.tiles, column)).all()
            assert getattr(sparser.tiles, column).sum() <= getattr(denser.tiles, column).sum()


@pytest.mark.parametrize(
    "variant",
    [name for name, made in VARIANTS.items() if "small" not in name and design(*made).array.kind not in PACKING],
)
@pytest.mark.parametrize("shape", ["conv", "grouped", "linear", "k=1"])
def test_time_without_dram_never_rises(variant: str, shape: str) -> None:
    ends = []
    for plan in plans(layer_trace(SHAPES[shape], levels=6, seed=9), design(*VARIANTS[variant])):
        free = {name: np.zeros_like(plan.tiles.steps) for name in ("weight_bytes", "input_bytes", "store_bytes")}
        columns = {name: getattr(plan.tiles, name) for name in plan.tiles.__dataclass_fields__} | free
        ends.append(run_recurrence(type(plan.tiles)(**columns), plan.timing, DramTiming(1, 1, 0)).end)
    assert ends == sorted(ends, reverse=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.sampled_from(sorted(SHAPES)), variant=st.sampled_from(sorted(VARIANTS)))
def test_both_engines_agree_on_real_plans(seed: int, shape: str, variant: str) -> None:
    trace, described = lower(network(SHAPES[shape], levels=2, seed=seed)), design(*VARIANTS[variant])
    fast, slow = (simulate(trace, described, engine=engine) for engine in ("recurrence", "simpy"))
    for a, b in zip(fast.levels, slow.levels, strict=True):
        assert (a.cycles, a.split) == (b.cycles, b.split)


# --- independent counts ----------------------------------------------------------------------------------------------


def slow_group_steps(
    keep: np.ndarray, *, groups: int, level: int, block_n: int, taps: int, group: int, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, non-zeros) by sorting weights into boxes (b, row block, row, tap, part) with NumPy reductions."""
    n, channels = keep.shape[0] // groups, keep.shape[1] // taps
    parts, blocks = -(-channels // group), -(-n // block_n)
    boxes = np.zeros((groups, blocks * block_n, parts * group, taps), bool)
    boxes[:, :n, :channels] = keep.reshape(groups, n, channels, taps) > level
    per_row = boxes.reshape(groups, blocks, block_n, parts, group, taps).sum(axis=4)
    per_row = per_row.transpose(0, 1, 2, 4, 3).reshape(groups, blocks, block_n, taps * parts)
    return np.ceil(per_row / lanes).max(axis=2).astype(np.int64), per_row.sum(axis=2)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32), groups=st.integers(1, 3), n=st.integers(1, 9), channels=st.integers(1, 20),
    taps=st.integers(1, 4), block_n=st.integers(1, 5), group=st.integers(1, 8), lanes=st.integers(1, 8),
    levels=st.sampled_from([1, 3, 8, 255]),
)  # fmt: skip
def test_group_steps(
    seed: int, groups: int, n: int, channels: int, taps: int, block_n: int, group: int, lanes: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    keep = rng.integers(0, levels + 1, (groups * n, channels * taps)).astype(np.uint8)
    options = {"groups": groups, "block_n": block_n, "taps": taps, "group": group, "lanes": lanes}
    steps, nonzeros = group_steps(keep, levels=levels, **options)
    for level in {0, levels // 2, levels - 1}:
        expected = slow_group_steps(keep, level=level, **options)
        np.testing.assert_array_equal(steps[level], expected[0])
        np.testing.assert_array_equal(nonzeros[level], expected[1])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32), groups=st.integers(1, 3), n=st.integers(1, 12), k=st.integers(1, 30),
    block_n=st.integers(1, 6), block_k=st.integers(1, 12), levels=st.sampled_from([1, 4, 255]),
)  # fmt: skip
def test_block_counts(seed: int, groups: int, n: int, k: int, block_n: int, block_k: int, levels: int) -> None:
    keep = np.random.default_rng(seed).integers(0, levels + 1, (groups * n, k)).astype(np.uint8)
    found = count_blocks(keep, groups=groups, levels=levels, block_n=block_n, block_k=block_k)
    for level in {0, levels - 1}:
        kept = (keep > level).reshape(groups, n, k).astype(np.int64)
        rows = np.add.reduceat(kept, range(0, n, block_n), axis=1)
        np.testing.assert_array_equal(found[level], np.add.reduceat(rows, range(0, k, block_k), axis=2))


def test_kernels_refuse_other_arrays() -> None:
    for wrong in (np.zeros((2, 2)), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError, match="keep map must be a uint8 matrix"):
            count_blocks(wrong, groups=1, levels=1, block_n=1, block_k=1)


@pytest.mark.parametrize("control", ["group", "layer"])
@pytest.mark.parametrize("shape", ["conv", "grouped", "pointwise", "linear", "depthwise"])
def test_steps_and_beats_of_every_tile_of_the_lane_array(shape: str, control: str) -> None:
    changes = {"array.step_control": control, "array.rows": 4, "array.groups_per_tile": 3, "array.bus_bits": 64}
    described = design("nm-lanes-16x8", changes)
    layer, trace = SHAPES[shape], layer_trace(SHAPES[shape], levels=4, seed=2)
    gemm, geometry = layer.gemm, lane_geometry(described.array)  # type: ignore[arg-type]
    assert gemm is not None
    assert trace.keep is not None
    assert geometry.weight_beats == -(-4 * 2 * (8 + 3) // 64)  # rows * lanes * (weight + index of 8)
    assert geometry.activation_beats == -(-8 * 8 * 8 // 64)  # columns * group * activation
    for plan in plans(trace, described):
        steps, _ = slow_group_steps(
            trace.keep, groups=gemm.b, level=plan.level, block_n=4, taps=layer.R * layer.S, group=8, lanes=2
        )
        if control == "layer":
            steps = np.full_like(steps, max(1, steps.max()))
        loaded = (steps > 0) | (control == "layer")
        header = -(-3 * min(3, steps.shape[2]) // 64) if control == "group" else 0  # counts 0..4 take 3 bits
        nest_order = zip(*walk_order(trace, plan, described), plan.tiles.steps, plan.tiles.load_beats, strict=True)
        for b, row, tile, found_steps, found_beats in nest_order:
            part = np.s_[b, row, tile * 3 : (tile + 1) * 3]
            assert found_steps == steps[part].sum()
            expected = steps[part].sum() * geometry.weight_beats + loaded[part].sum() * geometry.activation_beats
            assert found_beats == expected + header


def test_line_widths_and_latency_equal_the_register_transfer_array() -> None:
    """A weight line: R*L*(weight bits + 2 index bits); an activation line: 4*C bytes; two cycles from issue to result, plus
    the skew of a systolic feed."""
    rows = list(csv.DictReader((DATA / "nm_pipeline_cycles.csv").open(encoding="utf-8")))
    for row in rows:
        R, C, L, bus = (int(row[name]) for name in ("R", "C", "L", "bus"))
        systolic = row["systolic"] == "True"
        changes: Changes = {"array.rows": R, "array.columns": C, "array.lanes": L, "array.bus_bits": bus}
        changes |= {"array.group": 4, "array.weight_bits": 8 if row["kind"] == "mul" else 4}
        changes["array.operand_feed"] = "systolic" if systolic else "broadcast"
        geometry = lane_geometry(design("nm-lanes-16x8", changes).array)  # type: ignore[arg-type]
        weight_bits = 10 if row["kind"] == "mul" else 6
        assert geometry.weight_beats == -(-R * L * weight_bits // bus)
        assert geometry.activation_beats == -(-C * 32 // bus)
        assert geometry.latency == (R + C if systolic else 2)


def walk_order(trace: LayerTrace, plan: LayerPlan, described: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group, row block and k tile of every tile of the plan."""
    from nestling.accel.loopnest import Blocking, Nest

    layer, gemm = trace.layer, trace.layer.gemm
    assert gemm is not None
    taps = layer.R * layer.S
    groups = taps * -(-(gemm.k // taps) // 8)
    tiles = -(-groups // 3)
    shape = (gemm.b, -(-gemm.n // 4), tiles)
    order = order_tiles(
        Nest(layer, gemm, Blocking(n=4, m=8, k=gemm.k), np.zeros(shape, np.int64), trace.activation_bits), plan.tiling
    )
    return order.group, order.row, order.k_tile


# --- SCALE-Sim 3.0.0 -------------------------------------------------------------------------------------------------

DATAFLOWS = {"os": "output_stationary", "ws": "weight_stationary", "is": "input_stationary"}


def read(name: str) -> list[dict[str, Any]]:
    rows = csv.DictReader((DATA / name).open(encoding="utf-8"))
    return [{key: value if key in ("layer", "dataflow") else int(value) for key, value in row.items()} for row in rows]


def fold_plan(row: dict[str, Any]) -> LayerPlan:
    """The row's product on its array, with buffers so large that a fold is never cut."""
    changes: Changes = {f"buffers.{name}.bytes": 4 << 20 for name in ("weights", "inputs", "outputs")}
    changes |= {"array.rows": row["array_rows"], "array.columns": row["array_cols"], "array.accumulator_bits": 8}
    changes["array.dataflow"] = DATAFLOWS[row["dataflow"]]
    layer = linear("product", "input", features_in=row["K"], features_out=row["N"], rows=row["M"])
    trace = lower(network(layer, levels=1, keep=np.ones(layer.weight_shape)), formats=["dense"]).layers[0]
    (plan,) = plans(trace, design("systolic-16x16", changes))
    return plan


def test_fold_cycles_equal_scale_sim() -> None:
    rows = read("scalesim_dense.csv")
    assert len(rows) == 317
    for row in rows:
        assert int(fold_plan(row).tiles.steps.sum()) == row["demand_rows"], row


def test_buffer_words_equal_scale_sim() -> None:
    for row in read("scalesim_dense.csv")[::4]:
        totals = fold_plan(row).tiles.totals()
        assert totals["input_buffer_read_bytes"] == row["sram_ifmap_reads"], row
        assert totals["weight_buffer_read_bytes"] == row["sram_filter_reads"], row


def test_resnet50_layer_by_layer_equals_scale_sim() -> None:
    rows = read("scalesim_resnet50_32x32_ws.csv")
    layers = [layer for layer in build("resnet50").layers if layer.gemm is not None]
    assert len(rows) == len(layers) == 54
    for row, layer in zip(rows, layers, strict=True):
        gemm = layer.gemm
        assert gemm is not None
        assert (gemm.m, gemm.n, gemm.k) == (row["M"], row["N"], row["K"])
        assert int(fold_plan(row).tiles.steps.sum()) == row["demand_rows"], layer.name
