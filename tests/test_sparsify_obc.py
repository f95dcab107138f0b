"""Exact OBS against brute force (the reduced Hessian inverted anew at each step), and what calibration data decide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.sparsify import METHODS, OBC, SparsifyWarning, hessian_of
from nestling.workloads.sparsify.hessian import Hessian, factor
from nestling.workloads.sparsify.obc_kernel import COLUMNS, PANEL
from nestling.workloads.sparsify.obc_rows import (
    Trace,
    best_values,
    block_units,
    run_trace,
    runs_along_channels,
    shared_steps,
    slot_units,
    trace_pruning,
)

Array = np.ndarray


def problem(d: int, rows: int, *, seed: int, samples: int | None = None) -> tuple[Array, Array]:
    """Correlated inputs (samples, d) and weights (rows, d)."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples or 4 * d, d)) @ rng.standard_normal((d, d))
    return inputs, rng.standard_normal((rows, d))


def brute_force(
    row: Array, H: Array, *, units: Sequence[Sequence[int]], may_take: Callable[[list[int]], list[int]], steps: int
) -> tuple[list[int], list[float], Array]:
    """OBS from its definition: of the allowed units take the one whose removal, with the best reaction of all other
    untouched weights, costs least; both found by solving the reduced least-squares problem from scratch."""
    row, gone, taken, losses = row.copy(), [], [], []
    for _ in range(steps):
        best = None
        for unit in may_take(taken):
            inside = [j for j in range(len(row)) if j not in gone]
            G = np.linalg.inv(H[np.ix_(inside, inside)])
            place = [inside.index(j) for j in units[unit]]
            multiplier = np.linalg.solve(G[np.ix_(place, place)], row[list(units[unit])])
            move = -G[:, place] @ multiplier
            cost = 0.5 * move @ H[np.ix_(inside, inside)] @ move
            if best is None or cost < best[0]:
                best = (cost, unit, inside, move)
        cost, unit, inside, move = best
        row[inside] += move
        row[list(units[unit])] = 0.0
        gone += list(units[unit])
        taken.append(unit)
        losses.append(cost)
    return taken, losses, row


@pytest.mark.parametrize("seed", range(8))
def test_rows_equal_brute_force(seed: int) -> None:
    d = 5 + seed
    inputs, rows = problem(d, 3, seed=seed)
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.0, name="t")
    trace = trace_pruning(rows, factored, block_units(rows.shape, 1))
    for r, row in enumerate(rows):
        for steps in (1, d // 2, d):
            order, losses, values = brute_force(
                row,
                factored.matrix,
                units=[[j] for j in range(d)],
                may_take=lambda taken: [j for j in range(d) if j not in taken],
                steps=steps,
            )
            np.testing.assert_array_equal(trace.order[r, :steps], order)
            np.testing.assert_allclose(trace.losses[r, :steps], losses, rtol=1e-8, atol=1e-8)
            solved = best_values(row[None], trace.step_of_column()[r : r + 1] >= steps, factored)
            np.testing.assert_allclose(solved[0], values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_slots_equal_brute_force(seed: int) -> None:
    """2:4 then 1:4 of 10 channels: groups of 4, 4 and 2; the second stage goes on from the first."""
    d, m = 10, 4
    inputs, rows = problem(d, 2, seed=seed)
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.0, name="t")
    trace = trace_pruning(rows, factored, slot_units(rows.shape, m=m, slots=[2, 1]))
    sizes = {0: 4, 1: 4, 2: 2}

    def may_take(taken: list[int]) -> list[int]:
        counts = {g: sum(j // m == g for j in taken) for g in sizes}
        for n in (2, 1):
            room = {g: sizes[g] - min(n, sizes[g]) - counts[g] for g in sizes}
            free = [j for j in range(d) if j not in taken and room[j // m] > 0]
            if free:
                return free
        return []

    assert trace.units.capacity.tolist() == [[2, 2, 0], [3, 3, 1]]
    for r, row in enumerate(rows):
        order, losses, _ = brute_force(row, factored.matrix, units=[[j] for j in range(d)], may_take=may_take, steps=7)
        np.testing.assert_array_equal(trace.order[r], order)
        np.testing.assert_allclose(trace.losses[r], losses, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_equal_brute_force(seed: int) -> None:
    """Blocks of 3 of 11 channels; the last block has 2."""
    inputs, rows = problem(11, 2, seed=seed)
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.0, name="t")
    trace = trace_pruning(rows, factored, block_units(rows.shape, 3))
    units = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    for r, row in enumerate(rows):
        order, losses, _ = brute_force(
            row,
            factored.matrix,
            units=units,
            may_take=lambda taken: [u for u in range(4) if u not in taken],
            steps=4,
        )
        np.testing.assert_array_equal(trace.order[r], order)
        np.testing.assert_allclose(trace.losses[r], losses, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_quantising_equals_brute_force(seed: int) -> None:
    d, codebook = 8, np.array([-1.0, -0.25, 0.0, 0.5, 1.0])
    inputs, rows = problem(d, 2, seed=seed)
    rows[:, 3] = 0.0
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.0, name="t")
    retained = np.ones(rows.shape, bool)
    retained[:, 3] = False
    out, order, losses = run_trace(
        rows,
        factored,
        block_units(rows.shape, 1),
        retained=retained,
        codebooks=np.tile(codebook, (2, 1)),
        threads=1,
        name="t",
    )
    for r in range(2):
        row, inside = rows[r].copy(), [j for j in range(d) if j != 3]
        for step in range(d - 1):
            G = np.linalg.inv(factored.matrix[np.ix_(inside, inside)])
            error = row[inside] - codebook[np.abs(row[inside][:, None] - codebook).argmin(axis=1)]
            cost = 0.5 * error**2 / np.diag(G)
            outside = np.flatnonzero(np.abs(error) > 0.375)  # half the widest gap, 0.75
            place = int(outside[0]) if outside.size else int(cost.argmin())
            assert order[r, step] == inside[place]
            assert losses[r, step] == pytest.approx(cost[place], rel=1e-8, abs=1e-8)
            row[inside] -= G[:, place] * error[place] / G[place, place]
            del inside[place]
        np.testing.assert_allclose(out[r], row, atol=1e-8)
        assert out[r, 3] == 0.0
        assert np.isin(out[r], codebook).all()


@pytest.mark.parametrize("d", [PANEL - 1, PANEL, PANEL + 1, COLUMNS + 3, 2 * COLUMNS + PANEL + 1])
def test_collected_downdates_equal_one_by_one(d: int) -> None:
    """Sizes around the panel and column widths of the kernel, against the textbook rank-1 downdates."""
    inputs, rows = problem(d, 2, seed=d)
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.01, name="t")
    trace = trace_pruning(rows, factored, block_units(rows.shape, 1), threads=2)
    for r in range(2):
        row, G, alive = rows[r].copy(), factored.inverse.copy(), np.ones(d, bool)
        for step in range(d):
            cost = np.where(alive, 0.5 * row**2 / np.where(alive, np.diag(G), 1.0), np.inf)
            j = int(cost.argmin())
            assert trace.order[r, step] == j
            assert trace.losses[r, step] == pytest.approx(cost[j], rel=1e-6)
            row -= G[:, j] * row[j] / G[j, j]
            G -= np.outer(G[:, j], G[j]) / G[j, j]
            row[j], alive[j] = 0.0, False


@pytest.mark.parametrize("d", [1, 2, PANEL - 1, PANEL, PANEL + 1, 2 * COLUMNS + PANEL + 3])
def test_best_values_solve_least_squares(d: int) -> None:
    """Against numpy's least squares on the inputs themselves, at sizes around the widths of the kernel."""
    inputs, rows = problem(d, 5, seed=d)
    hessian = hessian_of(inputs)
    factored = factor(hessian.matrix[0], samples=hessian.samples, damping=0.0, name="t")
    mask = np.random.default_rng(d).random(rows.shape) < np.array([0.05, 0.3, 0.5, 0.9, 1.0])[:, None]
    mask[0] = False
    found = best_values(rows, mask, factored)
    for r in range(5):
        expected = np.zeros(d)
        expected[mask[r]] = np.linalg.lstsq(inputs[:, mask[r]], inputs @ rows[r], rcond=None)[0]
        np.testing.assert_allclose(found[r], expected, rtol=1e-5, atol=1e-5 * np.abs(rows[r]).max())
        assert (found[r][~mask[r]] == 0).all()


@pytest.mark.filterwarnings("ignore::nestling.workloads.sparsify.SparsifyWarning")
@settings(max_examples=40, deadline=None)
@given(
    losses=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    density=st.floats(0.05, 1.0),
)
def test_rows_compete_step_by_step(losses: list[list[int]], density: float) -> None:
    """Against a literal competition: again and again the row whose next step is cheapest takes it (ties: first row)."""
    rows = len(losses)
    units = block_units((rows, 3), 1)
    trace = Trace(units, np.tile(np.arange(3), (rows, 1)), np.array(losses, float))
    found = shared_steps(trace, [density])[0]
    target = max(1, min(range(3 * rows + 1), key=lambda n: (abs(n - density * 3 * rows), n)))
    steps, paid = [0] * rows, [-1.0] * rows
    for _ in range(3 * rows - target):
        # A cheap step behind a dear one was paid for with the dear one: it goes at that price, before equal ones later.
        price = [max(paid[r], losses[r][steps[r]]) if steps[r] < 3 else np.inf for r in range(rows)]
        r = int(np.argmin(price))
        paid[r] = price[r]
        steps[r] += 1
    assert found.tolist() == steps


def test_recorded_losses_are_the_measured_error() -> None:
    inputs, rows = problem(24, 10, seed=1)
    hessian = hessian_of(inputs)
    result = OBC(damping=0.0, values="per_level").sparsify_layer(
        rows.astype(np.float32), [0.9, 0.5, 0.1], hessian=hessian, name="t"
    )
    report = result.report
    assert report is not None
    assert not report.rank_deficient
    np.testing.assert_allclose(report.recorded_losses, report.losses, rtol=1e-6)
    for level in range(3):
        error = inputs @ (result.dense(level) - rows.astype(np.float32)).T.astype(np.float64)
        assert report.losses[level] == pytest.approx((error**2).sum(), rel=1e-4)  # the values are stored as float32
    assert result.extra_values == result.weights.nonzeros[1:].sum()


@pytest.mark.parametrize("granularity", ["weight", "nm", "block"])
def test_corrected_values_beat_magnitude(granularity: str) -> None:
    inputs, rows = problem(16, 12, seed=3)
    method = OBC(granularity=granularity)
    values = rows.astype(np.float32)
    result = method.sparsify_layer(values, [0.5], hessian=hessian_of(inputs))
    other = {"weight": "magnitude", "nm": "nm", "block": "block"}[granularity]
    plain = METHODS[other].sparsify_weights(values, [0.5])
    losses = [(((w.dense(0) - values) @ inputs.T) ** 2).sum() for w in (result.weights, plain)]
    assert losses[0] < 0.5 * losses[1]


def test_own_values_cost_less_than_the_densest_levels() -> None:
    inputs, rows = problem(16, 12, seed=4)
    shared, own = (
        OBC(values=v).sparsify_layer(rows.astype(np.float32), [0.6, 0.3], hessian=hessian_of(inputs))
        for v in ("densest", "per_level")
    )
    np.testing.assert_array_equal(shared.weights.keep, own.weights.keep)
    np.testing.assert_array_equal(shared.weights.values, own.weights.values)
    assert shared.report.losses[0] == own.report.losses[0]
    assert own.report.losses[1] < shared.report.losses[1]
    assert shared.extra_values == 0
    np.testing.assert_array_equal(own.dense(1) != 0, own.weights.mask(1))


def test_groups_are_separate_problems() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((6, 2, 3, 3)).astype(np.float32)
    inputs = rng.standard_normal((100, 3, 18))
    whole = OBC(granularity="nm", m=2).sparsify_weights(values, [0.5], hessian=hessian_of(inputs, groups=3))
    for g in range(3):
        part = OBC(granularity="nm", m=2).sparsify_weights(
            values[2 * g : 2 * g + 2], [0.5], hessian=hessian_of(inputs[:, g])
        )
        np.testing.assert_array_equal(whole.keep[2 * g : 2 * g + 2], part.keep)
        np.testing.assert_array_equal(whole.values[2 * g : 2 * g + 2], part.values)


def test_columns_run_along_input_channels() -> None:
    columns, groups = runs_along_channels((1, 5, 2, 1), 2)
    assert columns.tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]  # (c, r) = 2 c + r
    assert groups.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]


def test_threads_change_nothing() -> None:
    inputs, rows = problem(20, 50, seed=6)
    hessian = hessian_of(inputs)
    one, three = (OBC(threads=n).sparsify_weights(rows.astype(np.float32), [0.4, 0.2], hessian=hessian) for n in (1, 3))
    np.testing.assert_array_equal(one.keep, three.keep)
    np.testing.assert_array_equal(one.values, three.values)


# --- calibration data ------------------------------------------------------------------------------------------------


def test_hessians_add_up() -> None:
    rng = np.random.default_rng(7)
    inputs = rng.standard_normal((30, 6)).astype(np.float32)
    whole, parts = hessian_of(inputs), Hessian(6)
    for chunk in np.split(inputs, [7, 19]):
        parts.add(chunk)
    np.testing.assert_allclose(parts.matrix, whole.matrix, rtol=1e-12)
    np.testing.assert_allclose(whole.matrix[0], 2.0 * inputs.T.astype(float) @ inputs, rtol=1e-6)
    assert parts.samples == whole.samples == 30


@pytest.mark.parametrize(("damping", "used"), [(0.0, 0.01), (0.05, 0.05)])
def test_too_few_samples_are_damped_and_said_so(damping: float, used: float) -> None:
    inputs, rows = problem(12, 4, seed=8, samples=5)
    with pytest.warns(SparsifyWarning, match="5 calibration samples do not determine 12 inputs"):
        result = OBC(damping=damping).sparsify_layer(rows.astype(np.float32), [0.5], hessian=hessian_of(inputs))
    assert result.report.rank_deficient
    assert result.report.damping == used
    assert result.weights.nonzeros.tolist() == [24]


def test_repeated_samples_are_rank_deficient_too() -> None:
    inputs, rows = problem(12, 4, seed=9, samples=5)
    with pytest.warns(SparsifyWarning, match="rank-deficient"):
        METHODS["obc"].sparsify_weights(rows.astype(np.float32), [0.5], hessian=hessian_of(np.tile(inputs, (10, 1))))


def test_scales_of_inputs_are_not_rank_deficiency() -> None:
    _, rows = problem(8, 4, seed=10)
    inputs = np.random.default_rng(0).normal(size=(99, 8)) * 10.0 ** np.arange(-4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = OBC(damping=0.0).sparsify_layer(rows.astype(np.float32), [0.5], hessian=hessian_of(inputs))
    assert not result.report.rank_deficient


def test_dead_inputs_go_first() -> None:
    inputs, rows = problem(10, 4, seed=11)
    inputs[:, [2, 7]] = 0.0
    rows[:, [2, 7]] *= 100.0
    result = OBC(damping=0.0).sparsify_layer(rows.astype(np.float32), [1.0, 0.8, 0.4], hessian=hessian_of(inputs))
    assert result.report.dead_inputs == 2
    assert not result.report.rank_deficient
    assert (result.weights.keep[:, [2, 7]] == 1).all()
    assert (np.delete(result.weights.keep, [2, 7], axis=1) >= 2).all()
    # Level 0 is dense: nothing was corrected, not even on dead inputs.
    np.testing.assert_array_equal(result.weights.values, rows.astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, h: OBC().sparsify_weights(w, [0.5]), "needs calibration inputs"),
        (lambda w, h: OBC().sparsify_weights(w[:, :3], [0.5], hessian=h), "calibration has 1 groups of 8 inputs"),
        (lambda w, h: OBC().sparsify_weights(w, [0.5], hessian=Hessian(8)), "no calibration samples"),
        (
            lambda w, h: OBC().sparsify_weights(w, [0.5], hessian=hessian_of(np.zeros((9, 8)))),
            "all calibration inputs are",
        ),
        (
            lambda w, h: OBC(granularity="nm").sparsify_weights(w, [0.3], hessian=h),
            "not a multiple of 1/4; nearest are 1:4",
        ),
        (lambda w, h: OBC(granularity="rows"), "unknown granularity of obc 'rows'"),
        (lambda w, h: OBC(values="each"), "unknown values of obc 'each'"),
        (lambda w, h: OBC(damping=-1.0), "damping = -1.0, must not be negative"),
        (lambda w, h: OBC(threads=0).sparsify_weights(w, [0.5], hessian=h), "0 threads; at least 1"),
        (lambda w, h: hessian_of(np.full((3, 8), np.nan)), "NaN or infinity"),
        (lambda w, h: hessian_of(np.zeros((0, 8))), "needed is"),
        (lambda w, h: h.add(np.zeros((3, 7))), r"needed is \(samples, \(1, 8\)\)"),
    ],
)
def test_mistakes(call: Callable[[Array, Hessian], object], message: str) -> None:
    inputs, rows = problem(8, 4, seed=12)
    with pytest.raises(InputError, match=message):
        call(rows.astype(np.float32), hessian_of(inputs))
