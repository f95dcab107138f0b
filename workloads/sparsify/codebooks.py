"""Codebooks of at most 2**bits values: linear, power-of-two, k-means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
#: Cells of the exact k-means: its work and memory grow with the square.
BINS = 512
#: Rounds of Lloyd's algorithm; it stops as soon as no boundary moves.
LLOYD_ROUNDS = 300


def linear_codebook(values: Doubles, bits: int) -> Doubles:
    """Symmetric uniform grid: the integers -(2**(bits-1) - 1) .. 2**(bits-1) - 1 times max|value| / (2**(bits-1) - 1)."""
    steps = (1 << (bits - 1)) - 1
    return np.arange(-steps, steps + 1, dtype=np.float64) * (float(np.abs(values).max(initial=0.0)) / steps)


def power_of_two_codebook(values: Doubles, bits: int) -> Doubles:
    """Zero and +-2**p for the 2**(bits-1) - 1 exponents up to floor(log2(4/3 * max|value|)).

    The largest exponent is the nearest power to the largest value (INQ, Zhou et al., ICLR 2017, arXiv 1702.03044,
    equations 2 and 3).
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return np.zeros(1)
    top = int(np.floor(np.log2(4.0 * largest / 3.0)))
    powers = 2.0 ** np.arange(top - ((1 << (bits - 1)) - 1) + 1, top + 1)
    return np.concatenate((-powers[::-1], [0.0], powers))


def k_means_codebook(values: Doubles, bits: int) -> Doubles:
    """At most 2**bits centres of least squared error.

    Dynamic programming over the sorted values finds the best partition into consecutive cells (Bruce, 1964; Wang and
    Song, R Journal 3(2), 2011): the optimum for up to BINS distinct values. More values are first put into BINS bins of
    equal counts, and Lloyd's algorithm (IEEE Trans. Inf. Theory 28, 1982) then moves the cells' borders freely, which
    can only lower the error. The linear grid is returned should it be the better one.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    grid = linear_codebook(ordered, bits)
    if not ordered.size:
        return grid
    distinct = np.flatnonzero(np.diff(ordered, prepend=-np.inf))
    starts = distinct
    if distinct.size > BINS:
        starts = np.unique(np.linspace(0, ordered.size, BINS, endpoint=False).astype(np.int64))
    # Shifted by the mean, squares and sums lose no digits to it.
    middle = float(ordered.mean())
    sums = np.concatenate(([0.0], np.cumsum(ordered - middle)))
    squares = np.concatenate(([0.0], np.cumsum((ordered - middle) ** 2)))
    cells = _best_cells(np.append(starts, ordered.size), sums, squares, cells=1 << bits)
    centres = np.diff(sums[cells]) / np.diff(cells)
    if distinct.size > BINS:
        centres = _lloyd(ordered - middle, centres, sums)
    centres = np.sort(centres + middle)  # rounding may swap two centres that all but coincide
    return centres if _squared_error(ordered, centres) <= _squared_error(ordered, grid) else grid


def _best_cells(borders: NDArray[np.int64], sums: Doubles, squares: Doubles, *, cells: int) -> NDArray[np.int64]:
    """Borders of the at most ``cells`` cells of least squared error; cell borders are among ``borders`` (bins + 1,)."""
    count = (borders[None, :] - borders[:, None]).astype(np.float64)
    total = sums[borders][None, :] - sums[borders][:, None]
    cost = squares[borders][None, :] - squares[borders][:, None] - total**2 / np.maximum(count, 1.0)
    # cost[i, j]: one cell from border i to border j; cells are not empty.
    cost = np.where(count > 0, np.maximum(cost, 0.0), np.inf)
    best, history = cost[0], []
    for _ in range(min(cells, borders.size - 1) - 1):
        through = best[:, None] + cost
        history.append(through.argmin(axis=0))
        best = through[history[-1], np.arange(borders.size)]
    at, found = borders.size - 1, [borders.size - 1]
    for choice in reversed(history):
        at = int(choice[at])
        found.append(at)
    return np.asarray(borders[np.array([0, *reversed(found)])])


def _lloyd(ordered: Doubles, centres: Doubles, sums: Doubles) -> Doubles:
    """Rounds of borders halfway between the centres, centres at the means, until the borders stay."""
    cells: NDArray[np.int64] | None = None
    for _ in range(LLOYD_ROUNDS):
        cuts = np.searchsorted(ordered, 0.5 * (centres[1:] + centres[:-1]))
        moved = np.concatenate(([0], cuts, [ordered.size]))
        moved = np.append(np.unique(moved[:-1]), ordered.size)
        if cells is not None and np.array_equal(moved, cells):
            break
        cells = moved
        centres = np.diff(sums[cells]) / np.diff(cells)
    return centres


def _squared_error(values: Doubles, codebook: Doubles) -> float:
    return float(((values - round_to(values, codebook)) ** 2).sum())


#: Name -> codebook of the retained values (any shape) at a number of bits, ascending.
QUANTISERS: dict[str, Callable[[Doubles, int], Doubles]] = {
    "linear": linear_codebook,
    "power_of_two": power_of_two_codebook,
    "k_means": k_means_codebook,
}


def round_to(values: Doubles, codebook: Doubles) -> Doubles:
    """Nearest entry of the ascending ``codebook``, the lower one at a tie (float64, shape of ``values``)."""
    if codebook.size == 1:
        return np.full(values.shape, codebook[0])
    above = np.clip(np.searchsorted(codebook, values), 1, codebook.size - 1)
    low, high = codebook[above - 1], codebook[above]
    return np.where(values - low <= high - values, low, high)
