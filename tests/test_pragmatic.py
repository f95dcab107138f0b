"""Bit-Pragmatic: term encodings, rounds, columns and run-ahead against plain formulations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS
from nestling.accel.arrays.operands import ConvView, conv_view, input_codes
from nestling.accel.arrays.pragmatic import PragmaticArray, encode_terms, pe_slots, pragmatic_work
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, design, layer_trace, network

ENCODINGS = ("binary", "booth_runs", "booth_radix4")


def serial(**changes: Any) -> PragmaticArray:
    values = {
        "kind": "pragmatic", "tiles": 2, "rows": 4, "columns": 4, "lanes": 4, "first_stage_bits": 2,
        "weight_bits": 8, "activation_bits": 8, "accumulator_bits": 24,
    }  # fmt: skip
    return PragmaticArray(**(values | changes))


def positions(mask: int) -> list[int]:
    return [j for j in range(40) if mask >> j & 1]


def rounds_by_hand(masks: np.ndarray, reach: int) -> int:
    """Queues of term positions; every round the lanes whose front is near the lowest front advance."""
    queues, rounds = [positions(int(mask)) for mask in masks], 0
    while any(queues):
        lowest = min(queue[0] for queue in queues if queue)
        queues = [queue[1:] if queue and queue[0] <= lowest + reach else queue for queue in queues]
        rounds += 1
    return max(1, rounds)


def steps_by_hand(view: ConvView, codes: np.ndarray, array: Any) -> Iterator[list[int]]:
    """Rounds of every (window block, step, column), in execution order."""
    terms = encode_terms(np.abs(codes.astype(np.int64)), array.encoding)
    pad = view.padding
    terms = np.pad(terms, ((0, 0), (pad, pad), (pad, pad)))
    together = max(1, min(array.lanes, array.rows // view.group_filters)) if view.depthwise else 1
    channels = together * view.group_channels
    windows = [(p, q) for p in range(view.out_height) for q in range(view.out_width)]
    reach = 2**array.first_stage_bits - 1
    for first_channel in range(0, view.channels, channels):
        own = terms[first_channel : first_channel + channels]
        for first in range(0, len(windows), array.columns):
            for _ in range(0, view.group_filters, array.filters):
                for r in range(view.taps_high):
                    for s in range(view.taps_wide):
                        for brick in range(0, channels, array.lanes):
                            yield [
                                rounds_by_hand(
                                    own[brick : brick + array.lanes,
                                        p * view.stride + r * view.dilation, q * view.stride + s * view.dilation],
                                    reach,
                                )
                                for p, q in windows[first : first + array.columns]
                            ]  # fmt: skip


def finish_by_hand(steps: Iterator[list[int]], array: Any) -> int:
    """A column waits for itself and for the slowest column of the step ``registers`` + 1 before."""
    done, slowest = [0] * array.columns, [0] * (array.column_registers + 1)
    for step in steps:
        ready = slowest[-1 - array.column_registers]
        for c, rounds in enumerate(step):
            done[c] = max(done[c], ready) + rounds
        slowest.append(max(done))
    return slowest[-1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_terms_make_up_the_value(encoding: str) -> None:
    values = np.arange(1 << 12)
    for value, mask in zip(values, encode_terms(values, encoding), strict=True):
        sums = {0}
        for j in positions(int(mask)):
            sums = {total + sign * 2**j for total in sums for sign in (1, -1)}
        assert value in sums


def test_booth_needs_no_more_terms_where_runs_are_long() -> None:
    values = np.array([0b11111111, 0b0111, 0b1011, 0b1110111, 0, 1])
    terms = [[len(positions(int(m))) for m in encode_terms(values, e)] for e in ENCODINGS]
    assert terms == [[8, 3, 3, 6, 0, 1], [2, 2, 3, 3, 0, 1], [2, 2, 3, 4, 0, 1]]


def test_inputs_of_more_than_16_bits_are_refused() -> None:
    with pytest.raises(InputError, match="at most 16 bits, found 65536"):
        encode_terms(np.array([65536]), "binary")


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["conv", "strided", "dilated", "depthwise", "grouped", "odd", "linear"]),
    st.integers(0, 4), st.integers(0, 3), st.sampled_from(ENCODINGS), st.integers(1, 6), st.integers(0, 2**32),
)  # fmt: skip
def test_cycles_equal_queues_of_terms(
    name: str, first_stage: int, registers: int, encoding: str, lanes: Any, seed: int
) -> None:
    array = serial(first_stage_bits=first_stage, column_registers=registers, encoding=encoding, lanes=lanes)
    view = conv_view(SHAPES[name])
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (view.channels, view.height, view.width)) * (rng.random(1) < 0.9)
    codes = codes.astype(np.int32) * (rng.random(codes.shape) < 0.5)
    assert pragmatic_work(view, codes, array).cycles == finish_by_hand(steps_by_hand(view, codes, array), array)


def test_run_ahead_and_reach_never_slow_down() -> None:
    view = conv_view(SHAPES["conv"])
    codes = np.random.default_rng(4).integers(0, 128, (6, 9, 9)).astype(np.int32)
    by_registers = [pragmatic_work(view, codes, serial(column_registers=n)).cycles for n in (0, 1, 2, 8)]
    by_reach = [pragmatic_work(view, codes, serial(first_stage_bits=n)).cycles for n in (0, 1, 2, 3)]
    assert by_registers == sorted(by_registers, reverse=True)
    assert by_reach == sorted(by_reach, reverse=True)
    assert by_registers[-1] < by_registers[0]


def test_one_window_sends_its_bricks_to_the_columns_in_turn() -> None:
    view = ConvView(channels=40, height=1, width=1, filters=3)
    codes = np.full((40, 1, 1), 0b10101, np.int32)  # three rounds
    work = pragmatic_work(view, codes, serial())
    assert work.finish.reshape(-1).tolist() == [12]  # brick 9 starts in cycle 9, three rounds
    narrow = pragmatic_work(view, codes, serial(columns=2))
    assert narrow.cycles == 4 * 3 + 1 + 3  # two columns take turns; the last brick of column 1 starts one cycle later


def test_slots_with_and_without_work() -> None:
    view = ConvView(channels=8, height=7, width=7, filters=20, taps_high=3, taps_wide=3, padding=1)
    scheduled, idle = pe_slots(view, serial(columns=16, rows=16, lanes=16))
    assert scheduled == 49 * 9 * 20
    assert scheduled + idle == 64 * 9 * 32


@pytest.mark.parametrize("name", list(SHAPES))
def test_tiles_add_up_to_the_layer(name: str) -> None:
    described = design("bit-pragmatic", {"buffers.weights.bytes": 4096, "buffers.inputs.bytes": 2048})
    trace = layer_trace(SHAPES[name])
    work = pragmatic_work(conv_view(SHAPES[name]), input_codes(trace), described.array)
    for plan in ARRAYS["pragmatic"].plans(trace, range(trace.levels), described):
        assert plan.tiles.steps.sum() == work.cycles
        assert plan.tiles.actions["terms"].sum() == work.terms.sum() * SHAPES[name].gemm.n
        assert plan.mac_skipped + plan.tiles.actions["mac_issued"].sum() == SHAPES[name].gemm.macs


def test_zero_inputs_are_skipped_and_cost_no_terms() -> None:
    layer = SHAPES["conv"]
    for density, effectual in ((0.0, 0), (1.0, None)):
        trace = lower(network(layer), activations={"conv": Activations(density=density)})
        counts = simulate(trace, load_design("bit-pragmatic")).levels[0].layers[0].counts
        if effectual is not None:
            assert counts["mac_computed"] == effectual
            assert counts["terms"] == 0
        else:
            assert counts["mac_computed"] > 0.8 * layer.gemm.macs  # all but the padding


def test_wide_codes_are_refused() -> None:
    trace = replace(layer_trace(SHAPES["conv"]), activation_bits=24)
    with pytest.raises(InputError, match="at most 16 bits"):
        next(ARRAYS["pragmatic"].plans(trace, [0], load_design("bit-pragmatic")))
