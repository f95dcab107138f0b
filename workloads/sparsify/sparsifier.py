"""What every sparsifier is: densities per level in, nested weights of one layer out."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nesting import NestedWeights, check_densities
from .hessian import CalibrationReport, Hessian

Floats = NDArray[np.float32]


class SparsifyWarning(UserWarning):
    """A rule that changed what was asked for: a level kept from becoming empty, a layer left dense, a damped Hessian."""


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One sparsified layer.

    ``level_values`` is empty unless the method gives each level values of its own: then entry l holds the values of the
    weights that level l retains, float32 (nonzeros[l],), row-major, and ``weights.values`` those of the densest level.
    ``report`` says how calibration data were used.
    """

    weights: NestedWeights
    level_values: tuple[Floats, ...] = ()
    report: CalibrationReport | None = None

    @property
    def extra_values(self) -> int:
        """Values stored beyond the densest level's: each sparser level repeats all of its own (no indices are needed)."""
        return sum(values.size for values in self.level_values[1:])

    def dense(self, level: int) -> Floats:
        """The weights of ``level`` with explicit zeros, float32."""
        if not self.level_values:
            return self.weights.dense(level)
        out = np.zeros(self.weights.shape, np.float32)
        out[self.weights.mask(level)] = self.level_values[level]
        return out


class Sparsifier(ABC):
    """A method; its parameters are the fields of the (frozen) dataclass that implements it.

    Every method keeps at least one unit of a layer at every level and warns (SparsifyWarning) where that rule acts.
    """

    #: True if ``hessian`` must be given.
    calibrated: ClassVar[bool] = False
    #: True if removing whole outputs is what the method does: the network's last layers are then left alone.
    removes_outputs: ClassVar[bool] = False

    @abstractmethod
    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        """Nested weights of one layer, with everything the method knows about them.

        Parameters
        ----------
        values : float32, (K, C/groups, R, S) or (outputs, inputs); never written to.
        densities : fraction of the weights that each level retains, 0 < d <= 1, not increasing.
        hessian : of the layer's inputs, for methods with ``calibrated``.

        Raises
        ------
        InputError
            for densities out of order or range, weights that are not finite, or a density the pattern cannot have.
        """

    def sparsify_weights(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> NestedWeights:
        """The nested weights of ``sparsify_layer``."""
        return self.sparsify_layer(values, densities, hessian=hessian, name=name).weights

    def with_patterns(self, patterns: Sequence[str]) -> tuple[Sparsifier, tuple[float, ...]]:
        """The method for these "N:M" patterns, densest first, and their densities; InputError if it has no patterns."""
        raise InputError(
            f"this method takes densities, not patterns ({', '.join(patterns)}); methods with patterns: nm, obc_nm"
        )


class RankedUnits(Sparsifier):
    """Methods that rank units of a layer (weights, blocks, filters) by a score and keep the best.

    A level keeps the prefix of the ranking whose number of weights is nearest to density * size (ties: the shorter
    one), but at least one unit. Equal scores rank by position.
    """

    @abstractmethod
    def units(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Unit that each weight belongs to, 0 .. units-1, every one of them used; shape ``shape``."""

    @abstractmethod
    def scores(self, values: Floats) -> NDArray[np.floating]:
        """Importance of each unit, (units,). Scores of different layers are comparable, whatever the units' sizes."""

    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        check_layer(values, densities, name=name)
        if not values.size:
            return LayerResult(empty_layer(values, len(densities), name=name))
        units = self.units(values.shape)
        ranking = np.argsort(-self.scores(values), kind="stable")
        ends = np.cumsum(np.bincount(units.reshape(-1), minlength=ranking.size)[ranking])
        keep = np.zeros(ranking.size, np.uint8)
        for level, density in enumerate(densities):
            keep[ranking[: prefix_units(ends, density * values.size, what=f"{name}, level {level}")]] += 1
        return LayerResult(NestedWeights(values=values.copy(), keep=keep[units], levels=len(densities), name=name))


def prefix_units(ends: NDArray[np.int64], target: float, *, what: str) -> int:
    """Number of leading units whose weights come nearest to ``target``, at least one (with a warning if it is forced).

    ``ends``: weights in the first 1, 2, … units, int64, increasing.
    """
    above = int(np.searchsorted(ends, target))
    below = int(ends[above - 1]) if above else 0
    if above < ends.size and ends[above] - target < target - below:
        return above + 1
    if above == 0:
        warnings.warn(
            f"{what}: {target:.3g} weights would leave nothing; one unit is kept", SparsifyWarning, stacklevel=2
        )
        return 1
    return above


def nearest_count(size: int, density: float, *, what: str) -> int:
    """``prefix_units`` for ``size`` units of one weight each, without a list of them."""
    target = density * size
    count = int(np.ceil(target - 0.5))  # of two that are equally near, the smaller one
    if count == 0:
        warnings.warn(
            f"{what}: {target:.3g} weights would leave nothing; one unit is kept", SparsifyWarning, stacklevel=2
        )
    return max(1, count)


def check_levels(densities: Sequence[float]) -> None:
    """Raise InputError unless 0 < density <= 1 and the densities do not increase."""
    check_densities(densities)
    if 0.0 in densities:
        raise InputError(f"density 0 of level {list(densities).index(0.0)} would empty the layer; use more than 0")


def check_layer(values: Floats, densities: Sequence[float], *, name: str) -> None:
    """Raise InputError unless the densities are usable and the values are finite float32 with two or four axes."""
    check_levels(densities)
    if values.dtype != np.float32 or values.ndim not in (2, 4):
        raise InputError(
            f"{name}: weights are {values.dtype} {values.shape}; must be float32 (outputs, inputs) or (K, C, R, S)"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name}: {int((~np.isfinite(values)).sum())} weights are NaN or infinite")


def empty_layer(values: Floats, levels: int, *, name: str) -> NestedWeights:
    """Nested weights of a layer without weights."""
    return NestedWeights(values=values.copy(), keep=np.zeros(values.shape, np.uint8), levels=levels, name=name)


def kernel_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A layer's shape as (K, C, R, S); a matrix has R = S = 1."""
    K, C, R, S = (*shape, 1, 1)[:4]
    return K, C, R, S


def parse_patterns(patterns: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    """M and the densities N/M of patterns such as ("4:8", "2:8", "1:8").

    Raises
    ------
    InputError
        for text that is not N:M with 1 <= N <= M and M >= 2, or patterns with different M (one index width serves all
        levels).
    """
    problems, parsed = [], []
    for pattern in patterns:
        parts = pattern.split(":")
        if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
            n, m = int(parts[0]), int(parts[1])
            if m >= 2 and 1 <= n <= m:
                parsed.append((n, m))
                continue
        problems.append(f"pattern '{pattern}' is not N:M with 1 <= N <= M and M >= 2; an example is 2:4")
    sizes = sorted({m for _, m in parsed})
    if len(sizes) > 1:
        problems.append(f"patterns {', '.join(patterns)} have different M; all levels need the same one")
    if not patterns:
        problems.append("no patterns given; an example is 4:8,2:8,1:8")
    if problems:
        raise InputError(problems)
    densities = tuple(n / m for n, m in parsed)
    check_levels(densities)
    return sizes[0], densities


def slots_per_group(densities: Sequence[float], m: int) -> list[int]:
    """N of each level, where density = N / m.

    Raises
    ------
    InputError
        naming the density that is not a multiple of 1 / m, and the nearest ones that are.
    """
    slots = []
    for level, density in enumerate(densities):
        n = round(density * m)
        if abs(density * m - n) > 1e-9 or not 1 <= n <= m:
            low = min(max(int(density * m), 1), m - 1)
            raise InputError(
                f"density {density:g} of level {level} is not a multiple of 1/{m}; nearest are {low}:{m} = {low / m:g} "
                f"and {low + 1}:{m} = {(low + 1) / m:g}"
            )
        slots.append(n)
    return slots
