"""The executor of imported graphs: any network that carries its operators, at any level, from one set of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.network import Network
from .executor import TOLERANCE, Images, Progress, reduced_check, refuse_without_planes
from .geometry import Convolution, Product
from .graph_inputs import Feed, GraphInputs, feeds_of
from .graph_plan import plan_graph
from .graph_planes import NotPlainError, ends_softly, plane_form
from .graph_reference import ComparingMultiplier
from .graph_walk import GraphWalk, ProductObserver, SparseMultiplier, product_kernel
from .observations import (
    ActivationCounts,
    Deviation,
    Latency,
    SelfCheck,
    channel_nonzeros,
    check_labels,
    measure_latency,
    relative_error,
    tap_nonzeros,
)
from .operators.call import Array
from .simd.machine_plans import MachinePlans
from .simd.network import PlaneNetwork, unsupported
from .simd.reduced.choices import allowed_formats
from .store import Level, LevelStore
from .workers import Workers

T = TypeVar("T")


class GraphExecutor:
    """Runs a network that has a graph. Nodes are planned and weights are stored once, on construction.

    Each product with stored weights runs on the sparse kernels from the level-ordered store, so that level l multiplies
    the weights with ``keep > l`` only. Every other operator is NumPy code, or the ``onnx`` package's reference
    (``fallbacks`` names these with their counts). Threads take whole inferences.

    Single inferences run on planes (``simd.network``), several times faster, where the layers say all that the graph
    computes (``graph_planes``); else ``single_image_notes`` says what stands in the way.

    Parameters
    ----------
    network : a network with weight values and a graph.
    threads : worker threads for several inferences; single ones (``measure``) always use one.
    allow : reduced formats that layers may run in, see ``executor_for``; all inferences run on planes then.

    Raises
    ------
    InputError
        listing every operator that cannot be computed, with its count, and every layer without values; with ``allow`` what
        keeps the graph from planes.
    """

    def __init__(self, network: Network, *, threads: int = 1, allow: Iterable[str] = ()) -> None:
        if network.graph is None:
            raise InputError(f"network '{network.name}' has no graph: it was not imported")
        if threads < 1:
            raise InputError(f"{threads} threads; at least 1 is needed")
        self.network, self.graph = network, network.graph
        self.threads = threads
        self.plan = plan_graph(network, network.graph)
        self.store = LevelStore.from_network(network, self.plan.products)
        self._kernels = {name: product_kernel(product) for name, product in self.plan.products.items()}
        self._walks = [GraphWalk(self.graph, self.plan) for _ in range(threads)]
        self._workers = Workers(self._walks)
        self.allow = allowed_formats(allow)
        if self.allow:
            refuse_without_planes(self.allow, self.single_image_notes)

    @property
    def single_image_notes(self) -> tuple[str, ...]:
        """Why single inferences do not run on planes; empty if they do."""
        return self._plain[1]

    @cached_property
    def _plain(self) -> tuple[Network | None, tuple[str, ...]]:
        try:
            form = plane_form(self.network)
        except NotPlainError as reason:
            return None, (f"single images run without planes: {reason}",)
        problems = unsupported(form)
        return (None if problems else form), tuple(f"single images run without planes: {text}" for text in problems)

    @cached_property
    def planes(self) -> PlaneNetwork | None:
        """What runs single inferences; None where the graph is more than its layers."""
        form = self._plain[0]
        return None if form is None else MachinePlans(allow=self.allow).network(form)

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Operators that the ``onnx`` package's reference computes, with their counts; slow, but correct."""
        return self.plan.fallbacks

    @property
    def activation_bytes(self) -> int:
        """Most memory that the tensors of one inference held at once, in the runs so far; weights not included."""
        return max(walk.peak_bytes for walk in self._walks)

    def run(self, inputs: GraphInputs, level: Level, *, progress: Progress | None = None) -> Images:
        """The graph's first output, float32 of shape (inferences * batch, elements).

        Parameters
        ----------
        inputs : an array per graph input, or one array for a graph with one (see :func:`feeds_of` for shapes).
        level : 0 is the densest; or one level per weighted layer.

        Raises
        ------
        InputError
            for a level that does not exist or inputs that do not fit.
        """
        return self._first_outputs(self.outputs(inputs, level, progress=progress))

    def _first_outputs(self, results: list[Feed]) -> Images:
        """The graph's first output of several inferences, (inferences * batch, elements)."""
        first, batch = self.graph.outputs[0], self._batch()
        rows = [result[first].reshape(batch, -1) if _batched(result[first], batch) else result[first].reshape(1, -1)
                for result in results]  # fmt: skip
        return np.concatenate(rows).astype(np.float32, copy=False)

    def outputs(
        self, inputs: GraphInputs, level: Level, *, progress: Progress | None = None
    ) -> list[dict[str, NDArray[np.generic]]]:
        """All outputs of each inference by name, in ONNX's shapes and types.

        Raises
        ------
        InputError
            as ``run``.
        """
        levels, feeds = self.store.by_layer(level), feeds_of(self.graph, inputs)
        if self.allow and self.planes is not None:
            return list(self._each_on_planes(self.planes, feeds, levels, progress))
        return self._walked(feeds, levels, progress)

    def _walked(self, feeds: list[Feed], levels: Mapping[str, int], progress: Progress | None) -> list[Feed]:
        """All outputs of each inference, operator by operator and in float32."""

        def infer(walk: GraphWalk, feed: Feed) -> dict[str, Array]:
            return walk.run(feed, self._multiplier(walk, levels))

        return list(self._each(infer, feeds, progress))

    def _each_on_planes(
        self, planes: PlaneNetwork, feeds: list[Feed], levels: Mapping[str, int], progress: Progress | None
    ) -> Iterator[Feed]:
        """The same on planes, one after the other; such a graph has one output."""
        name, plane_levels = self.graph.outputs[0], _plane_levels(planes, levels)
        for done, feed in enumerate(feeds, start=1):
            found = self._single(planes, next(iter(feed.values())), plane_levels)
            yield {name: found.reshape(self.graph.shapes.get(name, (1, -1)))}
            if progress is not None:
                progress(done, len(feeds))

    def accuracy(
        self, inputs: GraphInputs, labels: NDArray[np.integer], level: Level, *, progress: Progress | None = None
    ) -> float:
        """Fraction of images whose largest output is the labelled one (the first of equal ones).

        Raises
        ------
        InputError
            as ``run``, and for labels that are not one class index per image.
        """
        outputs = self.run(inputs, level, progress=progress)
        check_labels(labels, images=len(outputs), classes=outputs.shape[1])
        return float(np.mean(outputs.argmax(axis=1) == labels))

    def measure(self, inputs: GraphInputs, level: Level, *, repeats: int = 100, warmup: int = 10) -> Latency:
        """Latency of single inferences (one thread), cycling through the inputs; checks of them are outside.

        Raises
        ------
        InputError
            as ``run``, and for fewer than 1 repeat or a negative warm-up.
        """
        levels, feeds = self.store.by_layer(level), feeds_of(self.graph, inputs)
        planes = self.planes
        if planes is not None:
            images, plane_levels = [next(iter(feed.values())) for feed in feeds], _plane_levels(planes, levels)
            return measure_latency(
                lambda i: self._single(planes, images[i % len(images)], plane_levels), repeats=repeats, warmup=warmup
            )
        with self._workers.borrowed() as walk:
            multiplier = self._multiplier(walk, levels)
            return measure_latency(
                lambda i: walk.run(feeds[i % len(feeds)], multiplier), repeats=repeats, warmup=warmup
            )

    def capture(
        self, inputs: GraphInputs, level: Level, *, progress: Progress | None = None
    ) -> dict[str, ActivationCounts]:
        """Exact non-zeros of each product's input operand over all inferences, by layer name.

        Of products of two activations (MatMul) the first operand is counted. A recurrent matrix meets its state at every
        time step; each step counts.

        Raises
        ------
        InputError
            as ``run``.
        """
        levels, feeds = self.store.by_layer(level), feeds_of(self.graph, inputs)

        def count(walk: GraphWalk, feed: Feed) -> dict[str, ActivationCounts]:
            counts: dict[str, ActivationCounts] = {}

            def observe(layer: str, tensor: Array) -> None:
                sizes = self.operand(layer).sizes
                by_channel = channel_nonzeros(sizes, tensor)
                found = ActivationCounts(
                    layer, int(by_channel.sum()), tensor.size, by_channel, tap_nonzeros(sizes, tensor)
                )
                counts[layer] = counts[layer].plus(found) if layer in counts else found

            walk.run(feed, self._multiplier(walk, levels, observe))
            return counts

        totals: dict[str, ActivationCounts] = {}
        for counts in self._each(count, feeds, progress):
            totals = {name: found.plus(totals[name]) if totals else found for name, found in counts.items()}
        return totals

    def operand(self, layer: str) -> Product:
        """Sizes of the inputs that :meth:`capture` counts for a layer."""
        return self.plan.products[layer] if layer in self.plan.products else self.plan.dynamic[layer]

    def visit(self, inputs: GraphInputs, level: Level, see: Callable[[str, Convolution, Array], None]) -> None:
        """Run every inference and call ``see(layer, sizes, operand)`` for each product, as often as the product runs.

        Raises
        ------
        InputError
            as ``run``.
        """
        levels = self.store.by_layer(level)
        with self._workers.borrowed() as walk:
            for feed in feeds_of(self.graph, inputs):
                walk.run(
                    feed, self._multiplier(walk, levels, lambda layer, x: see(layer, self.operand(layer).sizes, x))
                )

    def layer_inputs(self, inputs: GraphInputs, level: Level) -> dict[str, NDArray[np.generic]]:
        """The operand (images, channels, height, width) of each captured layer in the first inference; of a recurrent matrix
        the last state it reads.

        Raises
        ------
        InputError
            as ``run``.
        """
        levels, feed = self.store.by_layer(level), feeds_of(self.graph, inputs)[0]
        tensors: dict[str, Array] = {}

        def observe(layer: str, tensor: Array) -> None:
            sizes = self.operand(layer).sizes
            tensors[layer] = tensor.reshape(-1, sizes.channels, sizes.height, sizes.width).copy()

        with self._workers.borrowed() as walk:
            walk.run(feed, self._multiplier(walk, levels, observe))
        return tensors

    def macs(self, level: Level) -> dict[str, int]:
        """Exact multiply-accumulates of one inference: per weighted layer, and per node that multiplies two activations.

        Raises
        ------
        InputError
            for a level that does not exist.
        """
        return self.store.macs(level) | dict(self.plan.dynamic_macs)

    def bytes_read(self, level: int) -> int:
        """Bytes of the stored weights that ``level`` reads, its row pointers included.

        Raises
        ------
        InputError
            for a level that does not exist.
        """
        return self.store.bytes_read(level)

    def check(self, inputs: GraphInputs, level: Level) -> SelfCheck:
        """Compare every product with its dense float64 reference, on the inputs that it meets.

        Raises
        ------
        InputError
            as ``run``, and for inputs whose values leave the range of a reduced format.
        """
        levels, worst, error = self.store.by_layer(level), 0.0, 0.0
        feeds = feeds_of(self.graph, inputs)
        with self._workers.borrowed() as walk:
            for feed in feeds:
                sparse = self._multiplier(walk, levels)
                compared = ComparingMultiplier(sparse, self.network, self.plan.products, levels=levels)
                found = walk.run(feed, compared)[self.graph.outputs[0]]
                worst, error = max(worst, compared.error), max(error, self._plane_error(feed, levels, found))
        if self.allow and self.planes is not None and worst <= TOLERANCE:
            images, one = [next(iter(feed.values())) for feed in feeds], _plane_levels(self.planes, levels)
            return reduced_check(self.planes, images, one, error=error, worst_case=self.store.rounding_bound)
        return SelfCheck(error=max(worst, error), tolerance=TOLERANCE, worst_case=self.store.rounding_bound)

    def deviation(self, inputs: GraphInputs, level: Level) -> Deviation:
        """Distance of the outputs from those in float32; none where no format is allowed.

        Raises
        ------
        InputError
            as ``run``.
        """
        exact = self._walked(feeds_of(self.graph, inputs), self.store.by_layer(level), None)
        return Deviation.of(self.run(inputs, level), self._first_outputs(exact))

    def _single(self, planes: PlaneNetwork, image: Array, level: Level) -> Array:
        """The graph's output for one image, flattened."""
        found = planes.run(image, level)
        if not ends_softly(self.graph):
            return found
        powers = np.exp(found - found.max())
        return np.asarray(powers / powers.sum())

    def _plane_error(self, feed: Feed, levels: Mapping[str, int], expected: Array) -> float:
        """Distance of the planes' output from the graph's: what latency is measured with must be right, too."""
        if self.planes is None:
            return 0.0
        found = self._single(self.planes, next(iter(feed.values())), _plane_levels(self.planes, levels))
        return relative_error(found, expected.reshape(-1))

    def _multiplier(
        self, walk: GraphWalk, levels: Mapping[str, int], observer: ProductObserver | None = None
    ) -> SparseMultiplier:
        return SparseMultiplier(
            self.store.layers,
            self._kernels,
            levels=levels,
            biases=self.network.biases,
            memory=walk.memory,
            observer=observer,
        )

    def _batch(self) -> int:
        """Images per inference: the first size of the first input."""
        shape = next(iter(self.graph.inputs.values()))[0]
        return int(shape[0]) if shape else 1

    def _each(self, work: Callable[[GraphWalk, Feed], T], feeds: list[Feed], progress: Progress | None) -> Iterator[T]:
        for done, result in enumerate(self._workers.each(work, feeds), start=1):
            if progress is not None:
                progress(done, len(feeds))
            yield result


def _plane_levels(planes: PlaneNetwork, levels: Mapping[str, int]) -> list[int]:
    """Levels in the order of the planes' layers; one that stands for a normalisation is the same at every level."""
    return [levels.get(layer.name, 0) for layer in planes.network.layers if layer.has_weights]


def _batched(output: NDArray[np.generic], batch: int) -> bool:
    return output.ndim > 1 and output.shape[0] == batch
