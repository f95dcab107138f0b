"""Every layer with weights of a network on planes against float64, on the inputs that it met, within the bound of its format.

A whole network has no useful a-priori bound: errors grow by the condition of every layer after, so that neither a product
nor a sum of the layers' relative bounds is one. Layer by layer there is one. With |d| <= u
for every rounding of value and operand and gamma for the float32 (or, inside a window, fp16) sums, an output is off by at
most share x (|bias| + sum |value operand| + |residual|); the share follows from the format in ``Bf16Product.bound``,
``HalfProduct.bound`` and, for float32, (n + 2) 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
A clamp brings two numbers no further apart. How far a network's outputs are from float32's is measured and told, not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from .....workloads.layers import Layer
from .....workloads.network import INPUT
from ... import reference
from ...store import Level
from .. import packing_kernel
from ..planes import Floats
from ..rows.few_vectors import PlaneRows
from ..team import Team
from .choices import LARGEST
from .half_product import FLOAT_ROUNDOFF

if TYPE_CHECKING:
    from ..network import PlaneNetwork

Array = NDArray[np.float64]


class LayerCheck(NamedTuple):
    """``share``: the largest error of ``layer``'s products as a part of their bound, 1 at most where all is right. The layer
    is the first one of the network that fails, or the one with the largest share."""

    share: float
    layer: str


def check_layers(runner: PlaneNetwork, images: Iterable[Floats], level: Level) -> LayerCheck:
    """Run images step by step, one thread, and compare what each layer with weights makes of what it reads.

    A NaN or infinity where float64 has a number is an infinite share.

    Raises
    ------
    InputError
        for a layer whose operands or sums leave the range of its format.
    """
    layers, shares = [layer.name for layer in runner.network.layers], dict[str, float]()
    for image in images:
        for name, share in _shares(runner, image, level):
            shares[name] = max(share, shares.get(name, 0.0))
            if share > 1:
                break  # what follows reads wrong numbers
    failing = (name for name in layers if shares.get(name, 0.0) > 1)
    layer = next(failing, max(shares, key=lambda name: shares[name], default=""))
    return LayerCheck(shares.get(layer, 0.0), layer)


def _shares(runner: PlaneNetwork, image: Floats, level: Level) -> Iterator[tuple[str, float]]:
    """The layers with weights, in the network's order, and the share of each."""
    layers = {layer.name: layer for layer in runner.network.layers}
    levels, team, gathered = runner.levels(level), Team(1), set[str]()
    inside = runner.tensor(INPUT)
    inside[:] = image.reshape(inside.shape)
    for name, step in runner.steps(level):
        if step.kernel is packing_kernel.copy_cells:
            if name in gathered:  # outputs of a fully connected layer, about to be copied
                yield name, _row_exact(runner, layers[name], levels[name]).share(runner.rows[name].outputs)
            gathered.add(name)
            team.run(step)
        elif name in runner.products and step.extras:  # only products have scratch memory
            exact = _exact(runner, layers[name], levels[name])
            team.run(step)
            yield name, exact.share(runner.tensor(runner.written_by(layers[name])[0].name))
        else:
            team.run(step)


class _Exact(NamedTuple):
    """Outputs in float64, how far those found may be off, and the largest number that a layer's format must hold."""

    layer: str
    outputs: Array
    bound: Array
    fmt: str
    largest: float

    def share(self, outputs: Floats) -> float:
        """The largest error as a part of its bound. InputError if it is that of a number that the format does not have."""
        found = _share(outputs.reshape(self.outputs.shape), self.outputs, self.bound)
        if found > 1 and self.largest > LARGEST.get(self.fmt, np.inf):
            raise InputError(
                f"values beyond {self.fmt}'s {LARGEST[self.fmt]:g} in layer '{self.layer}': up to {self.largest:.3g} among "
                f"its inputs and the magnitudes of its sums; scale the inputs, or do not allow {self.fmt}"
            )
        return found


def _exact(runner: PlaneNetwork, layer: Layer, level: int) -> _Exact:
    """A convolution's outputs, from what its planes hold."""
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
    plan, product = runner.plans[layer.name], runner.products[layer.name]
    return _bounded(
        layer, last, x=x, weights=weights, total=total, magnitudes=magnitudes, fmt=plan.format(level), product=product
    )


def _row_exact(runner: PlaneNetwork, layer: Layer, level: int) -> _Exact:
    """A fully connected layer's outputs (rows, vectors), from the inputs it gathered."""
    row = runner.rows[layer.name]
    weights = runner.network.weights[layer.name].dense(level).astype(np.float64)
    weights = weights.reshape(len(weights), -1)
    x = row.inputs.reshape(weights.shape[1], -1).astype(np.float64)
    bias = runner.bias(layer, level).astype(np.float64)[:, None]
    total, magnitudes = weights @ x + bias, np.abs(weights) @ np.abs(x) + np.abs(bias)
    fmt, product = (row.plan.format(level), row.product) if isinstance(row, PlaneRows) else ("float32", None)
    return _bounded(layer, layer, x=x, weights=weights, total=total, magnitudes=magnitudes, fmt=fmt, product=product)


def _bounded(
    layer: Layer,
    last: Layer,
    *,
    x: Array,
    weights: Array,
    total: Array,
    magnitudes: Array,
    fmt: str,
    product: object,
) -> _Exact:
    """Outputs after the activation of ``last`` with the bound of the format that they are computed in."""
    from ..network import clamp_of

    largest = float(np.abs(x).max(initial=0.0))
    # Underflow is relative to the sum of |value| + |operand| + 1, at most:
    scale = weights[0].size * (float(np.abs(weights).max(initial=0.0)) + largest + 1)
    bound = _bound(product, fmt, weights[0].size, magnitudes=magnitudes, scale=scale)
    largest = max(largest, float((magnitudes + bound).max(initial=0.0)))
    return _Exact(layer.name, np.clip(total, *clamp_of(last.activation)), bound, fmt, largest)


def _bound(product: object, fmt: str, terms: int, *, magnitudes: Array, scale: float) -> Array:
    """The bound of a format for sums of ``terms`` products."""
    from .bf16_product import rounding_bound
    from .half_product import HalfProduct

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
