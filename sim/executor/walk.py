"""The graph walk: takes a group of images through the planned steps, one layer after the other.

Each thread owns one ``Walk`` (its arena and scratch memory); the weights are shared and only read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .geometry import LINE
from .plan import Plan, Slot, Step
from .simd.phases import pools_whole_maps

Tensor = NDArray[np.float32]
#: values, offsets, row_start, row_end of one level, bias of that level.
LevelArrays = tuple[Tensor, NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], Tensor]
#: Sees every weighted step with the tensor it reads, before it runs.
Observer = Callable[[Step, Tensor], None]


class Walk:
    """Memory and views for up to ``plan.images`` images in flight, allocated once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._arena = aligned(plan.images * plan.arena_size)
        self._scratch = aligned(plan.scratch_size)
        self._run = aligned(plan.run_size)
        # Views for the group sizes in use: full groups, the last group of a batch, single images.
        self._views: dict[int, list[tuple[Step, tuple[Tensor, ...], Tensor]]] = {}

    def run(
        self, images: Tensor, weights: Mapping[str, LevelArrays], observer: Observer | None = None
    ) -> NDArray[np.float32]:
        """Run ``images`` (at most ``plan.images``, flattened to (n, elements)); returns a view of the output tensor."""
        count = len(images)
        if count not in self._views:
            self._views[count] = [
                (step, tuple(self._view(slot, count) for slot in step.inputs), self._view(step.output, count))
                for step in self._plan.steps
            ]
        self._view(self._plan.input, count)[:] = images
        for step, inputs, output in self._views[count]:
            if observer is not None and step.weighted:
                observer(step, inputs[0])
            if step.weighted:
                self._multiply(step, inputs[0], output, weights[step.layer.name])
            else:
                _combine(step, inputs, output)
        return self._view(self._plan.output, count)

    def _view(self, slot: Slot, count: int) -> Tensor:
        start = self._plan.images * slot.offset
        return self._arena[start : start + count * slot.size].reshape(count, slot.size)

    def _multiply(self, step: Step, source: Tensor, target: Tensor, arrays: LevelArrays) -> None:
        values, offsets, row_start, row_end, bias = arrays
        clamp = step.activation if step.activation in kernels.CLAMPS else kernels.NONE
        if step.kernel == "row_products":
            kernels.row_products(source, target, step.rows, values, offsets, row_start, row_end, bias, clamp)
        else:
            assert step.planes is not None  # the planner gives every other weighted step its planes
            kernels.convolve(
                source,
                target,
                self._scratch,
                self._run,
                values,
                offsets,
                row_start,
                row_end,
                bias,
                step.planes,
                step.tile_rows,
                step.planes.lanes,
                clamp,
            )
        if step.activation != clamp:
            kernels.activate(target, step.activation)


def _combine(step: Step, inputs: tuple[Tensor, ...], target: Tensor) -> None:
    """Steps without weights: pooling, sums, products, concatenation along channels.

    NumPy does what it does at the speed of memory: a kernel would have to be compiled first.
    """
    if step.kernel == "pool":
        _pool(step, inputs[0], target)
    elif step.kernel == "concat":
        np.concatenate(inputs, axis=1, out=target)
    elif step.kernel == "add":
        _add(inputs, target)
    else:
        _multiply_elements(step, inputs, target)
    if step.activation == kernels.RELU:
        np.maximum(target, 0, out=target)
    elif step.activation != kernels.NONE:
        kernels.activate(target, step.activation)


def _pool(step: Step, source: Tensor, target: Tensor) -> None:
    average = step.layer.op == "avgpool"
    if average and pools_whole_maps(step.layer):
        target[:] = source.reshape(*target.shape, -1).mean(axis=2, dtype=np.float64)
    else:
        kernels.pool(source, target, step.window, average)


def _add(inputs: tuple[Tensor, ...], target: Tensor) -> None:
    target[:] = inputs[0]
    for other in inputs[1:]:
        target += other


def _multiply_elements(step: Step, inputs: tuple[Tensor, ...], target: Tensor) -> None:
    """Elementwise product; a factor of shape (C, 1, 1) scales whole channels (squeeze-and-excitation)."""
    count = len(target)
    channels = max(step.shapes, key=lambda shape: int(np.prod(shape)))[0]
    result = target.reshape(count, channels, -1)
    result[:] = 1.0
    for factor in inputs:
        result *= factor.reshape(count, channels, -1)


def aligned(size: int) -> Tensor:
    """``size`` zeroed floats that start at a cache line."""
    memory = np.zeros(size + LINE, np.float32)
    start = -(memory.ctypes.data // 4) % LINE
    return memory[start : start + size]
