"""Structure before the decomposition: whole kernel rows pruned per group of filters, whole input channels pruned.

Rows that a whole group of filters lacks are what the accelerator's index selector skips for all slices at once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name

#: Filters that share their pruned rows (structural variant of the authors' inference code).
GROUP_FILTERS = 32
#: What an amount means: a share of the rows, a bound on a row's summed magnitude, a share of the summed magnitude.
Amount = Literal["population", "value", "energy"]
_AMOUNTS = ("population", "value", "energy")

Floats = NDArray[np.float32]


def prune_rows_by_group(
    values: Floats, amount: float, *, kind: Amount = "population", group: int = GROUP_FILTERS
) -> Floats:
    """Convolution weights (K, C, R, S) without the kernel rows (c, r) of least magnitude, the same for ``group`` filters.

    The magnitude of a row is the sum of |w| over the group's filters and the row. ``kind``: "population" prunes the
    ``amount`` (0..1) of all rows, "value" those below ``amount`` per filter, "energy" the smallest ones that together hold
    at most ``amount`` (0..1) of the group's magnitude. A last, smaller group is treated like the others.

    Raises
    ------
    InputError
        for other weights than a convolution's, an unknown kind, or an amount out of range.
    """
    if values.ndim != 4:
        raise InputError(f"rows of shape {values.shape} cannot be pruned by group; needed is (K, C/groups, R, S)")
    if kind not in _AMOUNTS:
        raise unknown_name("kind of row pruning", kind, _AMOUNTS)
    if group < 1 or not amount >= 0 or (kind != "value" and amount > 1):
        raise InputError(f"amount = {amount} of kind '{kind}' for groups of {group} filters; shares lie in 0..1")
    out = values.copy()
    for first in range(0, len(values), group):
        part = out[first : first + group]
        magnitude = np.abs(part.astype(np.float64)).sum(axis=(0, 3))
        part[:, _smallest(magnitude, amount, kind, filters=len(part))] = 0
    return out


def _smallest(magnitude: NDArray[np.float64], amount: float, kind: Amount, *, filters: int) -> NDArray[np.bool_]:
    """Rows to prune, bool of the shape of ``magnitude``; ties: the first row goes first."""
    if kind == "value":
        return np.asarray(magnitude < amount * filters)
    order = np.argsort(magnitude, axis=None, kind="stable")
    if kind == "population":
        count = round(amount * magnitude.size)
    else:
        count = int(np.searchsorted(np.cumsum(magnitude.reshape(-1)[order]), amount * magnitude.sum(), side="right"))
    pruned = np.zeros(magnitude.size, np.bool_)
    pruned[order[:count]] = True
    return pruned.reshape(magnitude.shape)


def prune_channels(values: Floats, scales: NDArray[np.floating], threshold: float) -> Floats:
    """Weights (K, C/groups, R, S) or (n, k) without the input channels whose scale is below ``threshold``.

    ``scales``: |gamma| of the batch normalisation that feeds each channel, shape (C,) (SmartExchange, channel sparsity).
    The largest channel always stays.

    Raises
    ------
    InputError
        if there is not one scale per input channel.
    """
    if scales.shape != (values.shape[1],):
        raise InputError(f"{scales.size} scales for {values.shape[1]} input channels")
    size = np.abs(scales)
    dropped = size < threshold
    dropped[int(size.argmax())] = False
    out = values.copy()
    out[:, dropped] = 0
    return out
