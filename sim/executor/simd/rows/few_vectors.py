"""Fully connected layers for a batch of any size, at every level: up to 16 vectors by rows of non-zeros, more on planes."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .....workloads.errors import InputError
from .....workloads.layers import conv
from .....workloads.nesting import NestedWeights
from ...store import given_levels
from ..chosen import call_of, dense_for, product_for
from ..loading import bound, load_kernels
from ..planes import Floats, PlaneLayout, real_floats
from ..prior import likely_plan
from ..team import Call, Team
from .fully_connected import MOST_VECTORS, RowProduct
from .row_formats import RowChooser, likely_formats

if TYPE_CHECKING:
    from ..chosen import AnyDense
    from ..network import Chooser


class PlaneRows:
    """out = clamp(bias + W X) for more than 16 vectors: a 1x1 convolution over one row of positions.

    ``inputs``: float32 (columns, vectors), ``outputs``: (rows, vectors), views into planes. ``choose``: a
    ``network.Chooser``.
    """

    def __init__(
        self, weights: NestedWeights, *, vectors: int, threads: int = 1, choose: Chooser = likely_plan
    ) -> None:
        rows, columns = weights.shape[0], int(np.prod(weights.shape[1:]))
        layer = conv(weights.name, "input", C=columns, H=1, W=vectors, K=rows, R=1, S=1)
        source, target = PlaneLayout(columns, 1, vectors, 0), PlaneLayout(rows, 1, vectors, 0)
        self.plan = choose(layer, weights, source, target)
        self.product = product_for(layer, weights, source, target, choice=self.plan.sparse, threads=threads)
        self._dense: dict[int, AnyDense] = {}
        self.weights, self._threads = weights, threads
        self._allocate()

    def _allocate(self) -> None:
        source, target = self.product.source, self.product.target
        self._works: list[Any] = [self.product.new_work() for _ in range(self._threads)]
        self._x, self._out = source.new(), target.new()
        self.inputs: Floats = source.view(self._x)[:, 0]
        self.outputs: Floats = target.view(self._out)[:, 0]

    def twin(self) -> PlaneRows:
        """The same product with inputs, outputs and scratch memory of its own; weights are shared."""
        other = copy(self)
        other._allocate()
        return other

    def calls(self, level: int, bias: Floats, clamp: tuple[np.float32, np.float32]) -> list[Call]:
        """The calls that compute ``outputs`` from ``inputs`` at ``level``."""
        self.weights.check_level(level)
        product, threads, common = self.product, self._threads, {"bias": bias, "clamp": clamp}
        if level not in self.plan.dense_levels:
            return [product.call(self._x, self._out, level=level, bias=bias, clamp=clamp, works=self._works)]
        if level not in self._dense:
            self._dense[level] = dense_for(product, self.weights, level, dense=self.plan.dense, threads=threads)
        return [call_of(self._dense[level], level, x=self._x, out=self._out, threads=threads, **common)]


def rows_for(
    weights: NestedWeights,
    *,
    vectors: int,
    threads: int = 1,
    choose: Chooser = likely_plan,
    choose_rows: RowChooser = likely_formats,
) -> RowProduct | PlaneRows:
    """The product for a number of vectors; ``choose_rows``: formats for one, ``choose``: the kernel for more than 16."""
    if vectors <= MOST_VECTORS:
        return RowProduct(weights, vectors=vectors, threads=threads, choose=choose_rows)
    return PlaneRows(weights, vectors=vectors, threads=threads, choose=choose)


class BatchedLinear:
    """A fully connected layer on its own: Y = clamp(X W^T + bias), at any level of one store.

    Pruned weights meet no operand: NaN and infinity in a column reach the rows that keep it and no others, except at a
    level that more than 16 vectors run dense (``product.plan``), where they reach every row. Denormals count as zeros on
    x86. Outputs are bit-identical for any number of threads, and the caller's own.

    Parameters
    ----------
    weights : (outputs, inputs), with values.
    vectors : rows of X in every call, at least 1.
    bias : float32 (outputs,), the same at every level; default: zeros.
    clamp : least and largest output; (0, inf) is a rectifier.

    Raises
    ------
    InputError
        for weights without values, a bias of another shape, or fewer than one vector or thread.
    """

    def __init__(
        self,
        weights: NestedWeights,
        *,
        vectors: int,
        bias: Floats | None = None,
        clamp: tuple[float, float] = (-np.inf, np.inf),
        threads: int = 1,
    ) -> None:
        if vectors < 1 or threads < 1:
            raise InputError(f"{weights.name}: {vectors} vectors, {threads} threads; at least 1 of each is needed")
        self._bias = np.zeros(weights.shape[0], np.float32) if bias is None else np.asarray(bias, np.float32)
        if self._bias.shape != weights.shape[:1]:
            raise InputError(f"{weights.name}: bias of shape {self._bias.shape}, needed is {weights.shape[:1]}")
        self._clamp = np.float32(clamp[0]), np.float32(clamp[1])
        self.product = rows_for(weights, vectors=vectors, threads=threads)
        self._vectors, self._columns = vectors, int(np.prod(weights.shape[1:]))
        self._team = Team(threads)
        self._calls: dict[int, list[Call]] = {}

    def run(self, x: ArrayLike, level: int) -> Floats:
        """Y, float32 (vectors, outputs), for X of shape (vectors, inputs) and any real type.

        Raises
        ------
        InputError
            for an X of another shape or of other than real numbers, or a level that does not exist.
        """
        (level,) = given_levels(level, 1)
        x = real_floats(x, "x", "(vectors, inputs)")
        if x.shape != (self._vectors, self._columns):
            raise InputError(f"x has shape {x.shape}, needed is {(self._vectors, self._columns)}")
        if level not in self._calls:
            calls = self.product.calls(level, self._bias, self._clamp)
            load_kernels(calls)
            self._calls[level] = [bound(call) for call in calls]
        self.product.inputs[:] = x.T.reshape(self.product.inputs.shape)
        for call in self._calls[level]:
            self._team.run(call)
        return self.product.outputs.reshape(-1, self._vectors).T.copy()  # the next run writes there again
