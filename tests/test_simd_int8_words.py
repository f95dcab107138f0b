"""int8 products by words of four: every output equal to int64 arithmetic and to the sparse product, on every path."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.reduced import words_kernel
from nestling.sim.executor.simd.reduced.int8_planes import Requantise, new_bytes, new_sums
from nestling.sim.executor.simd.reduced.int8_words import COLUMNS, Int8WordProduct
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.nesting import NestedWeights

from .byte_cases import ByteCase, byte_case, byte_cases
from .reduced_runs import run_bytes
from .test_simd_int8 import run as run_sparse

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
Array = np.ndarray


def run(
    case: ByteCase,
    vectors: int,
    *,
    level: int,
    dense: bool = True,
    requantise: Requantise | None = None,
    threads: int = 1,
) -> Array:
    chosen = level if dense else None
    common = {"vectors": vectors, "source_zero": case.zero, "threads": threads, "dense": chosen}
    product = Int8WordProduct(case.layer, case.weights, *case.layouts(), **common)
    return run_bytes(product, case, level=level, requantise=requantise, threads=threads)


@settings(deadline=None, max_examples=50)
@given(byte_cases(), st.integers(1, 3))
def test_sums_equal_int64(drawn: tuple[ByteCase, int, int], threads: int) -> None:
    case, vectors, level = drawn
    np.testing.assert_array_equal(run(case, vectors, level=level, threads=threads), case.sums(level))


@settings(deadline=None, max_examples=15)
@given(byte_cases())
def test_requantised_outputs_equal_the_sparse_product(drawn: tuple[ByteCase, int, int]) -> None:
    case, vectors, level = drawn
    scales = np.random.default_rng(level).uniform(1e-5, 1e-2, case.layer.K).astype(np.float32)
    asked = Requantise(scales, 3, -100, 100)
    found = run(case, vectors, level=level, requantise=asked)
    np.testing.assert_array_equal(found, run_sparse(case, vectors, level=level, requantise=asked))


@pytest.mark.parametrize("reduction", [1, 3, 64, 10_000, 65_535])
def test_the_largest_products(reduction: int) -> None:
    """-128 * -128 throughout: operands + 128 are 0, and all of the sum comes from the corrected start."""
    case = byte_case(conv("c", "input", C=reduction, H=1, W=4, K=17, R=1), 0, density=1.0)
    case.weights.values[:], case.x[:] = -128, -128
    np.testing.assert_array_equal(run(case, 1, level=0), case.sums(0))


def test_levels_of_blocks_are_prefixes() -> None:
    layer = conv("c", "input", C=200, H=3, W=21, K=50, R=1)
    case = byte_case(layer, 1, density=1.0)
    random = np.random.default_rng(2)
    kept = random.integers(0, 4, (4, 4))
    keep = np.kron(kept, np.ones((16, COLUMNS), int))[:50, :200].reshape(layer.weight_shape).astype(np.uint8)
    nested = NestedWeights(values=case.weights.values, keep=keep, levels=3, name="w")
    blocks = ByteCase(layer, nested, case.x, case.bias, -7)
    for level in range(3):
        np.testing.assert_array_equal(run(blocks, 4, level=level, dense=False), blocks.sums(level))


def test_a_block_kept_in_part_says_so() -> None:
    case = byte_case(conv("c", "input", C=130, H=1, W=16, K=20, R=1), 0, density=1.0)
    case.weights.keep[18, 70] = 0
    with pytest.raises(InputError, match="rows from 16, columns from 64: a level keeps the 16x64 block in part"):
        run(case, 1, level=0, dense=False)


def test_other_levels_than_the_dense_one_say_so() -> None:
    case = byte_case(conv("c", "input", C=3, H=1, W=16, K=2, R=1), 0, levels=2)
    source, target = case.layouts()
    product = Int8WordProduct(case.layer, case.weights, source, target, vectors=1, dense=1)
    with pytest.raises(InputError, match="level 1's, not level 0's"):
        product.call(new_bytes(source), new_sums(target), level=0, bias=case.bias, works=[product.new_work()])


SCRIPT = """
import sys
import numpy as np
from tests.byte_cases import byte_case
from tests.test_simd_int8 import run as run_sparse
from tests.test_simd_int8_words import run as run_words
from nestling.sim.executor.simd.reduced import words_kernel
from nestling.sim.executor.simd.reduced.int8_planes import Requantise
from nestling.workloads.layers import conv
case = byte_case(conv("c", "input", C=70, H=5, W=9, K=18, R=3, padding=1), 4, zero=3)
asked = Requantise(np.full(18, 1e-3, "f"), 2)
assert not words_kernel.HAS_VNNI
for run in (run_sparse, run_words):
    np.testing.assert_array_equal(run(case, 1, level=0), case.sums(0))
    sys.stdout.write(run(case, 1, level=0, requantise=asked).tobytes().hex() + " ")
"""


@pytest.mark.parametrize(
    ("processor", "features"), [("haswell", "+avx2,+fma"), pytest.param("generic", "", marks=pytest.mark.long)]
)
def test_other_processors_give_the_same_numbers(processor: str, features: str) -> None:
    """AVX2 and plain SSE2: without VNNI, and without fused multiply-adds in hardware."""
    case = byte_case(conv("c", "input", C=70, H=5, W=9, K=18, R=3, padding=1), 4, zero=3)
    expected = run(case, 1, level=0, requantise=Requantise(np.full(18, 1e-3, np.float32), 2))
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, "-c", SCRIPT]
    shown = subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=300).stdout
    assert shown.split() == [expected.tobytes().hex()] * 2
    assert isinstance(words_kernel.HAS_VNNI, bool)
