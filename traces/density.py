"""Density models: the same trace with its masks replaced by what a statistical tool would assume.

* ``actual``: the masks as they are.
* ``uniform``: every level keeps as many weights per layer as it really does, uniformly placed. A tile's occupancy then
  follows the hypergeometric distribution, which is the uniform density model of Sparseloop (Wu et al., MICRO 2022). Masks
  are drawn from that model with a seed, so that every array model runs on it unchanged.
* ``structured``: kept weights are spread as evenly as possible: any M consecutive inputs of a row hold floor or ceil of
  density * M of them (Sparseloop's fixed-structured model).

What real masks do beyond these models (load imbalance between rows, empty channels, correlated taps) is the difference that
``nestling explain`` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import unknown_name
from ..workloads.layers import CONV_OPS
from .formats import sizes_by_format
from .trace import LayerTrace, Trace

_Redraw = Callable[[LayerTrace, int], NDArray[np.uint8]]


def with_density_model(trace: Trace, model: str, *, seed: int = 0) -> Trace:
    """``trace`` under a density model; non-zeros per layer and level stay exactly as they are.

    Raises
    ------
    InputError
        for an unknown model, with the nearest match.
    """
    if model not in DENSITY_MODELS:
        raise unknown_name("density model", model, DENSITY_MODELS)
    redraw = DENSITY_MODELS[model]
    if redraw is None:
        return trace
    seeds = np.random.default_rng(seed).integers(1, 1 << 62, size=max(1, len(trace.layers)))
    layers = [_redrawn(layer, redraw(layer, int(s))) for layer, s in zip(trace.layers, seeds, strict=False)]
    return replace(trace, layers=tuple(layers), source=f"{trace.source}; {model} density model")


def _redrawn(layer: LayerTrace, keep: NDArray[np.uint8]) -> LayerTrace:
    if layer.keep is None:
        return layer
    bits = sizes_by_format(keep, layer.levels, value_bits=layer.weight_bits, allowed=tuple(layer.storage))
    return replace(layer, keep=keep, storage={name: -(-size // 8) for name, size in bits.items()})


def _uniform(layer: LayerTrace, seed: int) -> NDArray[np.uint8]:
    from ..workloads.pattern_kernel import draw_keep

    if layer.keep is None:
        return np.empty((0, 0), np.uint8)
    return draw_keep(layer.keep.size, layer.nonzeros, np.uint64(seed)).reshape(layer.keep.shape)


def _structured(layer: LayerTrace, _: int) -> NDArray[np.uint8]:
    """Evenly spread positions, nested: level l keeps the elements whose rank in an even order is below the row's count.

    Positions are ordered tap by tap with channels consecutive, so that M consecutive input channels at one tap are
    neighbours, as in an N:M array. Rows get equal counts, the remainder going to the first rows.
    """
    if layer.keep is None:
        return np.empty((0, 0), np.uint8)
    rows, depth = layer.keep.shape
    taps = layer.layer.R * layer.layer.S if layer.layer.op in CONV_OPS else 1
    rank = _even_order(depth).reshape(taps, depth // taps).T.reshape(-1)
    keep = np.zeros((rows, depth), np.uint8)
    for count in layer.nonzeros:
        per_row = np.full(rows, count // rows)
        per_row[: count % rows] += 1
        keep += rank[None, :] < per_row[:, None]
    return keep


def _even_order(depth: int) -> NDArray[np.int64]:
    """Rank of each position in the bit-reversal permutation of 0..depth-1 (van der Corput sequence, base 2)."""
    bits = max(1, (depth - 1).bit_length())
    positions = np.arange(1 << bits, dtype=np.int64)
    reverse = np.zeros_like(positions)
    for bit in range(bits):
        reverse |= ((positions >> bit) & 1) << (bits - 1 - bit)
    order = reverse[reverse < depth]  # positions in the order in which they are filled
    rank = np.empty(depth, dtype=np.int64)
    rank[order] = np.arange(depth)
    return rank


#: Name -> how masks are replaced; None = not at all.
DENSITY_MODELS: dict[str, _Redraw | None] = {"actual": None, "uniform": _uniform, "structured": _structured}
