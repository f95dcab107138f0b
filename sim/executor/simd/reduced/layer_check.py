"""Every convolution of a network on planes against float64, on the inputs that it met, within the bound of its format.

A whole network has no useful a-priori bound: worst cases of its layers multiply. Layer by layer there is one. With |d| <= u
for every rounding of value and operand and gamma for the float32 (or, inside a window, fp16) sums, an output is off by at
most share x (|bias| + sum |value operand| + |residual|); the share follows from the format in ``Bf16Product.bound``,
``HalfProduct.bound`` and, for float32, (n + 2) 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
A clamp brings two numbers no further apart. To first order the outputs of a network are then off by the sum of its layers'
errors, each relative to its own largest output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .....workloads.layers import Layer
from .....workloads.network import INPUT
from ... import reference
from ...store import Level
from ..planes import Floats
from ..team import Call, Team
from .half_product import FLOAT_ROUNDOFF

if TYPE_CHECKING:
    from ..network import PlaneNetwork

Array = NDArray[np.float64]


class LayerCheck(NamedTuple):
    """``share``: the largest error of a convolution as a part of its bound, 1 at most where all is right; ``layer``: whose.
    ``relative``: sum of the bounds over all convolutions, each relative to the layer's largest output."""

    share: float
    layer: str
    relative: float


def check_layers(runner: PlaneNetwork, image: Floats, level: Level) -> LayerCheck:
    """Run one image step by step, one thread, and compare what each convolution makes of what it reads.

    A NaN or infinity where float64 has a number is an infinite share.
    """
    layers = {layer.name: layer for layer in runner.network.layers}
    levels, team = runner.levels(level), Team(1)
    inside = runner.tensor(INPUT)
    inside[:] = image.reshape(inside.shape)
    share, worst, relative = 0.0, "", 0.0
    for name, step in runner.steps(level):
        if not isinstance(step, Call):
            step()
            continue
        if name not in runner.products or not step.extras:  # only products have scratch memory
            team.run(step)
            continue
        expected, bound = _expected(runner, layers[name], levels[name])
        team.run(step)
        found = runner.tensor(runner.written_by(layers[name])[0].name)
        share, worst = max((share, worst), (_share(found, expected, bound), name))
        largest = max(float(np.abs(expected).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        relative += float(bound.max(initial=0.0)) / largest
    return LayerCheck(share, worst, relative)


def _expected(runner: PlaneNetwork, layer: Layer, level: int) -> tuple[Array, Array]:
    """A convolution's outputs in float64 from what its planes hold, and how far they may be off."""
    from ..network import clamp_of

    x = runner.tensor(layer.sources[0]).astype(np.float64)
    weights = runner.network.weights[layer.name].dense(level).astype(np.float64)
    last, added = runner.written_by(layer)
    outside = runner.bias(layer, level).astype(np.float64)[:, None, None]
    outsides = np.abs(outside)
    if added is not None:
        residual = runner.tensor(added).astype(np.float64)
        outside, outsides = outside + residual, outsides + np.abs(residual)
    total = reference.convolve(x[None], weights, layer)[0] + outside
    magnitudes = reference.convolve(np.abs(x)[None], np.abs(weights), layer)[0] + outsides
    scale = weights[0].size * (np.abs(weights).max(initial=0.0) + np.abs(x).max(initial=0.0) + 1)
    bound = _bound(runner, layer, level, magnitudes=magnitudes, scale=float(scale))
    return np.clip(total, *clamp_of(last.activation)), bound


def _bound(runner: PlaneNetwork, layer: Layer, level: int, *, magnitudes: Array, scale: float) -> Array:
    """The bound of the format that a level runs in; ``scale``: what underflow is relative to, at most."""
    from .bf16_product import rounding_bound
    from .half_product import HalfProduct

    product, fmt = runner.products[layer.name], runner.plans[layer.name].format(level)
    terms = layer.C // layer.groups * layer.R * layer.S
    if fmt == "bfloat16":
        return rounding_bound(terms, magnitudes, scale)
    if fmt == "float16":
        assert isinstance(product, HalfProduct)
        return product.bound(magnitudes, scale)
    gamma = (terms + 3) * FLOAT_ROUNDOFF
    return gamma / (1 - gamma) * magnitudes + 2.0**-126 * scale


def _share(found: Floats, expected: Array, bound: Array) -> float:
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected)
        if not np.isfinite(error).all():
            return np.inf  # a NaN would lose every comparison
        return float((error / np.maximum(bound, np.finfo(np.float64).tiny)).max(initial=0.0))
