"""The tiling search: cheapest of everything it may choose from, within the buffers, never below the compulsory traffic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nestling.accel.loopnest import Blocking, Nest
from nestling.accel.mapping import Capacity, Tiling, choose_tiling, compulsory_bytes
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear

from .nest_oracle import nests, walk

ROOMY = Capacity(1 << 30, 1 << 30, 1 << 30)


def runs(blocks: int) -> list[int]:
    """Powers of two below the number of blocks, and all of them."""
    return [2**i for i in range(10) if 2**i < blocks] + [blocks]


def traffic(nest: Nest, tiling: Tiling) -> int:
    visited = walk(nest, tiling)
    return sum(visited.weight_bytes) + sum(visited.input_bytes)


def room(held: Sequence[set[tuple[object, int]]], sizes: Sequence[int]) -> int:
    """Bytes of buffer one operand needs: twice its largest part if parts follow each other, because the next one is fetched
    while this one computes."""
    changes = any(a != b for a, b in pairwise(held))
    return max(sizes) * (2 if changes else 1)


def fits(nest: Nest, tiling: Tiling, capacity: Capacity) -> tuple[bool, bool]:
    """Whether the weights' and the inputs' runs fit their buffers."""
    weights, inputs = (walk(nest, tiling).weights_held, walk(nest, tiling).inputs_held)
    return (
        room(weights, [sum(size for _, size in part) for part in weights]) <= capacity.weight_bytes,
        room(inputs, [len(part) for part in inputs]) <= capacity.input_bytes,  # type: ignore[arg-type]
    )


@settings(max_examples=150, deadline=None)
@given(nest=nests(), weights=st.integers(80, 500), inputs=st.integers(20, 250))
def test_cheapest_of_all_tilings_that_fit(nest: Nest, weights: int, inputs: int) -> None:
    capacity = Capacity(weights, inputs, 1 << 20)
    positions, depth = min(nest.blocking.m, nest.gemm.m), min(nest.blocking.k, nest.gemm.k)
    assume(2 * positions * depth <= inputs)
    chosen = choose_tiling(nest, capacity, output_bits=8)
    assert chosen.dram_bytes == traffic(nest, chosen)
    candidates = [
        Tiling(rows, columns, outer)
        for rows, columns, outer in product(runs(nest.row_blocks), runs(nest.column_blocks), (True, False))
    ]
    fitting = [fits(nest, t, capacity) for t in candidates]
    # An operand is streamed only if no run of it fits.
    assert chosen.weights_streamed == (not any(weights_fit for weights_fit, _ in fitting))
    assert chosen.inputs_streamed == (not any(inputs_fit for _, inputs_fit in fitting))
    allowed = [
        Tiling(t.rows, t.columns, t.weights_outer, chosen.weights_streamed, chosen.inputs_streamed)
        for t, (weights_fit, inputs_fit) in zip(candidates, fitting, strict=True)
        if (weights_fit or (chosen.weights_streamed and t.rows == 1))
        and (inputs_fit or (chosen.inputs_streamed and t.columns == 1))
    ]
    assert chosen.dram_bytes == min(traffic(nest, t) for t in allowed)


@settings(max_examples=80, deadline=None)
@given(nest=nests())
def test_everything_fits_a_roomy_buffer(nest: Nest) -> None:
    chosen = choose_tiling(nest, ROOMY, output_bits=8)
    input_bytes = len(set().union(*(range(a, b) for a, b in zip(*nest.footprint, strict=True)))) * nest.gemm.b
    assert chosen.dram_bytes == compulsory_bytes(nest) == int(nest.tile_weight_bytes.sum()) + input_bytes
    assert (chosen.rows, chosen.columns) == (nest.row_blocks, nest.column_blocks)
    assert chosen.weights_outer


@settings(max_examples=60, deadline=None)
@given(nest=nests(), weights=st.integers(80, 900), inputs=st.integers(320, 1500), more=st.integers(1, 900))
def test_larger_buffers_never_cost_traffic(nest: Nest, weights: int, inputs: int, more: int) -> None:
    small = choose_tiling(nest, Capacity(weights, inputs, 1 << 20), output_bits=8).dram_bytes
    for larger in (Capacity(weights + more, inputs, 1 << 20), Capacity(weights, inputs + more, 1 << 20)):
        assert compulsory_bytes(nest) <= choose_tiling(nest, larger, output_bits=8).dram_bytes <= small


def test_the_next_groups_operands_need_room_too() -> None:
    """Two groups whose operands fill the buffers exactly: the second group's arrive while the first computes, so one copy of
    everything is not enough, and each operand's run has to shrink to half."""
    layer = conv("c", "input", C=4, H=4, K=8, R=1, groups=2)
    assert layer.gemm is not None
    nest = Nest(layer, layer.gemm, Blocking(n=1, m=4, k=2), np.full((2, 4, 1), 10, np.int64), 8)
    chosen = choose_tiling(nest, Capacity(40, 32, 100), output_bits=8)
    assert (chosen.rows, chosen.columns) == (2, 2)
    assert choose_tiling(nest, Capacity(80, 64, 100), output_bits=8).dram_bytes == compulsory_bytes(nest)


@pytest.mark.parametrize(
    ("capacity", "name", "need", "have"),
    [
        (Capacity(19, 1000, 1000), "weight", 20, 19),
        (Capacity(1000, 47, 1000), "input", 48, 47),
        (Capacity(1000, 1000, 47), "output", 48, 47),
    ],
)
def test_layers_too_large_for_any_tiling(capacity: Capacity, name: str, need: int, have: int) -> None:
    layer = linear("fc", "input", features_in=6, features_out=3, rows=9)
    assert layer.gemm is not None
    nest = Nest(layer, layer.gemm, Blocking(n=3, m=4, k=6), np.full((1, 1, 1), 10, np.int64), 8)
    with pytest.raises(InputError) as caught:
        choose_tiling(nest, capacity, output_bits=32)
    assert str(caught.value) == (
        f"layer 'fc' is too large for any tiling: one tile needs {need} bytes of the {name} buffer, which has {have}; "
        "enlarge that buffer or shrink the array in the design file"
    )
    assert choose_tiling(nest, Capacity(20, 48, 48), output_bits=32).dram_bytes > 0
