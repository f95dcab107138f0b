"""Quantise nested weights: rounding to the nearest codebook entry, or one by one with the others making up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from ..nesting import NestedWeights
from ..network import Network
from .calibration import Calibration, hessian_for
from .codebooks import QUANTISERS, Doubles, round_to
from .hessian import Hessian
from .obc import check_hessian, factor_groups
from .obc_rows import block_units, run_trace, squared_errors

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True, eq=False)
class QuantisedWeights:
    """``weights`` with every retained value on its codebook.

    ``codebooks`` : float64 (1, q) for the layer or (rows, q), ascending, q <= 2**bits. ``loss`` : squared output error on the
    calibration samples of the densest level, None without calibration.
    """

    weights: NestedWeights
    codebooks: Doubles
    bits: int
    loss: float | None = None


def quantise_weights(
    weights: NestedWeights,
    quantiser: str,
    *,
    bits: int,
    per: Literal["layer", "row"] = "layer",
    hessian: Hessian | None = None,
    damping: float = 0.01,
    threads: int = 1,
) -> QuantisedWeights:
    """Quantise the retained values of all levels (they share one set); pruned weights stay zero.

    Parameters
    ----------
    quantiser : key of QUANTISERS. bits : 2..8. per : one codebook for the layer, or one per output row.
    hessian : with it, weights are quantised one at a time, the cheapest first, and the retained ones not yet quantised
        make up for the error (OBQ: Frantar and Alistarh, arXiv 2208.11580, section 5), instead of plain rounding.
    damping, threads : see OBC; used with ``hessian``.

    Raises
    ------
    InputError
        for an unknown quantiser, bits out of range, weights without values, or a Hessian that does not fit.
    """
    _check_request(quantiser, bits=bits, per=per)
    values = weights.dense(0)
    rows = values.astype(np.float64).reshape(len(values), int(np.prod(values.shape[1:])))
    retained = (weights.keep > 0).reshape(rows.shape)
    codebooks = _codebooks(rows, retained, QUANTISERS[quantiser], bits=bits, per=per)
    loss = None
    if not values.size:
        out = rows
    elif hessian is None:
        out = np.stack([round_to(row, codebooks[min(r, len(codebooks) - 1)]) for r, row in enumerate(rows)])
    else:
        check_hessian(values, hessian, name=weights.name)
        every = np.broadcast_to(codebooks, (len(rows), codebooks.shape[1]))
        out, loss = _quantise_rows(rows, retained, every, hessian, damping=damping, threads=threads, name=weights.name)
    stored = np.where(retained, out, 0.0).astype(np.float32).reshape(values.shape)
    return QuantisedWeights(replace(weights, values=stored), codebooks, bits, loss)


def _check_request(quantiser: str, *, bits: int, per: str) -> None:
    if quantiser not in QUANTISERS:
        raise unknown_name("quantiser", quantiser, QUANTISERS)
    if per not in ("layer", "row"):
        raise unknown_name("extent of a codebook", per, ("layer", "row"))
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{bits} bits; allowed are {MIN_BITS} to {MAX_BITS}")


def _codebooks(
    rows: Doubles, retained: NDArray[np.bool_], build: Callable[[Doubles, int], Doubles], *, bits: int, per: str
) -> Doubles:
    """Codebooks of equal length: shorter ones repeat their largest entry."""
    if per == "layer":
        return build(rows[retained], bits)[None]
    books = [build(row[kept], bits) for row, kept in zip(rows, retained, strict=True)]
    if not books:
        return np.zeros((0, 1))
    longest = max(book.size for book in books)
    return np.stack([np.pad(book, (0, longest - book.size), mode="edge") for book in books])


def _quantise_rows(
    rows: Doubles,
    retained: NDArray[np.bool_],
    codebooks: Doubles,
    hessian: Hessian,
    *,
    damping: float,
    threads: int,
    name: str,
) -> tuple[Doubles, float]:
    """OBQ of all rows, and the squared output error over the calibration samples."""
    out, loss = np.empty(rows.shape), 0.0
    per_group = len(rows) // hessian.groups
    units = block_units((len(rows), hessian.inputs), 1)
    for g, factored in enumerate(factor_groups(hessian, damping=damping, name=name)):
        part = slice(g * per_group, (g + 1) * per_group)
        out[part], _, _ = run_trace(
            rows[part],
            factored,
            units,
            retained=retained[part],
            codebooks=codebooks[part],
            threads=threads,
            name=name,
        )
        loss += float(squared_errors(out[part] - rows[part], hessian.matrix[g]).sum())
    return out, loss


def quantise(
    network: Network,
    quantiser: str,
    *,
    bits: int,
    per: Literal["layer", "row"] = "layer",
    calibration: Calibration | None = None,
    damping: float = 0.01,
    threads: int = 1,
) -> Network:
    """``network`` with the weights of every layer quantised (``quantise_weights``); biases stay as they are.

    ``calibration``: inputs or Hessians of each layer, as for ``sparsify``; None rounds to the nearest.
    """
    if not network.has_values:
        raise InputError(f"network '{network.name}' has no weight values to quantise")
    groups: Mapping[str, int] = {layer.name: layer.gemm.b for layer in network.layers if layer.gemm is not None}
    quantised = {
        name: quantise_weights(
            weights,
            quantiser,
            bits=bits,
            per=per,
            hessian=None if calibration is None else hessian_for(calibration, name, groups=groups[name]),
            damping=damping,
            threads=threads,
        ).weights
        for name, weights in network.weights.items()
    }
    return replace(network, weights=quantised, source=f"{network.source}; {quantiser}, {bits} bits per {per}")
