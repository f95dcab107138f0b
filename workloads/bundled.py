"""The bundled network: a small residual network for Fashion-MNIST, trained at four nested sparsity levels.

It gives `nestling run` something real to work on at once: weights, per-level biases, and 2,000 test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array_files import read_npz
from .errors import InputError
from .layers import Layer, conv, linear
from .network import INPUT, Network

#: Name of the bundled network on the command line and in reports.
FASHION_NAME = "fashion"
#: Network input = pixel (uint8, 0..255) * FASHION_SCALE: values in 0..1, no mean subtraction.
FASHION_SCALE = 1.0 / 255.0
#: Target fraction of the prunable weights at each level, densest first.
FASHION_DENSITIES = (1.0, 0.40, 0.15, 0.05)
#: The bundled images are the first FASHION_TEST_IMAGES of the test split, in file order.
FASHION_TEST_IMAGES = 2000

_FOLDER = Path(__file__).parent / "bundle"
FASHION_WEIGHTS = _FOLDER / "fashion.safetensors"
FASHION_IMAGES = _FOLDER / "fashion_test2000.npz"
FASHION_RECORD = _FOLDER / "fashion_training.json"
#: What the table of baselines gave when it was run (``fashion_record``).
FASHION_STUDY = _FOLDER / "fashion_study.json"


def fashion_layers() -> tuple[Layer, ...]:
    """Layers of the bundled network for one 28 x 28 grey image: 81,496 weights, 7,846,912 multiply-accumulates.

    Six 3 x 3 convolutions with two residual sums, global average pooling and a classifier over 10 classes. The input
    is the pixel value divided by 255 (``FASHION_SCALE``).
    """
    return (
        conv("conv1", INPUT, C=1, H=28, K=24, R=3, padding=1, activation="relu"),
        conv("conv2", "conv1", C=24, H=28, K=32, R=3, stride=2, padding=1, activation="relu", relu_in=True),
        conv("conv3", "conv2", C=32, H=14, K=32, R=3, padding=1, activation="relu", relu_in=True),
        conv("conv4", "conv3", C=32, H=14, K=32, R=3, padding=1, relu_in=True),
        _residual("add1", ("conv4", "conv2"), channels=32, size=14),
        conv("conv5", "add1", C=32, H=14, K=64, R=3, stride=2, padding=1, activation="relu", relu_in=True),
        conv("conv6", "conv5", C=64, H=7, K=64, R=3, padding=1, relu_in=True),
        _residual("add2", ("conv6", "conv5"), channels=64, size=7),
        Layer(
            name="gap", op="avgpool", C=64, H=7, W=7, K=64, R=7, S=7, stride=7, sources=("add2",), relu_in=True
        ),
        linear("fc", "gap", features_in=64, features_out=10, relu_in=True),
    )  # fmt: skip


def _residual(name: str, sources: tuple[str, str], *, channels: int, size: int) -> Layer:
    return Layer(
        name=name, op="add", C=channels, H=size, W=size, K=channels, P=size, Q=size,
        sources=sources, activation="relu",
    )  # fmt: skip


def load_bundled() -> tuple[Network, NDArray[np.uint8], NDArray[np.uint8]]:
    """The bundled network with weights, its test images uint8 (2000, 28, 28) and their labels uint8 (2000,)."""
    from .weights_file import load_network

    network = load_network(FASHION_WEIGHTS)
    images, labels = load_images(FASHION_IMAGES)
    return network, images, labels


def load_images(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """``images`` uint8 (N, H, W) and ``labels`` uint8 (N,) of an ``.npz`` file.

    Raises
    ------
    InputError
        if the file is no archive of arrays, lacks one of the two arrays, or they disagree in dtype or length.
    """
    try:
        found: Mapping[str, NDArray[Any]] = read_npz(path)
    except InputError as error:
        needed = "needed is .npz with images, uint8 (N, H, W), and labels, uint8 (N,)"
        raise InputError(f"{error}; {needed}") from None
    missing = sorted({"images", "labels"} - set(found))
    if missing:
        raise InputError(f"{path}: no array named {' or '.join(missing)}; found: {', '.join(found) or 'nothing'}")
    images, labels = found["images"], found["labels"]
    for name, array, dimensions in (("images", images, 3), ("labels", labels, 1)):
        if array.dtype != np.uint8 or array.ndim != dimensions:
            raise InputError(
                f"{path}: {name} are {array.dtype} {array.shape}; must be uint8 with {dimensions} dimensions"
            )
    if len(images) != len(labels):
        raise InputError(f"{path}: {len(images)} images, but {len(labels)} labels")
    return images, labels
