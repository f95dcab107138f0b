"""The CPU executor: runs a nested sparse network at any level from one stored set of weights."""

from __future__ import annotations

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

T = TypeVar("T")


class Executor:
    """Runs one network. Memory is planned and weights are stored once, on construction.

    Each thread takes whole groups of images through the network, so outputs are bit-identical for any number of
    threads. An executor serves one caller at a time.

    Parameters
    ----------
    network : a network with weight values.
    threads : worker threads for batches; single images (``measure``) always use one.
    allow : reduced formats that layers may run in, see ``executor_for``; all images run on planes then.

    Single images run on planes (``simd.network``), several times faster, unless a layer has no kernel there:
    ``single_image_notes`` says which.

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
        """What runs single images; None where a layer has no kernel on planes."""
        return None if self.single_image_notes else MachinePlans(allow=self.allow).network(self.network)

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
        if self.allow and self.planes is not None:
            return run_each(self.planes, self._flatten(images), level, progress=progress)
        return self._run_in_batches(images, level, progress=progress)

    def _run_in_batches(self, images: Images, level: Level, *, progress: Progress | None = None) -> Images:
        """Outputs of the portable kernels, always in float32."""
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
        return self.store.macs(level)

    def check(self, images: Images, level: Level) -> SelfCheck:
        """Compare the outputs for a few images with the dense float64 reference.

        Raises
        ------
        InputError
            as ``run``.
        """
        found = self.run(images, level)
        levels = list(self.store.by_layer(level).values())
        shaped = images.reshape(len(images), *self.plan.input_shape)
        expected = reference.forward(self.network, shaped, levels)
        if self.planes is not None:
            if self.allow:
                error = relative_error(found, expected)
                return reduced_check(self.planes, images[0], level, error=error, worst_case=self.store.rounding_bound)
            single = self.planes.run(images[0], level)  # what latency is measured with must be right, too
            found = np.concatenate([found, single.reshape(1, -1)])
            expected = np.concatenate([expected, expected[:1]])
        error = relative_error(found, expected)
        return SelfCheck(error=error, tolerance=TOLERANCE, worst_case=self.store.rounding_bound)

    def deviation(self, images: Images, level: Level) -> Deviation:
        """Distance of the outputs from those in float32; none where no format is allowed.

        Raises
        ------
        InputError
            as ``run``.
        """
        return Deviation.of(self.run(images, level), self._run_in_batches(images, level))

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

    def _each_group(self, work: Callable[[Walk, slice], T], total: int, progress: Progress | None) -> Iterator[T]:
        """Run ``work`` on groups of images, on all threads; results come in the order of the images."""
        size = self.plan.images
        groups = [slice(first, min(first + size, total)) for first in range(0, total, size)]

        for group, result in zip(groups, self._workers.each(work, groups), strict=True):
            if progress is not None:
                progress(group.stop, total)
            yield result


def refuse_without_planes(allow: tuple[str, ...], notes: Iterable[str]) -> None:
    """Raise InputError if formats are allowed to a network that has no kernels for them; ``notes``: why not."""
    if allow and notes:
        raise InputError([f"{' and '.join(allow)}: there are kernels on planes only; {text}" for text in notes])


def run_each(planes: PlaneNetwork, images: Images, level: Level, *, progress: Progress | None = None) -> Images:
    """Outputs of (N, elements) images, one after the other on planes."""
    outputs = []
    for done, image in enumerate(images, start=1):
        outputs.append(planes.run(image, level))
        if progress is not None:
            progress(done, len(images))
    return np.stack(outputs)


def reduced_check(planes: PlaneNetwork, image: Images, level: Level, *, error: float, worst_case: float) -> SelfCheck:
    """The check of what runs in reduced formats: every convolution within its bound, and ``error``, that of the outputs,
    within the sum of these bounds (``simd.reduced.layer_check``)."""
    from .simd.reduced.layer_check import check_layers

    found = check_layers(planes, image, level)
    return SelfCheck(error, TOLERANCE + found.relative, worst_case, layer_share=found.share, layer=found.layer)


def _nonzeros(step: Step, tensor: Tensor) -> NDArray[np.int64]:
    """Non-zeros of one group of images per input channel (or feature), then per reduction index."""
    if step.planes is None:
        by_feature = np.count_nonzero(tensor.reshape(len(tensor) * step.rows, -1), axis=0)
        return np.concatenate((by_feature, by_feature)).astype(np.int64)
    sizes = convolution_of(step.layer)
    return np.concatenate((channel_nonzeros(sizes, tensor), tap_nonzeros(sizes, tensor)))
