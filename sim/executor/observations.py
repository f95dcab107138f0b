"""What an execution tells: latency, activation statistics, accuracy's labels, and the distance from a dense reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from .geometry import Convolution


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one inference at batch 1 on this machine: median, 10th and 90th percentile (seconds).

    ``cpu_median_s``: median of the CPU time of the same inferences, which other programs' turns on the core are no part of.
    """

    median_s: float
    p10_s: float
    p90_s: float
    repeats: int
    cpu_median_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.float64], cpu_s: NDArray[np.float64]) -> Latency:
        """Percentiles of single measurements (seconds)."""
        p10, median, p90 = (float(time) for time in np.percentile(times_s, [10, 50, 90]))
        return cls(median, p10, p90, repeats=times_s.size, cpu_median_s=float(np.median(cpu_s)))


@dataclass(frozen=True, eq=False)
class ActivationCounts:
    """Exact non-zeros in the input tensor of one weighted layer, summed over all images.

    channel_nonzeros : int64; one entry per input channel of a convolution, per input feature of a linear layer.
    tap_nonzeros : int64 (b*k,); how often, over all images and output positions, the operand of a reduction index
        (c, r, s) is not zero; padding counts as zero. It turns a mask into an exact count of effectual products.
    """

    layer: str
    nonzeros: int
    total: int
    channel_nonzeros: NDArray[np.int64]
    tap_nonzeros: NDArray[np.int64]

    @property
    def density(self) -> float:
        """Fraction of the elements that are not zero."""
        return self.nonzeros / max(1, self.total)

    def plus(self, other: ActivationCounts) -> ActivationCounts:
        """Counts over the images of both."""
        return ActivationCounts(
            layer=self.layer,
            nonzeros=self.nonzeros + other.nonzeros,
            total=self.total + other.total,
            channel_nonzeros=self.channel_nonzeros + other.channel_nonzeros,
            tap_nonzeros=self.tap_nonzeros + other.tap_nonzeros,
        )


@dataclass(frozen=True)
class SelfCheck:
    """Largest difference from the dense float64 reference, relative to the largest output.

    ``worst_case`` is the a-priori rounding bound of the longest sum, (n + 2) * 2**-24 relative to the sum of its
    products' magnitudes; rounding errors mostly cancel, which is why ``tolerance`` can be much tighter.

    Where reduced formats run, ``layer_share`` is the largest error of ``layer`` as a part of its own bound, above 1 where it
    is wrong (``simd.reduced.layer_check``). That alone decides then: ``error`` is information, since a network has no bound.
    """

    error: float
    tolerance: float
    worst_case: float
    layer_share: float | None = None
    layer: str = ""

    @property
    def passed(self) -> bool:
        if self.layer_share is not None:
            return self.layer_share <= 1
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Deviation:
    """How far outputs in reduced formats are from those in float32: the largest difference relative to the largest output,
    and how many of the ``images`` have another largest output (top-1)."""

    error: float
    changed: int
    images: int

    @classmethod
    def of(cls, found: NDArray[np.float32], expected: NDArray[np.float32]) -> Deviation:
        """Outputs (N, elements) of both."""
        changed = int(np.count_nonzero(found.argmax(axis=1) != expected.argmax(axis=1)))
        return cls(relative_error(found, expected), changed, len(found))


def relative_error(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest difference relative to the largest finite expected number; infinite where only one of a pair is finite, or
    both are infinite or NaN and differ."""
    differ = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if not np.isfinite(found[differ]).all() or not np.isfinite(expected[differ]).all():
        return np.inf  # a NaN would lose every comparison
    scale = max(float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(found[differ] - expected[differ]).max(initial=0.0)) / scale


def measure_latency(infer: Callable[[int], object], *, repeats: int, warmup: int) -> Latency:
    """Time ``infer(0)``, ``infer(1)``, ... one after the other; the first ``warmup`` calls do not count.

    Raises
    ------
    InputError
        for fewer than 1 repeat or a negative warm-up.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"repeats = {repeats}, warmup = {warmup}; needed are at least 1 and at least 0")
    times, cpu = np.empty(warmup + repeats), np.empty(warmup + repeats)
    for i in range(times.size):
        start, used = time.perf_counter(), time.thread_time()
        infer(i)
        cpu[i] = time.thread_time() - used
        times[i] = time.perf_counter() - start
    return Latency.of(times[warmup:], cpu[warmup:])


def check_labels(labels: NDArray[np.integer], *, images: int, classes: int) -> None:
    """Raise InputError unless ``labels`` are one class index per image."""
    labels = np.asarray(labels)
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels of shape {labels.shape} and dtype {labels.dtype}; needed is one integer for each of the "
            f"{images} images"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(f"labels from {labels.min()} to {labels.max()}; the network has classes 0 to {classes - 1}")


def channel_nonzeros(sizes: Convolution, inputs: NDArray[np.generic]) -> NDArray[np.int64]:
    """Non-zeros per input channel of (n, C*H*W) inputs, int64 (C,)."""
    counts = np.count_nonzero(inputs.reshape(len(inputs), sizes.channels, -1), axis=(0, 2))
    return np.asarray(counts, np.int64)


def tap_nonzeros(sizes: Convolution, inputs: NDArray[np.generic]) -> NDArray[np.int64]:
    """Non-zeros that each reduction index (c, r, s) meets over all output positions, int64 (C*R*S,)."""
    top, left, bottom, right = sizes.pads
    hit = inputs.reshape(len(inputs), sizes.channels, sizes.height, sizes.width) != 0
    padded = np.pad(hit, ((0, 0), (0, 0), (top, bottom), (left, right)))
    counts = np.empty((sizes.channels, *sizes.kernel), np.int64)
    (step_y, step_x), (high, wide) = sizes.strides, sizes.out_size
    for r in range(sizes.kernel[0]):
        for s in range(sizes.kernel[1]):
            y, x = r * sizes.dilations[0], s * sizes.dilations[1]
            rows, columns = slice(y, y + step_y * (high - 1) + 1, step_y), slice(x, x + step_x * (wide - 1) + 1, step_x)
            counts[:, r, s] = np.count_nonzero(padded[:, :, rows, columns], axis=(0, 2, 3))
    return counts.reshape(-1)
