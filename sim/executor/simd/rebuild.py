"""Convolutions whose weights are kept as coefficients and bases, and made anew for every call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from ....workloads.nesting import NestedWeights
from ....workloads.smartdeal.basis_weights import BasisWeights
from . import rebuild_kernel
from .planes import LANES, Floats, aligned
from .product import Product
from .team import Call, call

#: Weight numbers are carried through the streams as float32.
_MOST_WEIGHTS = 1 << 24
#: Exponents of normal float32.
_EXPONENTS = (-126, 127)


def pattern(weights: BasisWeights) -> NestedWeights:
    """The weights of the densest level on whole coefficient rows: what a :class:`Product` is made from before rebuilding.

    Raises
    ------
    InputError
        where levels keep coefficients one by one: a level's rows are then no subset of whole rows.
    """
    if not weights.by_row:
        raise InputError(f"{weights.name}: only levels that keep whole coefficient rows can be rebuilt in place")
    keep = np.where((weights.codes != 0).any(axis=2), weights.keep, np.uint8(0))[..., None]
    every = weights.slicing.join(np.broadcast_to(keep, weights.codes.shape))
    return NestedWeights(
        values=weights.dense(0), keep=np.ascontiguousarray(every), levels=weights.levels, name=weights.name
    )


class Rebuild:
    """Refreshes the values of a product's streams from codes and bases: 1 byte per coefficient, 4 per weight's place.

    ``product`` is made from :func:`pattern` of the same weights. Rows stand sparsest level first: rebuilding a level
    touches only what the level uses. Bases may differ from level to level.

    Raises
    ------
    InputError
        as :func:`pattern`; for more than 2^24 weights, or exponents beyond float32's normal numbers.
    """

    def __init__(self, weights: BasisWeights, product: Product) -> None:
        top = weights.lowest + max(0, weights.exponents - 1)
        if weights.lowest < _EXPONENTS[0] or top > _EXPONENTS[1]:
            raise InputError(f"{weights.name}: exponents {weights.lowest} to {top} are no normal float32")
        self.weights, self.product = weights, product
        self._bases = [np.ascontiguousarray(weights.basis(x), np.float32).reshape(-1) for x in range(weights.levels)]
        slots = self._slots()
        keep = np.where((weights.codes != 0).any(axis=2), weights.keep, 0)
        matrix, row = np.nonzero(keep)
        order = np.lexsort((row, matrix, -keep[matrix, row].astype(np.int64)))
        matrix, row = matrix[order], row[order]
        stream = weights.levels - keep[matrix, row].astype(np.int64)
        group = self._groups(stream, matrix)
        count, columns = int(group.max(initial=-1)) + 1, weights.slicing.columns
        lane = np.arange(len(group)) - np.searchsorted(group, group)
        self._codes = np.zeros((count, columns, LANES), np.int8)
        self._targets = np.full((count, columns, LANES), len(product.streams.values) - 1, np.uint32)
        self._codes[group, :, lane] = weights.codes[matrix, row]
        self._targets[group, :, lane] = slots[matrix, row]
        self._matrices = np.zeros(count, np.uint32)
        self._matrices[group] = matrix
        self._counts = [int(group[stream < weights.levels - x].max(initial=-1)) + 1 for x in range(weights.levels)]
        self._scratch = aligned(LANES * columns)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, places and bases."""
        bases = {id(self.weights.basis(x)): self.weights.basis(x).nbytes for x in range(self.weights.levels)}
        return self._codes.nbytes + self._targets.nbytes + self._matrices.nbytes + sum(bases.values())

    def call(self, level: int) -> Call:
        """The call that makes the values of ``level``; padding goes to the spare element behind the last value."""
        count, values = self._counts[level], self.product.streams.values
        groups = (self._codes.reshape(-1), self._matrices, self._targets.reshape(-1), count)
        basis, columns = self._bases[level], self.weights.slicing.columns
        arguments = (max(1, count), groups, basis, columns, self.weights.lowest, values, self._scratch)
        return call(rebuild_kernel.rebuild, 1, *arguments)._replace(shared=False)

    def _slots(self) -> NDArray[np.int64]:
        """Where each element of each matrix stands in the streams' values; the spare element for padding."""
        nested = pattern(self.weights)
        if nested.keep.size >= _MOST_WEIGHTS:
            raise InputError(f"{nested.name}: {nested.keep.size} weights; at most {_MOST_WEIGHTS} can be rebuilt")
        numbers: Floats = np.arange(1, nested.keep.size + 1, dtype=np.float32).reshape(nested.shape)
        numbered = NestedWeights(values=numbers, keep=nested.keep, levels=nested.levels, name=nested.name)
        streams = self.product.streams_of(numbered)
        spare = len(streams.values) - 1
        slot_of = np.full(nested.keep.size + 1, spare, np.int64)  # number 0: padding
        slot_of[streams.values[:-1].astype(np.int64)] = np.arange(spare)
        return slot_of[self.weights.slicing.cut(numbers).astype(np.int64)]

    @staticmethod
    def _groups(stream: NDArray[np.int64], matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """Group of every row: up to 16 consecutive rows of one matrix and one stream."""
        if not len(stream):
            return np.zeros(0, np.int64)
        begins = np.flatnonzero(np.diff(stream, prepend=-1) | np.diff(matrix, prepend=-1))
        lengths = np.diff(begins, append=len(stream))
        within = np.arange(len(stream)) - np.repeat(begins, lengths)
        starts = within % LANES == 0
        return np.asarray(np.cumsum(starts) - 1)
