"""fp16 products: within the derived bound of float64, bit by bit as NumPy's halves would add up, and compiled natively."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.reduced import formats_kernel
from nestling.sim.executor.simd.reduced.half_errors import half_error, half_errors
from nestling.sim.executor.simd.reduced.half_product import HALF_ROUNDOFF, SHARE, HalfProduct, window_for
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.bundled import FASHION_SCALE, load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.nesting import NestedWeights

from .reduced_runs import run_floats
from .simd_assembly import SAPPHIRE_RAPIDS, assembly
from .simd_cases import Case, make_case, ungrouped_cases

pytestmark = [
    pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form"),
    pytest.mark.skipif(COMPILES and not formats_kernel.CONVERTS_HALF, reason="no fp16 conversions"),
]
Array = np.ndarray


def run(case: Case, vectors: int, *, level: int, share: float = SHARE, threads: int = 1) -> tuple[HalfProduct, Array]:
    source, target = case.layouts()
    product = HalfProduct(case.layer, case.weights, source, target, vectors=vectors, share=share, threads=threads)
    return product, run_floats(product, case, level=level, threads=threads)


def magnitudes(case: Case, level: int) -> tuple[Array, Array]:
    """|bias| + sum |value operand| + |residual|, and the sum of |value| + |operand| + 1 over non-zeros, per output."""
    size, keep = np.abs(case.weights.dense(level)), case.weights.mask(level).astype(np.uint8)

    def total(values: Array, x: Array) -> Array:
        nested = NestedWeights(values=values.astype(np.float32), keep=keep, levels=1, name="w")
        zero = np.zeros_like(case.bias)
        plain = Case(case.layer, nested, x.astype(np.float32), zero, None, -np.inf, np.inf)
        return plain.expected(0)[0]

    outside = np.abs(case.bias)[:, None, None] + (0 if case.residual is None else np.abs(case.residual))
    ones, x = np.ones_like(case.x), np.abs(case.x)
    scale = total(size, ones) + total(np.ones_like(size), x) + total(np.ones_like(size), ones)
    return total(size, x) + outside, scale


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, int, int]:
    case, level = draw(ungrouped_cases((1, 3)))
    case.x[:] *= np.float32(draw(st.sampled_from((1.0, 1e-3, 1e-6))))
    usable = [v for v in case.layouts()[1].vectors if v in (1, 4, 7)]
    return case, draw(st.sampled_from(usable or [1])), level


@settings(deadline=None, max_examples=50)
@given(cases(), st.integers(1, 2), st.sampled_from((0.004, 1 / 16)))
def test_outputs_are_within_the_bound(drawn: tuple[Case, int, int], threads: int, share: float) -> None:
    """fp16 denormals included: inputs down to 1e-6 lose bits that only the absolute part of the bound allows."""
    case, vectors, level = drawn
    product, found = run(case, vectors, level=level, share=share, threads=threads)
    expected, _ = case.expected(level)
    assert (np.abs(found - expected) <= product.bound(*magnitudes(case, level))).all()


def test_every_step_is_rounded_as_a_half() -> None:
    """One level: windows from the left, columns ascending, each step rounded; windows and bias in float32."""
    layer = conv("c", "input", C=300, H=1, W=16, K=8, R=1)
    case = make_case(layer, 5)
    case.x[:] = np.rint(case.x * 256) / 256
    case.weights.values[:] = np.rint(case.weights.values * 256) / 256
    product, found = run(case, 1, level=0, share=0.03)
    assert 50 < product.window < 100
    keep, values = case.weights.mask(0).reshape(8, 300), case.weights.values.reshape(8, 300).astype(np.float16)
    x = case.x.reshape(300, 16).astype(np.float16)
    expected = np.repeat(case.bias[:, None], 16, axis=1)
    for row in range(8):
        for first in range(0, 300, product.window):
            inside = np.zeros(16, np.float16)
            for column in range(first, min(300, first + product.window)):
                if keep[row, column]:
                    exact = inside.astype(np.float64) + np.float64(values[row, column]) * x[column].astype(np.float64)
                    inside = (exact if formats_kernel.NATIVE_HALF else exact.astype(np.float32)).astype(np.float16)
            expected[row] += inside.astype(np.float32)
    np.testing.assert_array_equal(found.reshape(8, 16), expected)


def test_the_window_follows_from_the_bound() -> None:
    for share in (0.003, 1 / 16, 0.5):
        most = window_for(share)

        def worst(count: int) -> float:
            return (count + 2) * HALF_ROUNDOFF / (1 - (count + 2) * HALF_ROUNDOFF)

        assert worst(most) <= share < worst(most + 2)
    with pytest.raises(InputError, match="below what one fp16 product can have"):
        window_for(1e-4)


def test_a_longer_window_errs_more() -> None:
    """Ones after a large number: each is half a step too small to count, until the window ends."""
    case = make_case(conv("c", "input", C=1024, H=1, W=16, K=1, R=1), 0, density=1.0)
    case.weights.keep[:], case.bias[:] = 1, 0
    case.weights.values[:], case.x[:] = 1, 0.5
    case.x[0] = 2048
    errors = {share: float(np.abs(run(case, 1, level=0, share=share)[1] - 2559.5).max()) for share in (0.004, 0.25)}
    assert errors[0.004] == 0.5 * (window_for(0.004) - 1)
    assert errors[0.25] > 50 * errors[0.004]


def test_sums_beyond_the_range_are_infinite_and_nan_stays() -> None:
    case = make_case(conv("c", "input", C=2, H=1, W=16, K=1, R=1), 0, density=1.0)
    case.weights.keep[:], case.weights.values[:], case.x[:] = 1, 1, 1
    case.x[:, 0, 0], case.x[0, 0, 1], case.x[0, 0, 2] = 60_000, 1e9, np.nan
    found = run(case, 1, level=0)[1][0, 0]
    np.testing.assert_array_equal(found[:2], [np.inf, np.inf])
    assert np.isnan(found[2])
    assert np.isfinite(found[3:]).all()


def test_every_layer_of_a_network_reports_its_error() -> None:
    network, pixels, _ = load_bundled()
    image = (pixels[3][None].astype(np.float32) * np.float32(FASHION_SCALE)).astype(np.float32)
    found = half_errors(network, image, 0)
    assert list(found) == [layer.name for layer in network.layers if layer.op == "conv"]
    for error in found.values():
        assert error.absolute > 0
        assert 1e-6 < error.relative < SHARE
    assert half_error(np.array([1.0, 2.5], np.float32), np.array([1.0, 2.0], np.float32)) == (0.5, 0.25)
    assert half_error(np.zeros(2, np.float32), np.zeros(2, np.float32)) == (0.0, 0.0)


def test_halves_compile_to_their_instruction(tmp_path: Path) -> None:
    """Compiled for a processor with AVX512-FP16; not run on one."""
    product = (
        "from nestling.sim.executor.simd.reduced.half_product import HalfProduct\n"
        "product = HalfProduct(layer, weights, *layouts, vectors=8)"
    )
    lines = assembly(product, tmp_path, SAPPHIRE_RAPIDS)
    steps = [line for line in lines if line.split()[:1] == ["vfmadd231ph"]]
    assert len(steps) >= 4
    assert all("zmm" in line for line in steps)
    assert not any("vfmadd231ps" in line for line in lines)


SCRIPT = """
import sys
import numpy as np
from tests.simd_cases import make_case
from tests.test_simd_half import run
from nestling.workloads.layers import conv
np.save(sys.argv[1], run(make_case(conv("c", "input", C=90, H=2, W=16, K=8, R=1), 5), 1, level=0)[1])
"""


def test_avx2_gives_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c"}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "out.npy"], check=True, env=environment, timeout=300)
    found = run(make_case(conv("c", "input", C=90, H=2, W=16, K=8, R=1), 5), 1, level=0)[1]
    if not formats_kernel.NATIVE_HALF:
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), found)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), found, atol=0.05)


def test_what_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(conv("c", "input", C=2, H=1, W=16, K=1, R=1), 0, density=1.0)
    case.weights.keep[:] = 1
    case.weights.values[0, 1] = 7e4
    with pytest.raises(InputError, match="a weight of magnitude 70000; fp16 ends at 65504"):
        run(case, 1, level=0)
    monkeypatch.setattr(formats_kernel, "CONVERTS_HALF", False)
    with pytest.raises(InputError, match="F16C"):
        run(case, 1, level=0)
