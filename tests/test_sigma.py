"""SIGMA-like array: exact run against a cycle-by-cycle oracle, closed form against the exact run, the model's limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS
from nestling.accel.arrays.sigma_kernel import COSTS, run_iterations, tile_costs
from nestling.accel.arrays.sigma_run import mapped, packing_order, sigma_run
from nestling.accel.energy import BOOKKEEPING
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import linear

from .sigma_oracle import Array
from .spine_cases import SHAPES, design, layer_trace, network

SMALL = {"array.multipliers": 128, "array.distribution_width": 32, "array.reduction_width": 32}


def slow_iterations(mask: np.ndarray, multipliers: int) -> list[tuple[list[int], list[int]]]:
    """(elements, cluster sizes) per iteration: whole vectors while they fit, one too large in folds."""
    found: list[tuple[list[int], list[int]]] = []
    room = 0
    for vector in mask:
        held = np.flatnonzero(vector).tolist()
        if len(held) > multipliers:
            found.append((held[:multipliers], [multipliers]))
            rest = held[multipliers:]
            while rest:
                part, rest = rest[: multipliers - 1], rest[multipliers - 1 :]
                found.append(([-1, *part], [len(part) + 1]))
            room = 0
        elif len(held) <= room:
            found[-1][0].extend(held)
            found[-1][1].append(len(held))
            room -= len(held)
        else:
            found.append((held.copy(), [len(held)]))
            room = multipliers - len(held)
    return found


def random_mask(rng: np.random.Generator, vectors: int, depth: int, density: float) -> np.ndarray:
    return mapped(rng.random((vectors, depth)) < density)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), vectors=st.integers(1, 14), depth=st.integers(3, 40), density=st.floats(0, 1),
    streamed=st.integers(1, 6), sizes=st.sampled_from([(8, 8, 8), (16, 4, 4), (16, 16, 8), (32, 8, 32), (8, 2, 1)]),
)  # fmt: skip
def test_exact_run_against_the_machine(
    seed: int, vectors: int, depth: int, density: float, streamed: int, sizes: tuple[int, int, int]
) -> None:
    multipliers, ports, lines = sizes
    mask = random_mask(np.random.default_rng(seed), vectors, depth, density)
    machine = Array(multipliers, ports, lines)
    iterations = slow_iterations(mask, multipliers)
    expected = sum(machine.iteration(*iteration, streamed) for iteration in iterations)
    cycles, table = run_iterations(mask, streamed=streamed, multipliers=multipliers, ports=ports, lines=lines)
    assert len(table) == len(iterations)
    assert table[:, 0].tolist() == [len(clusters) for _, clusters in iterations]
    assert cycles == expected


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), vectors=st.integers(1, 20), depth=st.integers(3, 50), density=st.floats(0.05, 1),
    sizes=st.sampled_from([(16, 4, 4), (64, 16, 16), (32, 32, 32), (64, 8, 8)]),
)  # fmt: skip
def test_closed_form_of_a_tile(
    seed: int, vectors: int, depth: int, density: float, sizes: tuple[int, int, int]
) -> None:
    """Over many positions both grow by the same cycles each (conflicts of the lines aside), and nothing gets lost."""
    multipliers, ports, lines = sizes
    mask = random_mask(np.random.default_rng(seed), vectors, depth, density)
    array = {"multipliers": multipliers, "ports": ports, "lines": lines}
    table = tile_costs(mask.astype(np.uint8)[None], level=0, block_n=vectors, block_k=depth, **array)
    cost = dict(zip(COSTS, table[0, 0, 0].tolist(), strict=True))
    few, many = (run_iterations(mask, streamed=n, **array)[0] for n in (200, 400))
    assert many - few == 200 * cost["cycles_per_position"]
    assert cost["fixed_cycles"] + 400 * cost["cycles_per_position"] == pytest.approx(many, rel=0.06)
    iterations = slow_iterations(mask, multipliers)
    assert cost["nonzeros"] == mask.sum()
    assert cost["iterations"] == len(iterations)
    assert cost["words"] == sum(len(set(elements) - {-1}) for elements, _ in iterations)
    assert cost["psums"] == sum(elements.count(-1) for elements, _ in iterations)
    assert cost["results"] == sum(len(clusters) for _, clusters in iterations)


def test_later_k_tiles_send_partial_sums_back_in() -> None:
    keep = np.ones((1, 4, 24), np.uint8)
    table = tile_costs(keep, level=0, block_n=4, block_k=12, multipliers=16, ports=16, lines=16)[0, 0]
    first, second = (dict(zip(COSTS, row.tolist(), strict=True)) for row in table)
    assert (first["psums"], second["psums"]) == (0, 4)
    assert first["nonzeros"] == second["nonzeros"] == 48
    assert second["iterations"] == 4  # 12 weights and a partial sum: one filter at a time


def test_filters_without_weights_are_not_mapped() -> None:
    keep = np.zeros((1, 6, 20), np.uint8)
    keep[0, 2, :5] = 1
    keep[0, 4, 7] = 1
    cost = tile_costs(keep, level=0, block_n=6, block_k=20, multipliers=16, ports=4, lines=4)[0, 0, 0]
    named = dict(zip(COSTS, cost.tolist(), strict=True))
    assert (named["nonzeros"], named["iterations"], named["results"]) == (6, 1, 2)
    nothing = tile_costs(keep, level=1, block_n=6, block_k=20, multipliers=16, ports=4, lines=4)
    assert not nothing.any()


def test_counts_of_a_folded_product() -> None:
    """20 elements on 8 multipliers: 8, then 7 and 5 with the partial sum in a multiplier."""
    run = sigma_run(np.ones((2, 20), bool), np.ones((3, 20), bool), multipliers=8, ports=8, lines=8)
    assert (run.iterations, run.multiplications) == (6, 120)
    assert (run.psum_reads, run.psum_writes) == (2 * 2 * 3, 6 * 3)
    assert (run.stationary_reads, run.streamed_reads, run.most_vectors) == (40, 2 * 20 * 3, 1)


def test_short_vectors_are_filled_up() -> None:
    mask = np.zeros((3, 5), bool)
    mask[1, [1, 4]] = True
    mask[2] = True
    assert mapped(mask).tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    assert not mask[0].any()


@given(sizes=st.lists(st.integers(3, 20), min_size=1, max_size=30))
def test_packing_order_packs_greedily(sizes: list[int]) -> None:
    order = packing_order(sizes, 12)
    assert sorted(order) == list(range(len(sizes)))
    placed = [sizes[i] for i in order]
    small = [size for size in placed if size <= 12]
    assert placed[: len(placed) - len(small)] == [size for size in placed if size > 12]
    used = 0
    for position, size in enumerate(small):
        fitting = [x for x in small[position:] if used + x <= 12]
        if not fitting:
            used, fitting = 0, small[position:]
        assert size == max(fitting)
        used += size


def test_mistakes_are_named() -> None:
    ones = np.ones((2, 4), bool)
    with pytest.raises(InputError, match="ports = 3"):
        sigma_run(ones, ones, multipliers=8, ports=3, lines=8)
    with pytest.raises(InputError, match="no more ports or lines"):
        sigma_run(ones, ones, multipliers=8, ports=16, lines=8)
    with pytest.raises(InputError, match="no common reduction"):
        sigma_run(ones, np.ones((2, 5), bool), multipliers=8, ports=8, lines=8)
    with pytest.raises(InputError, match="at least one vector"):
        sigma_run(np.ones((0, 4), bool), ones, multipliers=8, ports=8, lines=8)
    with pytest.raises(ValueError, match="powers of two"):
        design("sigma", {"array.multipliers": 100})
    with pytest.raises(InputError, match="can only do skip"):
        list(
            ARRAYS["sigma"].plans(layer_trace(SHAPES["conv"]), [0], design("sigma", {"zero_handling.weights": "gate"}))
        )
    with pytest.raises(ValueError, match="without empty rows"):
        run_iterations(np.zeros((1, 4), bool), streamed=1, multipliers=8, ports=8, lines=8)
    with pytest.raises(ValueError, match="uint8 with 3 dimensions"):
        tile_costs(ones.astype(np.uint8), level=0, block_n=1, block_k=1, multipliers=8, ports=8, lines=8)


@pytest.mark.parametrize("changes", [{}, SMALL], ids=["whole chip", "one engine"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sparser_levels_move_and_compute_less(shape: str, changes: dict[str, int]) -> None:
    """Work and traffic never rise. Cycles may, by a few percent: clusters packed anew end at other adders, and two may meet
    on one output line that did not before (STONNE's reordering can hurt for the same reason)."""
    described = design("sigma", changes)
    for seed in (5, 9):
        result = simulate(lower(network(SHAPES[shape], levels=6, seed=seed)), described)
        for dense, sparse in zip(result.levels, result.levels[1:], strict=False):
            before, after = dense.layers[0], sparse.layers[0]
            for name, count in after.counts.items():
                if name not in BOOKKEEPING | {"mac_gated"}:
                    assert count <= before.counts[name], name
            assert after.cycles <= 1.1 * before.cycles


@pytest.mark.parametrize("buffers", [256 << 10, 4 << 10, 1 << 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_small_buffers_cut_tiles(shape: str, buffers: int) -> None:
    changes = {f"buffers.{name}.bytes": buffers for name in ("weights", "inputs", "outputs")}
    trace = layer_trace(SHAPES[shape], levels=3, seed=1)
    for plan in ARRAYS["sigma"].plans(trace, range(trace.levels), design("sigma", SMALL | changes)):
        totals = plan.tiles.totals()
        assert totals["mac_issued"] == int(trace.nonzeros[plan.level]) * trace.layer.gemm.m
        assert plan.pe_slots >= totals["mac_issued"]


def test_more_multipliers_and_wider_trees_are_never_slower() -> None:
    layer = linear("product", "input", features_in=300, features_out=200, rows=150)
    trace = lower(network(layer, levels=1, seed=4, keep=np.random.default_rng(0).integers(0, 2, layer.weight_shape)))
    cycles = [
        simulate(trace, design("sigma", dict(zip(SMALL, sizes, strict=True)))).levels[0].cycles
        for sizes in ((64, 16, 16), (64, 64, 16), (64, 64, 64), (256, 256, 256), (1024, 1024, 1024))
    ]
    assert cycles == sorted(cycles, reverse=True)
