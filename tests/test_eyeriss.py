"""Row stationary: placement, loop blocking against brute force, passes of the chip, simulation identities, bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays.eyeriss import (
    EyerissArray,
    chip_run,
    compute_cycles,
    load_cycles,
    pass_shape,
    plans,
    run_length_bits,
)
from nestling.accel.arrays.row_stationary import ConvShape, Placement, RowStationaryChip, best_blocking, place
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from pydantic import ValidationError

from .spine_cases import SHAPES, design, layer_trace, network

CHIP = RowStationaryChip(
    rows=6, columns=5, buffer_words=900, register_words=40, dram_cost=200, buffer_cost=6, array_cost=2
)
CONV2 = ConvShape(C=48, K=128, E=27, F=27, R=5, S=5, stride=1, images=4)


def eyeriss() -> EyerissArray:
    array = design("eyeriss").array
    assert isinstance(array, EyerissArray)
    return array


# --- placement and blocking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "out", "expected"),
    [
        (3, 13, Placement(1, 1, 4, 1)),  # four sets above each other
        (5, 27, Placement(1, 1, 1, 1)),  # 5 x 27 in two pieces of 5 x 14
        (11, 55, Placement(1, 4, 1, 1)),  # four strips
        (1, 7, Placement(1, 1, 12, 2)),
        (25, 14, Placement(3, 1, 1, 1)),  # taller than the array: three folds
    ],
)
def test_placement_of_published_layers(kernel: int, out: int, expected: Placement) -> None:
    shape = ConvShape(C=1, K=1, E=out, F=out, R=kernel, S=kernel, stride=1, images=1)
    assert place(shape, rows=12, columns=14) == expected


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def brute_force_cost(shape: ConvShape, chip: RowStationaryChip) -> float:
    """Least energy of a 1x1 convolution on one row: loops walked one by one instead of by formula."""
    loops = (shape.C, shape.K, shape.images)
    best = math.inf
    splits = [[(a, b, n // a // b) for a in divisors(n) for b in divisors(n // a)] for n in loops]
    for factors in itertools.product(*splits):
        registers = [f[2] for f in factors]
        buffer = [f[1] * f[2] for f in factors]
        if not all(
            sum(t[a] * t[b] * size for (a, b), size in zip(((0, 1), (0, 2), (1, 2)), sizes, strict=True)) <= limit
            for t, sizes, limit in ((registers, (1, 1, 1), chip.register_words), (buffer, (1, 1, 1), chip.buffer_words))
        ):
            continue
        for outer, inner in itertools.product(itertools.permutations(range(3)), repeat=2):
            dram = array = 0.0
            for (a, b), kind in (((0, 1), 0), ((0, 2), 1), ((1, 2), 2)):
                words = loops[a] * loops[b]
                top, both = changes(factors, (a, b), (outer,)), changes(factors, (a, b), (outer, inner))
                times_dram, times_array = (
                    top * buffer[a] * buffer[b] / words,
                    both * registers[a] * registers[b] / words,
                )
                dram += words * (2 * times_dram - 1 if kind == 2 else times_dram)
                array += words * (2 * times_array - 1 if kind == 2 else times_array)
            best = min(best, dram * chip.dram_cost + array * (chip.buffer_cost + chip.array_cost))
    return best


def changes(factors: tuple[tuple[int, ...], ...], used: tuple[int, int], orders: tuple[tuple[int, ...], ...]) -> int:
    """How often the block of an operand changes while the loops of the given levels run (first arrival included)."""
    loops = [(level, loop) for level, order in enumerate(orders) for loop in sorted(range(3), key=lambda x: -order[x])]
    seen, count = None, 0
    for index in itertools.product(*(range(factors[loop][level]) for level, loop in loops)):
        block = tuple(i for i, (_, loop) in zip(index, loops, strict=True) if loop in used)
        count += block != seen
        seen = block
    return count


@given(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 4, 6]), st.sampled_from([1, 2, 3]))
@settings(max_examples=15, deadline=None)
def test_blocking_against_loops_walked_one_by_one(channels: int, filters: int, images: int) -> None:
    shape = ConvShape(C=channels, K=filters, E=1, F=1, R=1, S=1, stride=1, images=images)
    chip = RowStationaryChip(
        rows=1, columns=1, buffer_words=14, register_words=7, dram_cost=200, buffer_cost=6, array_cost=2
    )
    found = best_blocking(shape, chip)
    cost = found.dram_words * 200 + found.buffer_words * 6 + found.array_words * 2
    assert cost == pytest.approx(brute_force_cost(shape, chip))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_blocking_moves_everything_at_least_once(C: int, K: int, E: int, R: int, images: int) -> None:
    shape = ConvShape(C=C, K=K, E=E, F=E, R=R, S=R, stride=1, images=images)
    found = best_blocking(shape, CHIP)
    once = C * K * R * R + images * K * E * E + images * C * (E + R - 1) ** 2
    assert found.dram_words >= once * (1 - 1e-9)
    for loop, count in enumerate((C, K, images)):
        assert math.prod(level[loop] for level in found.loops) <= count * place(shape, rows=6, columns=5).fold_wide


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="too large for any tiling"):
        best_blocking(ConvShape(C=1, K=1, E=64, F=64, R=3, S=3, stride=1, images=1), CHIP)
    with pytest.raises(InputError, match="empty convolution"):
        ConvShape(C=0, K=1, E=1, F=1, R=1, S=1, stride=1, images=1)


# --- passes ----------------------------------------------------------------------------------------------------------


def test_a_pass_of_conv2_by_hand() -> None:
    array, one = eyeriss(), pass_shape(eyeriss(), CONV2)
    assert (one.filters_per_pe, one.channels_per_pe, one.filter_sets, one.channel_sets) == (22, 2, 1, 1)
    assert one.out_rows == 27
    some = np.array([22]), np.array([2])
    assert compute_cycles(CONV2, one, filters=some[0], channels=some[1], images=np.array([1])) == [5 * 27 * 22 * 2]
    loads = load_cycles(array, CONV2, filters=some[0], channels=some[1], rows=np.array([27]))
    assert loads == [31 * 5 * 2]  # the first windows, word by word; 22 * 2 * 25 weights come four at a time: 275 cycles
    assert load_cycles(array, CONV2, filters=some[0] * 2, channels=some[1], rows=np.array([27])) == [44 * 2 * 25 // 4]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 14), st.integers(1, 3))
def test_chip_cycles_are_bounded_by_the_pes(C: int, K: int, E: int, R: int, images: int) -> None:
    shape = ConvShape(C=C, K=K, E=E, F=E, R=R, S=R, stride=1, images=images)
    run = chip_run(eyeriss(), shape, pass_shape(eyeriss(), shape), images=images)
    assert run.total > run.compute >= shape.macs / 168


def test_a_pass_that_exceeds_the_scratchpads() -> None:
    one = replace(pass_shape(eyeriss(), CONV2), channels_per_pe=3)
    with pytest.raises(InputError, match="a pass needs 15 words of input_spad in every PE, which holds 12"):
        chip_run(eyeriss(), CONV2, one, images=1)


def test_filters_and_sums_that_do_not_fit_shrink_the_pass() -> None:
    full = pass_shape(eyeriss(), CONV2)
    small = pass_shape(eyeriss(), CONV2, weight_words=300, sum_words=2000)
    assert small.filters * small.channels * 25 <= 300
    assert small.filters * small.out_rows * 27 <= 2000
    assert small.filters < full.filters


def test_a_kernel_row_longer_than_the_scratchpad_is_folded() -> None:
    patch = ConvShape(C=3, K=64, E=14, F=14, R=16, S=16, stride=16, images=1)
    one = pass_shape(eyeriss(), patch)
    assert (one.fold_high, one.channels_per_pe) == (2, 1)
    assert one.filters_per_pe * 8 <= 224


@pytest.mark.parametrize(
    ("density", "bits"),
    [(1.0, 16), (0.5, 11), (0.1, 3), (0.0, 1), (0.9, 16)],
)
def test_run_length_bits(density: float, bits: int) -> None:
    assert run_length_bits(density, value_bits=16, run_bits=5) == bits
    assert run_length_bits(density, value_bits=16, run_bits=0) == 16


def test_run_length_bits_against_an_encoder() -> None:
    rng = np.random.default_rng(2)
    values = rng.random(100_000) < 0.2
    pairs = run = 0
    for value in values:
        if value or run == 31:
            pairs, run = pairs + 1, 0
        else:
            run += 1
    exact = pairs * 64 / 3 / values.size
    assert exact <= run_length_bits(0.2, value_bits=16, run_bits=5) < exact + 1.05


# --- simulation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "strided", "grouped", "linear", "odd"])
def test_steps_are_the_sum_over_passes(name: str) -> None:
    trace = layer_trace(SHAPES[name])
    plan = next(iter(plans(trace, [0], design("eyeriss"))))
    gemm = trace.layer.gemm
    assert gemm is not None
    assert plan.tiles.totals()["mac_issued"] == gemm.macs
    assert int(plan.tiles.steps.sum()) * 168 >= gemm.macs


def test_gating_follows_the_inputs_and_masks_change_nothing() -> None:
    result = simulate(lower(network(SHAPES["pointwise"])), design("eyeriss"))
    first, last = result.levels[0].layers[0], result.levels[-1].layers[0]
    assert first.cycles == last.cycles
    assert first.counts["weight_spad_read"] == round(first.counts["mac_dense"] * 0.5) == last.counts["weight_spad_read"]
    assert (
        first.counts["mac_gated"]
        == last.counts["mac_gated"]
        == first.counts["mac_dense"] - first.counts["weight_spad_read"]
    )


def test_bad_designs() -> None:
    with pytest.raises(ValidationError):
        design("eyeriss", {"array.columns": 0})
    with pytest.raises(InputError, match="inputs = skip"):
        simulate(lower(network(SHAPES["conv"])), design("eyeriss", {"zero_handling.inputs": "skip"}))
    with pytest.raises(InputError, match="too large for any tiling"):
        simulate(
            lower(network(conv("wide", "input", C=4, H=9, W=400, K=4, R=3))),
            design("eyeriss", {"buffers.inputs.bytes": 512, "buffers.weights.bytes": 512}),
        )
