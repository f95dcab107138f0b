"""Tensors copied by kernels: every cell arrives, nothing around them is touched, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd import packing_kernel
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.program import Program
from nestling.sim.executor.simd.team import Team, call
from nestling.sim.executor.simd.vectors_kernel import COMPILES

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")

sizes = st.integers(1, 9)
orders = st.permutations(range(3))
steps = st.tuples(*[st.integers(1, 3)] * 3)


@settings(deadline=None)  # the first example compiles
@given(shape=st.tuples(st.integers(0, 70), sizes, sizes), order=orders, step=steps, threads=st.integers(1, 3))
def test_cells_of_any_order_are_copied(
    shape: tuple[int, ...], order: list[int], step: tuple[int, ...], threads: int
) -> None:
    source = spread(shape, order, step)
    source[:] = np.random.default_rng(0).normal(size=shape)
    target = spread(shape, order[::-1], step[::-1])
    around = target.base.copy()  # type: ignore[union-attr]
    places = source[:1, 0, 0], source.strides, target[:1, 0, 0], target.strides
    run(Program([call(packing_kernel.copy_cells, shape[0], *places, shape)], threads), threads)
    np.testing.assert_array_equal(target, source)
    target[:] = np.nan
    np.testing.assert_array_equal(target.base, around)


@settings(deadline=None)
@given(channels=st.integers(1, 70), first=st.integers(0, 5), height=sizes, width=sizes, halo=st.integers(0, 3))
def test_planes_are_copied_with_zeros_around(channels: int, first: int, height: int, width: int, halo: int) -> None:
    layout, wide = (PlaneLayout(n, height, width, halo) for n in (channels, channels + first + 1))
    x, out = layout.new(), wide.new()
    layout.view(x)[:] = np.random.default_rng(0).normal(size=(channels, height, width))
    expected = wide.new()
    wide.view(expected)[first : first + channels] = layout.view(x)
    x[: layout.lead] = np.nan  # above the first row, which is not copied
    place = out[first * layout.stride :]
    step = call(packing_kernel.copy, channels, x, place, layout.dimensions, layout.masks(1))
    run(Program([step], 2), 2)
    np.testing.assert_array_equal(out, expected)


def spread(shape: tuple[int, ...], order: list[int], step: tuple[int, ...]) -> np.ndarray:
    """A view of this shape, its axes in memory in another order and with gaps of NaN between its cells."""
    memory = np.full([shape[axis] * step[axis] for axis in order], np.nan, np.float32)
    return memory.transpose(np.argsort(order))[:: step[0], :: step[1], :: step[2]]


def run(program: Program, threads: int) -> None:
    program.rewind()
    Team(threads).together(program.run)
