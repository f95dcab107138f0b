"""Input operands: drawn or sampled, and what they imply for the work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nestling.accel.arrays.operands import (
    both_nonzero,
    conv_view,
    input_codes,
    input_nonzero_macs,
    input_pattern,
    require_zero_handling,
    tap_nonzeros,
)
from nestling.accel.strict import ZeroHandling
from nestling.traces.trace import Activations, LayerTrace
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, design, layer_trace

NAMES = list(SHAPES)


def with_density(trace: LayerTrace, density: float) -> LayerTrace:
    return replace(trace, activations=Activations(density=density))


@pytest.mark.parametrize("name", NAMES)
def test_view_has_the_layers_work(name: str) -> None:
    layer = SHAPES[name]
    view = conv_view(layer)
    positions = view.out_height * view.out_width
    assert positions * view.filters * view.group_channels * view.taps == layer.gemm.macs


def test_drawn_input_has_the_stated_density_and_never_changes() -> None:
    trace = with_density(layer_trace(SHAPES["linear"]), 0.3)
    codes = input_codes(trace)
    assert np.array_equal(codes, input_codes(trace))
    assert np.array_equal(codes != 0, input_pattern(trace))
    assert codes.min() >= 0
    assert codes.max() <= 127
    assert abs((codes != 0).mean() - 0.3) < 0.03


@pytest.mark.parametrize(("density", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_extreme_densities(density: float, share: float) -> None:
    assert input_pattern(with_density(layer_trace(SHAPES["conv"]), density)).mean() == share


def test_sample_is_used_first_image_first() -> None:
    trace = layer_trace(SHAPES["conv"])
    sample = np.arange(2 * 6 * 9 * 9, dtype=np.int16).reshape(2, 6, 9, 9) % 5
    trace = replace(trace, activations=Activations(density=0.8, sample=sample))
    assert np.array_equal(input_codes(trace), sample[0])
    assert np.array_equal(input_pattern(trace), sample[0] != 0)


def test_sample_of_a_product_is_turned_into_channels() -> None:
    trace = layer_trace(SHAPES["matmul"])
    sample = np.random.default_rng(0).integers(-3, 4, (1, 3, 18, 21)).astype(np.int16)
    codes = input_codes(replace(trace, activations=Activations(density=1.0, sample=sample)))
    assert codes.shape == (63, 18, 1)
    assert codes[21 + 4, 7, 0] == sample[0, 1, 7, 4]


def test_sample_of_another_shape_is_refused() -> None:
    trace = layer_trace(SHAPES["conv"])
    wrong = replace(trace, activations=Activations(density=1.0, sample=np.ones((1, 6, 9, 8), np.int16)))
    with pytest.raises(InputError, match=r"layer 'conv': .* must be \(images, 6, 9, 9\)"):
        input_pattern(wrong)


@pytest.mark.parametrize("name", ["strided", "dilated", "depthwise", "grouped", "odd", "matmul", "linear"])
def test_tap_counts_equal_counting_every_product(name: str) -> None:
    layer = SHAPES[name]
    trace = with_density(layer_trace(layer), 0.6)
    view, pattern, gemm = conv_view(layer), input_pattern(with_density(trace, 0.6)), layer.gemm
    taps = tap_nonzeros(pattern, view)
    expected = np.zeros(view.channels * view.taps, dtype=np.int64)
    for c in range(view.channels):
        for r in range(view.taps_high):
            for s in range(view.taps_wide):
                for p in range(view.out_height):
                    for q in range(view.out_width):
                        x = p * view.stride - view.padding + r * view.dilation
                        y = q * view.stride - view.padding + s * view.dilation
                        inside = 0 <= x < view.height and 0 <= y < view.width
                        index = (c * view.taps_high + r) * view.taps_wide + s
                        expected[index] += bool(inside and pattern[c, x, y])
    assert np.array_equal(taps, expected)
    if trace.keep is not None:
        kept = (trace.keep > 1).reshape(gemm.b, gemm.n, gemm.k)
        assert both_nonzero(trace, 1, taps) == (kept * taps.reshape(gemm.b, 1, gemm.k)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_zero_where_input_zeros_are_assumed(name: str) -> None:
    """At density 1 only padding is zero: counted on a map full of ones."""
    trace = with_density(layer_trace(SHAPES[name]), 1.0)
    view = conv_view(trace.layer)
    taps = tap_nonzeros(np.ones((view.channels, view.height, view.width), dtype=np.bool_), view)
    for level in (None, 0, trace.levels - 1):
        expected = both_nonzero(trace, -1 if level is None else level, taps)
        assert input_nonzero_macs(trace, level) == expected
        assert input_nonzero_macs(with_density(trace, 0.25), level) == round(expected * 0.25)


def test_zero_handling_an_array_cannot_do_is_refused() -> None:
    wrong = design("scnn", {"zero_handling.weights": "gate"})
    with pytest.raises(InputError, match=r"zero_handling.weights = gate, but arrays of kind 'scnn' can only do skip"):
        require_zero_handling(wrong, weights=(ZeroHandling.SKIP,), inputs=(ZeroHandling.SKIP,))
