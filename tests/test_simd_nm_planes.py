"""N:M sparsity on planes without counts: against float64, exactly on whole numbers, on every path, planned and detected."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from nestling.sim.executor.simd import channel_groups_kernel
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planes import VECTORS
from nestling.sim.executor.simd.planner import measured_plan
from nestling.sim.executor.simd.prior import candidates, likely_plan
from nestling.sim.executor.simd.product import Choice, Product
from nestling.sim.executor.simd.structure import CHANNEL_GROUPS, channel_order, row_counts, structure_of
from nestling.sim.executor.simd.vectors_kernel import COMPILES, REVISION
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv
from nestling.workloads.network import Network

from .simd_cases import make_case, outputs_on, run_choice
from .structured_cases import LADDERS, laddered

compiled = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
SCRIPT = "import sys; from tests.test_simd_nm_planes import sample; sys.stdout.write(sample())"


def sample() -> str:
    """Outputs of one product, as text."""
    layer = conv("c", "input", C=24, H=5, W=13, K=7, R=3, padding=1)
    case = laddered(make_case(layer, 2, residual=True, clamp=(0.0, 4.0)), 8, (4, 2, 1))
    return run_choice(case, Choice("channels", 4, 24, 8), level=0).tobytes().hex()


#: Every number of levels with one width; the others take minutes to compile.
EVERYDAY = {(7, levels) for levels in channel_groups_kernel.LEVELS}
EVERY = [
    pytest.param(*entry, marks=() if entry in EVERYDAY else pytest.mark.long)
    for entry in itertools.product(VECTORS, channel_groups_kernel.LEVELS)
]


@compiled
@pytest.mark.parametrize(("vectors", "levels"), EVERY)
def test_every_compiled_kernel(vectors: int, levels: int) -> None:
    assert set(channel_groups_kernel.KERNELS) == set(itertools.product(VECTORS, channel_groups_kernel.LEVELS))
    layer = conv("c", "input", C=27, H=2, W=8 * vectors, K=5, R=1)
    case = laddered(make_case(layer, vectors, residual=True), 8, (6, 4, 2, 1))
    expected, bound = case.expected(4 - levels)
    found = run_choice(case, Choice("channels", vectors, 16, 8), level=4 - levels)
    assert (np.abs(found - expected) <= bound).all()
    kernel = channel_groups_kernel.KERNELS[vectors, levels]
    assert REVISION in [cell.cell_contents for cell in kernel.py_func.__closure__]


@compiled
def test_denormals_are_zeros() -> None:
    case = laddered(make_case(conv("c", "input", C=8, H=1, W=16, K=3, R=1), 0), 4, (2,))
    case.x[:], case.bias[:] = 1e-41, 0
    assert not run_choice(case, Choice("channels", 1, 4, 4), level=0).any()


@pytest.mark.long
@compiled
@pytest.mark.parametrize("processor", ["generic", "haswell"])
def test_other_processors_give_the_same_bits(processor: str) -> None:
    assert outputs_on(processor, SCRIPT) == sample()


@pytest.mark.parametrize(("channels", "ladder"), LADDERS)
@pytest.mark.parametrize(("c", "kernel"), [(16, 3), (32, 3), (37, 1), (3, 1)])
def test_structure_is_exact(c: int, kernel: int, channels: int, ladder: tuple[int, ...]) -> None:
    """The fewest channels in whose groups every row keeps equally many; one weight less in one row ends it."""
    layer = conv("c", "input", C=c, H=4, W=16, K=6, R=kernel)
    weights = laddered(make_case(layer, 4), channels, ladder).weights
    found = structure_of(layer, weights).channels
    agreeing = [m for m in CHANNEL_GROUPS if agrees(layer, weights.keep, m)]
    assert channels in agreeing
    assert found == min(agreeing)
    keep = weights.keep.copy()
    row = keep.reshape(-1)
    row[np.flatnonzero(row)[-1]] = 0
    broken = structure_of(layer, replace(weights, keep=keep))
    assert broken.channels == 0


def agrees(layer: Layer, keep: np.ndarray, m: int) -> bool:
    """Group by group, position by position, level by level."""
    for first in range(0, layer.C, m):
        for level in range(int(keep.max()) + 1):
            counts = (keep[:, first : first + m] > level).sum(axis=1)
            if (counts != counts[0]).any():
                return False
    return True


def test_a_last_group_in_the_middle_of_a_window_is_none() -> None:
    layer = conv("c", "input", C=18, H=4, W=16, K=6, R=3)
    assert structure_of(layer, laddered(make_case(layer, 4), 4, (2,)).weights).channels == 0


def test_streams_hold_no_more_than_the_pattern() -> None:
    layer = conv("c", "input", C=16, H=4, W=16, K=6, R=3)
    case = laddered(make_case(layer, 4), 8, (4, 2, 1))
    source, target = case.layouts()
    product = Product(layer, case.weights, source, target, choice=Choice("channels", 2, 24, 8))
    np.testing.assert_array_equal(row_counts(product.streams), [[3, 3, 6]] * 6)
    order = channel_order(layer, 8)
    assert sorted(order) == list(range(144))
    np.testing.assert_array_equal(order[:9] // 9, [0, 1, 2, 3, 4, 5, 6, 7, 0])  # channels
    np.testing.assert_array_equal(order[:9] % 9, [0] * 8 + [1])  # kernel positions


def test_masks_that_do_not_fit_are_refused() -> None:
    case = make_case(conv("c", "input", C=8, H=1, W=16, K=8, R=1), 1, levels=3)
    source, target = case.layouts()
    with pytest.raises(InputError, match="c: rows keep different numbers of weights in windows of 4"):
        Product(case.layer, case.weights, source, target, choice=Choice("channels", 1, 4, 4))


@compiled
def test_a_network_and_the_planner_take_it() -> None:
    layer = replace(conv("c", "input", C=32, H=8, W=8, K=40, R=3, padding=1), activation="relu6")
    case = laddered(make_case(layer, 7, clamp=(0.0, 6.0)), 8, (4, 2, 1))
    layouts = case.layouts()
    choice = likely_plan(layer, case.weights, *layouts).sparse
    assert (choice.kind, choice.group, choice.window % 8) == ("channels", 8, 0)
    found = candidates(layer, layouts[1], structure_of(layer, case.weights))
    assert choice in found
    network = Network("n", (layer,), weights={"c": case.weights}, biases={"c": np.stack([case.bias] * 3)})
    runner = PlaneNetwork(network)
    for level in range(3):
        expected, bound = case.expected(level)
        assert (np.abs(runner.run(case.x, level).reshape(expected.shape) - expected) <= bound).all()


@compiled
def test_measured_plans_know_channel_groups() -> None:
    layer = conv("c", "input", C=8, H=1, W=16, K=8, R=1)
    case = laddered(make_case(layer, 1), 4, (2,))
    plan = measured_plan(layer, case.weights, *case.layouts())
    assert plan.sparse in candidates(layer, case.layouts()[1], structure_of(layer, case.weights))
