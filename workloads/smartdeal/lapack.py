"""The decomposition of one matrix in plain NumPy, step by step as the authors' released code takes them.

It is the definition that the kernel is tested against, and it decides the matrices on which the kernel finds a
comparison too close to call: there LAPACK's rounding, in the authors' orientation, decides as theirs did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .decomposition import DecompositionOptions

Matrix = NDArray[np.float64]


def decompose_one(
    A: Matrix, options: DecompositionOptions, limits: tuple[float, float, int]
) -> tuple[Matrix, Matrix, int, int]:
    """Coefficients (m, n), basis (n, n), fits done and restarts of A (m, n).

    ``limits``: row factor (0 = rows are not pruned), cut-off of singular values, restarts allowed.
    """
    row_factor, rcond, restarts = limits
    threshold = options.threshold
    attempt, run = 0, None
    while run is None:
        run = _alternate(A.T, options, threshold, (row_factor * threshold, rcond), last_try=attempt == restarts)
        if run is None:
            threshold *= options.threshold_decay
            attempt += 1
    codes, fits = run
    basis: Matrix = np.linalg.lstsq(codes.T, A, rcond=rcond)[0].astype(np.float64, copy=False)
    return codes.T, basis, fits, attempt


def _alternate(
    At: Matrix, options: DecompositionOptions, threshold: float, cuts: tuple[float, float], *, last_try: bool
) -> tuple[Matrix, int] | None:
    """Transposed codes (n, m) and fits done; None if a column of coefficients vanished while scaling."""
    row_threshold, rcond = cuts
    Ce, previous = At.copy(), np.zeros_like(At)
    for step in range(options.iterations):
        if options.scale and not _scale(Ce, keep_zero=step == 0 or last_try):
            return None
        codes = quantise(Ce, options)
        if step == options.iterations - 1 or (step and np.linalg.norm(codes - previous) <= options.tolerance):
            break
        previous = codes
        basis = np.linalg.lstsq(codes.T, At.T, rcond=rcond)[0].T
        Ce = np.linalg.lstsq(basis, At, rcond=rcond)[0]
        Ce[:, np.abs(Ce).sum(axis=0) < row_threshold] = 0
        Ce[np.abs(Ce) < threshold] = 0
    return codes, step


def quantise(values: Matrix, options: DecompositionOptions) -> Matrix:
    """Each value's nearest power of two in linear distance, with its sign; 0 stays 0; magnitudes clipped."""
    fraction, exponent = np.frexp(np.abs(values))
    upper = fraction >= 0.75 if options.tie == "upper" else fraction > 0.75
    magnitude = np.clip(np.ldexp(1.0, exponent - 1 + upper), options.smallest, options.largest)
    return np.asarray(np.where(values == 0, 0.0, np.copysign(magnitude, values)))


def _scale(Ce: Matrix, *, keep_zero: bool) -> bool:
    """Scale each row of Ce (a column of the coefficients) towards powers of two, in place; False if one is all zero."""
    for row in Ce:
        found = row[row != 0]
        if found.size:
            logarithms = np.log2(np.abs(found))
            np.multiply(row, 2.0 ** np.mean(np.round(logarithms) - logarithms), out=row)
        elif not keep_zero:
            return False
    return True
