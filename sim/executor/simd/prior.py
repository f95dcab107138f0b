"""The kernel that should be fastest for a convolution, from the sizes of the caches alone: where nothing was measured."""

from __future__ import annotations

import numpy as np

from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from .planes import LANES, PlaneLayout
from .product import Choice, LayerPlan, windowed
from .structure import UNSTRUCTURED, Structure
from .structure_prior import likely_structured, structured_candidates

#: Density of the densest level under which whole rows beat windows: fewer than about 8 non-zeros per row and window
#: do not pay for reading and writing the row's sums again.
DIRECT_DENSITY = 0.1
#: Rows up to which copying a window costs more than unaligned loads.
DIRECT_ROWS = 32
#: Density from which multiplying by the zeros, with shared loads, is faster than skipping them (measured: 0.8 to 0.9).
DENSE_DENSITY = 0.85
#: Non-zeros of a row that kernels without windows count, per stream: 16 bits.
LONGEST_ROW = int(np.iinfo(np.uint16).max)
#: Sums in flight that hide the latency of a multiply-add (4 cycles, one or two per cycle).
BEST_VECTORS = 7


def likely_plan(layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> LayerPlan:
    """The expected best kernels: those for structured masks where the masks allow them; otherwise grouped layers, few rows
    and low density run whole rows, everything else windows."""
    del source
    vectors, densities = best_vectors(target), weights.densities
    sparse = likely_structured(layer, weights, target, vectors)
    if layer.groups > 1:
        return LayerPlan(sparse or Choice("direct", vectors))
    dense = tuple(level for level, density in enumerate(densities) if density > DENSE_DENSITY)
    fit = whole_rows_fit(weights)
    whole_rows = fit and (layer.K <= DIRECT_ROWS or densities[0] < DIRECT_DENSITY)
    if sparse and not fit and not sparse.window:
        sparse = sparse._replace(window=windowed(sparse.vectors).window)
    if sparse is None or (whole_rows and sparse.kind == "channels"):
        sparse = Choice("direct", vectors) if whole_rows else windowed(vectors)
    return LayerPlan(sparse, min(dense_candidates(layer, target), key=lambda v: abs(v - vectors)), dense)


def whole_rows_fit(weights: NestedWeights) -> bool:
    """True if kernels without windows can count the non-zeros of every row in every stream."""
    keep = weights.keep.reshape(len(weights.keep), -1)
    if keep.shape[1] <= LONGEST_ROW:
        return True
    return all(int((keep == kept).sum(axis=1).max(initial=0)) <= LONGEST_ROW for kept in range(1, weights.levels + 1))


def candidates(
    layer: Layer, target: PlaneLayout, structure: Structure = UNSTRUCTURED, *, whole_rows: bool = True
) -> list[Choice]:
    """Every kernel that a planner should measure for a layer; the likely ones are among them. ``whole_rows``: see
    :func:`whole_rows_fit`; False leaves only windows, which grouped layers have not."""
    reduction = layer.C // layer.groups * layer.R * layer.S
    found: list[Choice] = []
    for vectors in target.vectors:
        if vectors == 1 and len(target.vectors) > 1:
            continue
        found.append(Choice("direct", vectors))
        if layer.groups > 1:
            continue
        if 4 * LANES * vectors * reduction <= 1 << 20:
            found.append(Choice("packed", vectors))
        for window_bytes in (14 << 10, 20 << 10, 28 << 10, 48 << 10):
            choice = windowed(vectors, window_bytes)
            if choice.window < 2 * reduction or window_bytes == 14 << 10:
                found.append(choice)
    found += structured_candidates(layer, target, structure)
    return found if whole_rows or layer.groups > 1 else [choice for choice in found if choice.window]


def dense_candidates(layer: Layer, target: PlaneLayout) -> tuple[int, ...]:
    """Vectors per tile of the dense kernels to measure: those that leave registers for several rows; none with groups."""
    if layer.groups > 1:
        return ()
    return tuple(v for v in target.vectors if v <= 8) or target.vectors


def best_vectors(target: PlaneLayout) -> int:
    """The usable tile nearest to :data:`BEST_VECTORS`: sums enough to hide latency, registers left for operands."""
    least = min(target.tiles(v) * v for v in target.vectors)
    near = [v for v in target.vectors if target.tiles(v) * v <= 1.03 * least]
    wide = [v for v in near if v >= 4] or near
    return min(wide, key=lambda v: (abs(v - BEST_VECTORS), v))
