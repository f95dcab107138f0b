# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""The alternating fit W ~ Ce B with power-of-two Ce, one matrix after the other, no allocation per iteration.

Both least-squares problems go through a singular value decomposition of an n x n triangle (n = kernel width, 3 to 11):
exact cut-off of small singular values, so rank-deficient matrices get the minimum-norm solution that LAPACK's gives.
Comparisons closer than the two ways of rounding can differ, and singular fits, are reported, not decided:
``lapack.py`` decides them.
"""

from math import frexp, ldexp

import numpy as np
from numba import njit

#: Sweeps of the Jacobi iteration; 3 x 3 triangles converge in 4 to 6, 11 x 11 ones in under 12.
_SWEEPS = 40
_EPS = 2.3e-16
#: Squared ratio of the extreme singular values (1e-6) under which a fit counts as nearly singular.
_SINGULAR = 1e-12
#: Relative distance to a bound under which a comparison is too close to call: far above the rounding of the fits
#: (1e-16 times a condition number that stays under 1e3 for these bases), far below what would meet many matrices.
_CLOSE = 1e-9


def _power_of_two(value, largest, smallest, tie_upper):
    """The power of two nearest to |value| in linear distance, with its sign; clipped to [smallest, largest]."""
    if value == 0.0:
        return 0.0
    fraction, exponent = frexp(abs(value))  # |value| = fraction * 2**exponent, 0.5 <= fraction < 1
    upper = fraction > 0.75 or (tie_upper and fraction == 0.75)
    magnitude = ldexp(1.0, exponent if upper else exponent - 1)
    magnitude = max(min(magnitude, largest), smallest)
    return magnitude if value > 0.0 else -magnitude


power_of_two = njit(cache=True)(_power_of_two)


def _near_tie(value):
    """True if |value| lies halfway between two powers of two, as far as float64 fits can tell."""
    return abs(frexp(abs(value))[0] - 0.75) <= _CLOSE


near_tie = njit(cache=True)(_near_tie)


def _triangle(Q, R):
    """Householder QR of Q (m x n, m >= n) in place: Q becomes the thin orthonormal factor, R the triangle."""
    m, n = Q.shape
    V = Q.copy()
    betas = np.zeros(n)
    for j in range(n):
        norm = 0.0
        for i in range(j, m):
            norm += V[i, j] * V[i, j]
        norm = np.sqrt(norm)
        for i in range(j):
            R[i, j] = V[i, j]
        for i in range(j, n):
            R[i, j] = 0.0
        if norm == 0.0:
            continue
        alpha = -norm if V[j, j] > 0.0 else norm
        R[j, j] = alpha
        V[j, j] -= alpha
        squares = 0.0
        for i in range(j, m):
            squares += V[i, j] * V[i, j]
        betas[j] = 2.0 / squares
        for k in range(j + 1, n):
            dot = 0.0
            for i in range(j, m):
                dot += V[i, j] * V[i, k]
            dot *= betas[j]
            for i in range(j, m):
                V[i, k] -= dot * V[i, j]
    for k in range(n):  # the first n columns of the product of all reflections
        for i in range(m):
            Q[i, k] = 1.0 if i == k else 0.0
        for j in range(n - 1, -1, -1):
            if betas[j] == 0.0:
                continue
            dot = 0.0
            for i in range(j, m):
                dot += V[i, j] * Q[i, k]
            dot *= betas[j]
            for i in range(j, m):
                Q[i, k] -= dot * V[i, j]


triangle = njit(cache=True)(_triangle)


def _pseudo_inverse(M, rcond, out):
    """Pseudo-inverse of the n x n matrix M by one-sided Jacobi; singular values <= rcond * largest count as zero.

    True if M is singular, or so nearly that the two ways of rounding may disagree about it.
    """
    n = M.shape[0]
    U = M.copy()
    V = np.eye(n)
    for _ in range(_SWEEPS):
        rotated = False
        for p in range(n - 1):
            for q in range(p + 1, n):
                a = b = c = 0.0
                for i in range(n):
                    a += U[i, p] * U[i, p]
                    b += U[i, q] * U[i, q]
                    c += U[i, p] * U[i, q]
                if abs(c) <= _EPS * np.sqrt(a * b) or c == 0.0:
                    continue
                rotated = True
                zeta = (b - a) / (2.0 * c)
                t = 1.0 / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
                if zeta < 0.0:
                    t = -t
                cosine = 1.0 / np.sqrt(1.0 + t * t)
                sine = cosine * t
                for i in range(n):
                    u, v = U[i, p], V[i, p]
                    U[i, p] = cosine * u - sine * U[i, q]
                    U[i, q] = sine * u + cosine * U[i, q]
                    V[i, p] = cosine * v - sine * V[i, q]
                    V[i, q] = sine * v + cosine * V[i, q]
        if not rotated:
            break
    squares = np.zeros(n)
    for j in range(n):
        for i in range(n):
            squares[j] += U[i, j] * U[i, j]
    cut = rcond * np.sqrt(squares.max())
    for i in range(n):
        for k in range(n):
            total = 0.0
            for j in range(n):
                if squares[j] > 0.0 and np.sqrt(squares[j]) > cut:
                    total += V[i, j] * U[k, j] / squares[j]
            out[i, k] = total
    return squares.min() <= _SINGULAR * squares.max()


pseudo_inverse = njit(cache=True)(_pseudo_inverse)


def _fit_basis(A, Ce, rcond, B, scratch):
    """B = argmin ||A - Ce B||_F, minimum norm; True if Ce is singular. ``scratch``: m' x n, m' >= max(m, n)."""
    m, n = A.shape
    for i in range(scratch.shape[0]):
        for j in range(n):
            scratch[i, j] = Ce[i, j] if i < m else 0.0
    R = np.empty((n, n))
    inverse = np.empty((n, n))
    triangle(scratch, R)
    singular = pseudo_inverse(R, rcond, inverse)
    projected = np.zeros((n, n))
    for i in range(m):
        for j in range(n):
            for k in range(n):
                projected[j, k] += scratch[i, j] * A[i, k]
    for i in range(n):
        for k in range(n):
            B[i, k] = 0.0
            for j in range(n):
                B[i, k] += inverse[i, j] * projected[j, k]
    return singular


fit_basis = njit(cache=True)(_fit_basis)


def _scale_columns(Ce, first):
    """Scale each column by 2**mean(round(log2|c|) - log2|c|); False if a column is all zero (unless ``first``)."""
    m, n = Ce.shape
    for j in range(n):
        total, count = 0.0, 0
        for i in range(m):
            if Ce[i, j] != 0.0:
                logarithm = np.log2(abs(Ce[i, j]))
                total += np.round(logarithm) - logarithm
                count += 1
        if count == 0:
            if first:
                continue  # zero in the weights themselves: nothing to scale, and no threshold would help
            return False
        factor = 2.0 ** (total / count)
        for i in range(m):
            Ce[i, j] *= factor
    return True


scale_columns = njit(cache=True)(_scale_columns)


def _prune(Ce, threshold, row_threshold):
    """Zero whole rows with an L1 norm below ``row_threshold``, then single coefficients below ``threshold``.

    True if a comparison was too close to call."""
    m, n = Ce.shape
    close = False
    for i in range(m):
        norm = 0.0
        for j in range(n):
            norm += abs(Ce[i, j])
            close |= abs(abs(Ce[i, j]) - threshold) <= _CLOSE * threshold and threshold > 0.0
        close |= abs(norm - row_threshold) <= _CLOSE * row_threshold and row_threshold > 0.0
        for j in range(n):
            if norm < row_threshold or abs(Ce[i, j]) < threshold:
                Ce[i, j] = 0.0
    return close


prune = njit(cache=True)(_prune)


def _alternate(A, Ce, B, q, scratch, threshold, row_factor, last_try, settings):
    """One run at a fixed threshold.

    Returns (fits done, or -1 if a column became all zero while scaling; whether a comparison was too close to call).
    """
    iterations, tolerance, rcond, scale, largest, smallest, tie_upper = settings
    m, n = A.shape
    Ce[:] = A
    close = False
    inverse = np.empty((n, n))
    for step in range(iterations):
        if scale and not scale_columns(Ce, step == 0 or last_try):
            return -1, close
        change = 0.0
        for i in range(m):
            for j in range(n):
                close |= step > 0 and near_tie(Ce[i, j])
                code = power_of_two(Ce[i, j], largest, smallest, tie_upper)
                change += (code - q[i, j]) ** 2
                q[i, j] = code
        if step == iterations - 1 or (step > 0 and np.sqrt(change) <= tolerance):
            return step, close
        close |= fit_basis(A, q, rcond, B, scratch)
        close |= pseudo_inverse(B, rcond, inverse)
        for i in range(m):
            for j in range(n):
                total = 0.0
                for k in range(n):
                    total += A[i, k] * inverse[k, j]
                Ce[i, j] = total
        close |= prune(Ce, threshold, row_factor * threshold)
    return iterations, close


alternate = njit(cache=True)(_alternate)


def _decompose(A, first, last, threshold, decay, restarts, row_factor, settings, out):
    """Matrices ``first`` to ``last`` of A (count, m, n) into ``out``: coefficients (count, m, n), bases (count, n, n),
    fits, restarts, and whether a comparison was too close to call (count,)."""
    coefficients, bases, fits, tries, undecided = out
    _, m, n = A.shape
    Ce = np.empty((m, n))
    scratch = np.empty((max(m, n), n))
    rcond = settings[2]
    for index in range(first, last):
        level = threshold
        for attempt in range(restarts + 1):
            coefficients[index] = 0.0
            done, close = alternate(
                A[index],
                Ce,
                bases[index],
                coefficients[index],
                scratch,
                level,
                row_factor,
                attempt == restarts,
                settings,
            )
            tries[index] = attempt
            undecided[index] |= close
            if done >= 0:
                break
            level *= decay
        fits[index] = done
        fit_basis(A[index], coefficients[index], rcond, bases[index], scratch)


decompose = njit(cache=True, nogil=True)(_decompose)
