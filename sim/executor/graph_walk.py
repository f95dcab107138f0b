"""Running a planned graph: tensors by name, freed after their last reader; products on the sparse kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.graph import Graph
from . import kernels
from .geometry import Planes, Product, planes_of
from .graph_plan import GraphPlan, GraphStep
from .graph_products import Multiplier
from .operators.call import Array
from .plan import rows_of_tile
from .store import LayerRows

#: Called with a layer's name and the (n, channels*height*width) inputs of a product, before it runs.
ProductObserver = Callable[[str, Array], None]


class ProductKernel(NamedTuple):
    """How one layer's products run: its planes, and output rows per tile (0 = one position, kernel ``row_products``)."""

    planes: Planes
    tile_rows: int
    positions: int


def product_kernel(product: Product) -> ProductKernel:
    """Choose the kernel of a product."""
    planes = planes_of(product.sizes)
    one = product.sizes.positions == 1 and not planes.packed
    return ProductKernel(planes, 0 if one else rows_of_tile(planes), product.sizes.positions)


class Workspace:
    """Scratch memory of one thread: padded planes and partial sums, grown to the largest product."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], NDArray[np.floating]] = {}

    def take(self, purpose: str, size: int, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
        """``size`` elements with any content."""
        found = self._memory.get((purpose, dtype.char))
        if found is None or found.size < size:
            found = np.empty(size, dtype)
            self._memory[purpose, dtype.char] = found
        return found[:size]


class SparseMultiplier:
    """Products of one thread with the level-ordered weights; ``levels`` gives each layer's level."""

    def __init__(
        self,
        layers: Mapping[str, LayerRows],
        product_kernels: Mapping[str, ProductKernel],
        *,
        levels: Mapping[str, int],
        biases: Mapping[str, NDArray[np.float32]],
        memory: Workspace,
        observer: ProductObserver | None = None,
    ) -> None:
        self._layers, self._kernels, self._levels = layers, product_kernels, levels
        self._biases, self._memory, self._observer = biases, memory, observer

    def bias(self, layer: str) -> Array | None:
        """The network's own bias of a layer at its level, float32 (K,); None where it has none."""
        biases = self._biases.get(layer)
        return None if biases is None else biases[self._levels[layer]]

    def meet(self, layer: str, inputs: Callable[[], Array]) -> None:
        """Shows the observer, if there is one, the inputs of a product of two activations."""
        if self._observer is not None:
            self._observer(layer, inputs())

    def multiply(
        self, layer: str, inputs: Array, bias: Array | None = None, *, rows: slice | None = None
    ) -> NDArray[np.floating]:
        """See :class:`Multiplier`; integers are multiplied in float64, where their sums are exact."""
        if self._observer is not None and (rows is None or not rows.start):
            self._observer(layer, inputs)
        exact = inputs.dtype == np.float64 or np.issubdtype(inputs.dtype, np.integer)
        dtype: np.dtype[np.floating] = np.dtype(np.float64) if exact else np.dtype(np.float32)
        x = np.ascontiguousarray(inputs, dtype)
        stored, (planes, tile_rows, positions) = self._layers[layer], self._kernels[layer]
        part = rows if rows is not None else slice(None)
        start, end = stored.row_start[part], stored.row_end[self._levels[layer]][part]
        sums = np.zeros(start.size, dtype) if bias is None else np.ascontiguousarray(bias.reshape(-1), dtype)
        out = np.empty((len(x), start.size * positions), dtype)
        if not tile_rows:
            kernels.row_products(x, out, 1, stored.values, stored.offsets, start, end, sums, kernels.NONE)
            return out
        scratch = self._memory.take("planes", planes.size if planes.packed else 0, dtype)
        run = self._memory.take("sums", planes.run_size(tile_rows), dtype)
        kernels.convolve(
            x, out, scratch, run, stored.values, stored.offsets, start, end, sums, planes, tile_rows, planes.lanes,
            kernels.NONE,
        )  # fmt: skip
        return out


class GraphWalk:
    """Takes one set of inputs through a plan. ``peak_bytes``: most memory that tensors held at once so far."""

    def __init__(self, graph: Graph, plan: GraphPlan) -> None:
        self._graph, self._plan = graph, plan
        self.memory = Workspace()
        self.peak_bytes = 0

    def run(self, feed: Mapping[str, Array], multiplier: Multiplier) -> dict[str, Array]:
        """Outputs of the graph by name.

        Raises
        ------
        InputError
            naming the node whose operands do not fit it.
        """
        values: dict[str, Array] = dict(feed)
        with np.errstate(all="ignore"):
            for step in self._plan.steps:
                self._run_step(step, values, multiplier)
        known = {**self._graph.constants, **values}
        return {name: known[name] for name in self._graph.outputs}

    def _run_step(self, step: GraphStep, values: dict[str, Array], multiplier: Multiplier) -> None:
        constants = self._graph.constants
        inputs = [values[name] if name in values else constants.get(name) for name in step.node.inputs]
        try:
            outputs = step.compute(inputs, multiplier)
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            found = ", ".join("absent" if x is None else f"{x.dtype}{x.shape}" for x in inputs)
            raise InputError(
                f"node '{step.node.name}' ({step.node.op}) cannot be computed on {found}: {error}"
            ) from error
        values.update((name, value) for name, value in zip(step.node.outputs, outputs, strict=False) if name)
        self.peak_bytes = max(self.peak_bytes, _held_bytes(values))
        for name in step.finished:
            values.pop(name, None)


def _held_bytes(values: Mapping[str, Array]) -> int:
    """Memory behind the tensors; views of one array count once."""
    owners: dict[int, int] = {}
    for value in values.values():
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        owners[id(owner)] = owner.nbytes
    return sum(owners.values())
