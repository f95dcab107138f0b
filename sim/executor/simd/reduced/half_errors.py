"""What fp16 costs in accuracy: every layer of a network run by fp16 and by float32 kernels on the same inputs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .....workloads.layers import CONV_OPS, Layer
from .....workloads.network import Network
from ... import reference
from ..arrangement import layouts
from ..planes import Floats, PlaneLayout
from ..product import Product, windowed
from .half_product import SHARE, HalfProduct

#: Vectors per tile at most: what sums in registers allow.
_WIDEST = 8


class HalfError(NamedTuple):
    """How far fp16 outputs are from float32 ones: the largest difference, and it divided by the largest output."""

    absolute: float
    relative: float


def half_error(found: Floats, expected: Floats) -> HalfError:
    """The error of fp16 outputs against float32 ones of the same layer, level and input."""
    largest = float(np.abs(expected).max(initial=0))
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    return HalfError(worst, worst / largest if largest else 0.0)


def half_errors(network: Network, image: Floats, level: int, *, share: float = SHARE) -> dict[str, HalfError]:
    """Error per convolution without groups, before its activation, float32 ``image`` (C, H, W).

    Each layer gets the inputs that the float64 reference has at ``level``, so that errors do not add up over layers; the
    reference makes it slow on large networks.

    Raises
    ------
    InputError
        as :class:`HalfProduct`.
    """
    tensors = reference.tensors(network, image[None], level)
    places = layouts(network, image.shape)
    found = {}
    for layer in network.layers:
        if layer.op not in CONV_OPS or layer.groups != 1:
            continue
        x = tensors[layer.sources[0]][0].astype(np.float32)
        pair = _outputs(
            network, layer, x, level=level, places=(places[layer.sources[0]], places[layer.name]), share=share
        )
        found[layer.name] = half_error(*pair)
    return found


def _outputs(
    network: Network, layer: Layer, x: Floats, *, level: int, places: tuple[PlaneLayout, PlaneLayout], share: float
) -> tuple[Floats, Floats]:
    """One layer's outputs in fp16 and in float32."""
    source, target = places
    weights, biases = network.weights[layer.name], network.biases.get(layer.name)
    bias = np.zeros(layer.K, np.float32) if biases is None else np.ascontiguousarray(biases[level], np.float32)
    vectors = max((v for v in target.vectors if v <= _WIDEST), default=target.vectors[0])
    half = HalfProduct(layer, weights, source, target, vectors=vectors, share=share)
    whole = Product(layer, weights, source, target, choice=windowed(vectors))
    made: list[Floats] = []
    for product in (half, whole):
        planes, out = source.new(), target.new()
        source.view(planes)[:] = x
        if product.packs:
            phases = product.planes.new()
            product.packing(planes, phases).run(0)
            planes = phases
        product.call(planes, out, level=level, bias=bias, works=[product.new_work()]).run(0)
        made.append(np.array(target.view(out)))
    return made[0], made[1]
