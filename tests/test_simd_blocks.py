"""Rows that keep the same weights in groups: against float64, exactly on whole numbers, planned and detected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor.simd import blocks_kernel, direct_blocks_kernel, structure_prior
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planner import Planner, layer_key, measured_plan
from nestling.sim.executor.simd.prior import candidates, likely_plan
from nestling.sim.executor.simd.product import Choice, LayerPlan, Product
from nestling.sim.executor.simd.structure import Structure, structure_of
from nestling.sim.executor.simd.vectors_kernel import COMPILES, REVISION
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network
from nestling.workloads.sparsify.block_punched import BlockPunched

from .simd_cases import Case, make_case, outputs_on, run_choice
from .structured_cases import WIDTHS, sharing

compiled = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
SCRIPT = "import sys; from tests.test_simd_blocks import sample; sys.stdout.write(sample())"


def sample() -> str:
    """Outputs of one product with windows and one without, as text."""
    layer = conv("c", "input", C=9, H=5, W=13, K=11, R=3, padding=1)
    case = sharing(make_case(layer, 2, levels=2, density=0.6, residual=True, clamp=(0.0, 4.0)), 4)
    choices = Choice("blocks", 2, 30, 4), Choice("blocks", 4, 0, 2)
    return "".join(run_choice(case, choice, level=0).tobytes().hex() for choice in choices)


#: All widths; the tests of `test_simd_structured` draw from them, too.
EVERY = [
    pytest.param(rows, vectors, marks=() if vectors == 1 else pytest.mark.long)
    for rows, widths in WIDTHS.items()
    for vectors in widths
]


@compiled
@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize(("rows", "vectors"), EVERY)
def test_every_compiled_width(rows: int, vectors: int, window: int) -> None:
    """Rows that the group does not divide, positions that the width divides, a level without weights."""
    layer = conv("c", "input", C=19, H=2, W=8 * vectors, K=2 * rows + 1, R=1)
    case = sharing(make_case(layer, vectors, levels=3, residual=True), rows)
    case.weights.keep[case.weights.keep == 3] = 2
    assert not case.weights.mask(2).any()
    for level in (0, 2):
        expected, bound = case.expected(level)
        found = run_choice(case, Choice("blocks", vectors, window, rows), level=level)
        assert (np.abs(found - expected) <= bound).all()


@compiled
def test_denormals_are_zeros() -> None:
    layer = conv("c", "input", C=3, H=1, W=16, K=8, R=1)
    case = sharing(make_case(layer, 0, density=1.0), 8)
    case.x[:], case.bias[:] = 1e-41, 0
    assert not run_choice(case, Choice("blocks", 1, 0, 8), level=0).any()


@pytest.mark.long
@compiled
@pytest.mark.parametrize("processor", ["generic", "haswell"])
def test_other_processors_give_the_same_bits(processor: str) -> None:
    assert outputs_on(processor, SCRIPT) == sample()


@compiled
def test_kernels_carry_the_revision_and_cover_one_table() -> None:
    assert WIDTHS == direct_blocks_kernel.WIDTHS
    for module in (blocks_kernel, direct_blocks_kernel):
        assert set(module.KERNELS) == {(rows, v) for rows, widths in WIDTHS.items() for v in widths}
        for kernel in module.KERNELS.values():
            assert REVISION in [cell.cell_contents for cell in kernel.py_func.__closure__]


def test_structure_is_exact() -> None:
    layer = conv("c", "input", C=6, H=4, W=16, K=16, R=3)
    case = sharing(make_case(layer, 1, levels=3), 8)
    assert structure_of(layer, case.weights).rows == 8
    for row, expected in (
        (12, 4),
        (14, 2),
        (15, 1),
    ):  # the rows from there on deviate: halves, quarters, nothing is left
        keep = case.weights.keep.copy()
        keep[row:, 2, 1, 1] ^= 1
        assert structure_of(layer, replace(case.weights, keep=keep)).rows == expected
    grouped = replace(layer, groups=2, K=12)
    ones = np.ones(grouped.weight_shape, np.uint8)
    assert structure_of(grouped, NestedWeights(values=None, keep=ones, levels=1)) == Structure(2, 0)


def test_block_punched_masks_are_found_and_run() -> None:
    layer = conv("c", "input", C=16, H=14, W=14, K=20, R=3, padding=1)
    values = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
    weights = BlockPunched(filters=8, channels=4).sparsify_layer(values, (0.5, 0.25)).weights
    assert structure_of(layer, weights).rows == 8
    if COMPILES:
        case = replace(make_case(layer, 3, levels=2), weights=weights)
        expected, bound = case.expected(0)
        assert (np.abs(run_choice(case, Choice("blocks", 2, 0, 8), level=0) - expected) <= bound).all()


def test_masks_that_do_not_fit_are_refused() -> None:
    case = make_case(conv("c", "input", C=5, H=1, W=16, K=8, R=1), 1, levels=3)
    assert len(np.unique(case.weights.keep[:4], axis=0)) > 1
    source, target = case.layouts()
    with pytest.raises(InputError, match="c: not every 4 rows keep the same weights"):
        Product(case.layer, case.weights, source, target, choice=Choice("blocks", 1, 0, 4))


def layer_with_blocks(rows: int = 8) -> tuple[Layer, Case]:
    layer = replace(conv("c", "input", C=64, H=14, W=14, K=64, R=3, padding=1), activation="relu")
    case = make_case(layer, 5, clamp=(0.0, np.inf))
    scores = np.random.default_rng(rows).random(layer.weight_shape)
    nested = from_ranking(case.weights.dense(0), scores, (0.5, 0.2), name="c")
    return layer, sharing(replace(case, weights=nested), rows)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("rows", "group"), [(8, 8), (4, 4), (2, 2), (1, 0)])
def test_the_prior_takes_blocks_where_masks_allow(
    rows: int, group: int, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure_prior, "HAS_PERMUTES", wide)  # 32 or 16 registers
    layer, case = layer_with_blocks(rows)
    source, target = case.layouts()
    choice = likely_plan(layer, case.weights, source, target).sparse
    assert (choice.kind == "blocks") == (rows > 1)
    assert choice.group == (group if wide else min(group, 4))
    structure = structure_of(layer, case.weights)
    found = candidates(layer, target, structure)
    assert choice in found
    assert {c.group for c in found} == {0} | {g for g in WIDTHS if g <= rows}
    assert len(found) == len(set(found))


def test_few_weights_per_row_stay_with_single_rows() -> None:
    layer = conv("c", "input", C=16, H=14, W=14, K=64, R=1)
    case = sharing(make_case(layer, 5), 8)
    keep = np.repeat(np.arange(16) % 2, 64).reshape(16, 64).T.astype(np.uint8)  # 8 of 16, all rows alike
    weights = replace(case.weights, keep=np.ascontiguousarray(keep)[:, :, None, None])
    assert structure_of(layer, weights).rows == 8
    assert likely_plan(layer, weights, *case.layouts()).sparse.kind == "channels"  # which single rows they are


@compiled
def test_a_network_runs_blocks_and_planners_keep_them_apart(tmp_path: Path) -> None:
    layer, case = layer_with_blocks()
    network = Network("n", (layer,), weights={"c": case.weights}, biases={"c": np.stack([case.bias] * 2)})
    runner = PlaneNetwork(network, threads=2)
    assert runner.plans["c"].sparse.kind == "blocks"
    for level in (0, 1):
        expected, bound = case.expected(level)
        assert (np.abs(runner.run(case.x, level).reshape(expected.shape) - expected) <= bound).all()
    layouts = case.layouts()
    other = replace(case.weights, keep=np.roll(case.weights.keep, 1, axis=0))  # the same densities
    assert layer_key(layer, case.weights, *layouts) != layer_key(layer, other, *layouts)
    planner = Planner(tmp_path)
    planner._plans[layer_key(layer, case.weights, *layouts)] = LayerPlan(Choice("blocks", 1, 0, 4))
    assert planner.choose(layer, case.weights, *layouts).sparse == Choice("blocks", 1, 0, 4)
    assert planner.choose(layer, other, *layouts).sparse.kind != "blocks"


@compiled
def test_measured_plans_know_blocks() -> None:
    layer = conv("c", "input", C=4, H=1, W=16, K=8, R=1)
    case = sharing(make_case(layer, 1), 8)
    plan = measured_plan(layer, case.weights, *case.layouts())
    assert plan.sparse in candidates(layer, case.layouts()[1], structure_of(layer, case.weights))
