"""Tensors behind the DNNsim reference rows: small layers with drawn values, the same in every run (numpy's PCG64).

A row names its layer and two densities; values come from a generator seeded with (SEED, layer number, densities x 1000,
integer or not, bits). The order of the draws (inputs, weights, input zeros, weight zeros) is part of the definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...accel.arrays.operands import ConvView
from ...workloads.errors import InputError, unknown_name

SEED = 20240607
_SMALLEST = 1e-3  # drawn values this close to zero would round to it


@dataclass(frozen=True, kw_only=True)
class TensorLayer:
    """A convolution of the reference runs; square kernels. ``depthwise``: every filter sees one channel."""

    channels: int
    height: int
    width: int
    filters: int
    kernel: int
    stride: int
    padding: int
    depthwise: bool = False

    @property
    def group_channels(self) -> int:
        return 1 if self.depthwise else self.channels

    def view(self) -> ConvView:
        return ConvView(
            channels=self.channels,
            height=self.height,
            width=self.width,
            filters=self.filters,
            taps_high=self.kernel,
            taps_wide=self.kernel,
            stride=self.stride,
            padding=self.padding,
            groups=self.channels // self.group_channels,
        )


#: Layers by name; a layer's number in the seed is its place.
TENSOR_LAYERS = {
    "c3s1": TensorLayer(channels=16, height=16, width=16, filters=32, kernel=3, stride=1, padding=1),
    "c3s2": TensorLayer(channels=32, height=14, width=14, filters=64, kernel=3, stride=2, padding=1),
    "c1s1": TensorLayer(channels=64, height=8, width=8, filters=128, kernel=1, stride=1, padding=0),
    "c5s1": TensorLayer(channels=8, height=20, width=20, filters=16, kernel=5, stride=1, padding=2),
    "dw3": TensorLayer(channels=32, height=16, width=16, filters=32, kernel=3, stride=1, padding=1, depthwise=True),
}


@dataclass(frozen=True, eq=False)
class Tensors:
    """A reference layer with its input (channels, height, width) and weights (filters, group channels, kernel, kernel)."""

    layer: TensorLayer
    inputs: NDArray[np.float64]
    weights: NDArray[np.float64]


@lru_cache(maxsize=64)
def reference_tensors(
    name: str, *, weight_density: float, input_density: float, integer: bool, bits: int = 8
) -> Tensors:
    """The tensors of one row. Integer inputs are 0 <= x < 2^(bits-1), integer weights signed; others are real.

    Raises
    ------
    InputError
        for a layer name that does not exist, or a density outside 0..1.
    """
    if name not in TENSOR_LAYERS:
        raise unknown_name("reference layer", name, TENSOR_LAYERS)
    if not (0 <= weight_density <= 1 and 0 <= input_density <= 1):
        raise InputError(f"densities {weight_density} and {input_density} must lie in 0..1")
    layer, number = TENSOR_LAYERS[name], list(TENSOR_LAYERS).index(name)
    seed = [SEED, number, int(weight_density * 1000), int(input_density * 1000), int(integer), bits]
    draw = np.random.default_rng(seed)
    # The generating script drew a batch of one image.
    input_shape = (1, layer.channels, layer.height, layer.width)
    weight_shape = (layer.filters, layer.group_channels, layer.kernel, layer.kernel)
    if integer:
        peak = 2 ** (bits - 1) - 1
        inputs = np.minimum(np.abs(np.rint(draw.normal(0, peak / 4, input_shape))), peak)
        weights = np.clip(np.rint(draw.normal(0, peak / 4, weight_shape)), -peak, peak)
        inputs[inputs == 0] = 1
        weights[weights == 0] = 1
    else:
        inputs = np.abs(draw.normal(0, 1, input_shape)) + _SMALLEST
        weights = draw.normal(0, 1, weight_shape)
        weights[np.abs(weights) < _SMALLEST] = _SMALLEST
    inputs = inputs * (draw.random(input_shape) < input_density)
    weights = weights * (draw.random(weight_shape) < weight_density)
    return Tensors(layer, inputs[0], weights)


def row_tensors(row: dict[str, str], *, integer: bool, path: Path) -> Tensors:
    """The tensors of a reference row (columns layer, weight_density, act_density and, for integers, bits)."""
    try:
        densities = float(row["weight_density"]), float(row["act_density"])
        bits = int(row.get("bits") or 8)
    except ValueError as error:
        raise InputError(f"{path}: densities and bits must be numbers ({error})") from None
    try:
        return reference_tensors(
            row["layer"], weight_density=densities[0], input_density=densities[1], integer=integer, bits=bits
        )
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None
