"""DianNao and DaDianNao: cycles in closed form, tiles that fit small buffers, work that balances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nestling.accel.arrays import ARRAYS
from nestling.accel.arrays.bricks import brick_layout, window_options
from nestling.accel.arrays.diannao import DianNaoArray, dense_cycles
from nestling.accel.arrays.operands import conv_view
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer

from .spine_cases import SHAPES, design, layer_trace, network


def trees(*, tiles: int = 1, outputs: range = 16, inputs: int = 16) -> DianNaoArray:
    return DianNaoArray(
        kind="diannao", tiles=tiles, outputs=outputs, inputs=inputs, weight_bits=8, activation_bits=8,
        accumulator_bits=24,
    )  # fmt: skip


def cycles_by_hand(layer: Layer, array: Any) -> int:
    """Walk the loops: windows, taps, bricks of channels, blocks of filters; depthwise groups side by side."""
    view = conv_view(layer)
    positions = range(view.out_height * view.out_width)
    groups = range(view.groups)
    if view.depthwise:
        together = max(1, min(array.inputs, array.outputs // view.group_filters))
        groups = range(0, view.groups, together)
    blocks = range(0, view.group_filters, array.filters)
    bricks = range(0, view.group_channels, array.inputs)
    return sum(1 for _ in groups for _ in positions for _ in range(view.taps) for _ in bricks for _ in blocks)


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("sizes", [(1, 16, 16), (4, 4, 8), (2, 3, 5)])
def test_cycles_are_those_of_the_loops(name: str, sizes: tuple[int, int, int]) -> None:
    array = trees(tiles=sizes[0], outputs=sizes[1], inputs=sizes[2])
    assert dense_cycles(conv_view(SHAPES[name]), array) == cycles_by_hand(SHAPES[name], array)


@pytest.mark.parametrize("variant", ["diannao", "dadiannao"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_tiles_add_up_to_the_layer(variant: str, name: str) -> None:
    described, trace = load_design(variant), layer_trace(SHAPES[name])
    for plan in ARRAYS["diannao"].plans(trace, range(trace.levels), described):
        assert plan.tiles.steps.sum() == dense_cycles(conv_view(SHAPES[name]), described.array)
        assert plan.tiles.actions["mac_issued"].sum() == SHAPES[name].gemm.macs


def test_bricks_cover_the_reduction() -> None:
    bricks = brick_layout(conv_view(SHAPES["pointwise"]), lanes=16, filters=16).in_tiles(1)
    assert bricks.depth().tolist() == [16, 1]
    odd = brick_layout(conv_view(SHAPES["odd"]), lanes=4, filters=16).in_tiles(7)
    assert odd.bricks().tolist() == [7, 7, 7, 7, 2]  # 15 taps of two bricks
    assert odd.depth().sum() == SHAPES["odd"].gemm.k


def test_depthwise_groups_share_the_lanes() -> None:
    bricks = brick_layout(conv_view(SHAPES["depthwise"]), lanes=4, filters=16)
    assert bricks.sets == 3
    assert np.flatnonzero(bricks.closes_set()).tolist() == [3, 7, 9]


def test_nonzeros_are_those_of_the_mask() -> None:
    trace = layer_trace(SHAPES["grouped"])
    bricks = brick_layout(conv_view(SHAPES["grouped"]), lanes=3, filters=4).in_tiles(4)
    found = bricks.nonzeros(trace, 4)
    assert found.shape == (4, 3, 2, 5)  # levels, groups, blocks of 4 of 6 filters, 9 taps x 2 bricks in fours
    assert np.array_equal(found.sum(axis=(1, 2, 3)), trace.nonzeros)
    kept = (trace.keep > 2).reshape(3, 6, 4, 9)  # first tile: taps 0 and 1, all channels
    assert found[2, 1, 0, 0] == kept[1, :4, :, :2].sum()


def test_levels_cost_the_same_on_a_dense_array() -> None:
    result = simulate(lower(network(SHAPES["conv"])), load_design("diannao"))
    assert len({level.cycles for level in result.levels}) == 1
    assert len({level.energy_j for level in result.levels}) == 1


def test_buffer_without_room_for_a_tile_is_an_error() -> None:
    tiny = design("diannao", {"buffers.outputs.bytes": 512, "array.outputs": 1024, "array.tiles": 4})
    with pytest.raises(InputError, match="too large for any tiling"):
        simulate(lower(network(SHAPES["pointwise"].__class__(
            name="wide", op="conv", C=4, H=4, W=4, K=400, P=4, Q=4, sources=("input",)
        ))), tiny)  # fmt: skip


def test_skipping_is_refused() -> None:
    with pytest.raises(InputError, match=r"zero_handling.weights = skip"):
        simulate(lower(network(SHAPES["conv"])), design("diannao", {"zero_handling.weights": "skip"}))


def test_window_options_reach_the_most_that_fit() -> None:
    assert window_options(100, 12) == [1, 2, 4, 8, 12]
    assert window_options(1, 12) == [1]
    assert window_options(10**6, 10**6)[-1] == 256
