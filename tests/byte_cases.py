"""Random int8 convolutions and what they must give: int64 arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from nestling.sim.executor.simd.arrangement import layouts
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.workloads.layers import Layer
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import Network

from .simd_cases import conv_layers

Array = np.ndarray
#: Compiled widths that the everyday run covers.
WIDTHS = (1, 4, 7)


@dataclass(frozen=True)
class ByteCase:
    """One int8 convolution with everything that a kernel takes."""

    layer: Layer
    weights: NestedWeights
    x: Array
    bias: Array
    zero: int

    def layouts(self) -> tuple[PlaneLayout, PlaneLayout]:
        network = Network("one", (self.layer,), weights={self.layer.name: self.weights})
        found = layouts(network, self.x.shape)
        return found["input"], found[self.layer.name]

    def sums(self, level: int) -> Array:
        """bias + W (x - zero) in int64; padding is the zero point."""
        layer = self.layer
        far = (max(layer.R, layer.S) - 1) * layer.dilation + max(layer.P, layer.Q) * layer.stride
        padded = np.zeros((layer.C, far + layer.H + layer.padding, far + layer.W + layer.padding), np.int64)
        inside = slice(layer.padding, layer.padding + layer.H), slice(layer.padding, layer.padding + layer.W)
        padded[:, *inside] = self.x.astype(np.int64) - self.zero
        weights = self.weights.dense(level).astype(np.int64).reshape(layer.K, layer.C, layer.R, layer.S)
        total = np.zeros((layer.K, layer.P, layer.Q), np.int64) + self.bias.astype(np.int64)[:, None, None]
        for r in range(layer.R):
            for s in range(layer.S):
                down, right = r * layer.dilation, s * layer.dilation
                part = padded[:, down : down + layer.P * layer.stride : layer.stride]
                part = part[:, :, right : right + layer.Q * layer.stride : layer.stride]
                total += np.einsum("kc,cpq->kpq", weights[:, :, r, s], part)
        return total


def byte_case(layer: Layer, seed: int, *, levels: int = 1, density: float = 0.5, zero: int = 0) -> ByteCase:
    random = np.random.default_rng(seed)
    shape = layer.weight_shape
    keep = np.where(random.random(shape) < density, random.integers(1, levels + 1, shape), 0).astype(np.uint8)
    extremes = np.array([-128, -128, 127, -1, 1, 0])
    values = np.where(random.random(shape) < 0.3, random.choice(extremes, shape), random.integers(-128, 128, shape))
    x = random.integers(-128, 128, (layer.C, layer.H, layer.W)).astype(np.int8)
    x[random.random(x.shape) < 0.3] = -128
    bias = random.integers(-(2**20), 2**20, layer.K).astype(np.int32)
    nested = NestedWeights(values=values.astype(np.float32), keep=keep, levels=levels, name="w")
    return ByteCase(layer, nested, x, bias, zero)


@st.composite
def byte_cases(draw: st.DrawFn) -> tuple[ByteCase, int, int]:
    layer = draw(conv_layers().filter(lambda one: one.groups == 1))
    levels = draw(st.sampled_from((1, 2, 5)))
    density = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    zero = draw(st.sampled_from((0, -128, 17)))
    case = byte_case(layer, draw(st.integers(0, 9999)), levels=levels, density=density, zero=zero)
    usable = [v for v in case.layouts()[1].vectors if v in WIDTHS]
    return case, draw(st.sampled_from(usable or list(case.layouts()[1].vectors[:1]))), draw(st.integers(0, levels - 1))
