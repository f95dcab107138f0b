"""The loop nest: block sizes, exact splits, and input footprints against the positions a convolution really touches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nestling.accel.loopnest import Blocking, Nest, block_sizes, ceil_div, split_bytes
from nestling.workloads.layers import Layer, linear, output_size

from .spine_cases import dilated


def nest_of(layer: Layer, m: int, *, activation_bits: int = 8) -> Nest:
    assert layer.gemm is not None
    weights = np.ones((layer.gemm.b, layer.gemm.n, 1), np.int64)
    return Nest(layer, layer.gemm, Blocking(n=1, m=m, k=layer.gemm.k), weights, activation_bits)


def rows_touched(layer: Layer, positions: range) -> tuple[set[int], set[int]]:
    """Input rows inside the image that these output positions read, and all rows from the first tap to the last."""
    taps = {
        (position // layer.Q) * layer.stride - layer.padding + r * layer.dilation
        for position in positions
        for r in range(layer.R)
    }
    image = set(range(layer.H))
    return taps & image, set(range(min(taps), max(taps) + 1)) & image


@st.composite
def convolutions(draw: st.DrawFn) -> Layer:
    shape = {
        "H": draw(st.integers(1, 14)),
        "R": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 4)),
        "padding": draw(st.integers(0, 4)),
        "dilation": draw(st.integers(1, 3)),
    }
    fits = output_size(
        shape["H"], kernel=shape["R"], stride=shape["stride"], padding=shape["padding"], dilation=shape["dilation"]
    )
    assume(fits > 0)
    return dilated("c", C=draw(st.integers(1, 3)), K=2, **shape)


@settings(max_examples=150, deadline=None)
@given(layer=convolutions(), m=st.integers(1, 40), bits=st.sampled_from([8, 4, 12]))
def test_footprint_spans_the_rows_that_are_touched(layer: Layer, m: int, bits: int) -> None:
    assert layer.gemm is not None
    start, stop = nest_of(layer, m, activation_bits=bits).footprint
    line_bits = layer.W * layer.C * bits
    for block in range(ceil_div(layer.gemm.m, m)):
        touched, span = rows_touched(layer, range(block * m, min(layer.gemm.m, (block + 1) * m)))
        assert touched <= span
        if layer.dilation == 1 and layer.stride <= layer.R:  # windows without gaps: nothing is fetched in vain
            assert touched == span
        if span:
            expected = (-(-min(span) * line_bits // 8), -(-(max(span) + 1) * line_bits // 8))
            assert (start[block], stop[block]) == expected
        else:  # only padding is read
            assert start[block] == stop[block]


@settings(max_examples=150, deadline=None)
@given(layer=convolutions(), m=st.integers(1, 40), columns=st.integers(1, 9))
def test_input_bytes_fetch_each_row_once_per_run(layer: Layer, m: int, columns: int) -> None:
    nest = nest_of(layer, m)
    start, stop = nest.footprint
    expected = []
    held: set[int] = set()
    for block in range(nest.column_blocks):
        if block % columns == 0:
            held = set()
        needed = set(range(start[block], stop[block])) - held
        expected.append(len(needed))
        held |= needed
    np.testing.assert_array_equal(nest.input_bytes(columns), expected)


def test_strided_rows_between_blocks_are_not_fetched() -> None:
    """A 1x1 convolution of stride 4 that computes one output row per block reads every fourth input row."""
    layer = dilated("c", C=2, H=12, K=1, R=1, stride=4, padding=0, dilation=1)
    nest = nest_of(layer, layer.Q)
    assert nest.input_bytes(nest.column_blocks).tolist() == [24, 24, 24]


@given(rows=st.integers(1, 30), k=st.integers(1, 20), m=st.integers(1, 12), bits=st.sampled_from([4, 8]))
def test_products_read_their_rows_once(rows: int, k: int, m: int, bits: int) -> None:
    nest = nest_of(linear("l", "input", features_in=k, features_out=1, rows=rows), m, activation_bits=bits)
    for columns in (1, 2, nest.column_blocks):
        assert nest.input_bytes(columns).sum() == -(-rows * k * bits // 8)


@given(total=st.integers(1, 500), block=st.integers(1, 80))
def test_block_sizes(total: int, block: int) -> None:
    covered = [range(i, min(total, i + block)) for i in range(0, total, block)]
    assert block_sizes(total, block).tolist() == [len(x) for x in covered]


@settings(max_examples=200, deadline=None)
@given(
    total=st.integers(0, 1 << 61),
    shares=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=30),
)
def test_split_is_exact_fair_and_in_proportion(total: int, shares: list[int]) -> None:
    parts = split_bytes(total, np.array(shares, np.int64))
    assert sum(int(x) for x in parts) == total
    assert parts.min() >= 0
    weights = shares if any(shares) else [1] * len(shares)
    whole = sum(weights)
    for part, share in zip(parts.tolist(), weights, strict=True):
        assert abs(part * whole - total * share) < whole  # within one byte of the exact share
        assert share or part == 0


def test_split_keeps_its_shape() -> None:
    assert split_bytes(100, np.ones((2, 3, 4), np.int64)).shape == (2, 3, 4)
    assert split_bytes(5, np.empty((0,), np.int64)).size == 0


@pytest.mark.parametrize("total", [(1 << 31) - 1, (1 << 45) + 7])
def test_split_does_not_overflow(total: int) -> None:
    shares = np.full(1000, 1 << 40, np.int64)
    parts = split_bytes(total, shares)
    assert sum(parts.tolist()) == total
    assert parts.max() - parts.min() <= 1
