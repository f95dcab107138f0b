"""Bad input on every built-in design, and what a slower DRAM does: defined results or one clear error."""

from __future__ import annotations

import re

import numpy as np
import pytest
from annotated_types import Gt
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS
from nestling.accel.design import DESIGNS
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from pydantic import ValidationError

from .spine_cases import SHAPES, design, layer_trace, network
from .test_arrays import check_work

#: The smallest buffer a design file may state.
SMALLEST = 512
WIDE = conv("wide", "input", C=24, H=40, K=40, R=5, padding=2)


@pytest.mark.parametrize("buffer", ["weights", "inputs", "outputs"])
@pytest.mark.parametrize("name", DESIGNS)
def test_buffers_that_hold_no_tile(name: str, buffer: str) -> None:
    """An array either cuts smaller tiles, which keep every identity, or says which buffer is too small."""
    described, trace = design(name, {f"buffers.{buffer}.bytes": SMALLEST}), layer_trace(WIDE, levels=2)
    refusal = ""
    try:
        for plan in ARRAYS[described.array.kind].plans(trace, [0, 1], described):
            check_work(trace, plan)
    except InputError as error:
        refusal = str(error)
    words = r"layer 'wide' is too large for any tiling: one tile needs \d+ bytes of the {} buffer, which has 512; .*"
    assert re.fullmatch(words.format(buffer.removesuffix("s")), refusal) or not refusal


def test_some_design_runs_out_of_every_buffer() -> None:
    trace = layer_trace(WIDE, levels=1)
    for buffer in ("weights", "inputs", "outputs"):
        described = design("dstc", {f"buffers.{buffer}.bytes": SMALLEST})
        with pytest.raises(InputError, match=f"of the {buffer.removesuffix('s')} buffer, which has 512; enlarge"):
            list(ARRAYS["dual_side"].plans(trace, [0], described))


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("name", DESIGNS)
def test_arrays_of_no_size(name: str, size: int) -> None:
    fields = {
        field: info
        for field, info in type(design(name).array).model_fields.items()
        if any(isinstance(limit, Gt) for limit in info.metadata)
    }
    assert len(fields) >= 2
    for field in fields:
        with pytest.raises(ValidationError, match=f"{field}\n  Input should be greater than 0"):
            design(name, {f"array.{field}": size})


@settings(max_examples=20, deadline=None)
@given(
    lanes=st.integers(1, 8), group=st.sampled_from([4, 5, 8]), shape=st.sampled_from(["conv", "pointwise", "linear"])
)
def test_lanes_that_do_not_divide_the_group(lanes: int, group: int, shape: str) -> None:
    """A group costs ceil(non-zeros of its fullest row / lanes) steps, also where it is cut short because K is no multiple of
    M; more lanes than inputs (N > M) are refused."""
    changes = {"array.lanes": lanes, "array.group": group, "array.rows": 4, "array.groups_per_tile": 2}
    if lanes > group:
        with pytest.raises(ValidationError, match=f"lanes = {lanes} exceeds group = {group}"):
            design("nm-lanes-16x8", changes)
        return
    trace = layer_trace(SHAPES[shape], levels=3, seed=lanes)
    gemm, keep = trace.layer.gemm, trace.keep
    assert gemm is not None
    assert keep is not None
    taps = trace.layer.R * trace.layer.S if shape != "linear" else 1
    by_tap = keep.reshape(gemm.n, -1, taps)
    for plan in ARRAYS["nm_lanes"].plans(trace, range(3), design("nm-lanes-16x8", changes)):
        expected = 0
        for row in range(0, gemm.n, 4):
            for first in range(0, by_tap.shape[1], group):
                kept = (by_tap[row : row + 4, first : first + group] > plan.level).sum(axis=1)
                expected += int(np.ceil(kept.max(axis=0) / lanes).sum())
        column_blocks = -(-gemm.m // 8)
        assert int(plan.tiles.steps.sum()) == expected * column_blocks


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("shape", ["conv", "depthwise", "linear", "matmul"])
def test_a_slower_dram_is_never_faster(name: str, shape: str) -> None:
    """Every layer, level and design, from the stated bandwidth to a thousandth of it, and with more latency."""
    trace, stated = lower(network(SHAPES[shape], seed=3)), design(name).dram.bandwidth_bytes_per_s.value
    cycles = [
        [
            level.cycles
            for level in simulate(trace, design(name, {"dram.bandwidth_bytes_per_s.value": stated / factor})).levels
        ]
        for factor in (1, 1.7, 4, 30, 1000)
    ]
    assert (np.diff(cycles, axis=0) >= 0).all()
    late = simulate(trace, design(name, {"dram.latency_s.value": 1e-5})).levels
    assert all(level.cycles >= first for level, first in zip(late, cycles[0], strict=True))
