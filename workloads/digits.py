"""Handwritten digits, 8 x 8: small enough that a table of training methods takes minutes, in NumPy only.

The 1,797 images that scikit-learn's ``load_digits`` returns: the test part of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bundled import load_images
from .errors import InputError
from .layers import Layer, linear
from .nesting import NestedWeights
from .network import INPUT, Network

DIGITS_NAME = "digits"
#: Pixels are counts 0..16; network input = pixel * DIGITS_SCALE.
DIGITS_SCALE = 1.0 / 16.0
#: Inputs, two hidden layers, classes: 50,200 weights.
DIGITS_WIDTHS = (64, 300, 100, 10)
#: One image in so many is a test image.
TEST_EVERY = 4

#: Levels of the bundled network, densest first, and the seed of its split, initial weights and order of batches.
DIGITS_DENSITIES = (1.0, 0.20, 0.08, 0.03)
DIGITS_SEED = 0
#: Training images that calibrate what is made of the bundled network without training; the first ones of its split.
DIGITS_CALIBRATION = 256

DIGITS_IMAGES = Path(__file__).parent / "bundle" / "digits.npz"
DIGITS_WEIGHTS = Path(__file__).parent / "bundle" / "digits.safetensors"
#: What the table of training methods gave when it was run in full.
DIGITS_RECORD = Path(__file__).parent / "bundle" / "digits_training.json"

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DigitsSplit:
    """Inputs float32 (N, 64) in 0..1 and labels int64 (N,): 1,347 to train on, 450 to test on."""

    train: Floats
    train_labels: NDArray[np.int64]
    test: Floats
    test_labels: NDArray[np.int64]


def digits_split(seed: int) -> DigitsSplit:
    """The images in a random order of ``seed``, divided so that every class has a quarter of its images in the test part.

    Shuffled, stably sorted by label, every fourth one is a test image; both parts are then in shuffled order again.
    """
    pixels, labels = load_images(DIGITS_IMAGES)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[shuffled], kind="stable")
    is_test = np.zeros(len(labels), np.bool_)
    is_test[by_class[::TEST_EVERY]] = True
    inputs = (pixels.reshape(len(pixels), -1) * DIGITS_SCALE).astype(np.float32)
    train, test = shuffled[~is_test], shuffled[is_test]
    return DigitsSplit(inputs[train], labels[train].astype(np.int64), inputs[test], labels[test].astype(np.int64))


def digits_layers() -> tuple[Layer, ...]:
    """The perceptron 64-300-100-10: fc1 and fc2 with rectifiers, fc3."""
    names = tuple(f"fc{i}" for i in range(1, len(DIGITS_WIDTHS)))
    return tuple(
        linear(
            name, source, features_in=a, features_out=b, relu_in=source != INPUT,
            activation="none" if name == names[-1] else "relu",
        )
        for name, source, (a, b) in zip(names, (INPUT, *names), pairwise(DIGITS_WIDTHS), strict=False)
    )  # fmt: skip


def digits_network(weights: Mapping[str, Floats], biases: Mapping[str, Floats], *, source: str) -> Network:
    """The perceptron as a dense network of one level.

    Parameters
    ----------
    weights, biases : "fc1" to "fc3" -> (outputs, inputs) and (outputs,).
    """
    nested = {
        name: NestedWeights(values=w, keep=np.ones(w.shape, np.uint8), levels=1, name=name)
        for name, w in weights.items()
    }
    return Network(DIGITS_NAME, digits_layers(), nested, {n: b[None] for n, b in biases.items()}, source)


def bundled_digits() -> tuple[Network, DigitsSplit]:
    """The bundled network with its trained levels, and the split it was trained on."""
    from .weights_file import load_network

    return load_network(DIGITS_WEIGHTS), digits_split(DIGITS_SEED)


def layer_inputs(network: Network, inputs: Floats, level: int = 0) -> tuple[dict[str, Floats], Floats]:
    """Input (N, features) of every layer of a chain of linear layers at ``level``, and the output (N, classes).

    Raises
    ------
    InputError
        if the network is not a chain of linear layers with at most rectifiers between them.
    """
    seen: dict[str, Floats] = {}
    x, source = inputs, INPUT
    for layer in network.layers:
        if layer.op != "linear" or layer.sources != (source,) or layer.activation not in {"none", "relu"}:
            raise InputError(f"layer '{layer.name}': not a linear layer of a chain with rectifiers")
        seen[layer.name] = x
        y = x @ network.weights[layer.name].dense(level).T + network.biases[layer.name][level]
        x, source = np.maximum(y, np.float32(0)) if layer.activation == "relu" else y, layer.name
    return seen, x


def accuracy_on(network: Network, inputs: Floats, labels: NDArray[np.int64], *, level: int = 0) -> float:
    """Fraction (0..1) of the inputs (N, features) that ``level`` classifies correctly."""
    _, output = layer_inputs(network, inputs, level)
    return float((output.argmax(axis=1) == labels).mean())
