"""Level-ordered weight storage: one copy of the weights serves every sparsity level.

The non-zeros of each output row are sorted sparsest level first, so level l of a row is a *prefix* of that row's
stream. Switching the level means reading another row of end pointers; no value is copied or encoded again
(the storage side of nested sparsity, Qin et al., arXiv 2112.10930).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.layers import CONV_OPS, Layer
from ...workloads.nesting import NestedWeights
from ...workloads.network import Network
from .geometry import Product, convolution_of, planes_of, weight_offsets

#: One level for all layers, or one per weighted layer in execution order (rerouting, Qin et al., arXiv 2112.10930).
Level = int | Sequence[int]
#: Rows are sorted in blocks of about this many weights, so that large layers need little extra memory.
SORT_ELEMENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class LayerRows:
    """One layer's rows inside the store. Row r at level l is ``[row_start[r], row_end[l, r])`` of both streams.

    values : float32, (nonzeros,) weights.
    offsets : int32, (nonzeros,) element of the input planes (convolutions) or of the input row (all others).
    row_start : int64, (rows,). row_end : int64, (levels, rows), non-increasing along the levels.
    positions : output positions times repeats; each non-zero is multiplied once at every one of them.
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int32]
    row_start: NDArray[np.int64]
    row_end: NDArray[np.int64]
    positions: int

    @property
    def nonzeros(self) -> NDArray[np.int64]:
        """Retained weights per level, int64 of shape (levels,)."""
        return np.asarray((self.row_end - self.row_start).sum(axis=1, dtype=np.int64))

    @property
    def macs(self) -> NDArray[np.int64]:
        """Exact multiply-accumulates of one inference per level, int64 of shape (levels,)."""
        return self.nonzeros * np.int64(self.positions)


@dataclass(frozen=True, eq=False)
class LevelStore:
    """All weights of a network, level-ordered, in one value stream and one offset stream.

    ``layers`` maps the weighted layers' names, in execution order, to their rows (views into the two streams).
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int32]
    layers: Mapping[str, LayerRows]
    levels: int

    @classmethod
    def from_network(cls, network: Network, products: Mapping[str, Product] | None = None) -> LevelStore:
        """Sort and pack the weights of a network.

        ``products``: what each layer's weights are multiplied with, where the layer itself does not say it (imported
        graphs, whose paddings and strides differ by side and axis).

        Raises
        ------
        InputError
            naming the weighted layers that have no values (shape-only networks, patterns without values).
        """
        weighted = [layer for layer in network.layers if layer.has_weights]
        missing = [layer.name for layer in weighted if not _has_values(network, layer.name)]
        if missing:
            raise InputError(f"network '{network.name}' cannot be executed: no weight values in {', '.join(missing)}")
        total = sum(int(network.weights[layer.name].nonzeros[0]) for layer in weighted)
        values, offsets = np.empty(total, np.float32), np.empty(total, np.int32)
        layers: dict[str, LayerRows] = {}
        first = 0
        for layer in weighted:
            weights = network.weights[layer.name]
            last = first + int(weights.nonzeros[0])
            product = (products or {}).get(layer.name) or _product_of(layer)
            layers[layer.name] = _fill_rows(product, weights, values[first:last], offsets[first:last])
            first = last
        return cls(values=values, offsets=offsets, layers=layers, levels=network.levels)

    def check_level(self, level: int) -> None:
        """Raise InputError unless the level exists."""
        if not 0 <= level < self.levels:
            raise InputError(f"level {level} does not exist; levels are 0 (densest) to {self.levels - 1}")

    def by_layer(self, level: Level) -> dict[str, int]:
        """Level of each weighted layer.

        Raises
        ------
        InputError
            if a level does not exist, and as :func:`given_levels`.
        """
        levels = given_levels(level, len(self.layers))
        for one in levels:
            self.check_level(one)
        return dict(zip(self.layers, levels, strict=True))

    def macs(self, level: Level) -> dict[str, int]:
        """Exact multiply-accumulates of one inference at ``level``: non-zeros x output positions x repeats, per layer.

        Raises
        ------
        InputError
            as :meth:`by_layer`.
        """
        return {name: int(self.layers[name].macs[one]) for name, one in self.by_layer(level).items()}

    @property
    def rounding_bound(self) -> float:
        """A-priori rounding error of the longest sum of products, relative to the sum of their magnitudes."""
        longest = max((int((r.row_end[0] - r.row_start).max(initial=0)) for r in self.layers.values()), default=0)
        return (longest + 2) * 2.0**-24

    @property
    def stored_bytes(self) -> int:
        """Bytes of the two streams and of all row pointers."""
        pointers = sum(rows.row_start.nbytes + rows.row_end.nbytes for rows in self.layers.values())
        return self.values.nbytes + self.offsets.nbytes + pointers

    def bytes_read(self, level: int) -> int:
        """Bytes of the prefixes that ``level`` reads, its row pointers included.

        Raises
        ------
        InputError
            if the level does not exist.
        """
        self.check_level(level)
        per_weight = self.values.itemsize + self.offsets.itemsize
        return sum(
            int(rows.nonzeros[level]) * per_weight + rows.row_start.nbytes + rows.row_end[level].nbytes
            for rows in self.layers.values()
        )


def given_levels(level: Level, count: int) -> list[int]:
    """The level of each of ``count`` weighted layers, from one for all of them or one each; whether they exist is not judged.

    Raises
    ------
    InputError
        if they are no whole numbers, or their number is another.
    """
    needed = f"needed is one, or one for each of {count} weighted layers"
    try:
        levels = [index(one) for one in level] if isinstance(level, Iterable) else [index(level)] * count
    except TypeError:
        raise InputError(f"level {level!r} is no whole number; {needed}") from None
    if len(levels) != count:
        raise InputError(f"{len(levels)} levels given; {needed}")
    return levels


def _has_values(network: Network, name: str) -> bool:
    weights = network.weights.get(name)
    return weights is not None and weights.values is not None


def _product_of(layer: Layer) -> Product | int:
    """A convolution, or for row vectors (kernel ``row_products``) how many of them one inference has."""
    if layer.op in CONV_OPS:
        return Product(convolution_of(layer), layer.repeat)
    return layer.repeat * (layer.gemm.m if layer.gemm is not None else 1)


def _fill_rows(
    product: Product | int, weights: NestedWeights, values: NDArray[np.float32], offsets: NDArray[np.int32]
) -> LayerRows:
    """Write one layer's retained weights into its part of the streams, sparsest level first within each row."""
    assert weights.values is not None  # from_network has named every layer without values
    keep = weights.keep.reshape(weights.keep.shape[0], -1)
    dense = weights.values.reshape(keep.shape)
    counts = np.stack([(keep > level).sum(axis=1, dtype=np.int64) for level in range(weights.levels)])
    row_end = np.cumsum(counts[0])
    row_start = row_end - counts[0]
    all_offsets = _offsets(product, keep.shape)
    block = max(1, SORT_ELEMENTS // max(1, keep.shape[1]))
    for top in range(0, len(keep), block):
        rows = slice(top, top + block)
        part = slice(int(row_start[top]), int(row_end[rows][-1]))
        if weights.levels == 1:  # nothing to order
            kept = keep[rows] > 0
            values[part], offsets[part] = dense[rows][kept], all_offsets[rows][kept]
            continue
        # Stable: weights of one row and level stay in storage order, which walks the input planes forward.
        order = np.argsort(255 - keep[rows], axis=1, kind="stable")
        kept = np.arange(keep.shape[1]) < counts[0, rows, None]
        values[part] = np.take_along_axis(dense[rows], order, axis=1)[kept]
        offsets[part] = np.take_along_axis(all_offsets[rows], order, axis=1)[kept]
    positions = product.runs * product.sizes.positions if isinstance(product, Product) else product
    return LayerRows(values, offsets, row_start, row_start + counts, positions)


def _offsets(product: Product | int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    if isinstance(product, Product):
        return weight_offsets(product.sizes, planes_of(product.sizes))
    return np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
