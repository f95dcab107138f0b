"""A SmartDeal array in plain loops over outputs, rows and weights: an independent reading of its rules for tiny layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from nestling.traces.trace import LayerTrace
from nestling.workloads.layers import CONV_OPS


def booth_digits(value: int, bits: int) -> int:
    """Non-zero digits of the radix-4 recoding of a two's complement number, pair of bits by pair of bits with a carry."""
    digits, left, carry, total = 0, value, 0, 0
    for i in range(bits // 2 + 2):
        pair = left % 4
        digit = {0: 0, 1: 1, 2: -2, 3: -1}[pair] + carry
        carry = int(pair >= 2)
        digits += digit != 0
        total += digit * 4**i
        left //= 4
    assert total == value
    return digits


def terms_of(value: int, array: Any) -> int:
    if array.booth:
        return booth_digits(value, array.activation_bits)
    return bin(abs(value)).count("1")


class Shape:
    """A layer as (channels, rows, columns of the map) with the line direction along the columns."""

    def __init__(self, trace: LayerTrace, codes: np.ndarray) -> None:
        layer, gemm = trace.layer, trace.layer.gemm
        assert gemm is not None
        self.groups, self.filters = gemm.b, gemm.n
        keep = trace.keep if trace.keep is not None else np.full((gemm.b * gemm.n, gemm.k), trace.levels, np.uint8)
        if layer.op in CONV_OPS:
            kernel = keep.reshape(layer.K, layer.C // layer.groups, layer.R, layer.S)
            self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
            self.height, self.width = layer.P, layer.Q
            if layer.S == 1 < layer.R:
                kernel, codes = kernel.transpose(0, 1, 3, 2), codes.transpose(0, 2, 1)
                self.height, self.width = self.width, self.height
        else:
            kernel = keep.reshape(gemm.b * gemm.n, gemm.k, 1, 1)
            codes = codes.transpose(0, 2, 1)
            self.stride, self.padding, self.dilation, self.height, self.width = 1, 0, 1, 1, gemm.m
        pad = self.padding
        self.codes = np.pad(codes, ((0, 0), (pad, pad), (pad, pad)))
        self.channels, self.high, self.wide = kernel.shape[1:]
        self.kernel = kernel.reshape(self.groups, self.filters, *kernel.shape[1:])
        self.one_by_one = self.high == self.wide == 1
        self.depthwise = self.channels == 1 and self.groups > 1

    def rows(self) -> list[list[tuple[int, int, int]]]:
        """Weights (channel, r, s) of every coefficient row."""
        if self.one_by_one:
            return [[(c, 0, 0) for c in range(i, min(i + 3, self.channels))] for i in range(0, self.channels, 3)]
        return [[(c, r, s) for s in range(self.wide)] for c in range(self.channels) for r in range(self.high)]


def layer_by_hand(trace: LayerTrace, codes: np.ndarray, array: Any, *, level: int) -> Counter[str]:
    """Cycles and counts of a plain layer (no coefficients, the reduction in one tile)."""
    shape, total = Shape(trace, codes), Counter[str]()
    together = max(1, array.dim_m // shape.filters)
    lines = 1 if shape.depthwise and not array.compact_models else array.dim_c
    if array.compact_models and shape.one_by_one and shape.height == 1 and 2 * shape.width <= array.dim_f:
        lines *= 2
    for first in range(0, shape.groups, together):
        for block in range(0, shape.filters, array.dim_m):
            for e in range(shape.height):
                for f in range(0, shape.width, array.dim_f):
                    run = range(f, min(f + array.dim_f, shape.width))
                    slices = range(block, min(block + array.dim_m, shape.filters))
                    done = [
                        _tile(shape, array, (g, slices, e, run), lines=lines, level=level, total=total)
                        for g in range(first, min(first + together, shape.groups))
                    ]
                    total["cycles"] += max(done)
    return total


def _tile(shape: Shape, array: Any, where: Any, *, lines: int, level: int, total: Counter[str]) -> int:
    g, slices, e, run = where
    costs = []
    for row in shape.rows():
        kept = [n for n in slices if any(shape.kernel[g, n][w] > level for w in row)]
        cost = _pair(shape, array, (g, e, run), row=row, kept=(kept, slices), total=total)
        if cost and (kept or not array.index_selector_weights):
            costs.append(cost)
    costs.sort(reverse=True)
    return sum(costs[::lines])


def _pair(shape: Shape, array: Any, where: Any, *, row: Any, kept: Any, total: Counter[str]) -> int:
    """Cycles of a coefficient row with its activation rows; counts what is issued for the filters that take part."""
    g, e, run = where
    filters = kept[0] if array.index_selector_weights else list(kept[1])
    cost, channels = Counter[int](), {c for c, _, _ in row}
    loose: Counter[int] = Counter()
    for c, r, s in row:
        line = shape.codes[g * shape.channels + c, e * shape.stride + r * shape.dilation]
        if array.index_selector_activations and not line.any():
            continue
        values = [int(line[q * shape.stride + s * shape.dilation]) for q in run]
        terms = [terms_of(v, array) if array.bit_serial else array.activation_bits for v in values]
        total["terms"] += sum(terms) * len(filters)
        total["issued"] += sum(v != 0 or not array.bit_serial for v in values) * len(filters)
        cost[c] += max(1, *terms)
        loose[c] += sum(terms)
        total["weights"] += len(filters) if len(filters) == len(kept[0]) else 0
    if not array.synchronised and array.bit_serial:
        for c in channels & set(cost):
            cost[c] = max(sum(1 for x in row if x[0] == c), -(-loose[c] // len(run)))
    return sum(cost.values())
