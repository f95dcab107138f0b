"""Pattern pruning: every 3 x 3 kernel keeps 4 of its 9 weights, in one of a few fixed patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nesting import NestedWeights
from .hessian import Hessian
from .magnitude import Magnitude
from .sparsifier import Floats, LayerResult, Sparsifier, check_layer, kernel_shape, prefix_units

#: The eight patterns, one row of text per kernel row: the four 2 x 2 squares that contain the centre, then the centre
#: with three of its four edge neighbours. Each is connected and holds the centre; eight need a 3-bit index per kernel.
PATTERNS = (
    ("xx.", "xx.", "..."),
    (".xx", ".xx", "..."),
    ("...", "xx.", "xx."),
    ("...", ".xx", ".xx"),
    (".x.", "xxx", "..."),
    (".x.", ".xx", ".x."),
    ("...", "xxx", ".x."),
    (".x.", "xx.", ".x."),
)
ENTRIES = 4
DENSITY = ENTRIES / 9


@dataclass(frozen=True, kw_only=True)
class Pattern(Sparsifier):
    """Each 3 x 3 kernel keeps the pattern that retains the largest norm; below density 4/9 whole kernels go.

    A density of at most 4/9 removes the kernels with the smallest retained norms ("connectivity pruning"), keeping the
    number of kernels nearest to density * 9/4 of them, at least one. Density 1 leaves a level dense; densities between
    are an error. Layers with other kernel sizes use ``otherwise``. Method: PatDNN (Niu et al., ASPLOS 2020, arXiv
    2001.00138); the pattern set is ours (see PATTERNS).
    """

    otherwise: Sparsifier = field(default_factory=Magnitude)

    def with_patterns(self, patterns: Sequence[str]) -> tuple[Sparsifier, tuple[float, ...]]:
        wrong = [pattern for pattern in patterns if pattern not in ("4:9", "9:9")]
        if wrong or not patterns:
            raise InputError(f"pattern '{', '.join(wrong)}' of the method 'pattern'; allowed are 9:9 and 4:9")
        return self, tuple(DENSITY if pattern == "4:9" else 1.0 for pattern in patterns)

    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        check_layer(values, densities, name=name)
        if kernel_shape(values.shape)[2:] != (3, 3) or not values.size:
            return self.otherwise.sparsify_layer(values, densities, hessian=hessian, name=name)
        _check_reachable(densities)
        kernels = values.reshape(-1, 9).astype(np.float64)
        masks = pattern_masks().reshape(-1, 9)
        energy = (kernels**2) @ masks.T
        best = energy.argmax(axis=1)
        ranking = np.argsort(-energy[np.arange(len(best)), best], kind="stable")
        ends = ENTRIES * np.arange(1, len(best) + 1)
        keep = np.zeros(kernels.shape, np.uint8)
        for level, density in enumerate(densities):
            if density == 1.0:
                keep += 1
                continue
            kept = ranking[: prefix_units(ends, density * values.size, what=f"{name}, level {level}")]
            keep[kept] += masks[best[kept]]
        return LayerResult(
            NestedWeights(values=values.copy(), keep=keep.reshape(values.shape), levels=len(densities), name=name)
        )


def pattern_masks() -> NDArray[np.bool_]:
    """PATTERNS as booleans, (8, 3, 3)."""
    return np.array([[[letter == "x" for letter in row] for row in pattern] for pattern in PATTERNS])


def _check_reachable(densities: Sequence[float]) -> None:
    for level, density in enumerate(densities):
        if DENSITY + 1e-9 < density < 1.0:
            raise InputError(
                f"density {density:g} of level {level}: a pattern of 4 of 9 reaches at most 4/9 = {DENSITY:.6f}, or 1 (dense)"
            )
