"""Calibration: the Hessian of a layer's squared output error, gathered from its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

#: Diagonal given to inputs that were zero in every sample, relative to the mean of the others: their weights cost
#: almost nothing and so are removed first, small ones before large ones.
DEAD_DIAGONAL = 1e-12
#: Damping used where none was asked for and the Hessian turns out to be rank-deficient.
FALLBACK_DAMPING = 0.01


class Hessian:
    """H = 2 sum x x^T over input vectors x of one layer: 0.5 * e^T H e is the squared output error of a row moved by e.

    Accumulated in float64. A layer with ``groups`` independent products (grouped convolutions) has one matrix per group.

    Parameters
    ----------
    inputs : k of the layer's GEMM view, in the order of the weights: (C/groups, R, S) for convolutions.
    groups : b of the GEMM view.
    """

    def __init__(self, inputs: int, groups: int = 1) -> None:
        if inputs < 1 or groups < 1:
            raise InputError(f"a Hessian needs at least one input and one group, not {inputs} and {groups}")
        self.matrix: NDArray[np.float64] = np.zeros((groups, inputs, inputs))
        self.samples = 0

    @property
    def inputs(self) -> int:
        return int(self.matrix.shape[1])

    @property
    def groups(self) -> int:
        return int(self.matrix.shape[0])

    def add(self, samples: NDArray[np.floating]) -> None:
        """Add input vectors: (n, inputs), or (n, groups, inputs).

        A convolution contributes one vector per output position (im2col).

        Raises
        ------
        InputError
            for another shape, or NaN or infinite values.
        """
        expected = (self.groups, self.inputs)
        if samples.ndim == 2 and self.groups == 1:
            samples = samples[:, None, :]
        if samples.ndim != 3 or samples.shape[1:] != expected:
            raise InputError(f"calibration inputs have shape {samples.shape}; needed is (samples, {expected})")
        if not np.isfinite(samples).all():
            raise InputError("calibration inputs contain NaN or infinity")
        for group in range(self.groups):
            x = samples[:, group].astype(np.float64)
            self.matrix[group] += 2.0 * (x.T @ x)
        self.samples += len(samples)


def hessian_of(samples: NDArray[np.floating], *, groups: int = 1) -> Hessian:
    """The Hessian of input vectors (n, inputs) or (n, groups, inputs)."""
    if samples.ndim < 2 or not samples.size:
        raise InputError(f"calibration inputs have shape {samples.shape}; needed is (samples, inputs)")
    hessian = Hessian(samples.shape[-1], groups)
    hessian.add(samples)
    return hessian


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """How a layer's calibration data were used, and what each level costs.

    ``damping`` is the multiple of the mean diagonal that was added; ``rank_deficient`` says that the samples alone do
    not determine the weights. ``losses`` is the squared error of the layer's output over the calibration samples,
    float64 (levels,), with the values the level really has; ``recorded_losses`` is the sum of the steps' costs as the
    damped trace saw them (equal to ``losses`` without damping, if the level has its own values).
    """

    samples: int
    dead_inputs: int
    damping: float
    rank_deficient: bool
    losses: NDArray[np.float64]
    recorded_losses: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Factored:
    """A damped Hessian of one group and its inverse, float64 (inputs, inputs), and what was done to get them."""

    matrix: NDArray[np.float64]
    inverse: NDArray[np.float64]
    damping: float
    dead_inputs: int
    rank_deficient: bool


def factor(matrix: NDArray[np.float64], *, samples: int, damping: float, name: str) -> Factored:
    """Damp and invert one Hessian of ``samples`` input vectors.

    Dead inputs (zero in all samples) get a small diagonal. A rank-deficient matrix without damping is damped by
    FALLBACK_DAMPING. Rank test: fewer samples than live inputs, or, scaled to a unit diagonal, a pivot of the Cholesky
    factorisation of at most d * eps.

    Raises
    ------
    InputError
        for a negative damping, or if every input is dead.
    """
    if not damping >= 0.0:
        raise InputError(f"damping = {damping}, must not be negative")
    diagonal = np.diag(matrix).copy()
    dead = diagonal <= 0.0
    if dead.all():
        raise InputError(f"{name}: all calibration inputs are zero; nothing can be learnt from them")
    live = matrix[np.ix_(~dead, ~dead)]
    deficient = samples < len(live) or _is_deficient(live)
    used = FALLBACK_DAMPING if deficient and damping == 0.0 else damping
    mean = float(diagonal[~dead].mean())
    damped = matrix.copy()
    places = np.arange(len(matrix))
    damped[places, places] += np.where(dead, DEAD_DIAGONAL * mean, used * mean)
    return Factored(damped, np.asarray(np.linalg.inv(damped), np.float64), used, int(dead.sum()), deficient)


def _is_deficient(matrix: NDArray[np.float64]) -> bool:
    scale = 1.0 / np.sqrt(np.diag(matrix))
    try:
        pivots = np.diag(np.linalg.cholesky(matrix * scale * scale[:, None])) ** 2
    except np.linalg.LinAlgError:
        return True
    return bool(pivots.min() <= len(matrix) * np.finfo(np.float64).eps)
