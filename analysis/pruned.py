"""Levels of a network that has weights but none of its own: pruned by magnitude, one threshold for all layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from ..workloads.network import Network
from ..workloads.sparsify import SparsifyWarning, sparsify


def pruned(network: Network, densities: Sequence[float]) -> Network:
    """``network`` at levels of these densities, densest first; what the pruning had to change becomes a note.

    Raises
    ------
    InputError
        for densities out of order or range, or a network without weight values.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SparsifyWarning)
        found = sparsify(network, "magnitude", densities=densities, allocation="global")
    told = (str(warning.message) for warning in caught if issubclass(warning.category, SparsifyWarning))
    return replace(found, notes=(*network.notes, *told))
