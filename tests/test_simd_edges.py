"""What stands between products: pooling, phases and activations, against float64 and plain NumPy; on other processors too."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd import gate_kernel, packing_kernel, pooling_kernel
from nestling.sim.executor.simd.phases import phases_of
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.pooling import Pooling
from nestling.sim.executor.simd.product import phase_layout
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.layers import Layer, output_size
from scipy.special import ndtr

from .simd_cases import buffer_of, only_interior

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
X86 = platform.machine().lower() in ("x86_64", "amd64")
TINY = np.finfo(np.float32).tiny
#: Kind -> largest error in units of the last place, from the roundings on the way: exp 1.5, one or two sums, a division
#: and up to two products; for gelu also a polynomial and its argument.
ULPS = {gate_kernel.SILU: 4, gate_kernel.SIGMOID: 4, gate_kernel.TANH: 4, gate_kernel.GELU: 8}


def exact(kind: int, x: np.ndarray) -> np.ndarray:
    d = x.astype(np.float64)
    z = np.exp(-np.abs(d))
    sigmoid = np.where(d >= 0, 1, z) / (1 + z)
    forms = {
        gate_kernel.SILU: d * sigmoid,
        gate_kernel.SIGMOID: sigmoid,
        gate_kernel.TANH: np.tanh(d),
        gate_kernel.GELU: d * ndtr(d),
    }
    return forms[kind]


def gated(kind: int, x: np.ndarray) -> np.ndarray:
    layout = PlaneLayout(*x.shape, 1)
    planes = buffer_of(layout, x)
    gate_kernel.gate(np.array([0, x.shape[0]]), planes, layout.dimensions, layout.masks(1), kind)
    assert only_interior(layout, planes)
    return np.array(layout.view(planes))


def samples() -> np.ndarray:
    """Numbers of every size, most of them where the functions bend; (channels, 31, 37)."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 1 << 32, 31 * 37 * 20, dtype=np.uint64).astype(np.uint32).view(np.float32)
    parts = [random.normal(0, 1, 31 * 37 * 20), random.uniform(-20, 20, 31 * 37 * 20), np.linspace(-100, 100, 31 * 37)]
    parts.append(np.where(np.isfinite(bits) & (np.abs(bits) >= TINY), bits, 0))
    return np.concatenate(parts).astype(np.float32).reshape(-1, 31, 37)


@pytest.mark.parametrize("kind", ULPS)
def test_activations_are_a_few_units_off(kind: int) -> None:
    x = samples()
    expected, found = exact(kind, x), gated(kind, x)
    normal = np.abs(expected) >= 2 * TINY * np.maximum(1, np.abs(x))  # smaller results may be zero
    unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    error = np.abs(found - expected)
    assert (error <= ULPS[kind] * unit)[normal].all()
    assert (error <= 2 * TINY * np.maximum(1, np.abs(x)))[~normal].all()


@pytest.mark.parametrize("kind", ULPS)
def test_activations_of_infinity_and_nan(kind: int) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 100, -100], np.float32)
    found = gated(kind, x.reshape(1, 1, -1)).reshape(-1)
    lowest = {gate_kernel.SIGMOID: 0.0, gate_kernel.TANH: -1.0}.get(kind, np.nan)  # -inf * 0, as the formula says
    highest = 1 if kind in (gate_kernel.SIGMOID, gate_kernel.TANH) else np.inf
    np.testing.assert_array_equal(found[:3], np.array([np.nan, highest, lowest], np.float32))
    np.testing.assert_allclose(found[3:], exact(kind, x[3:]), rtol=1e-6, atol=100 * TINY)


@st.composite
def windows(draw: st.DrawFn, *, op: str) -> Layer:
    """Poolings and strided convolutions whose sizes divide nothing."""
    r, s = draw(st.sampled_from(((1, 1), (2, 2), (3, 3), (2, 3), (5, 4))))
    stride, padding = draw(st.integers(1, 4)), draw(st.integers(0, (min(r, s)) // 2))
    dilation = draw(st.integers(1, 2))
    h = (r - 1) * dilation + 1 + draw(st.integers(0, 12))
    w = (s - 1) * dilation + 1 + draw(st.integers(0, 70))
    size = {"stride": stride, "padding": padding, "dilation": dilation}
    p, q = output_size(h, kernel=r, **size), output_size(w, kernel=s, **size)
    return Layer(name="w", op=op, C=3, H=h, W=w, K=3, P=p, Q=q, R=r, S=s, sources=("input",), **size)


def taps(layer: Layer, x: np.ndarray, outside: float) -> np.ndarray:
    """Operands (C, R * S, P, Q)."""
    pad, step, apart = layer.padding, layer.stride, layer.dilation
    reach = max(layer.H, layer.W) + layer.stride * max(layer.P, layer.Q) + layer.dilation * max(layer.R, layer.S)
    padded = np.full((layer.C, pad + reach, pad + reach), outside, np.float64)
    padded[:, pad : pad + layer.H, pad : pad + layer.W] = x
    rows, columns = np.arange(layer.P) * step, np.arange(layer.Q) * step
    places = [(r * apart, s * apart) for r in range(layer.R) for s in range(layer.S)]
    return np.stack([padded[:, (rows + r)[:, None], columns + s] for r, s in places], axis=1)


@settings(deadline=None, max_examples=80)
@given(windows(op="maxpool"), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_maxima_are_exact(layer: Layer, source_halo: int, target_halo: int, nan: bool) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((3, layer.H, layer.W)).astype(np.float32) - np.float32(5)
    x[0] = -np.inf
    if nan:
        x.reshape(-1)[random.integers(x.size, size=3)] = np.nan
    np.testing.assert_array_equal(pooled(layer, x, source_halo, target_halo), taps(layer, x, -np.inf).max(axis=1))


@settings(deadline=None, max_examples=60)
@given(windows(op="avgpool"), st.integers(0, 2), st.integers(0, 2))
def test_means_are_within_the_rounding_of_their_sums(layer: Layer, source_halo: int, target_halo: int) -> None:
    x = np.random.default_rng(2).standard_normal((3, layer.H, layer.W)).astype(np.float32)
    operands = taps(layer, x.astype(np.float64), 0)
    bound = (layer.R * layer.S + 2) * 2.0**-24 * np.abs(operands).mean(axis=1)
    found = pooled(layer, x, source_halo, target_halo)
    assert (np.abs(found - operands.mean(axis=1)) <= bound).all()


def pooled(layer: Layer, x: np.ndarray, source_halo: int, target_halo: int) -> np.ndarray:
    source = PlaneLayout(3, layer.H, layer.W, source_halo)
    through_phases = layer.stride not in pooling_kernel.KERNELS
    halo = max(target_halo, phases_of(layer).reach.halo) if through_phases else target_halo
    target = PlaneLayout(3, layer.P, layer.Q, halo)
    pooling = Pooling(layer, source, target)
    out = target.new()
    scratch = None if pooling.planes is None else pooling.planes.new()
    for call in pooling.calls(buffer_of(source, x), out, scratch):
        call.run(0)
    assert only_interior(target, out)
    return np.array(target.view(out))


@settings(deadline=None, max_examples=80)
@given(windows(op="conv"), st.integers(0, 2))
def test_phases_hold_every_operand(layer: Layer, halo: int) -> None:
    """Each tap of a window lies where the phases say, padding included."""
    random = np.random.default_rng(3)
    x = random.standard_normal((3, layer.H, layer.W)).astype(np.float32)
    source, phases = PlaneLayout(3, layer.H, layer.W, halo), phases_of(layer)
    planes = phase_layout(layer, PlaneLayout(3, layer.P, layer.Q, phases.reach.halo), phases)
    out = planes.new()
    out[:] = np.nan  # cells that nobody fills
    grid = (planes.channels, layer.P, layer.Q, *planes.dimensions[3:])
    packing_kernel.pack_phases(
        np.array([0, 3]), buffer_of(source, x), source.dimensions, out, grid, phases.first, layer.stride,
        tuple(phases.reach), np.float32(0),
    )  # fmt: skip
    expected = taps(layer, x, 0)
    cells = np.arange(layer.P)[:, None] * planes.pitch + np.arange(layer.Q)
    for c in range(3):
        first = c * planes.stride * len(phases.first) * 4
        for tap, place in enumerate(phases.taps_in(planes)):
            np.testing.assert_array_equal(out[(first + place) // 4 + cells], expected[c, tap])


SCRIPT = """
import sys
import numpy as np
from nestling.sim.executor.simd import gate_kernel
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.pooling import Pooling
from nestling.workloads.layers import Layer
x = np.random.default_rng(0).normal(0, 4, (4, 5, 37)).astype(np.float32)
layout, target = PlaneLayout(4, 5, 37, 1), PlaneLayout(4, 3, 19, 1)
found = []
for kind in range(4):
    planes = layout.new()
    layout.view(planes)[:] = x
    gate_kernel.gate(np.array([0, 4]), planes, layout.dimensions, layout.masks(1), kind)
    found.append(np.array(layout.view(planes)).reshape(-1))
layer = Layer(name="p", op="maxpool", C=4, H=5, W=37, K=4, P=3, Q=19, R=3, S=3, stride=2, padding=1, sources=("input",))
out = target.new()
for call in Pooling(layer, layout, target).calls(planes, out, None):
    call.run(0)
np.save(sys.argv[1], np.concatenate([*found, target.view(out).reshape(-1)]))
"""


@pytest.mark.long
@pytest.mark.skipif(not X86, reason="names of x86 processors")
def test_other_processors_give_the_same_bits(tmp_path: Path) -> None:
    processors: list[dict[str, str]] = [
        {},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
        {"NUMBA_CPU_NAME": "generic"},
    ]
    found = []
    for index, processor in enumerate(processors):
        file = tmp_path / f"{index}.npy"
        subprocess.run([sys.executable, "-c", SCRIPT, file], check=True, env=os.environ | processor, timeout=300)
        found.append(np.load(file))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
