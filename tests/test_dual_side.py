"""Dual-side core: cycles against a slow formulation on real masks, expectation against sampling, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.arrays.dual_side import (
    DualSideArray,
    expected_gemm_cycles,
    expected_latency,
    expected_quanta,
    outer_product_cycles,
    plans,
)
from nestling.accel.arrays.windows import window_pattern
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from pydantic import ValidationError

from .spine_cases import SHAPES, design, layer_trace, network

SMALL = {
    "array.tile_rows": 4, "array.tile_columns": 6, "array.quantum_rows": 2, "array.quantum_columns": 3,
    "array.reduction_tile": 10, "array.smem_bytes_per_cycle": 65536,
}  # fmt: skip


def test_outer_product_by_hand() -> None:
    weights = np.array([[3, 0, 16]])  # one row tile, three reduction indices
    inputs = np.array([[5], [9], [17]])
    assert outer_product_cycles(weights, inputs, quantum_rows=2, quantum_columns=4).tolist() == [[2 * 2 + 0 + 8 * 5]]


def slow_cycles(weights: np.ndarray, inputs: np.ndarray) -> int:
    """Cycles of a layer's group: weights bool (n, k), inputs bool (k, m); 2 x 2 partitions, sizes of SMALL."""
    (n, k), m = weights.shape, inputs.shape[1]
    total = 0
    for row in range(0, n, 8):
        for column in range(0, m, 12):
            for first in range(0, k, 10):
                found = [0]
                for r in (row, row + 4):
                    for c in (column, column + 6):
                        w, i = weights[r : r + 4, first : first + 10], inputs[first : first + 10, c : c + 6]
                        found.append(
                            sum(-(-int(a) // 2) * -(-int(b) // 3) for a, b in zip(w.sum(0), i.sum(1), strict=True))
                        )
                total += max(*found, 1)  # the masks are read even where nothing is multiplied
    return total


@pytest.mark.parametrize("name", ["conv", "strided", "dilated", "grouped", "linear", "odd", "depthwise"])
def test_cycles_and_macs_against_a_slow_formulation(name: str) -> None:
    trace, hardware = layer_trace(SHAPES[name]), design("dstc", SMALL)
    gemm, pattern = trace.layer.gemm, window_pattern(trace)
    assert gemm is not None
    assert trace.keep is not None
    keep = trace.keep.reshape(gemm.b, gemm.n, gemm.k)
    for plan in plans(trace, range(trace.levels), hardware):
        kept = keep > plan.level
        assert int(plan.tiles.steps.sum()) == sum(slow_cycles(kept[b], pattern[b]) for b in range(gemm.b))
        effectual = sum(int((kept[b].astype(int) @ pattern[b].astype(int)).sum()) for b in range(gemm.b))
        assert plan.mac_dense - plan.mac_skipped == effectual == plan.tiles.totals()["mac_issued"]


@given(st.integers(0, 40), st.floats(0, 1), st.integers(1, 16))
def test_expected_quanta_bounds(size: int, density: float, quantum: int) -> None:
    found = expected_quanta(size, density, quantum=quantum)
    assert size * density / quantum - 1e-9 <= found <= -(-size // quantum) + 1e-9


def test_expected_quanta_against_sampling() -> None:
    rng = np.random.default_rng(5)
    drawn = rng.random((200_000, 32)) < 0.4
    mean = float((-(-drawn.sum(axis=1) // 16)).mean())
    assert expected_quanta(32, 0.4, quantum=16) == pytest.approx(mean, abs=0.005)


def test_latency_falls_more_slowly_than_the_densities() -> None:
    dense = expected_latency(1, 1, tile=(32, 32), quantum=(8, 16))
    assert dense == 1
    assert 0.3 * 0.4 < expected_latency(0.3, 0.4, tile=(32, 32), quantum=(8, 16)) < 1


def test_dense_operands_are_not_compressed() -> None:
    array = design("dstc").array
    assert isinstance(array, DualSideArray)
    assert expected_gemm_cycles((512, 256, 1024), (1.0, 0.82), accumulators=2048, array=array) == 131072
    with pytest.raises(InputError, match="exceeds 128 accumulators"):
        expected_gemm_cycles((512, 256, 1024), (1.0, 0.5), accumulators=128, array=array)
    with pytest.raises(InputError, match="no tile of 4 elements"):
        expected_quanta(4, 1.5, quantum=2)


def test_every_shape_keeps_the_identities_and_sparser_levels_never_cost_more_steps() -> None:
    hardware = design("dstc")
    for layer in SHAPES.values():
        trace = lower(network(layer))
        steps = [int(p.tiles.steps.sum()) for p in plans(trace.layers[0], range(trace.levels), hardware)]
        assert steps == sorted(steps, reverse=True)
        for level in simulate(trace, hardware).levels:
            counts = level.layers[0].counts
            assert counts["mac_computed"] + counts["mac_skipped"] == counts["mac_dense"]
            assert counts["mac_gated"] == 0


def test_bad_designs() -> None:
    with pytest.raises(ValidationError, match="quantum_rows = 5 does not divide tile_rows = 32"):
        design("dstc", {"array.quantum_rows": 5})
    with pytest.raises(ValidationError):
        design("dstc", {"array.tile_columns": 0})
    with pytest.raises(InputError, match="inputs = gate"):
        simulate(lower(network(SHAPES["conv"])), design("dstc", {"zero_handling.inputs": "gate"}))
