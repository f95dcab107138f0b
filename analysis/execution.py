"""Running a network on the CPU: what each level measures, and what each layer's inputs hold for the trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor import NetworkExecutor, executor_for
from ..sim.executor.executor import Executor
from ..sim.executor.geometry import Convolution
from ..sim.executor.graph_executor import GraphExecutor
from ..sim.executor.graph_inputs import feeds_of, first_inferences
from ..sim.simulate import ConservationError
from ..traces.trace import Activations
from ..workloads.errors import InputError
from ..workloads.layers import CONV_OPS, Layer
from ..workloads.network import Network
from .host_prediction import predicted_levels
from .output import note
from .reduced_formats import failure, format_notes
from .sources import Workload
from .study import Execution, LevelExecution

#: Images whose activations are captured for the trace, and images checked against the dense reference.
CAPTURE_IMAGES = 200
CHECK_IMAGES = 16
#: Largest magnitude of an 8-bit code.
_PEAK_CODE = 127

#: Called with (stage, done, total).
Progress = Callable[[str, int, int], None]


def execute_levels(
    workload: Workload,
    levels: Sequence[int] | None,
    *,
    threads: int,
    repeats: int,
    progress: Progress,
    allow: Sequence[str] = (),
) -> tuple[dict[str, Activations], Execution]:
    """Run the network on the CPU: activation statistics of the densest level, and what each level measured, beside what the
    host CPU's model predicts. Notes are told at once, and kept for reports. ``allow``: reduced formats that layers may run
    in; activation statistics are float32's all the same.

    Raises
    ------
    InputError
        if the network has no values or there are no images.
    ConservationError
        if a result differs from the dense reference by more than the executor's tolerance.
    """
    if not workload.executable:
        raise InputError(
            f"'{workload.network.name}' cannot be executed: it needs weight values and inputs (--images or --calibrate)"
        )
    executor = executor_for(workload.network, threads=threads, allow=allow)
    if executor.planes is not None:
        executor.planes.progress = partial(progress, "load kernels")
    wanted = range(workload.network.levels) if levels is None else levels
    executions = [
        _execution(executor, workload, level, repeats=repeats, progress=partial(progress, f"execute level {level}"))
        for level in wanted
    ]
    predicted = predicted_levels(executor.planes, list(wanted), progress=progress)
    formats = format_notes(executor, wanted, _first(workload.network, workload.images, CHECK_IMAGES))
    notes = (*executor.single_image_notes, *formats, *predicted.notes)
    for text in notes:
        note(f"! {text}")
    found = [replace(x, cpu_predicted_s=predicted.seconds.get(x.level)) for x in executions]
    inputs = workload.images if workload.calibration is None else workload.calibration
    return captured_activations(executor, workload.network, inputs), Execution(found, notes, predicted.host)


def calibrated_activations(workload: Workload, *, threads: int) -> dict[str, Activations]:
    """What each layer's inputs hold when the workload's calibration inputs run at the densest level.

    Raises
    ------
    InputError
        if the network has no weight values.
    """
    return captured_activations(executor_for(workload.network, threads=threads), workload.network, workload.calibration)


def _execution(
    executor: NetworkExecutor,
    workload: Workload,
    level: int,
    *,
    repeats: int,
    progress: Callable[[int, int], None],
) -> LevelExecution:
    network, images, labels = workload.network, workload.images, workload.labels
    accuracy = None if labels is None else executor.accuracy(images, labels, level, progress=progress)
    # A graph's reference is dense in all of its products; one inference is enough to find a wrong one.
    check = executor.check(_first(network, images, CHECK_IMAGES if network.graph is None else 1), level)
    if not check.passed:
        raise ConservationError(failure(level, check))
    latency = executor.measure(_first(network, images, CAPTURE_IMAGES), level, repeats=repeats)
    return LevelExecution(
        level=level,
        accuracy=accuracy,
        images=0 if labels is None else len(labels),
        macs=sum(executor.macs(level).values()),
        latency_median_s=latency.median_s,
        latency_p10_s=latency.p10_s,
        latency_p90_s=latency.p90_s,
        cpu_median_s=latency.cpu_median_s,
        max_error=check.error,
    )


def _first(network: Network, inputs: Any, count: int) -> Any:
    return inputs[:count] if network.graph is None else first_inferences(network.graph, inputs, count)


def captured_activations(executor: NetworkExecutor, network: Network, inputs: Any) -> dict[str, Activations]:
    """Activation zeros of the densest level over the first inputs, and 8-bit codes of the first one's."""
    seen = _first(network, inputs, CAPTURE_IMAGES)
    if isinstance(executor, GraphExecutor):
        return _captured_in_graph(executor, seen)
    assert isinstance(executor, Executor)
    return _captured_in_layers(executor, seen)


def _captured_in_layers(executor: Executor, images: NDArray[np.float32]) -> dict[str, Activations]:
    from ..sim.executor import reference

    network = executor.network
    tensors = reference.tensors(network, images[:1], 0)
    layers = {layer.name: layer for layer in network.layers if layer.has_weights}
    return {
        name: Activations(
            density=counts.density,
            images=len(images),
            tap_nonzeros=counts.tap_nonzeros,
            sample=_shaped(_codes(tensors[layers[name].sources[0]]), layers[name]),
        )
        for name, counts in executor.capture(images, 0).items()
    }


def _captured_in_graph(executor: GraphExecutor, inputs: Any) -> dict[str, Activations]:
    """One "image" is one run of the layer's GEMM view: a recurrent matrix has as many as time steps."""
    tensors = executor.layer_inputs(inputs, 0)
    inferences = len(feeds_of(executor.graph, inputs))
    layers = {layer.name: layer for layer in executor.network.layers}
    found = {}
    for name, counts in executor.capture(inputs, 0).items():
        product, layer = executor.operand(name), layers[name]
        assert layer.gemm is not None  # every captured layer is a product
        runs = inferences * product.runs * product.sizes.positions // layer.gemm.m
        found[name] = Activations(
            density=counts.density,
            images=runs,
            tap_nonzeros=counts.tap_nonzeros,
            sample=_graph_sample(_codes(tensors[name]), layer, product.sizes),
        )
    return found


def _codes(tensor: NDArray[np.generic]) -> NDArray[np.int16]:
    """A tensor as 8-bit codes, symmetric per tensor; a non-zero never becomes zero, so counts of zeros stay exact."""
    values = tensor.astype(np.float64)
    peak = float(np.abs(values).max(initial=0.0)) or 1.0
    codes = np.rint(values / peak * _PEAK_CODE)
    return np.where((codes == 0) & (values != 0), np.sign(values), codes).astype(np.int16)


def _shaped(codes: NDArray[np.int16], layer: Layer) -> NDArray[np.int16]:
    """Codes of one image as a trace holds them: (1, C, H, W), or (1, b, m, k) where no convolution reads them."""
    if layer.op in CONV_OPS or layer.gemm is None:
        return codes.reshape(1, layer.C, layer.H, layer.W)
    return codes.reshape(1, layer.gemm.b, layer.gemm.m, layer.gemm.k)


def _graph_sample(codes: NDArray[np.int16], layer: Layer, sizes: Convolution) -> NDArray[np.int16]:
    """Codes (images, channels, height, width) that a graph's product reads, as a trace holds them.

    A convolution that the layer table pads in a layer of its own reads its padding, too; one that is no convolution there
    reads the rows of its windows (im2col).
    """
    top, left, bottom, right = sizes.pads
    padded = np.pad(codes, ((0, 0), (0, 0), (top, bottom), (left, right)))
    if layer.op in CONV_OPS:
        fits = codes.shape[2:] == (layer.H, layer.W)
        return codes if fits else padded
    assert layer.gemm is not None  # every layer with weights is a product
    extent = (sizes.reach[0] + 1, sizes.reach[1] + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    (step_y, step_x), (apart_y, apart_x) = sizes.strides, sizes.dilations
    windows = windows[:, :, ::step_y, ::step_x, ::apart_y, ::apart_x]  # (images, channels, P, Q, R, S)
    grouped = windows.reshape(len(codes), sizes.groups, -1, sizes.positions, sizes.kernel[0] * sizes.kernel[1])
    rows = grouped.transpose(0, 1, 3, 2, 4).reshape(len(codes), sizes.groups, sizes.positions, -1)
    if layer.gemm.m == sizes.positions:
        return rows
    return rows.transpose(1, 0, 2, 3).reshape(1, sizes.groups, layer.gemm.m, -1)
