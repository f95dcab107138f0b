"""Random convolutions for the plane kernels, and what they must give: float64, with a bound from the summation length."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from nestling.sim.executor.simd.arrangement import layouts
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.product import Choice, Product
from nestling.sim.executor.simd.team import Team
from nestling.workloads.layers import Layer, output_size
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import Network

UNIT_ROUNDOFF = 2.0**-24
Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """One convolution with everything that a kernel takes. ``low``, ``high``: the clamp."""

    layer: Layer
    weights: NestedWeights
    x: Array
    bias: Array
    residual: Array | None
    low: float
    high: float

    def layouts(self) -> tuple[PlaneLayout, PlaneLayout]:
        """Source and target, as a network of this layer alone arranges them."""
        network = Network("one", (self.layer,), weights={self.layer.name: self.weights})
        found = layouts(network, self.x.shape)
        return found["input"], found[self.layer.name]

    def expected(self, level: int, *, dense: bool = False) -> tuple[Array, Array]:
        """Outputs in float64, and how far float32 sums in any order may be off (Higham, section 3.1).

        Pruned weights meet no input; ``dense``: they are zeros that do.
        """
        layer, weights = self.layer, self.weights.dense(level).astype(np.float64)
        windows = self._windows(self.x.astype(np.float64))
        groups, rows = layer.groups, layer.K // layer.groups
        total = np.zeros((layer.K, layer.P, layer.Q))
        magnitude = np.zeros_like(total)
        per_group = layer.C // groups
        for k in range(layer.K):
            part = windows[k // rows * per_group : (k // rows + 1) * per_group]
            kept = np.ones(weights[k].shape, bool) if dense else self.weights.mask(level)[k]
            with np.errstate(invalid="ignore"):
                products = weights[k][kept][:, None, None] * part[kept]
                total[k], magnitude[k] = products.sum(axis=0), np.abs(products).sum(axis=0)
        terms = weights[0].size + 2
        added = self.bias.astype(np.float64)[:, None, None] + (0 if self.residual is None else self.residual)
        magnitude += np.abs(self.bias)[:, None, None] + (0 if self.residual is None else np.abs(self.residual))
        gamma = terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)
        with np.errstate(invalid="ignore"):
            return np.minimum(np.maximum(total + added, self.low), self.high), gamma * magnitude

    def _windows(self, x: Array) -> Array:
        """Operands (C, R, S, P, Q), zeros outside the input."""
        layer = self.layer
        reach = (max(layer.P, layer.Q) - 1) * layer.stride + (max(layer.R, layer.S) - 1) * layer.dilation + 1
        padded = np.zeros((layer.C, reach + layer.padding + layer.H, reach + layer.padding + layer.W))
        padded[:, layer.padding : layer.padding + layer.H, layer.padding : layer.padding + layer.W] = x
        out = np.empty((layer.C, layer.R, layer.S, layer.P, layer.Q))
        for r in range(layer.R):
            for s in range(layer.S):
                top, left = r * layer.dilation, s * layer.dilation
                rows = slice(top, top + (layer.P - 1) * layer.stride + 1, layer.stride)
                columns = slice(left, left + (layer.Q - 1) * layer.stride + 1, layer.stride)
                out[:, r, s] = padded[:, rows, columns]
        return out


@st.composite
def conv_layers(draw: st.DrawFn) -> Layer:
    """Strided, padded, dilated, grouped, depthwise, 1x1, rectangular; sizes that divide nothing."""
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    c, k = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    r, s = draw(st.sampled_from(((1, 1), (1, 1), (3, 3), (2, 3), (5, 5), (7, 7))))
    stride, padding, dilation = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
    h = max(1, (r - 1) * dilation + 1 - 2 * padding) + draw(st.integers(0, 14))
    w = max(1, (s - 1) * dilation + 1 - 2 * padding) + draw(st.integers(0, 40))
    size = {"stride": stride, "padding": padding, "dilation": dilation}
    p, q = output_size(h, kernel=r, **size), output_size(w, kernel=s, **size)
    return Layer(name="c", op="conv", C=c, H=h, W=w, K=k, P=p, Q=q, R=r, S=s, groups=groups, sources=("input",), **size)


def make_case(
    layer: Layer,
    seed: int,
    *,
    levels: int = 1,
    density: float = 0.5,
    whole: bool = False,
    residual: bool = False,
    clamp: tuple[float, float] = (-np.inf, np.inf),
) -> Case:
    """Random values; ``whole``: small whole numbers, whose sums are exact. Some rows and some levels are empty."""
    random = np.random.default_rng(seed)

    def values(shape: tuple[int, ...]) -> Array:
        if whole:
            return random.integers(-8, 9, shape).astype(np.float32)
        return random.standard_normal(shape).astype(np.float32)

    keep = np.where(random.random(layer.weight_shape) < density, random.integers(1, levels + 1, layer.weight_shape), 0)
    keep[random.random(layer.K) < 0.2] = 0
    keep[keep == random.integers(1, levels + 2)] = 0  # often an empty stream
    weights = values(layer.weight_shape)
    weights[weights == 0] = 1
    nested = NestedWeights(values=weights, keep=keep.astype(np.uint8), levels=levels, name=layer.name)
    out = (layer.K, layer.P, layer.Q)
    return Case(
        layer,
        nested,
        values((layer.C, layer.H, layer.W)),
        values((layer.K,)),
        values(out) if residual else None,
        *clamp,
    )


@st.composite
def ungrouped_cases(draw: st.DrawFn, level_counts: tuple[int, ...]) -> tuple[Case, int]:
    """Cases with one group of channels, and one of their levels."""
    levels = draw(st.sampled_from(level_counts))
    case = make_case(
        draw(conv_layers().filter(lambda layer: layer.groups == 1)),
        draw(st.integers(0, 9999)),
        levels=levels,
        density=draw(st.sampled_from((0.0, 0.3, 1.0))),
        residual=draw(st.booleans()),
        clamp=draw(st.sampled_from(((-np.inf, np.inf), (0.0, 6.0)))),
    )
    return case, draw(st.integers(0, levels - 1))


def buffer_of(layout: PlaneLayout, tensor: Array) -> Array:
    """Planes that hold ``tensor``."""
    buffer = layout.new()
    layout.view(buffer)[:] = tensor
    return buffer


def only_interior(layout: PlaneLayout, buffer: Array) -> bool:
    """True if everything around the tensor is still zero."""
    copy = buffer.copy()
    layout.view(copy)[:] = 0
    return not copy.any()


def run_choice(case: Case, choice: Choice, *, level: int, threads: int = 1) -> Array:
    """Output of a product of one choice; the halo of its planes has stayed zero."""
    source, target = case.layouts()
    product = Product(case.layer, case.weights, source, target, choice=choice, threads=threads)
    out = target.new()
    call = product.call(
        operands_in_planes(case, product),
        out,
        level=level,
        bias=case.bias,
        clamp=(np.float32(case.low), np.float32(case.high)),
        residual=None if case.residual is None else buffer_of(target, case.residual),
        works=[product.new_work() for _ in range(threads)],
    )
    Team(threads).run(call)
    assert only_interior(target, out)
    return np.array(target.view(out))


def check_rounding(drawn: tuple[Case, Choice, int]) -> None:
    """The product of a choice at a level is within the rounding of its sums."""
    case, choice, level = drawn
    expected, bound = case.expected(level)
    assert (np.abs(run_choice(case, choice, level=level) - expected) <= bound).all()


def check_exact(drawn: tuple[Case, Choice, int]) -> None:
    """The product of whole numbers is exact."""
    case, choice, level = drawn
    np.testing.assert_array_equal(run_choice(case, choice, level=level), case.expected(level)[0])


def check_threads(drawn: tuple[Case, Choice, int], threads: int) -> None:
    """Every number of threads gives the same bits."""
    case, choice, level = drawn
    alone = run_choice(case, choice, level=level)
    np.testing.assert_array_equal(run_choice(case, choice, level=level, threads=threads), alone)


def check_wrong_value(drawn: tuple[Case, Choice, int], value: float, place: int) -> None:
    """NaN or infinity at one place of the input reaches what it reaches in float64."""
    case, choice, level = drawn
    case.x.reshape(-1)[place % case.x.size] = value
    expected, _ = case.expected(level)
    found = run_choice(case, choice, level=level)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(found[np.isinf(expected)], expected[np.isinf(expected)])


def operands_in_planes(case: Case, product: Product) -> Array:
    """The case's input in planes, split into phases where the product needs it."""
    x = buffer_of(product.source, case.x)
    if not product.packs:
        return x
    phases = product.planes.new()
    product.packing(x, phases).run(0)
    return phases


def outputs_on(processor: str, script: str) -> str:
    """What a script writes in a fresh process whose kernels are compiled for "generic" (SSE2) or "haswell" (AVX2)."""
    features = {"generic": "", "haswell": "+avx2,+fma"}[processor]
    chosen = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    command, folder = [sys.executable, "-c", script], Path(__file__).parents[1]
    done = subprocess.run(command, check=True, env=chosen, cwd=folder, capture_output=True, text=True, timeout=200)
    return done.stdout
