"""The CPU executor: runs a nested sparse network at any level from one stored set of weights."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.network import Network
from . import reference
from .observations import ActivationCounts, Latency, SelfCheck
from .plan import Step, make_plan
from .store import LevelStore
from .walk import LevelArrays, Tensor, Walk

Images = NDArray[np.float32]
#: One level for all layers, or one per weighted layer in execution order (rerouting, Qin et al., arXiv 2112.10930).
Level = int | Sequence[int]
#: Called with (images done, images in total).
Progress = Callable[[int, int], None]
#: Allowed difference from the dense reference, relative to the largest output.
TOLERANCE = 1e-5

T = TypeVar("T")


class Executor:
    """Runs one network. Memory is planned and weights are stored once, on construction.

    Each thread takes whole groups of images through the network, so outputs are bit-identical for any number of
    threads. An executor serves one caller at a time.

    Parameters
    ----------
    network : a network with weight values.
    threads : worker threads for batches; single images (``measure``) always use one.

    Raises
    ------
    InputError
        naming every layer that has no values or that the executor does not support.
    """

    def __init__(self, network: Network, threads: int = 1) -> None:
        if threads < 1:
            raise InputError(f"{threads} threads; at least 1 is needed")
        self.network = network
        self.threads = threads
        self.store = LevelStore.from_network(network)
        self.plan = make_plan(network)
        self._weighted = [layer for layer in network.layers if layer.has_weights]
        self._arrays = {layer.name: self._level_arrays(layer.name) for layer in self._weighted}
        self._walks: queue.SimpleQueue[Walk] = queue.SimpleQueue()
        for _ in range(threads):
            self._walks.put(Walk(self.plan))

    def _level_arrays(self, name: str) -> list[LevelArrays]:
        """Kernel arguments of one layer for every level; all views, nothing is copied per level."""
        rows = self.store.layers[name]
        biases = self.network.biases.get(name)
        if biases is None:
            biases = np.zeros((self.store.levels, rows.row_start.size), np.float32)
        biases = np.array(biases, np.float32, order="C")
        return [
            (rows.values, rows.offsets, rows.row_start, rows.row_end[level], biases[level])
            for level in range(self.store.levels)
        ]

    def run(self, images: Images, level: Level, *, progress: Progress | None = None) -> Images:
        """Outputs of the network's last layer, float32 of shape (N, elements), for example (N, classes).

        Parameters
        ----------
        images : float32, (N, C, H, W).
        level : 0 is the densest; or one level per weighted layer.

        Raises
        ------
        InputError
            for a level that does not exist, or images of another shape or type, or with NaN or infinite values.
        """
        weights, flat = self._weights(level), self._flatten(images)
        outputs = np.empty((len(flat), self.plan.output.size), np.float32)

        def run_group(walk: Walk, group: slice) -> None:
            outputs[group] = walk.run(flat[group], weights)

        for _ in self._each_group(run_group, len(flat), progress):
            pass
        return outputs

    def accuracy(
        self, images: Images, labels: NDArray[np.integer], level: Level, *, progress: Progress | None = None
    ) -> float:
        """Fraction of images whose largest output is the labelled one (the first of equal ones).

        Raises
        ------
        InputError
            as ``run``, and for labels that are not one class index per image.
        """
        self._flatten(images)
        labels, classes = np.asarray(labels), self.plan.output.size
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"labels of shape {labels.shape} and dtype {labels.dtype}; needed is one integer for each of the "
                f"{len(images)} images"
            )
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise InputError(
                f"labels from {labels.min()} to {labels.max()}; the network has classes 0 to {classes - 1}"
            )
        outputs = self.run(images, level, progress=progress)
        return float(np.mean(outputs.argmax(axis=1) == labels))

    def measure(self, images: Images, level: Level, *, repeats: int = 100, warmup: int = 10) -> Latency:
        """Latency of single inferences (batch 1, one thread), cycling through ``images``.

        Times the graph walk from the image in the caller's memory to the output; checks of the input are outside.

        Raises
        ------
        InputError
            as ``run``, and for fewer than 1 repeat or a negative warm-up.
        """
        if repeats < 1 or warmup < 0:
            raise InputError(f"repeats = {repeats}, warmup = {warmup}; needed are at least 1 and at least 0")
        weights, flat = self._weights(level), self._flatten(images)
        walk = self._walks.get()
        try:
            times = np.empty(warmup + repeats)
            for i in range(times.size):
                image = flat[i % len(flat) : i % len(flat) + 1]
                start = time.perf_counter()
                walk.run(image, weights)
                times[i] = time.perf_counter() - start
        finally:
            self._walks.put(walk)
        p10, median, p90 = np.percentile(times[warmup:], [10, 50, 90])
        return Latency(median_s=float(median), p10_s=float(p10), p90_s=float(p90), repeats=repeats)

    def capture(self, images: Images, level: Level, *, progress: Progress | None = None) -> dict[str, ActivationCounts]:
        """Exact non-zeros of each weighted layer's input tensor over all images, by layer name.

        Raises
        ------
        InputError
            as ``run``.
        """
        weights, flat = self._weights(level), self._flatten(images)

        def count_group(walk: Walk, group: slice) -> dict[str, NDArray[np.int64]]:
            counts: dict[str, NDArray[np.int64]] = {}

            def observe(step: Step, tensor: Tensor) -> None:
                name = step.layer.name
                counts[name] = np.concatenate((_channel_nonzeros(step, tensor), _tap_nonzeros(step, tensor)))

            walk.run(flat[group], weights, observe)
            return counts

        totals: dict[str, NDArray[np.int64]] = {}
        for counts in self._each_group(count_group, len(flat), progress):
            totals = {name: count + totals[name] if totals else count for name, count in counts.items()}
        sizes = {step.layer.name: step.inputs[0].size for step in self.plan.steps if step.weighted}
        channels = {step.layer.name: step.layer.C for step in self.plan.steps if step.weighted}
        result = {}
        for name, count in totals.items():
            by_channel, by_tap = np.split(count, [channels[name]])
            result[name] = ActivationCounts(name, int(by_channel.sum()), sizes[name] * len(flat), by_channel, by_tap)
        return result

    def macs(self, level: Level) -> dict[str, int]:
        """Exact multiply-accumulates of one inference per weighted layer.

        Raises
        ------
        InputError
            for a level that does not exist.
        """
        levels = self._levels(level)
        return {layer.name: self.store.macs(levels[layer.name])[layer.name] for layer in self._weighted}

    def check(self, images: Images, level: Level) -> SelfCheck:
        """Compare the outputs for a few images with the dense float64 reference.

        Raises
        ------
        InputError
            as ``run``.
        """
        found = self.run(images, level)
        levels = list(self._levels(level).values())
        shaped = images.reshape(len(images), *self.plan.input_shape)
        expected = reference.forward(self.network, shaped, levels)
        scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
        longest = max((int((r.row_end[0] - r.row_start).max(initial=0)) for r in self.store.layers.values()), default=0)
        error = float(np.abs(found - expected).max()) / scale
        return SelfCheck(error=error, tolerance=TOLERANCE, worst_case=(longest + 2) * 2.0**-24)

    def _levels(self, level: Level) -> dict[str, int]:
        """Level of each weighted layer."""
        count = len(self._weighted)
        levels = [int(level)] * count if isinstance(level, int | np.integer) else [int(one) for one in level]
        if len(levels) != count:
            raise InputError(f"{len(levels)} levels given; needed is one, or one for each of {count} weighted layers")
        for one in levels:
            self.store.check_level(one)
        return {layer.name: one for layer, one in zip(self._weighted, levels, strict=True)}

    def _weights(self, level: Level) -> dict[str, LevelArrays]:
        return {name: self._arrays[name][one] for name, one in self._levels(level).items()}

    def _flatten(self, images: Images) -> Images:
        """Check a batch and view it as (N, elements)."""
        shape = self.plan.input_shape
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            raise InputError(f"images are {getattr(images, 'dtype', type(images).__name__)}; needed is a float32 array")
        # A network that starts with a linear layer states no height and width: any layout of its features will do.
        flexible = len(shape) == 2 or shape[1:] == (1, 1)
        fits = images.ndim == 4 and (images.shape[1:] == shape or (flexible and images[:1].size == np.prod(shape)))
        if not fits:
            raise InputError(f"images have shape {images.shape}; network '{self.network.name}' needs (N, {shape})")
        if not len(images):
            raise InputError("no images given")
        bad = ~np.isfinite(images)
        if bad.any():
            raise InputError(
                f"{int(bad.sum())} input values are NaN or infinite, the first in image {bad.nonzero()[0][0]}"
            )
        return images.reshape(len(images), -1)

    def _each_group(self, work: Callable[[Walk, slice], T], total: int, progress: Progress | None) -> Iterator[T]:
        """Run ``work`` on groups of images, on all threads; results come in the order of the images."""
        size = self.plan.images
        groups = [slice(first, min(first + size, total)) for first in range(0, total, size)]

        def with_walk(group: slice) -> T:
            walk = self._walks.get()
            try:
                return work(walk, group)
            finally:
                self._walks.put(walk)

        def report(results: Iterator[T]) -> Iterator[T]:
            for group, result in zip(groups, results, strict=True):
                if progress is not None:
                    progress(group.stop, total)
                yield result

        if self.threads == 1:
            yield from report(map(with_walk, groups))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from report(pool.map(with_walk, groups))


def _channel_nonzeros(step: Step, tensor: Tensor) -> NDArray[np.int64]:
    """Non-zeros per input channel (convolution) or input feature (linear layer) of one group of images."""
    if step.planes is not None:
        counts = np.count_nonzero(tensor.reshape(len(tensor), step.layer.C, -1), axis=(0, 2))
    else:
        counts = np.count_nonzero(tensor.reshape(len(tensor) * step.rows, -1), axis=0)
    return np.asarray(counts, np.int64)


def _tap_nonzeros(step: Step, tensor: Tensor) -> NDArray[np.int64]:
    """Non-zeros that each reduction index (c, r, s) meets over all output positions of one group of images."""
    layer = step.layer
    if step.planes is None:
        return _channel_nonzeros(step, tensor)
    pad, stride = layer.padding, layer.stride
    hit = tensor.reshape(len(tensor), layer.C, layer.H, layer.W) != 0
    padded = np.pad(hit, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    counts = np.empty((layer.C, layer.R, layer.S), np.int64)
    for r in range(layer.R):
        for s in range(layer.S):
            top, left = r * layer.dilation, s * layer.dilation
            seen = padded[
                :, :, top : top + stride * (layer.P - 1) + 1 : stride, left : left + stride * (layer.Q - 1) + 1 : stride
            ]
            counts[:, r, s] = np.count_nonzero(seen, axis=(0, 2, 3))
    return counts.reshape(-1)
