"""Forward pass of a layer graph in PyTorch, with batch normalisation that can be folded away. Imports torch: the
training modules load it lazily, nothing else does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .errors import InputError, unknown_name
from .layers import CONV_OPS, Layer
from .network import INPUT

Tensors = dict[str, torch.Tensor]

#: torch.nn.BatchNorm2d's defaults.
NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.1
#: Operators that ``forward`` computes.
TRAINABLE_OPS = frozenset({"conv", "dwconv", "linear", "add", "avgpool"})
_ACTIVATIONS = {"none": lambda x: x, "relu": functional.relu, "relu6": functional.relu6, "silu": functional.silu}


@dataclass(frozen=True, eq=False)
class BatchNorms:
    """Batch normalisation after each convolution: trainable scale and shift, running mean and variance, shape (K,)."""

    scale: Tensors
    shift: Tensors
    mean: Tensors
    variance: Tensors


def check_trainable(layers: Sequence[Layer]) -> None:
    """Raise InputError, listing every layer whose operator or activation ``forward`` does not compute."""
    problems = [
        f"layer '{x.name}': {unknown_name('trainable operator', x.op, TRAINABLE_OPS)}"
        for x in layers
        if x.op not in TRAINABLE_OPS
    ]
    problems += [
        f"layer '{x.name}': {unknown_name('trainable activation', x.activation, _ACTIVATIONS)}"
        for x in layers
        if x.activation not in _ACTIVATIONS
    ]
    if problems:
        raise InputError(problems)


def initial_weights(layers: Sequence[Layer], generator: torch.Generator) -> tuple[Tensors, Tensors]:
    """Weights from the normal distribution of variance 2 / fan-in (He et al., arXiv 1502.01852), zero biases (K,)."""
    check_trainable(layers)
    weights, biases = {}, {}
    for layer in layers:
        if layer.has_weights:
            fan_in = int(np.prod(layer.weight_shape[1:]))
            value = torch.randn(layer.weight_shape, generator=generator) * (2.0 / fan_in) ** 0.5
            weights[layer.name] = channels_last(value)
            biases[layer.name] = torch.zeros(layer.K)
    return weights, biases


def initial_norms(layers: Sequence[Layer]) -> BatchNorms:
    """Identity batch normalisation for every convolution."""
    sizes = {x.name: x.K for x in layers if x.op in CONV_OPS}
    return BatchNorms(
        scale={n: torch.ones(k) for n, k in sizes.items()},
        shift={n: torch.zeros(k) for n, k in sizes.items()},
        mean={n: torch.zeros(k) for n, k in sizes.items()},
        variance={n: torch.ones(k) for n, k in sizes.items()},
    )


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """Convolution weights and images in channels-last order, which is the faster one on CPUs; others unchanged."""
    # `contiguous` would leave one-channel images as they are, and the first convolution would then fall back.
    return value.to(memory_format=torch.channels_last) if value.dim() == 4 else value


def forward(
    layers: Sequence[Layer],
    images: torch.Tensor,
    *,
    weights: Mapping[str, torch.Tensor],
    biases: Mapping[str, torch.Tensor],
    norms: BatchNorms | None = None,
    training: bool = False,
) -> torch.Tensor:
    """Output of the last layer, (N, features), for images (N, C, H, W).

    With ``norms`` each convolution is followed by batch normalisation, on the statistics of the batch if ``training``.
    """
    values = {INPUT: images}
    for layer in layers:
        x = values[layer.sources[0]]
        if layer.op in CONV_OPS:
            y = _convolve(layer, x, weights=weights, biases=biases)
            if norms is not None:
                y = _normalise(layer.name, y, norms=norms, training=training)
        elif layer.op == "linear":
            y = functional.linear(x.flatten(1), weights[layer.name], biases[layer.name])
        elif layer.op == "avgpool":
            y = functional.avg_pool2d(x, (layer.R, layer.S), layer.stride, layer.padding)
        else:
            for source in layer.sources[1:]:
                x = x + values[source]
            y = x
        values[layer.name] = _ACTIVATIONS[layer.activation](y)
    return values[layers[-1].name]


def _convolve(
    layer: Layer, x: torch.Tensor, *, weights: Mapping[str, torch.Tensor], biases: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    return functional.conv2d(
        x, weights[layer.name], biases[layer.name], layer.stride, layer.padding, layer.dilation, layer.groups
    )


def _normalise(name: str, x: torch.Tensor, *, norms: BatchNorms, training: bool) -> torch.Tensor:
    return functional.batch_norm(
        x,
        norms.mean[name],
        norms.variance[name],
        norms.scale[name],
        norms.shift[name],
        training,
        NORM_MOMENTUM,
        NORM_EPSILON,
    )


def fold_norms(weights: Tensors, biases: Tensors, norms: BatchNorms) -> tuple[Tensors, Tensors]:
    """Weights and biases that compute the same as convolution followed by batch normalisation in evaluation mode.

    w' = w * s, b' = (b - mean) * s + shift, with s = scale / sqrt(variance + epsilon) per output channel
    (Ioffe and Szegedy, arXiv 1502.03167, equations 1-4 at inference).
    """
    folded_weights, folded_biases = dict(weights), dict(biases)
    with torch.no_grad():
        for name, scale in norms.scale.items():
            factor = scale / torch.sqrt(norms.variance[name] + NORM_EPSILON)
            folded_weights[name] = weights[name] * factor.view(-1, 1, 1, 1)
            folded_biases[name] = (biases[name] - norms.mean[name]) * factor + norms.shift[name]
    return folded_weights, folded_biases


def to_images(pixels: NDArray[np.uint8], *, scale: float) -> torch.Tensor:
    """Float32 network input (N, 1, H, W) = pixel * scale, channels last."""
    return channels_last((torch.from_numpy(np.array(pixels)).float() * scale).unsqueeze(1))


def accuracy(
    layers: Sequence[Layer],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    weights: Mapping[str, torch.Tensor],
    biases: Mapping[str, torch.Tensor],
    norms: BatchNorms | None = None,
    batch: int = 500,
) -> float:
    """Fraction (0..1) of the images that the network, computed in float32, classifies correctly."""
    correct = 0
    with torch.no_grad():
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            logits = forward(layers, part, weights=weights, biases=biases, norms=norms)
            correct += int((logits.argmax(1) == labels[start : start + batch]).sum())
    return correct / len(images)
