"""How a network's density is divided among its layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..schedule import erk_shares
from .magnitude import Magnitude, weights_above_threshold
from .sparsifier import Floats, RankedUnits, Sparsifier, SparsifyWarning, check_levels, prefix_units

Shapes = Mapping[str, tuple[int, ...]]
#: Layer name -> density per level, densest first.
Densities = dict[str, tuple[float, ...]]
#: Layers that a warning names before it only counts them.
_SHOWN_NAMES = 4


def uniform_densities(shapes: Shapes, densities: Sequence[float]) -> Densities:
    """The same density in every layer."""
    check_levels(densities)
    return {name: tuple(densities) for name in shapes}


def er_densities(shapes: Shapes, densities: Sequence[float]) -> Densities:
    """Erdos-Renyi: density proportional to (K + C) / (K * C), kernel sizes ignored (Mocanu et al., 2018; RigL, Evci et
    al., arXiv 1911.11134, section 3), at most 1."""
    erk_shares(shapes)  # the same errors for shapes that cannot be used
    shares = {name: float(sum(shape[:2]) * np.prod(shape[2:])) for name, shape in shapes.items()}
    return _fill(shapes, shares, densities)


def erk_densities(shapes: Shapes, densities: Sequence[float]) -> Densities:
    """Erdos-Renyi-Kernel: density proportional to (K + C + R + S) / (K * C * R * S), at most 1 (RigL, Evci et al., arXiv
    1911.11134, section 3)."""
    return _fill(shapes, erk_shares(shapes), densities)


def _fill(shapes: Shapes, shares: Mapping[str, float], densities: Sequence[float]) -> Densities:
    check_levels(densities)
    sizes = np.array([np.prod(shape) for shape in shapes.values()], dtype=np.float64)
    share = np.array([shares[name] for name in shapes])
    levels = [_fill_level(sizes, share, density) for density in densities]
    return {name: tuple(float(level[i]) for level in levels) for i, name in enumerate(shapes)}


def _fill_level(sizes: NDArray[np.float64], share: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    """Weights min(size, scale * share) / size with the scale that makes them density * sum(sizes).

    The smallest scale at which a layer is full orders the layers: the first f are dense, where f is the least number
    for which the rest stay within their sizes. The scale grows with the density, so levels stay nested.
    """
    if density == 1.0:
        return np.ones(sizes.size)
    target = density * sizes.sum()
    order = np.argsort(sizes / share, kind="stable")
    for full in range(sizes.size):
        dense, rest = order[:full], order[full:]
        scale = (target - sizes[dense].sum()) / share[rest].sum()
        if scale * share[rest[0]] <= sizes[rest[0]]:
            break
    return np.asarray(np.minimum(scale * share / sizes, 1.0))


#: Name -> rule that needs shapes only. "global" (one threshold for all layers) needs the weights: ``global_densities``.
ALLOCATIONS: dict[str, Callable[[Shapes, Sequence[float]], Densities]] = {
    "uniform": uniform_densities,
    "er": er_densities,
    "erk": erk_densities,
}
GLOBAL = "global"


def global_densities(values: Mapping[str, Floats], method: Sparsifier, densities: Sequence[float]) -> Densities:
    """Densities that one threshold on the scores of all layers' units leaves in each layer.

    Each level keeps the prefix of the common ranking whose size is nearest to density * (all weights); equal scores rank
    by layer, then position. A layer that would be left empty keeps its best unit, with a warning.

    Raises
    ------
    InputError
        if the method does not rank units by a score (N:M, pattern and OBC do not).
    """
    check_levels(densities)
    if not isinstance(method, RankedUnits):
        raise InputError(
            "allocation 'global' needs one score per unit: methods magnitude, block, block_punched, filter, channel"
        )
    sizes = [array.size for array in values.values()]
    least = [1] * len(sizes)
    if isinstance(method, Magnitude):
        kept = weights_above_threshold(values, densities)
    else:
        kept, least = _units_above_threshold(values, method, densities)
    for level, counts in enumerate(kept):
        _warn_of_empty([name for name, count in zip(values, counts, strict=True) if not count], level)
    return {
        name: tuple((counts[i] or least[i]) / sizes[i] for counts in kept) for i, name in enumerate(values)
    }  # fmt: skip


def _units_above_threshold(
    values: Mapping[str, Floats], method: RankedUnits, densities: Sequence[float]
) -> tuple[list[list[int]], list[int]]:
    """Per level, the weights of each layer in the best units of all layers; and the weights in each layer's best unit."""
    scores = [method.scores(array) for array in values.values()]
    sizes = [np.bincount(method.units(array.shape).reshape(-1)) for array in values.values()]
    owner = np.repeat(np.arange(len(scores)), [score.size for score in scores])
    ranking = np.argsort(-np.concatenate(scores), kind="stable")
    weights_of_unit = np.concatenate(sizes)[ranking]
    ends = np.cumsum(weights_of_unit)
    found = []
    for level, density in enumerate(densities):
        kept = prefix_units(ends, density * float(ends[-1]), what=f"network, level {level}")
        counts = np.bincount(owner[ranking[:kept]], weights=weights_of_unit[:kept], minlength=len(scores))
        found.append([int(count) for count in counts])
    return found, [int(size[int(score.argmax())]) for size, score in zip(sizes, scores, strict=True)]


def _warn_of_empty(names: Sequence[str], level: int) -> None:
    if not names:
        return
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    warnings.warn(
        f"level {level}: the global threshold would leave {len(names)} {'layer' if len(names) == 1 else 'layers'} empty; "
        f"one unit is kept in each: {shown}",
        SparsifyWarning,
        stacklevel=3,
    )
