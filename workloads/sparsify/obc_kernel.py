"""Numba kernel of exact OBS: traces of weights removed (or quantised) one unit at a time, row by row.

With H the Hessian of a row's squared output error and G the inverse of H restricted to the untouched weights, moving
weight j by -e costs e**2 / (2 G_jj) when the other untouched weights move by -G_:j e / G_jj, and G then becomes
G - G_:j G_j: / G_jj (Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992; row by row: Frantar
and Alistarh, arXiv 2208.11580). The rank-1 downdates are collected: a column of G is computed when it is needed from
the last explicit G and the pending downdates, and every PANEL steps they are applied at once to the lower triangle of
the untouched rows and columns. Same d**3 / 6 multiply-adds, but from registers instead of from memory.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: Downdates that are collected before they are applied.
PANEL = 128
#: Columns updated at a time: a panel of this width (128 KiB) stays in the second-level cache.
COLUMNS = 128

_index = np.uint64  # unsigned: spares the wrap-around of negative indices, which would block vector code


def _nearest(value, codebook):
    """The entry of the ascending ``codebook`` nearest to ``value``, the lower one at a tie."""
    low, high = 0, codebook.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if codebook[middle] <= value:
            low = middle
        else:
            high = middle
    return codebook[low] if value - codebook[low] <= codebook[high] - value else codebook[high]


nearest = njit(cache=True, nogil=True)(_nearest)


def _joint_cost(errors, corner, factor, size):
    """e^T C^-1 e for the leading ``size`` entries of ``errors`` and of ``corner``, by Cholesky; infinite if C is not
    positive definite. ``factor``: scratch."""
    total = 0.0
    for r in range(size):
        y = errors[r]
        for c in range(r + 1):
            x = corner[r, c]
            for t in range(c):
                x -= factor[r, t] * factor[c, t]
            if c < r:
                factor[r, c] = x / factor[c, c]
            elif x <= 0.0:
                return np.inf
            else:
                factor[r, r] = np.sqrt(x)
        for t in range(r):
            y -= factor[r, t] * errors[t]
        # errors becomes the solution of the triangular system.
        errors[r] = y / factor[r, r]
        total += errors[r] * errors[r]
    return total


joint_cost = njit(cache=True, nogil=True)(_joint_cost)


def _apply_panel(matrix, panel, pending, size):
    """matrix[i, j] -= sum over q < pending of panel[q, i] * panel[q, j], for j <= i < size (and some entries above).

    Two rows and four downdates at a time: 8 products for 6 loads and 2 stores. ``pending`` is a multiple of 4.
    """
    for start in range(0, size, COLUMNS):
        i = start
        while i < size:
            second = min(i + 1, size - 1)
            stop = min(start + COLUMNS, second + 1)
            upper, lower = matrix[i], matrix[second]
            for q in range(0, pending, 4):
                p0, p1, p2, p3 = panel[q], panel[q + 1], panel[q + 2], panel[q + 3]
                a0, a1, a2, a3 = p0[i], p1[i], p2[i], p3[i]
                if second == i:
                    for j in range(_index(start), _index(stop)):
                        upper[j] -= (a0 * p0[j] + a1 * p1[j]) + (a2 * p2[j] + a3 * p3[j])
                else:
                    b0, b1, b2, b3 = p0[second], p1[second], p2[second], p3[second]
                    for j in range(_index(start), _index(stop)):
                        x0, x1, x2, x3 = p0[j], p1[j], p2[j], p3[j]
                        upper[j] -= (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)
                        lower[j] -= (b0 * x0 + b1 * x1) + (b2 * x2 + b3 * x3)
            i += 2


apply_panel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(_apply_panel)


def _refresh(source, first, matrix, panel, pending, places, alive, size):
    """Apply the pending downdates; drop the removed rows and columns once they are an eighth. Returns the new size.

    source : the explicit inverse so far (lower triangle): the given one at the ``first`` refresh, then ``matrix`` itself.
    places : original column of each compact one, compacted in place. alive : by original column.
    """
    # Downdates up to a multiple of 4, the last ones zero.
    rounded = (pending + 3) // 4 * 4
    panel[pending:rounded, :size] = 0.0
    kept = np.empty(size, np.int64)
    count = 0
    for i in range(size):
        if alive[places[i]]:
            kept[count] = i
            count += 1
    if not first and 8 * count > 7 * size:  # moving the matrix would cost more than updating what is gone
        apply_panel(matrix, panel, rounded, size)
        return size
    for i in range(count):
        for j in range(i + 1):
            matrix[i, j] = source[kept[i], kept[j]]
    for q in range(pending):
        for i in range(count):
            panel[q, i] = panel[q, kept[i]]
    for i in range(count):
        places[i] = places[kept[i]]
    apply_panel(matrix, panel, rounded, count)
    return count


refresh = njit(cache=True, nogil=True, error_model="numpy")(_refresh)


def _column(source, panel, pending, pivot, size, out):
    """out[:size] = column ``pivot`` (compact) of the current inverse."""
    for i in range(pivot):
        out[i] = source[pivot, i]
    for i in range(pivot, size):
        out[i] = source[i, pivot]
    for q in range(pending):
        x, row = panel[q, pivot], panel[q]
        for i in range(_index(size)):
            out[i] -= x * row[i]


column = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(_column)


def _cheapest_unit(weights, alive, starts, group, room, corners, codebook, outlier, errors, factor):
    """Unit with the least cost of moving to the codebook, and that cost; -1 if no unit may be taken.

    A single weight farther than ``outlier`` from the codebook goes first: waiting would only drive it farther away.
    """
    best, least = -1, np.inf
    for unit in range(starts.size - 1):
        first, size = starts[unit], starts[unit + 1] - starts[unit]
        if not alive[first] or room[group[unit]] <= 0:
            continue
        if size == 1:
            error = weights[first] - nearest(weights[first], codebook)
            cost = error * error / corners[first, 0] if corners[first, 0] > 0.0 else np.inf
            if abs(error) > outlier:
                return unit, cost
        else:
            for t in range(size):
                errors[t] = weights[first + t] - nearest(weights[first + t], codebook)
            cost = joint_cost(errors, corners[first : first + size], factor, size)
        if cost < least:
            best, least = unit, cost
    return best, least


cheapest_unit = njit(cache=True, nogil=True, error_model="numpy")(_cheapest_unit)


def _trace_row(weights, inverse, starts, group, capacity, frozen, codebook, outlier, matrix, panel, order, losses):
    """Trace of one row; ``weights`` is left with the final values. Arguments as in ``trace_rows``. Returns units taken,
    or -1 if the inverse lost its positive diagonal."""
    d, units = weights.size, starts.size - 1
    widest = 1
    for unit in range(units):
        widest = max(widest, starts[unit + 1] - starts[unit])
    corners = np.empty((d, widest))
    for unit in range(units):
        for j in range(starts[unit], starts[unit + 1]):
            for t in range(starts[unit + 1] - starts[unit]):
                corners[j, t] = inverse[j, starts[unit] + t]
    places, compact = np.arange(d), np.arange(d)
    alive = np.ones(d, np.bool_)
    spread = np.zeros(d)
    values, errors, factor = np.empty(d), np.empty(widest), np.empty((widest, widest))
    source, size, pending, taken, first_time = inverse, d, 0, 0, True
    frozen_left, stage = frozen.sum(), 0
    room = capacity[0].copy()
    scan = 0
    while True:
        if frozen_left > 0:
            while not frozen[scan]:
                scan += 1
            first, stop, cost = scan, scan + 1, 0.0
            scan += 1
            frozen_left -= 1
        else:
            unit, cost = cheapest_unit(weights, alive, starts, group, room, corners, codebook, outlier, errors, factor)
            if unit < 0:
                # An open group with untouched units, all of infinite cost, is a breakdown; otherwise the stage is done.
                for other in range(units):
                    if alive[starts[other]] and room[group[other]] > 0:
                        return -1
                stage += 1
                if stage == capacity.shape[0]:
                    break
                room += capacity[stage] - capacity[stage - 1]
                continue
            first, stop = starts[unit], starts[unit + 1]
            order[taken], losses[taken] = unit, 0.5 * cost
            room[group[unit]] -= 1
            taken += 1
        for j in range(first, stop):
            column(source, panel, pending, compact[j], size, values)
            pivot = values[compact[j]]
            if not pivot > 0.0:
                return -1
            target = 0.0 if frozen[j] else nearest(weights[j], codebook)
            move, root = (weights[j] - target) / pivot, 1.0 / np.sqrt(pivot)
            alive[j] = False
            for i in range(size):
                at = places[i]
                if alive[at]:
                    weights[at] -= values[i] * move
                    panel[pending, i] = spread[at] = values[i] * root
                else:
                    panel[pending, i] = spread[at] = 0.0
            weights[j] = target
            for other in range(units):
                begin, end = starts[other], starts[other + 1]
                if alive[end - 1]:
                    for r in range(begin, end):
                        for t in range(end - begin):
                            corners[r, t] -= spread[r] * spread[begin + t]
            pending += 1
            if pending == PANEL:
                size = refresh(source, first_time, matrix, panel, pending, places, alive, size)
                source, pending, first_time = matrix, 0, False
                for i in range(size):
                    compact[places[i]] = i
    return taken


trace_row = njit(cache=True, nogil=True, error_model="numpy")(_trace_row)


def _trace_rows(rows, inverse, starts, group, capacity, frozen, codebooks, outliers, order, losses):
    d = rows.shape[1]
    matrix, panel = np.empty((d, d)), np.empty((PANEL, d))
    for r in range(rows.shape[0]):
        taken = trace_row(
            rows[r], inverse, starts, group, capacity, frozen[r], codebooks[r], outliers[r], matrix, panel,
            order[r], losses[r],
        )  # fmt: skip
        if taken < 0:
            return r
    return -1


_compiled = njit(cache=True, nogil=True, error_model="numpy")(_trace_rows)


def trace_rows(
    rows: NDArray[np.float64],
    inverse: NDArray[np.float64],
    *,
    starts: NDArray[np.int64],
    group: NDArray[np.int64],
    capacity: NDArray[np.int64],
    frozen: NDArray[np.bool_],
    codebooks: NDArray[np.float64],
    outliers: NDArray[np.float64],
    order: NDArray[np.int64],
    losses: NDArray[np.float64],
) -> int:
    """Move units of weights to their codebooks, cheapest first, stage by stage; every row on its own.

    Parameters
    ----------
    rows : (r, d), overwritten with the final values. inverse : (d, d), of the Hessian; read only.
    starts : (u + 1,), unit i holds the columns starts[i] .. starts[i + 1] - 1 and is taken as a whole.
    group, capacity : group of each unit (u,), and how many units of each group may be taken by the end of each stage
        (stages, groups), not decreasing. A stage ends when every group is at its capacity.
    frozen : (r, d), columns held at zero from the start: they are eliminated first and not recorded.
    codebooks : (r, q), ascending targets; q = 1 with 0 is pruning. outliers : (r,), see ``cheapest_unit``.
    order, losses : (r, u), written: unit taken at each step, and what it costs in 0.5 * e^T H e.

    Returns the first row where the inverse is not positive definite, or -1. Memory: d * (d + PANEL) doubles.
    """
    return int(_compiled(rows, inverse, starts, group, capacity, frozen, codebooks, outliers, order, losses))


def _solve_definite(matrix, size, panel, right):
    """Solve A x = b in place: ``right`` holds b, then x. Blocked Cholesky, A = L L^T.

    matrix : A in the lower triangle of its first ``size`` rows; overwritten (L^T above the diagonal). Returns False if A is
    not positive definite.
    """
    for start in range(0, size, PANEL):
        stop = min(start + PANEL, size)
        for j in range(start, stop):
            row = panel[j - start]
            for i in range(start, size):
                row[i] = matrix[i, j] if i >= j else 0.0
            for q in range(j - start):
                x, before = panel[q, j], panel[q]
                for i in range(_index(j), _index(size)):
                    row[i] -= x * before[i]
            if not row[j] > 0.0:
                return False
            root = np.sqrt(row[j])
            for i in range(j, size):
                row[i] /= root
            right[j] /= root
            for i in range(j + 1, size):
                right[i] -= row[i] * right[j]
        if stop < size:  # then the panel is full, so its rows are a multiple of 4
            apply_panel(matrix[stop:, stop:], panel[:, stop:], stop - start, size - stop)
        for j in range(start, stop):
            for i in range(j, size):
                matrix[j, i] = panel[j - start, i]
    for j in range(size - 1, -1, -1):
        x = right[j]
        for i in range(_index(j + 1), _index(size)):
            x -= matrix[j, i] * right[i]
        right[j] = x / matrix[j, j]
    return True


solve_definite = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})(_solve_definite)


def _correct_rows(rows, mask, matrix, inverse, out):
    d = rows.shape[1]
    work, panel, right = np.empty((d, d)), np.empty((PANEL, d)), np.empty(d)
    for r in range(rows.shape[0]):
        kept, gone = np.flatnonzero(mask[r]), np.flatnonzero(~mask[r])
        few = kept if kept.size <= gone.size else gone
        source = matrix if kept.size <= gone.size else inverse
        for i in range(few.size):
            for j in range(i + 1):
                work[i, j] = source[few[i], few[j]]
            right[i] = 0.0 if kept.size <= gone.size else rows[r, few[i]]
        if kept.size <= gone.size:
            for i in range(kept.size):
                for j in range(gone.size):
                    right[i] += matrix[kept[i], gone[j]] * rows[r, gone[j]]
        if not solve_definite(work, few.size, panel, right):
            return r
        for i in range(kept.size):
            out[r, kept[i]] = rows[r, kept[i]]
            if kept.size <= gone.size:
                out[r, kept[i]] += right[i]
            else:
                for j in range(gone.size):
                    out[r, kept[i]] -= inverse[kept[i], gone[j]] * right[j]
    return -1


_correct = njit(cache=True, nogil=True, error_model="numpy")(_correct_rows)


def correct_rows(
    rows: NDArray[np.float64],
    mask: NDArray[np.bool_],
    matrix: NDArray[np.float64],
    inverse: NDArray[np.float64],
    out: NDArray[np.float64],
) -> int:
    """out[r] minimises (out[r] - rows[r])^T matrix (out[r] - rows[r]) with out[r] zero outside mask[r]; see ``best_values``.

    All float64 (r, d) and (d, d); ``out`` must hold zeros. Returns the first row that breaks down, or -1. The smaller of the
    two systems is solved: min(kept, removed)**3 / 6 multiply-adds.
    """
    return int(_correct(rows, mask, matrix, inverse, out))
