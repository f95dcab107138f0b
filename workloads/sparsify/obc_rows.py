"""Exact OBS on the rows of one weight matrix: traces, how many steps each row takes per level, and the best values.

The cost of all steps is rows * d**3 / 6 multiply-adds (see ``obc_kernel``); each thread holds d * (d + 128) doubles.
Measured on one thread of a 2-core AMD EPYC that other programs kept busy: rows * d**3 per second 0.4e10 at d = 64, 2e10
at 256, 3e10 at 512, 4e10 from 1024 to 4608. ResNet-50's 54 layers are 1.93e14, of which the three of d = 4608 are 78 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .hessian import Factored
from .sparsifier import kernel_shape, prefix_units

Doubles = NDArray[np.float64]
#: Rows handed to a thread at a time; each chunk allocates its own scratch memory.
CHUNK = 16


@dataclass(frozen=True, eq=False)
class Units:
    """What is removed together, and how much of it: the columns of a matrix in units, the units in groups.

    ``columns`` : the order in which the columns are worked on, (d,). ``starts`` : (u + 1,), unit i = ordered columns
    starts[i] .. starts[i + 1] - 1. ``group`` : (u,). ``capacity`` : (stages, groups), units of each group that every
    row has lost by the end of each stage.
    """

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]
    group: NDArray[np.int64]
    capacity: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


@dataclass(frozen=True, eq=False)
class Trace:
    """Order of removal: ``order`` (rows, steps) the unit taken at each step, ``losses`` (rows, steps) what it costs."""

    units: Units
    order: NDArray[np.int64]
    losses: Doubles

    def step_of_column(self) -> NDArray[np.int64]:
        """Step that removes each weight, (rows, d); the number of steps where none does."""
        rows, steps = self.order.shape
        of_unit = np.full((rows, self.units.sizes.size), steps, np.int64)
        np.put_along_axis(of_unit, self.order, np.broadcast_to(np.arange(steps), self.order.shape), axis=1)
        out = np.empty((rows, self.units.columns.size), np.int64)
        out[:, self.units.columns] = np.repeat(of_unit, self.units.sizes, axis=1)
        return out


def runs_along_channels(shape: tuple[int, ...], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns of the GEMM view with the input channels of one kernel position side by side, and group of each.

    Groups hold ``size`` consecutive channels, the last one of a position what is left. Both int64 (d,).
    """
    _, C, R, S = kernel_shape(shape)
    columns = np.arange(C * R * S, dtype=np.int64).reshape(C, R * S).T.reshape(-1)
    groups = (np.arange(R * S)[:, None] * -(-C // size) + np.arange(C) // size).reshape(-1)
    return columns, groups


def block_units(shape: tuple[int, ...], block: int) -> Units:
    """Units of ``block`` consecutive input channels (1: single weights), all removable."""
    columns, groups = runs_along_channels(shape, block)
    starts = np.append(np.flatnonzero(np.diff(groups, prepend=-1)), columns.size)
    units = starts.size - 1
    return Units(columns, starts.astype(np.int64), np.zeros(units, np.int64), np.array([[units]], np.int64))


def slot_units(shape: tuple[int, ...], *, m: int, slots: Sequence[int]) -> Units:
    """Single weights in groups of ``m`` input channels; stage l leaves min(slots[l], channels) weights in each."""
    columns, groups = runs_along_channels(shape, m)
    sizes = np.bincount(groups)
    capacity = np.stack([sizes - np.minimum(n, sizes) for n in slots])
    return Units(columns, np.arange(columns.size + 1, dtype=np.int64), groups, capacity)


def in_chunks(work: Callable[[slice], None], rows: int, threads: int) -> None:
    """Call ``work`` on slices of the rows, on ``threads`` threads."""
    if threads < 1:
        raise InputError(f"{threads} threads; at least 1 is needed")
    chunks = [slice(first, min(first + CHUNK, rows)) for first in range(0, rows, CHUNK)]
    if threads == 1:
        for chunk in chunks:
            work(chunk)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, chunks))


def trace_pruning(rows: Doubles, factored: Factored, units: Units, *, threads: int = 1, name: str = "weights") -> Trace:
    """Remove units from every row, cheapest first, until the last stage's capacity is reached.

    ``rows``: float64 (rows, d), in the layer's own column order; not changed.

    Raises
    ------
    InputError
        if the inverse loses its positive diagonal (a Hessian too ill-conditioned for its damping).
    """
    steps = int(units.capacity[-1].sum())
    kept = np.ones(rows.shape, np.bool_)
    _, order, losses = run_trace(
        rows, factored, units, retained=kept, codebooks=np.zeros((len(rows), 1)), threads=threads, name=name
    )
    return Trace(units, order[:, :steps], losses[:, :steps])


def run_trace(
    rows: Doubles,
    factored: Factored,
    units: Units,
    *,
    retained: NDArray[np.bool_],
    codebooks: Doubles,
    threads: int,
    name: str,
) -> tuple[Doubles, NDArray[np.int64], Doubles]:
    """Move the ``retained`` (rows, d) weights' units to their codebooks (rows, q): final rows, order, losses."""
    from .obc_kernel import trace_rows

    inverse = np.ascontiguousarray(factored.inverse[np.ix_(units.columns, units.columns)])
    moved = np.ascontiguousarray(rows[:, units.columns])
    frozen = np.ascontiguousarray(~retained[:, units.columns])
    books = np.array(codebooks, order="C")  # one compiled kernel serves own, contiguous, writable arrays only
    outliers = _outlier_distances(codebooks)
    order = np.zeros((len(rows), units.sizes.size), np.int64)
    losses = np.zeros(order.shape)

    def work(chunk: slice) -> None:
        failed = trace_rows(
            moved[chunk],
            inverse,
            starts=units.starts,
            group=units.group,
            capacity=units.capacity,
            frozen=frozen[chunk],
            codebooks=books[chunk],
            outliers=outliers[chunk],
            order=order[chunk],
            losses=losses[chunk],
        )
        check_rows(failed, chunk, factored, name=name)

    in_chunks(work, len(rows), threads)
    out = np.empty(rows.shape)
    out[:, units.columns] = moved
    return out, order, losses


def _outlier_distances(codebooks: Doubles) -> Doubles:
    """Half the widest gap of each codebook: a value farther away lies outside its range. Infinite for single entries."""
    if codebooks.shape[1] < 2:
        return np.full(len(codebooks), np.inf)
    return np.asarray(0.5 * np.diff(codebooks, axis=1).max(axis=1))


def shared_steps(trace: Trace, densities: Sequence[float], *, name: str = "weights") -> NDArray[np.int64]:
    """Steps that each row has taken at each level when all rows share one budget, int64 (levels, rows).

    All rows' next steps compete: the cheapest is taken, until the number of retained weights is nearest to
    density * size (one unit at least is left). A step that costs less than an earlier one of its row follows that
    one at once, so the order of taking is that of the running maximum of each row's costs.
    """
    rows, steps = trace.losses.shape
    sizes = trace.units.sizes[trace.order].reshape(-1)
    taking = np.argsort(np.maximum.accumulate(trace.losses, axis=1).reshape(-1), kind="stable")
    # Retention reads the same order backwards: the last unit taken is the first one kept.
    ends = np.cumsum(sizes[taking[::-1]])
    counts = np.empty((len(densities), rows), np.int64)
    for level, density in enumerate(densities):
        kept = prefix_units(ends, density * ends[-1], what=f"{name}, level {level}")
        counts[level] = np.bincount(taking[: taking.size - kept] // steps, minlength=rows)
    return counts


def best_values(
    rows: Doubles, mask: NDArray[np.bool_], factored: Factored, *, threads: int = 1, name: str = "weights"
) -> Doubles:
    """The values that minimise each row's output error when only ``mask`` (rows, d) is retained; zero elsewhere.

    Removing a set of weights by OBS steps in any order leads to this minimum, so it is solved for directly: with S
    retained and P removed, w_S + H_SS^-1 H_SP w_P or, from the inverse G, w_S - G_SP G_PP^-1 w_P, whichever is smaller.
    """
    from .obc_kernel import correct_rows

    out = np.zeros(rows.shape)
    held = np.ascontiguousarray(rows), np.ascontiguousarray(mask)

    def work(chunk: slice) -> None:
        failed = correct_rows(held[0][chunk], held[1][chunk], factored.matrix, factored.inverse, out[chunk])
        check_rows(failed, chunk, factored, name=name)

    in_chunks(work, len(rows), threads)
    return out


def check_rows(failed: int, chunk: slice, factored: Factored, *, name: str) -> None:
    """Raise InputError if a kernel reports a row that broke down."""
    if failed >= 0:
        raise InputError(
            f"{name}: the Hessian is too ill-conditioned for damping {factored.damping:g} (row {chunk.start + failed}); "
            "use more damping or more calibration samples"
        )


def squared_errors(moves: Doubles, hessian: Doubles) -> Doubles:
    """Squared output error of each row moved by ``moves`` (rows, d): 0.5 * e^T H e, float64 (rows,)."""
    return np.asarray(0.5 * np.einsum("rd,rd->r", moves @ hessian, moves))
