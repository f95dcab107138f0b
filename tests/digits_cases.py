"""A small trained network for tests: 64-300-100-10 on scikit-learn's handwritten digits, in NumPy, seeded."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nestling.workloads.layers import linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network

WIDTHS = (64, 300, 100, 10)
TEST_IMAGES = 450


@dataclass(frozen=True, eq=False)
class Digits:
    """Images in 0..1 and labels; the network is dense, one level."""

    network: Network
    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray

    def accuracy(self, network: Network, level: int = 0) -> float:
        return float((forward(network, self.test, level)[-1].argmax(axis=1) == self.labels).mean())

    def calibration(self, samples: int = 256) -> dict[str, np.ndarray]:
        """Inputs of every layer of the dense network."""
        tensors = forward(self.network, self.train[:samples], 0)
        return {layer.name: x for layer, x in zip(self.network.layers, tensors, strict=False)}


def forward(network: Network, images: np.ndarray, level: int) -> list[np.ndarray]:
    """Input of every layer, then the output."""
    tensors = [images]
    for i, layer in enumerate(network.layers):
        y = tensors[-1] @ network.weights[layer.name].dense(level).T + network.biases[layer.name][level]
        tensors.append(np.maximum(y, 0) if i < len(network.layers) - 1 else y)
    return tensors


def train_digits(seed: int, *, epochs: int = 60, batch: int = 64, rate: float = 1e-3) -> Digits:
    """Adam (Kingma and Ba, arXiv 1412.6980, default moments) on cross-entropy, He initialisation, no regularisation."""
    from sklearn.datasets import load_digits
    from threadpoolctl import threadpool_limits

    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pixels))
    pixels, labels = (pixels[order] / 16.0).astype(np.float32), labels[order]
    train, test = pixels[TEST_IMAGES:], pixels[:TEST_IMAGES]
    targets = np.eye(10, dtype=np.float32)[labels[TEST_IMAGES:]]
    parameters = [rng.normal(0, np.sqrt(2 / a), (b, a)).astype(np.float32) for a, b in pairwise(WIDTHS)]
    parameters += [np.zeros(b, np.float32) for b in WIDTHS[1:]]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    chunks = [c for _ in range(epochs) for c in np.array_split(rng.permutation(len(train)), len(train) // batch)]
    with threadpool_limits(1):  # products this small are slower on several threads
        for step, chunk in enumerate(chunks, start=1):
            for i, g in enumerate(_gradients(parameters, train[chunk], targets[chunk])):
                first[i] += 0.1 * (g - first[i])
                second[i] += 0.001 * (g * g - second[i])
                scale = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
                parameters[i] -= rate * first[i] / (1 - 0.9**step) / scale
    return Digits(_network(parameters), train, test, labels[:TEST_IMAGES])


def _gradients(parameters: list[np.ndarray], images: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    weights, biases = parameters[:3], parameters[3:]
    inputs = [images]
    for w, b in zip(weights[:2], biases[:2], strict=True):
        inputs.append(np.maximum(inputs[-1] @ w.T + b, 0))
    logits = inputs[-1] @ weights[2].T + biases[2]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta = (odds / odds.sum(axis=1, keepdims=True) - targets) / len(images)
    by_weight, by_bias = [], []
    for i in (2, 1, 0):
        by_weight.append(delta.T @ inputs[i])
        by_bias.append(delta.sum(axis=0))
        delta = (delta @ weights[i]) * (inputs[i] > 0)
    return by_weight[::-1] + by_bias[::-1]


def _network(parameters: list[np.ndarray]) -> Network:
    names = ("fc1", "fc2", "fc3")
    layers = tuple(
        linear(name, source, features_in=a, features_out=b, activation="relu" if name != "fc3" else "none")
        for name, source, (a, b) in zip(names, (INPUT, *names), pairwise(WIDTHS), strict=False)
    )
    weights = {
        name: NestedWeights(values=w, keep=np.ones(w.shape, np.uint8), levels=1, name=name)
        for name, w in zip(names, parameters[:3], strict=True)
    }
    biases = {name: b[None] for name, b in zip(names, parameters[3:], strict=True)}
    return Network("digits", layers, weights=weights, biases=biases, source="tests")
