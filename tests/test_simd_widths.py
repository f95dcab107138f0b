"""Every compiled width of every number format: minutes of compiling on a machine that has not done it yet."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.sim.executor.simd.planes import VECTORS, PlaneLayout
from nestling.sim.executor.simd.reduced import formats_kernel
from nestling.sim.executor.simd.reduced.amx_kernel import VECTORS as TILE_VECTORS
from nestling.sim.executor.simd.reduced.bf16_product import Bf16Product
from nestling.sim.executor.simd.reduced.coded_product import CodedProduct
from nestling.sim.executor.simd.reduced.half_product import HalfProduct
from nestling.sim.executor.simd.reduced.int8_planes import Requantise
from nestling.sim.executor.simd.reduced.int8_product import Int8Product
from nestling.sim.executor.simd.reduced.int8_words import Int8WordProduct
from nestling.sim.executor.simd.reduced.words_blocks_kernel import GROUPS, ROWS
from nestling.sim.executor.simd.reduced.words_product import word_vectors
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.layers import conv

from .byte_cases import byte_case
from .reduced_runs import run_bytes, run_floats
from .simd_cases import make_case

pytestmark = [
    pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form"),
    pytest.mark.long,
]


@pytest.mark.parametrize("vectors", VECTORS)
def test_int8(vectors: int) -> None:
    case = byte_case(conv("c", "input", C=83, H=2, W=8 * vectors, K=19, R=1), vectors, zero=3)
    sums = case.sums(0)
    asked = Requantise(np.full(19, 2.0**-12, np.float32), 5)
    expected = np.clip(np.rint(sums * 2.0**-12) + 5, -128, 127)
    for kind in (Int8Product, Int8WordProduct):
        product = kind(case.layer, case.weights, *case.layouts(), vectors=vectors, source_zero=3)
        np.testing.assert_array_equal(run_bytes(product, case, level=0), sums)
        np.testing.assert_array_equal(run_bytes(product, case, level=0, requantise=asked), expected)


FLOATS = [
    *((kind, vectors) for kind in ("coded", "bf16") for vectors in VECTORS),
    *(("tiles", vectors) for vectors in TILE_VECTORS),
    *(("half", vectors) for vectors in VECTORS if COMPILES and formats_kernel.CONVERTS_HALF),
]


@pytest.mark.parametrize(("kind", "vectors"), FLOATS)
def test_floats_exactly(kind: str, vectors: int) -> None:
    """Small whole numbers: no format rounds anything."""
    case = make_case(conv("c", "input", C=83, H=2, W=8 * vectors, K=19, R=1), vectors, whole=True, residual=True)
    case.weights.values[:] = np.random.default_rng(vectors).choice([-2, -1, 1, 2], case.weights.shape)
    common = (case.layer, case.weights, *case.layouts())
    product: HalfProduct | CodedProduct | Bf16Product
    if kind == "half":
        product = HalfProduct(*common, vectors=vectors)
    elif kind == "coded":
        product = CodedProduct(*common, vectors=vectors)
    else:
        product = Bf16Product(*common, vectors=vectors, dense=0, path="tiles" if kind == "tiles" else "vectors")
    np.testing.assert_array_equal(run_floats(product, case, level=0), case.expected(0)[0])


def test_every_layout_has_a_width_for_words() -> None:
    for positions in (1, 16, 49, 112, 196, 208, 224, 784, 3136):
        target = PlaneLayout(1, 1, positions, 0)
        assert word_vectors(target) in target.vectors
    assert word_vectors(PlaneLayout(1, 28, 28, 0)) == 4


def test_groups_of_rows_divide_a_block() -> None:
    assert tuple(GROUPS) == VECTORS
    assert all(ROWS % group == 0 for group in GROUPS.values())
