"""Structure in nested masks that kernels make use of: rows that keep the same weights, and N:M groups of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.layers import Layer
from ....workloads.nesting import NestedWeights
from .planes import Floats, aligned
from .streams import LevelStreams, direct_streams, windowed_streams

#: Rows that may share positions, and input channels that may be a group of N:M.
ROW_GROUPS = (8, 4, 2)
CHANNEL_GROUPS = (4, 8, 16, 32)


class Structure(NamedTuple):
    """What all levels of a layer's masks have in common.

    ``rows``: the most rows (8, 4 or 2) that keep the same weights in every aligned group; 1 if there are none.
    ``channels``: the fewest consecutive input channels (4 to 32) of which every row keeps the same number, at every level
    and kernel position; 0 if there are none. The number may differ from one group of channels to the next. The last group
    may have fewer channels in a 1x1 layer; in others it would end in the middle of a window.
    """

    rows: int = 1
    channels: int = 0


UNSTRUCTURED = Structure()


def structure_of(layer: Layer, weights: NestedWeights) -> Structure:
    """The structure of a layer's masks, exactly: one weight that deviates ends it."""
    keep = weights.keep.reshape(layer.K, layer.C // layer.groups, -1)
    rows = next((r for r in ROW_GROUPS if _shares_rows(keep, r, layer.groups)), 1)
    if layer.groups > 1 or not _counts_agree(keep[:2], max(CHANNEL_GROUPS), weights.levels):  # most end here
        return Structure(rows)
    fitting = [m for m in CHANNEL_GROUPS if keep.shape[2] == 1 or layer.C % m == 0]
    return Structure(rows, next((m for m in fitting if _counts_agree(keep, m, weights.levels)), 0))


def _shares_rows(keep: NDArray[np.uint8], rows: int, groups: int) -> bool:
    """True if every ``rows`` rows, counted from the first, keep the same; the last ones may be fewer."""
    M = len(keep)
    if rows > M // groups or (groups > 1 and M // groups % rows):
        return False
    if (keep[:rows] != keep[0]).any():  # most masks without structure end here
        return False
    return bool((keep == keep[np.arange(M) // rows * rows]).all())


def _counts_agree(keep: NDArray[np.uint8], channels: int, levels: int) -> bool:
    """True if all rows keep equally many of each group of ``channels``, at every level and kernel position."""
    starts = np.arange(0, keep.shape[1], channels)
    if not keep.size:
        return False
    for level in range(levels):
        counts = np.add.reduceat((keep > level).astype(np.uint8), starts, axis=1)
        if (counts != counts[:1]).any():
            return False
    return True


def channel_order(layer: Layer, channels: int) -> NDArray[np.int64]:
    """Reduction indices (C*R*S,) in the order (group of ``channels`` channels, r, s, channel of the group)."""
    index = np.arange(layer.C * layer.R * layer.S).reshape(layer.C, -1)
    return np.concatenate([index[c : c + channels].T.reshape(-1) for c in range(0, layer.C, channels)])


def block_streams(
    weights: NestedWeights, rows: int, *, window: int, places: NDArray[np.uint32], vectors: int, blocks: int = 1
) -> LevelStreams:
    """Streams whose rows are groups of ``rows`` rows; values float32 (positions, rows), flattened, zero where no row is.

    ``window``: reduction indices per window, or 0 for offsets into the planes, ``places``, as ``streams.direct_streams``.

    Raises
    ------
    InputError
        if rows of a group keep different weights, or as the functions of ``streams``.
    """
    if weights.values is None:
        raise InputError(f"{weights.name}: no weight values to execute")
    groups = -(-weights.shape[0] // rows)
    keep = _grouped(weights.keep, rows)
    values = _grouped(weights.values, rows)
    present = np.arange(groups)[:, None] * rows + np.arange(rows) < weights.shape[0]
    if (np.where(present[:, :, None], keep, keep[:, :1]) != keep[:, :1]).any():
        raise InputError(f"{weights.name}: not every {rows} rows keep the same weights")
    parts = []
    for row in range(rows):
        part = replace(weights, values=np.ascontiguousarray(values[:, row]), keep=np.ascontiguousarray(keep[:, 0]))
        if window:
            parts.append(windowed_streams(part, window=window, vectors=vectors, blocks=blocks))
        else:
            parts.append(direct_streams(part, places, vectors=vectors, blocks=blocks))
    together: Floats = aligned(rows * parts[0].values.size)
    together.reshape(-1, rows)[:] = np.stack([part.values for part in parts], axis=1)
    return replace(parts[0], values=together)


def _grouped(array: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    """(rows, ...) as (groups, rows of a group, the rest), filled up with zeros."""
    flat = array.reshape(len(array), -1)
    padded = np.zeros((-(-len(flat) // rows) * rows, flat.shape[1]), array.dtype)
    padded[: len(flat)] = flat
    return padded.reshape(-1, rows, flat.shape[1])


def channel_streams(
    layer: Layer, weights: NestedWeights, channels: int, *, window: int, vectors: int, blocks: int = 1
) -> LevelStreams:
    """Streams over the reduction axis in :func:`channel_order`; every row has the same counts in a window.

    Raises
    ------
    InputError
        if rows keep different numbers of a window's weights, or as ``streams.windowed_streams``.
    """
    order = channel_order(layer, channels)
    keep = np.ascontiguousarray(weights.keep.reshape(layer.K, -1)[:, order])
    values = weights.values
    if values is not None:
        values = np.ascontiguousarray(values.reshape(layer.K, -1)[:, order])
    ordered = NestedWeights(values=values, keep=keep, levels=weights.levels, name=weights.name)
    streams = windowed_streams(ordered, window=window, vectors=vectors, blocks=blocks)
    counts = row_counts(streams)
    windows = len(counts)
    listed = streams.counts.reshape(streams.levels, -1)
    which = [np.repeat(np.arange(windows), last - first) for first, last in streams.starts[:, :2]]
    if (listed != counts[np.concatenate(which)].T).any():
        raise InputError(f"{weights.name}: rows keep different numbers of weights in windows of {window}")
    return streams


def row_counts(streams: LevelStreams) -> NDArray[np.uint16]:
    """Non-zeros of the first listed row, uint16 (windows, levels); of every row where counts agree."""
    windows = streams.skips.shape[1]
    per_window = int(streams.starts[0, 1] - streams.starts[0, 0])
    return np.ascontiguousarray(streams.counts.reshape(streams.levels, -1)[:, : windows * per_window : per_window].T)
