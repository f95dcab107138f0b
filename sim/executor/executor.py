"""The CPU executor: runs a nested sparse network at any level from one stored set of weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.network import Network
from . import reference
from .geometry import convolution_of
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
from .plan import Step, make_plan
from .simd.machine_plans import MachinePlans
from .simd.network import PlaneNetwork, unsupported
from .simd.reduced.choices import allowed_formats
from .store import Level, LevelStore
from .walk import LevelArrays, Tensor, Walk
from .workers import Workers

Images = NDArray[np.float32]
#: Called with (images done, images in total).
Progress = Callable[[int, int], None]
#: Allowed difference from the dense reference, relative to the largest output.
TOLERANCE = 1e-5
#: Images that a thread takes through planes before it says so, at most, and groups per thread, so that all finish at about
#: the same time.
MOST_IMAGES, GROUPS = 256, 32

W = TypeVar("W")
T = TypeVar("T")


class Executor:
    """Runs one network. Memory is planned and weights are stored once.

    Each thread takes whole groups of images through the network, so outputs are bit-identical for any number of
    threads. An executor serves one caller at a time.

    Images run on planes (``simd.network``), one by one, unless a layer has no kernel there: ``single_image_notes`` says
    which. All run on the portable kernels then, as they always do where activations are counted.

    Parameters
    ----------
    network : a network with weight values.
    threads : worker threads for batches, at most; single images (``measure``) always use one.
    allow : reduced formats that layers may run in, see ``executor_for``.

    Raises
    ------
    InputError
        naming every layer that has no values or that the executor does not support, with ``allow`` on planes.
    """

    def __init__(self, network: Network, threads: int = 1, *, allow: Iterable[str] = ()) -> None:
        if threads < 1:
            raise InputError(f"{threads} threads; at least 1 is needed")
        self.network = network
        self.threads = threads
        self.store = LevelStore.from_network(network)
        self.plan = make_plan(network)
        self._weighted = [layer for layer in network.layers if layer.has_weights]
        self._arrays = {layer.name: self._level_arrays(layer.name) for layer in self._weighted}
        self._workers = Workers([Walk(self.plan) for _ in range(threads)])
        self.single_image_notes = tuple(f"single images run without planes: {text}" for text in unsupported(network))
        self.allow = allowed_formats(allow)
        refuse_without_planes(self.allow, self.single_image_notes)

    @cached_property
    def planes(self) -> PlaneNetwork | None:
        """What runs images one by one, also those of batches; None where a layer has no kernel on planes."""
        return None if self.single_image_notes else MachinePlans(allow=self.allow).network(self.network)

    @cached_property
    def _runners(self) -> list[PlaneNetwork]:
        """The planes of each thread: the same weights, tensors of its own; none where there are no planes."""
        first = self.planes  # measure and check use it, too
        return [] if first is None else [first, *(first.twin() for _ in range(1, self.threads))]

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
        """Outputs of the network's last layer, float32 of shape (N, elements), for example (N, classes): those of single
        images, bit by bit.

        Parameters
        ----------
        images : float32, (N, C, H, W).
        level : 0 is the densest; or one level per weighted layer.

        Raises
        ------
        InputError
            for a level that does not exist, or images of another shape or type, or with NaN or infinite values.
        """
        if not self._runners:
            return self.run_portable(images, level, progress=progress)
        flat = self._flatten(images)
        outputs = np.empty((len(flat), self.plan.output.size), np.float32)
        for planes in self._runners:
            planes.prepare(level)  # here, so that threads make nothing twice

        def run_group(planes: PlaneNetwork, group: slice) -> None:
            planes.run_batch(flat[group], level, outputs[group])

        size = max(self.plan.images, min(MOST_IMAGES, len(flat) // (GROUPS * len(self._runners))))
        deque(self._each_group(Workers(self._runners), run_group, len(flat), progress, size), maxlen=0)
        return outputs

    def run_portable(self, images: Images, level: Level, *, progress: Progress | None = None) -> Images:
        """As ``run``, on the portable kernels, which need no planes, and always in float32.

        Raises
        ------
        InputError
            as ``run``.
        """
        weights, flat = self._weights(level), self._flatten(images)
        outputs = np.empty((len(flat), self.plan.output.size), np.float32)

        def run_group(walk: Walk, group: slice) -> None:
            outputs[group] = walk.run(flat[group], weights)

        deque(self._each_group(self._workers, run_group, len(flat), progress, self.plan.images), maxlen=0)
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
        check_labels(labels, images=len(images), classes=self.plan.output.size)
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
        weights, flat = self._weights(level), self._flatten(images)
        planes = self.planes
        if planes is not None:
            return measure_latency(lambda i: planes.run(flat[i % len(flat)], level), repeats=repeats, warmup=warmup)
        with self._workers.borrowed() as walk:
            return measure_latency(
                lambda i: walk.run(flat[i % len(flat) : i % len(flat) + 1], weights), repeats=repeats, warmup=warmup
            )

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
                counts[step.layer.name] = _nonzeros(step, tensor)

            walk.run(flat[group], weights, observe)
            return counts

        totals: dict[str, NDArray[np.int64]] = {}
        for counts in self._each_group(self._workers, count_group, len(flat), progress, self.plan.images):
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
        return self.store.macs(level)

    def check(self, images: Images, level: Level) -> SelfCheck:
        """Compare the outputs for a few images with the dense float64 reference; where reduced formats run, layer by layer.

        Raises
        ------
        InputError
            as ``run``, and for images whose values leave the range of a reduced format.
        """
        found = self.run(images, level)
        levels = list(self.store.by_layer(level).values())
        shaped = images.reshape(len(images), *self.plan.input_shape)
        expected = reference.forward(self.network, shaped, levels)
        # What activations are counted with must be right, too; one image tells.
        portable = np.concatenate([self.run_portable(images[:1], level), expected[1:]])
        error, portable_error = relative_error(found, expected), relative_error(portable, expected)
        worst_case = self.store.rounding_bound
        if self.allow and self.planes is not None and portable_error <= TOLERANCE:
            return reduced_check(self.planes, images, level, error=error, worst_case=worst_case)
        return SelfCheck(error=max(error, portable_error), tolerance=TOLERANCE, worst_case=worst_case)

    def deviation(self, images: Images, level: Level) -> Deviation:
        """Distance of the outputs from those in float32; none where no format is allowed.

        Raises
        ------
        InputError
            as ``run``.
        """
        found = self.run(images, level)
        return Deviation.of(found, self.run_portable(images, level) if self.allow else found)

    def _weights(self, level: Level) -> dict[str, LevelArrays]:
        return {name: self._arrays[name][one] for name, one in self.store.by_layer(level).items()}

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

    def _each_group(
        self, workers: Workers[W], work: Callable[[W, slice], T], total: int, progress: Progress | None, size: int
    ) -> Iterator[T]:
        """Run ``work`` on groups of ``size`` images, on all threads; results come in the order of the images."""
        groups = [slice(first, min(first + size, total)) for first in range(0, total, size)]

        for group, result in zip(groups, workers.each(work, groups), strict=True):
            if progress is not None:
                progress(group.stop, total)
            yield result


def refuse_without_planes(allow: tuple[str, ...], notes: Iterable[str]) -> None:
    """Raise InputError if formats are allowed to a network that has no kernels for them; ``notes``: why not."""
    if allow and notes:
        raise InputError([f"{' and '.join(allow)}: there are kernels on planes only; {text}" for text in notes])


def reduced_check(
    planes: PlaneNetwork, images: Iterable[Images], level: Level, *, error: float, worst_case: float
) -> SelfCheck:
    """The check of what runs in reduced formats: every layer within its own bound for every image, see
    ``simd.reduced.layer_check``. ``error``, that of the outputs, decides at levels that run in float32 after all."""
    if set(planes.formats(level).values()) <= {"float32"}:
        return SelfCheck(error, TOLERANCE, worst_case)
    from .simd.reduced.layer_check import check_layers

    found = check_layers(planes, images, level)
    return SelfCheck(error, TOLERANCE, worst_case, layer_share=found.share, layer=found.layer)


def _nonzeros(step: Step, tensor: Tensor) -> NDArray[np.int64]:
    """Non-zeros of one group of images per input channel (or feature), then per reduction index."""
    if step.planes is None:
        by_feature = np.count_nonzero(tensor.reshape(len(tensor) * step.rows, -1), axis=0)
        return np.concatenate((by_feature, by_feature)).astype(np.int64)
    sizes = convolution_of(step.layer)
    return np.concatenate((channel_nonzeros(sizes, tensor), tap_nonzeros(sizes, tensor)))
