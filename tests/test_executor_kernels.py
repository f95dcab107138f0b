"""Kernels, compiled and as plain Python, against the dense reference; the reference against SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nestling.sim.executor import kernels, reference
from nestling.sim.executor.geometry import planes_of, weight_offsets, window_of
from nestling.sim.executor.plan import ACTIVATION_CODES
from nestling.workloads.layers import Layer, conv, output_size
from scipy import signal, special

UNIT_ROUNDOFF = 2.0**-24


@pytest.fixture(params=["compiled", "plain"])
def kernel(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """A kernel by name: the compiled one, or the Python function it is made from."""
    prefix = "" if request.param == "compiled" else "_"
    return lambda name: getattr(kernels, prefix + name)


@st.composite
def conv_layers(draw: st.DrawFn) -> Layer:
    """Convolutions of all kinds: strided, padded, dilated, grouped, depthwise, 1x1, rectangular, odd sizes."""
    groups = draw(st.integers(1, 3))
    c, k = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    r, s = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, padding, dilation = draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
    h = max(1, (r - 1) * dilation + 1 - 2 * padding) + draw(st.integers(0, 6))
    w = max(1, (s - 1) * dilation + 1 - 2 * padding) + draw(st.integers(0, 6))
    size = {"stride": stride, "padding": padding, "dilation": dilation}
    p, q = output_size(h, kernel=r, **size), output_size(w, kernel=s, **size)
    return Layer(name="c", op="conv", C=c, H=h, W=w, K=k, P=p, Q=q, R=r, S=s, groups=groups, sources=("input",), **size)


def rows_of(weights: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Compressed rows (values, offsets, row_start, row_end) of a dense matrix, zeros left out."""
    mask = weights != 0
    counts = mask.sum(axis=1)
    end = np.cumsum(counts)
    return weights[mask], offsets[mask], end - counts, end


def run_convolve(function: Any, layer: Layer, x: np.ndarray, weights: np.ndarray, bias: np.ndarray, tile: int) -> Any:
    p = planes_of(layer)
    rows = rows_of(weights.reshape(layer.K, -1), weight_offsets(layer, p))
    out = np.full((len(x), layer.K * layer.P * layer.Q), np.nan, np.float32)
    run = np.full(p.run_size(tile), np.nan, np.float32)
    scratch = np.full(p.size, np.nan, np.float32)
    function(x.reshape(len(x), -1), out, scratch, run, *rows, bias, p, tile, p.lanes, kernels.NONE)
    return out.reshape(len(x), layer.K, layer.P, layer.Q)


def random_case(layer: Layer, seed: int, *, integers: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, weights of about half density, biases: small integers (exact in float32) or normal values."""
    rng = np.random.default_rng(seed)
    shapes = ((2, layer.C, layer.H, layer.W), layer.weight_shape, (layer.K,))
    if integers:
        x, w, b = (rng.integers(-4, 5, size=s).astype(np.float32) for s in shapes)
    else:
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x, (w * (rng.random(w.shape) < 0.5)).astype(np.float32), b


@settings(deadline=None, max_examples=120)
@given(layer=conv_layers(), seed=st.integers(0, 9999), tile=st.integers(1, 4))
def test_convolution_of_integers_is_exact(layer: Layer, seed: int, tile: int) -> None:
    x, w, b = random_case(layer, seed, integers=True)
    found = run_convolve(kernels.convolve, layer, x, w, b, tile)
    expected = reference.convolve(x.astype(float), w.astype(float), layer) + b[:, None, None]
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=60)
@given(layer=conv_layers(), seed=st.integers(0, 9999))
def test_convolution_stays_within_the_rounding_bound(layer: Layer, seed: int) -> None:
    x, w, b = (a.astype(float) for a in random_case(layer, seed, integers=False))
    found = run_convolve(kernels.convolve, layer, *(a.astype(np.float32) for a in (x, w, b)), layer.P)
    expected = reference.convolve(x, w, layer) + b[:, None, None]
    # n products and one bias per sum: |error| <= (n + 2) u (sum |v x| + |b|), Higham section 3.1.
    n = int(np.prod(layer.weight_shape[1:]))
    magnitude = reference.convolve(abs(x), abs(w), layer) + abs(b)[:, None, None]
    assert (abs(found - expected) <= (n + 2) * UNIT_ROUNDOFF * magnitude).all()


@settings(deadline=None, max_examples=30)
@given(layer=conv_layers(), seed=st.integers(0, 9999))
@example(layer=conv("c", "input", C=1, H=2, K=2, R=1, padding=3), seed=1)  # output rows longer than the pitch
def test_plain_python_convolution_equals_the_compiled_one(layer: Layer, seed: int) -> None:
    x, w, b = random_case(layer, seed, integers=True)
    plain = run_convolve(kernels._convolve, layer, x[:1], w, b, 2)
    np.testing.assert_array_equal(plain, run_convolve(kernels.convolve, layer, x[:1], w, b, 2))


@pytest.mark.parametrize("layer", [conv("c", "i", C=3, H=5, W=4, K=1, R=3, padding=2, stride=2)])
def test_pack_places_every_padded_input_once(kernel: Callable[[str], Any], layer: Layer) -> None:
    image = np.arange(1, 61, dtype=np.float32)
    p = planes_of(layer)
    planes = np.full(p.size, np.nan, np.float32)
    kernel("pack")(image, planes, p)
    padded = np.pad(image.reshape(3, 5, 4), ((0, 0), (2, 2), (2, 2)))
    for c, y, x in np.ndindex(3, p.rows * 2, p.columns * 2):
        at = ((c * 2 + y % 2) * 2 + x % 2) * p.plane + (y // 2) * p.pitch + x // 2
        inside = y < padded.shape[1] and x < padded.shape[2]
        assert planes[at] == (padded[c, y, x] if inside else 0)


@pytest.mark.parametrize("weights", [0, 1, 2, 7, 8, 9, 19])
def test_accumulate_takes_every_weight_once(kernel: Callable[[str], Any], weights: int) -> None:
    rng = np.random.default_rng(weights)
    planes = rng.integers(-9, 10, size=64).astype(np.float32)
    values = rng.integers(-9, 10, size=weights + 3).astype(np.float32)
    offsets = rng.integers(0, 40, size=weights + 3).astype(np.int32)
    run = np.full(12, 5, np.float32)
    kernel("accumulate")(run, 10, planes, 2, values, offsets, 1, weights + 1)
    expected = 5 + sum(values[i] * planes[2 + offsets[i] :][:10] for i in range(1, weights + 1))
    np.testing.assert_array_equal(run[:10], expected * np.ones(10))
    np.testing.assert_array_equal(run[10:], [5, 5])


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 1), (1, 7, 13), (3, 5, 8)])
def test_row_products(kernel: Callable[[str], Any], rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(-5, 6, size=(2, rows, k)).astype(np.float32)
    w = (rng.integers(-5, 6, size=(n, k)) * (rng.random((n, k)) < 0.6)).astype(np.float32)
    w[-1] = 0  # an empty row leaves its bias
    bias = rng.integers(-5, 6, size=n).astype(np.float32)
    arrays = rows_of(w, np.broadcast_to(np.arange(k, dtype=np.int32), (n, k)))
    out = np.full((2, rows * n), np.nan, np.float32)
    kernel("row_products")(x.reshape(2, -1), out, rows, *arrays, bias, kernels.RELU)
    np.testing.assert_array_equal(out.reshape(2, rows, n), np.maximum(x @ w.T + bias, 0))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    ("h", "size", "stride", "padding", "dilation"), [(7, 3, 2, 1, 1), (5, 5, 5, 0, 1), (6, 2, 1, 1, 2), (4, 1, 1, 0, 1)]
)
def test_pool(
    kernel: Callable[[str], Any], average: bool, h: int, size: int, stride: int, padding: int, dilation: int
) -> None:
    p = output_size(h, kernel=size, stride=stride, padding=padding, dilation=dilation)
    op = "avgpool" if average else "maxpool"
    layer = Layer(
        name="p", op=op, C=2, H=h, W=h, K=2, P=p, Q=p, R=size, S=size,
        stride=stride, padding=padding, dilation=dilation, sources=("input",),
    )  # fmt: skip
    x = np.random.default_rng(h).standard_normal((1, 2, h, h)).astype(np.float32)
    out = np.full((1, layer.output_size), np.nan, np.float32)
    kernel("pool")(x.reshape(1, -1), out, window_of(layer), average)
    expected = reference._combination(layer, [x.astype(float)])
    np.testing.assert_allclose(out, expected.reshape(1, -1), rtol=UNIT_ROUNDOFF, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ACTIVATION_CODES))
def test_activations(kernel: Callable[[str], Any], name: str) -> None:
    x = np.array([[-200.0, -90.0, -3.0, -1.5, -1e-3, 0.0, 1e-3, 0.7, 2.5, 6.5, 90.0, 200.0]], np.float32)
    exact = x.astype(np.float64)
    expected = {
        "none": exact,
        "relu": np.where(exact > 0, exact, 0),
        "relu6": np.minimum(np.where(exact > 0, exact, 0), 6),
        "silu": exact * special.expit(exact),
        "gelu": exact * special.ndtr(exact),
        "sigmoid": special.expit(exact),
        "tanh": np.tanh(exact),
    }[name]
    np.testing.assert_allclose(reference.ACTIVATIONS[name](exact), expected, rtol=1e-9, atol=1e-15)
    out = x.copy()
    kernel("activate")(out, ACTIVATION_CODES[name])
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)


def test_reference_convolution_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((1, 4, 9, 8)), rng.standard_normal((6, 2, 3, 2))
    layer = conv("c", "input", C=4, H=9, W=8, K=6, R=3, S=2, stride=2, padding=1, groups=2)
    found = reference.convolve(x, w, layer)
    for k in range(6):
        first = 0 if k < 3 else 2
        planes = [np.pad(x[0, first + c], 1) for c in range(2)]
        full = sum(signal.correlate2d(plane, w[k, c], mode="valid") for c, plane in enumerate(planes))
        np.testing.assert_allclose(found[0, k], full[::2, ::2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_function(kernel: Callable[[str], Any], dtype: type) -> None:
    x = np.linspace(-4, 4, 101, dtype=dtype).reshape(1, 101)
    out = x.copy()
    kernel("error_function")(out)
    np.testing.assert_allclose(out, special.erf(x.astype(float)), rtol=4 * np.finfo(dtype).eps)
