"""Kernels for structured masks: which one should be fastest, and which ones a planner should measure."""

from __future__ import annotations

import numpy as np

from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from .blocks_kernel import WIDTHS
from .lanes_kernel import HAS_PERMUTES
from .planes import LANES, PlaneLayout
from .product import WINDOW_BYTES, Choice, windowed
from .structure import Structure, structure_of

#: Rows of a group -> vectors per tile, the fastest first (measured on ResNet-50's and BERT's layers, 32 registers).
PREFERRED = {8: (1, 2), 4: (4, 2, 1), 2: (7, 4, 8, 2, 1)}
#: Sums that stay in registers where there are 16 of half the width (AVX2).
FEW_SUMS = 6
#: Weights per row, as a geometric mean over the levels, from which sharing loads pays: below, writing outputs is what
#: costs, and the wide tiles of single rows write the longest runs (measured: 0.6 to 1.0 at 11, 1.0 to 1.3 at 21).
BLOCK_WEIGHTS = 16
#: Operands of a tile that are read from the planes faster than they are copied to a scratch window by window.
DIRECT_BYTES = 128 << 10
#: Scratch sizes that a planner measures for blocks in windows.
_WINDOW_BYTES = (14 << 10, WINDOW_BYTES)


def likely_structured(layer: Layer, weights: NestedWeights, target: PlaneLayout, vectors: int) -> Choice | None:
    """The expected best kernel for a layer's structure, ``vectors`` being the best tile for single rows; None without one."""
    structure = structure_of(layer, weights)
    if structure.rows > 1 and (layer.groups > 1 or _weights_per_row(weights) >= BLOCK_WEIGHTS):
        group, width = _likely_block(structure.rows, target)
        in_place = layer.groups > 1 or 4 * LANES * width * layer.C <= DIRECT_BYTES
        return Choice("blocks", width, 0 if in_place else windowed(width).window, group)
    if structure.channels:
        return _channels(vectors, WINDOW_BYTES, structure.channels)
    return None


def _weights_per_row(weights: NestedWeights) -> float:
    """Geometric mean over the levels that keep any."""
    counts = weights.nonzeros[weights.nonzeros > 0] / weights.shape[0]
    return float(np.exp(np.log(counts).mean())) if counts.size else 0.0


def _likely_block(rows: int, target: PlaneLayout) -> tuple[int, int]:
    """Rows per group and vectors per tile: the most rows whose sums stay in registers."""
    least = min(target.tiles(v) * v for v in target.vectors)
    near = [v for v in target.vectors if target.tiles(v) * v <= 1.03 * least]
    for group in (g for g in PREFERRED if g <= rows):
        for width in PREFERRED[group]:
            if width in near and (HAS_PERMUTES or group * width <= FEW_SUMS):
                return group, width
    return min(rows, 4), 1


def structured_candidates(layer: Layer, target: PlaneLayout, structure: Structure) -> list[Choice]:
    """Every kernel for structured masks that a planner should measure."""
    found: list[Choice] = []
    for group in (g for g in WIDTHS if g <= structure.rows):
        usable = [v for v in WIDTHS[group] if v in target.vectors]
        for vectors in [v for v in usable if v > 1 or group > 2] or usable:
            found.append(Choice("blocks", vectors, 0, group))
            if layer.groups == 1:
                found += [Choice("blocks", vectors, windowed(vectors, size).window, group) for size in _WINDOW_BYTES]
    if structure.channels:
        sizes = (*_WINDOW_BYTES, 20 << 10, 48 << 10)
        wide = [v for v in target.vectors if v > 1] or target.vectors
        found += [_channels(v, size, structure.channels) for v in wide for size in sizes]
    return list(dict.fromkeys(found))


def _channels(vectors: int, window_bytes: int, channels: int) -> Choice:
    """Windows of about ``window_bytes`` that hold whole groups of channels."""
    return Choice("channels", vectors, max(1, window_bytes // (4 * LANES * vectors * channels)) * channels, channels)
