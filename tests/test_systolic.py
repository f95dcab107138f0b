"""Systolic arrays: the three fold conventions (double buffering against a PE-by-PE simulation) and N:M compressed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS, LayerPlan
from nestling.accel.arrays.scale_sim import FoldedProduct, layerwise_rows
from nestling.accel.arrays.systolic import compressed_reduction
from nestling.accel.arrays.systolic_cycles import double_buffered_cycles, mesh_run, trimmed_fold_cycles
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import linear

from .spine_cases import SHAPES, design, layer_trace, network

Changes = dict[str, Any]
ROOMY: Changes = {f"buffers.{name}.bytes": 4 << 20 for name in ("weights", "inputs", "outputs")} | {
    "array.accumulator_bits": 8
}
SPARSE: Changes = {
    "array.dataflow": "weight_stationary",
    "array.group": 4,
    "zero_handling.weights": "skip",
    "weight_format": "level_ordered",
}


def plan(layer, changes: Changes, keep: np.ndarray | None = None, levels: int = 1) -> LayerPlan:
    described = design("systolic-16x16", changes)
    keep = np.ones(layer.weight_shape) if keep is None else keep
    trace = lower(network(layer, levels=levels, keep=keep)).layers[0]
    return next(iter(ARRAYS["systolic"].plans(trace, [0], described)))


def simulate_pes(folds: list[tuple[np.ndarray, np.ndarray]], rows: int, columns: int) -> tuple[list[np.ndarray], int]:
    """Products of (inputs (T, rows), weights (rows, columns)) on PEs with a second weight register each; cycles.

    Weights enter at the top of a column and fall one row per cycle, the bottom row's first; a PE takes its second register
    over with the first input of a fold. Each fold's successor is shifted in from that fold's first cycle on.
    """
    starts = [rows]
    for inputs, _ in folds[:-1]:
        starts.append(starts[-1] + max(len(inputs), rows))
    active, waiting = np.zeros((rows, columns)), np.zeros((rows, columns))
    outputs = [np.zeros((len(inputs), columns)) for inputs, _ in folds]
    last = 0
    for cycle in range(starts[-1] + len(folds[-1][0]) + rows + columns):
        before = waiting.copy()
        for fold, (inputs, weights) in enumerate(folds):
            shift = starts[fold - 1] if fold else 0  # cycle in which this fold's weights begin to enter
            for r in range(rows):
                for c in range(columns):
                    if cycle == starts[fold] + r + c:
                        active[r, c] = before[r, c]
                    if 0 <= (t := cycle - starts[fold] - r - c) < len(inputs):
                        outputs[fold][t, c] += inputs[t, r] * active[r, c]
                        last = cycle
                    falling = cycle - shift - c - r  # which weight reaches this row now
                    if 0 <= falling < rows - r:
                        waiting[r, c] = weights[rows - 1 - falling, c]
    return outputs, last + 1


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 4), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_double_buffering_computes_in_the_stated_cycles(rows: int, columns: int, lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    folds = [(rng.integers(1, 9, (length, rows)), rng.integers(1, 9, (rows, columns))) for length in lengths]
    outputs, cycles = simulate_pes(folds, rows, columns)
    for found, (inputs, weights) in zip(outputs, folds, strict=True):
        np.testing.assert_array_equal(found, inputs @ weights)
    assert double_buffered_cycles(np.array(lengths), rows=rows, columns=columns).sum() == cycles


def test_double_buffering_of_nothing() -> None:
    assert double_buffered_cycles(np.zeros(0, np.int64), rows=4, columns=4).size == 0


@given(m=st.integers(1, 70), n=st.integers(1, 70), k=st.integers(1, 40), side=st.sampled_from([1, 3, 8, 16]))
def test_mesh_cycles_fold_by_fold(m: int, n: int, k: int, side: int) -> None:
    cycles, folds = 0, 0
    for top in range(0, m, side):
        for left in range(0, n, side):
            p, q = min(side, m - top), min(side, n - left)
            cycles += k + p + q + (2 if 1 in (p, q) else 3)
            folds += 1
    run = mesh_run(m=m, n=n, k=k, rows=side, columns=side)
    assert (run.cycles, run.folds, run.multiplications) == (cycles, folds, m * n * k)


def test_edge_folds_are_cheaper_only_under_stonne() -> None:
    full = trimmed_fold_cycles(np.array([10]), rows_used=np.array([8]), columns_used=np.array([8]))
    edge = trimmed_fold_cycles(np.array([10]), rows_used=np.array([2]), columns_used=np.array([8]))
    assert (full.item(), edge.item()) == (10 + 8 + 8 + 3, 10 + 2 + 8 + 3)
    with pytest.raises(InputError, match="must be at least 1"):
        mesh_run(m=0, n=1, k=1, rows=4, columns=4)


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 60), rows=st.integers(1, 9), columns=st.integers(1, 9)
)
def test_the_array_model_follows_its_convention(m: int, n: int, k: int, rows: int, columns: int) -> None:
    layer = linear("product", "input", features_in=k, features_out=n, rows=m)
    sides = ROOMY | {"array.rows": rows, "array.columns": columns}
    mesh = plan(layer, sides | {"array.convention": "stonne"})
    assert mesh.tiles.steps.sum() == mesh_run(m=m, n=n, k=k, rows=rows, columns=columns).cycles
    for dataflow, streamed in (("weight_stationary", m), ("input_stationary", n)):
        product = FoldedProduct(m=m, n=n, k=k, rows=rows, columns=columns, dataflow=dataflow)  # type: ignore[arg-type]
        changes = sides | {"array.dataflow": dataflow}
        assert plan(layer, changes).tiles.steps.sum() == product.demand_rows
        double = plan(layer, changes | {"array.convention": "double_buffered"}).tiles.steps.sum()
        stream = (product.folds - 1) * max(streamed, rows) + streamed
        assert double == rows + stream + rows + columns - 2
        assert double <= product.demand_rows


# --- N:M compressed weights ------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 30), n=st.integers(1, 30), k=st.integers(1, 60), side=st.integers(2, 9),
    group=st.sampled_from([2, 4, 8]), data=st.data(),
)  # fmt: skip
def test_compressed_cycles_are_scale_sims(m: int, n: int, k: int, side: int, group: int, data: st.DataObject) -> None:
    """The mask of SCALE-Sim's layer-wise mode: the first N of every M reduction steps of every filter."""
    kept = data.draw(st.integers(1, group))
    layer = linear("product", "input", features_in=k, features_out=n, rows=m)
    keep = np.broadcast_to(np.arange(k) % group < kept, layer.weight_shape)
    found = plan(layer, ROOMY | SPARSE | {"array.rows": side, "array.columns": side, "array.group": group}, keep)
    shorter = layerwise_rows(k, kept=kept, group=group)
    product = FoldedProduct(m=m, n=n, k=shorter, rows=side, columns=side, dataflow="weight_stationary")
    assert found.tiles.steps.sum() == product.demand_rows
    assert found.mac_skipped == m * n * (k - shorter)
    assert found.tiles.actions["input_buffer_read_bytes"].sum() == m * k * product.column_folds


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 12), groups=st.integers(1, 12), group=st.integers(1, 8))
def test_a_compressed_reduction_covers_everything_once(seed: int, rows: int, groups: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, group + 1, groups)
    fullest = rng.integers(0, sizes + 1, (2, 3, groups)).astype(np.int32)
    nonzeros = (fullest * 2).astype(np.int32)
    found = compressed_reduction(fullest, nonzeros, sizes, rows=rows)
    kept = np.minimum(sizes, fullest.max()).sum()
    assert found.depth.sum() == max(1, kept)
    assert found.depth.max() <= rows
    assert found.elements.sum() == sizes.sum()
    np.testing.assert_array_equal(found.nonzeros.sum(axis=2), nonzeros.sum(axis=2))


@pytest.mark.parametrize("convention", ["scale_sim", "double_buffered"])
@pytest.mark.parametrize("shape", SHAPES)
def test_compressed_weights_on_awkward_shapes(shape: str, convention: str) -> None:
    """Every identity holds, sparser levels never do more, and an empty level still writes its outputs."""
    described = design("systolic-16x16", SPARSE | {"array.convention": convention})
    result = simulate(lower(network(SHAPES[shape], levels=4, seed=3)), described)
    for before, after in zip(result.levels, result.levels[1:], strict=False):
        assert after.layers[0].counts["pe_slots"] <= before.layers[0].counts["pe_slots"]
        assert after.layers[0].counts["mac_skipped"] >= before.layers[0].counts["mac_skipped"]
    if SHAPES[shape].has_weights:
        empty = lower(network(SHAPES[shape], keep=np.zeros(SHAPES[shape].weight_shape), levels=2))
        layer = simulate(empty, described).levels[0].layers[0]
        assert layer.counts["mac_skipped"] == layer.counts["mac_dense"]
        assert layer.cycles > 0
        assert layer.counts["dram_write_bytes"] > 0


def test_dense_weights_gain_nothing_from_compression() -> None:
    layer = SHAPES["conv"]
    dense = plan(layer, ROOMY | {"array.dataflow": "weight_stationary"})
    sparse = plan(layer, ROOMY | SPARSE | {"array.group": 3})
    assert dense.tiles.steps.sum() == sparse.tiles.steps.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array.dataflow": "weight_stationary", "array.convention": "stonne"}, "output_stationary only"),
        ({"array.convention": "double_buffered"}, "output_stationary loads none"),
        ({"array.group": 4}, "needs dataflow weight_stationary"),
        ({"array.rows": 0}, "greater than 0"),
        ({"array.convention": "tpu"}, "scale_sim"),
    ],
)
def test_mistakes_are_named(changes: Changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design("systolic-16x16", changes)


@pytest.mark.parametrize(
    ("changes", "message"), [({}, "none or gate"), (SPARSE | {"zero_handling.weights": "gate"}, "skip")]
)
def test_a_promised_zero_handling_must_exist(changes: Changes, message: str) -> None:
    described = design("systolic-16x16", {"zero_handling.weights": "skip"} | changes)
    with pytest.raises(InputError, match=f"can only do {message}"):
        list(ARRAYS["systolic"].plans(layer_trace(SHAPES["conv"]), [0], described))


def test_the_tpu_like_design_hides_its_weight_loads() -> None:
    layer = linear("product", "input", features_in=64, features_out=64, rows=100)
    trace = layer_trace(layer, levels=1, keep=np.ones(layer.weight_shape))
    (found,) = ARRAYS["systolic"].plans(trace, [0], design("tpu-like-16x16"))
    assert found.tiles.steps.sum() == 16 + 16 * 100 + 16 + 16 - 2
