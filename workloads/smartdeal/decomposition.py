"""SmartExchange / SmartDeal decomposition: W ~ Ce B with sparse power-of-two coefficients Ce and a tiny basis B.

Zhao et al., "SmartExchange", ISCA 2020 (arXiv 2005.03403), Algorithm 1; Chen et al., "SmartDeal" (arXiv 2101.01163).
Order of the steps, rounding rule and stopping rule as in the authors' released inference code.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .lapack import decompose_one

#: A coefficient row is pruned when its L1 norm is below this many thresholds (authors' inference code).
ROW_FACTOR = 5.0
#: Relative cut-off of singular values in both least-squares fits (authors' code).
RCOND = 1e-10
#: Times the threshold may be reduced because a whole column of coefficients fell under it.
MAX_RESTARTS = 64
#: Matrices handed to a thread at once.
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class DecompositionOptions:
    """How a matrix is decomposed. Defaults: the experiments of the authors' inference code.

    ``iterations`` of the alternating fit at most; ``tolerance``: Frobenius norm of the change of Ce that ends it;
    ``threshold``: smaller coefficients become zero; ``threshold_decay``: factor on the threshold, and a fresh start, when
    ``scale`` is on and a whole column was pruned; ``row_threshold``: also prune whole rows whose L1 norm is below five
    thresholds; ``scale``: scale each column so that its coefficients lie as near to powers of two as possible;
    ``largest``, ``smallest``: clip of non-zero magnitudes (0 = none; the training code clips from below); ``tie``: which
    power a magnitude halfway between two takes ("lower": inference code, "upper": training code).
    """

    iterations: int = 30
    tolerance: float = 1e-10
    threshold: float = 4e-3
    threshold_decay: float = 0.1
    row_threshold: bool = False
    scale: bool = False
    largest: float = 32.0
    smallest: float = 0.0
    tie: Literal["lower", "upper"] = "lower"

    def __post_init__(self) -> None:
        checks = (
            (self.iterations >= 1, f"iterations = {self.iterations}, must be at least 1"),
            (self.tolerance >= 0, f"tolerance = {self.tolerance}, must not be negative"),
            (np.isfinite(self.threshold) and self.threshold >= 0, f"threshold = {self.threshold}, must be 0 or larger"),
            (0 < self.threshold_decay < 1, f"threshold_decay = {self.threshold_decay}, must lie between 0 and 1"),
            (_is_power(self.largest), f"largest = {self.largest}, must be a power of two"),
            (
                self.smallest == 0 or _is_power(self.smallest),
                f"smallest = {self.smallest}, must be 0 or a power of two",
            ),
            (self.smallest <= self.largest, f"smallest = {self.smallest} exceeds largest = {self.largest}"),
            (self.tie in ("lower", "upper"), f"tie = '{self.tie}', allowed are lower and upper"),
        )
        problems = [f"decomposition: {text}" for fine, text in checks if not fine]
        if problems:
            raise InputError(problems)


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition:
    """``count`` matrices of m x n: coefficients (count, m, n), each 0 or +-2^p; bases (count, n, n); least-squares fits
    done per matrix; fresh starts at a smaller threshold per matrix; relative Frobenius error (0 for a zero matrix)."""

    coefficients: NDArray[np.float64]
    bases: NDArray[np.float64]
    fits: NDArray[np.int64]
    restarts: NDArray[np.int64]
    error: NDArray[np.float64]


def decompose(
    matrices: NDArray[np.floating], options: DecompositionOptions | None = None, *, threads: int | None = None
) -> Decomposition:
    """Decompose each matrix of ``matrices`` (count, m, n) on its own.

    Defined edge cases: an all-zero matrix gives zero coefficients, basis and error; a matrix whose weights all lie under
    the threshold gives zero coefficients and error 1 (with ``scale``, a smaller threshold is tried instead); rank-deficient
    fits take the minimum-norm solution. The result does not depend on ``threads``.

    Raises
    ------
    InputError
        for a wrong number of dimensions, an empty axis, NaN or infinity.
    """
    options = options or DecompositionOptions()
    A = np.ascontiguousarray(matrices, dtype=np.float64)
    if A.ndim != 3 or 0 in A.shape[1:]:
        raise InputError(f"matrices to decompose have shape {A.shape}; needed is (count, rows, columns), none empty")
    if not np.isfinite(A).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(A))[0])
        raise InputError(f"matrix {where[0]} to decompose has NaN or infinity at {where[1:]}")
    count, _, n = A.shape
    coefficients, bases = np.zeros_like(A), np.zeros((count, n, n))
    fits, restarts, undecided = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    out = (coefficients, bases, fits, restarts, undecided)
    _run(A, options, out, threads or os.cpu_count() or 1)
    limits = (_row_factor(options), RCOND, MAX_RESTARTS)
    for i in np.flatnonzero(undecided):
        coefficients[i], bases[i], fits[i], restarts[i] = decompose_one(A[i], options, limits)
    return Decomposition(
        coefficients=coefficients,
        bases=bases,
        fits=fits,
        restarts=restarts,
        error=relative_error(A, coefficients, bases),
    )


def relative_error(
    A: NDArray[np.float64], coefficients: NDArray[np.float64], bases: NDArray[np.float64]
) -> NDArray[np.float64]:
    """||A - Ce B||_F / ||A||_F per matrix, shape (count,); 0 where A is zero."""
    difference = np.linalg.norm(A - coefficients @ bases, axis=(1, 2))
    size = np.linalg.norm(A, axis=(1, 2))
    return np.asarray(np.divide(difference, size, out=np.zeros(len(A)), where=size > 0))


def _run(
    A: NDArray[np.float64],
    options: DecompositionOptions,
    out: tuple[NDArray[np.generic], ...],
    threads: int,
) -> None:
    from .decomposition_kernel import decompose as kernel

    settings = (
        options.iterations,
        float(options.tolerance),
        RCOND,
        options.scale,
        float(options.largest),
        float(options.smallest),
        options.tie == "upper",
    )

    def part(first: int) -> None:
        last = min(first + _CHUNK, len(A))
        start = float(options.threshold), options.threshold_decay, MAX_RESTARTS, _row_factor(options)
        kernel(A, first, last, *start, settings, out)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(0, len(A), _CHUNK)))


def _row_factor(options: DecompositionOptions) -> float:
    return ROW_FACTOR if options.row_threshold else 0.0


def _is_power(value: float) -> bool:
    return bool(np.isfinite(value)) and value > 0 and float(np.frexp(value)[0]) == 0.5
