"""One layer made denser without starting over: its outputs at a sparser level, and the weights that come in between."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from .planes import Floats
from .product import Product, Work
from .streams import LevelStreams
from .team import Call

_NO_CLAMP = (np.float32(-np.inf), np.float32(np.inf))


def refine(
    product: Product,
    previous: Floats,
    level: int,
    *,
    coarser: int,
    x: Floats,
    out: Floats,
    clamp: tuple[np.float32, np.float32] = _NO_CLAMP,
    works: Sequence[Work],
) -> Call:
    """The call that computes out = clamp(previous + (W_level - W_coarser) x), halos zero.

    ``previous``: planes of the output at level ``coarser`` before any clamp, with bias and residual in it; it may be ``out``.
    Only the streams of the weights between the two levels are read. The sum is that of a run at ``level`` in another
    order: equal where sums are exact, otherwise within the rounding of as many terms; rows without new weights keep
    their bits. Behind a non-linear layer the step is no step of the whole network. ``works``: one per thread.

    Raises
    ------
    InputError
        unless ``level`` is a denser level of the product than ``coarser``.
    """
    levels = product.streams.levels
    if not 0 <= level < coarser < levels:
        raise InputError(f"from level {coarser} to level {level}: needed is 0 <= level < coarser < {levels}")
    step = copy(product)
    step.streams = later_streams(product.streams, levels - coarser)
    bias = np.zeros(product.layer.K, np.float32)
    return step.call(x, out, level=level, bias=bias, clamp=clamp, residual=previous, works=works)


def later_streams(streams: LevelStreams, first: int) -> LevelStreams:
    """The streams from number ``first`` on; non-zeros stay where they are, only counts and row bounds are copied."""
    counts = np.ascontiguousarray(streams.counts.reshape(streams.levels, -1)[first:])
    starts = np.concatenate([streams.starts[:, :2], streams.starts[:, 2 + first :]], axis=1)
    return replace(
        streams,
        levels=streams.levels - first,
        starts=np.ascontiguousarray(starts),
        skips=_skips(streams, counts),
        counts=counts,
    )


def _skips(streams: LevelStreams, counts: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Listed rows at the front of each block and window that have no non-zero in the streams up to each one."""
    blocks, windows, _ = streams.skips.shape
    skips = np.zeros((blocks, windows, len(counts)), np.uint32)
    lengths = np.repeat(streams.starts[:, 1] - streams.starts[:, 0], windows)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    for place, (begin, end) in enumerate(pairwise(bounds)):
        filled = np.cumsum(counts[:, begin:end], axis=0, dtype=np.int64) > 0
        front = np.where(filled.any(axis=1), filled.argmax(axis=1), end - begin)
        skips[place // windows, place % windows] = front
    return skips
