"""bfloat16 products: against float64 over the rounded numbers, on vectors and on tiles, dense and block by block."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.reduced import bf16_product, words_kernel
from nestling.sim.executor.simd.reduced.amx import allow_tiles, tile_configuration
from nestling.sim.executor.simd.reduced.bf16_product import BF16_ROUNDOFF, COLUMNS, Bf16Product, agreement, bf16_bits
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv
from nestling.workloads.nesting import NestedWeights

from .reduced_runs import run_floats
from .simd_assembly import SAPPHIRE_RAPIDS, assembly
from .simd_cases import Case, make_case, ungrouped_cases

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
Array = np.ndarray


def rounded(values: Array) -> Array:
    """The nearest bfloat16 numbers: 8 significant bits, halves to even, by arithmetic on the numbers themselves."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)


def in_bf16(case: Case) -> Case:
    """The same case with values and inputs rounded, so that a float64 oracle sees what the kernels multiply."""
    values, keep = rounded(case.weights.values).astype(np.float32), case.weights.keep
    nested = NestedWeights(values=values, keep=keep, levels=case.weights.levels, name="w")
    return Case(case.layer, nested, rounded(case.x).astype(np.float32), case.bias, case.residual, case.low, case.high)


def run(case: Case, vectors: int, *, level: int, dense: bool = True, path: str = "vectors", threads: int = 1) -> Array:
    source, target = case.layouts()
    options = {"vectors": vectors, "dense": level if dense else None, "path": path, "threads": threads}
    product = Bf16Product(case.layer, case.weights, source, target, **options)  # type: ignore[arg-type]
    return run_floats(product, case, level=level, threads=threads)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, int, str, int]:
    case, level = draw(ungrouped_cases((1, 2)))
    path = draw(st.sampled_from(("vectors", "tiles")))
    usable = [v for v in case.layouts()[1].vectors if v in ((1, 4, 7) if path == "vectors" else (1, 4))]
    return case, draw(st.sampled_from(usable or [1])), path, level


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 3))
def test_sums_of_rounded_numbers(drawn: tuple[Case, int, str, int], threads: int) -> None:
    """The kernels round X while packing; products are then exact, and only float32 sums remain."""
    case, vectors, path, level = drawn
    expected, bound = in_bf16(case).expected(level)
    found = run(case, vectors, level=level, path=path, threads=threads)
    assert (np.abs(found - expected) <= bound).all()


def block_case(seed: int, *, rows: int, columns: int, reduction: int, block: tuple[int, int]) -> Case:
    """Three levels that keep whole blocks."""
    layer = conv("c", "input", C=reduction, H=4, W=16, K=rows, R=1)
    case = make_case(layer, seed, density=1.0)
    random = np.random.default_rng(seed)
    kept = random.integers(0, 4, (-(-rows // block[0]), -(-columns // block[1])))
    keep = np.kron(kept, np.ones(block, int))[:rows, :columns].reshape(layer.weight_shape).astype(np.uint8)
    nested = NestedWeights(values=case.weights.values, keep=keep, levels=3, name="w")
    return Case(layer, nested, case.x, case.bias, None, -np.inf, np.inf)


@pytest.mark.parametrize("block", [(16, 32), (32, 32)])
@pytest.mark.parametrize("path", ["vectors", "tiles"])
def test_levels_of_blocks_are_prefixes(block: tuple[int, int], path: str) -> None:
    case = block_case(3, rows=70, columns=141, reduction=141, block=block)
    for level in range(3):
        expected, bound = in_bf16(case).expected(level)
        found = run(case, 4, level=level, dense=False, path=path)
        assert (np.abs(found - expected) <= bound).all()
        assert np.abs(found - expected).max() > 0  # float32 sums do round here


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 300))
def test_paths_agree_within_the_bound(seed: int, reduction: int) -> None:
    case = block_case(seed, rows=20, columns=reduction, reduction=reduction, block=(16, COLUMNS))
    exact = in_bf16(case)
    magnitudes = np.abs(exact.weights.dense(0)).reshape(20, -1).astype(np.float64) @ np.abs(exact.x).reshape(
        reduction, -1
    )
    bound = agreement(reduction) * (magnitudes.reshape(20, 4, 16) + np.abs(case.bias)[:, None, None])
    vectors, tiles = (run(case, 4, level=0, dense=False, path=path) for path in ("vectors", "tiles"))
    assert (np.abs(vectors.astype(np.float64) - tiles) <= bound).all()


def test_rounding_is_to_the_nearest_and_halves_to_even() -> None:
    one_and_half_step = np.float32(1 + 3 * BF16_ROUNDOFF)  # halfway between two, the upper one even
    values = np.array([1 + BF16_ROUNDOFF, one_and_half_step, -1 - 0.9 * BF16_ROUNDOFF, 3e38, 0, -0.0], np.float32)
    found = (bf16_bits(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found, rounded(values))
    assert np.signbit(found[5])
    case = make_case(conv("c", "input", C=1, H=1, W=16, K=1, R=1), 0, density=1.0)
    case.weights.values[:], case.weights.keep[:], case.bias[:] = 1, 1, 0
    case.x[0, 0, :6] = values
    np.testing.assert_array_equal(run(case, 1, level=0)[0, 0, :6], rounded(values))


def test_nan_and_infinity_reach_what_they_must() -> None:
    case = make_case(conv("c", "input", C=33, H=1, W=16, K=3, R=1), 0, density=1.0)
    case.weights.keep[:] = 1
    nan_bits = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    case.x[32, 0, :4] = [*nan_bits, np.inf, -np.inf]
    for path in ("vectors", "tiles"):
        found = run(case, 1, level=0, path=path)
        assert np.isnan(found[:, 0, :2]).all()
        signs = np.sign(case.weights.values[:, 32, 0, 0])
        np.testing.assert_array_equal(found[:, 0, 2], signs * np.inf)
        np.testing.assert_array_equal(found[:, 0, 3], -signs * np.inf)
        assert np.isfinite(found[:, 0, 4:]).all()


SCRIPT = """
import sys
import numpy as np
from tests.test_simd_bf16 import block_case, run
from nestling.sim.executor.simd.reduced import words_kernel
assert not words_kernel.HAS_BF16
case = block_case(8, rows=33, columns=100, reduction=100, block=(16, 32))
np.save(sys.argv[1], run(case, 1, level=1, dense=False))
"""


@pytest.mark.parametrize(
    ("processor", "features"), [("haswell", "+avx2,+fma"), pytest.param("generic", "", marks=pytest.mark.long)]
)
def test_other_processors_give_the_same_bits(processor: str, features: str, tmp_path: Path) -> None:
    """Two fused multiply-adds, the odd operand's first, are what the instruction for pairs is defined as."""
    case = block_case(8, rows=33, columns=100, reduction=100, block=(16, 32))
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "out.npy"], check=True, env=environment, timeout=300)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), run(case, 1, level=1, dense=False))
    assert isinstance(words_kernel.HAS_BF16, bool)


def test_tiles_compile_to_their_instructions(tmp_path: Path) -> None:
    """Compiled for a processor that has AMX; not run on one."""
    product = (
        "from nestling.sim.executor.simd.reduced import bf16_product\nbf16_product.allow_tiles = lambda: True\n"
        "product = bf16_product.Bf16Product(layer, weights, *layouts, vectors=4)"
    )
    lines = assembly(product, tmp_path, SAPPHIRE_RAPIDS)
    for wanted in ("ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
        assert any(line.split()[:1] == [wanted] for line in lines), wanted
    assert any(line.split()[:4] == ["tdpbf16ps", "%tmm5,", "%tmm4,", "%tmm3"] for line in lines)


def test_tile_configuration_bytes() -> None:
    expected = bytearray(64)
    expected[0] = 1
    for tile in range(6):
        expected[16 + 2 * tile] = 64
        expected[48 + tile] = 16
    assert tile_configuration(6).tobytes() == bytes(expected)


def test_tiles_are_taken_only_where_they_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    case = block_case(0, rows=16, columns=32, reduction=32, block=(16, 32))
    source, target = case.layouts()
    if not allow_tiles():
        assert Bf16Product(case.layer, case.weights, source, target, vectors=4).path == "vectors"
    monkeypatch.setattr(bf16_product, "has", lambda path: True)
    monkeypatch.setattr(bf16_product, "allow_tiles", lambda: True)
    assert Bf16Product(case.layer, case.weights, source, target, vectors=4).path == "tiles"
    monkeypatch.setattr(bf16_product, "allow_tiles", lambda: False)
    assert Bf16Product(case.layer, case.weights, source, target, vectors=4).path == "vectors"
    monkeypatch.setattr(bf16_product.amx_kernel, "NATIVE", True)
    with pytest.raises(InputError, match="does not allow AMX tiles"):
        Bf16Product(case.layer, case.weights, source, target, vectors=4, path="tiles")


def test_what_does_not_fit_says_so() -> None:
    case = block_case(0, rows=16, columns=64, reduction=64, block=(16, 32))
    source, target = case.layouts()
    with pytest.raises(InputError, match="7 vectors; on tiles there are"):
        Bf16Product(case.layer, case.weights, source, target, vectors=7, path="tiles")
    product = Bf16Product(case.layer, case.weights, source, target, vectors=1, dense=1)
    with pytest.raises(InputError, match="level 1's, not level 0's"):
        product.call(source.new(), target.new(), level=0, bias=case.bias, works=[product.new_work()])
    case.weights.keep[3, 40] ^= 1
    with pytest.raises(InputError, match="rows from 0, columns from 32: a level keeps the 16x32 block in part"):
        Bf16Product(case.layer, case.weights, source, target, vectors=1)
    grouped = Layer(name="g", op="conv", C=2, H=1, W=4, K=2, P=1, Q=4, R=1, S=1, groups=2, sources=("input",))
    with pytest.raises(InputError, match="has 2 groups"):
        Bf16Product(grouped, make_case(grouped, 0).weights, source, target, vectors=1, dense=0)
