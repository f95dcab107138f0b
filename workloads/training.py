"""Train the bundled nested network on Fashion-MNIST, with its baselines, and write it with a full record.

PyTorch (the extra ``train``) is loaded only when training runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundled import (
    FASHION_DENSITIES,
    FASHION_IMAGES,
    FASHION_NAME,
    FASHION_RECORD,
    FASHION_SCALE,
    FASHION_TEST_IMAGES,
    FASHION_WEIGHTS,
    fashion_layers,
)
from .datasets import FASHION_MNIST_FOLDER, load_fashion_mnist
from .errors import InputError
from .network import Network
from .schedule import Recipe, Report
from .weights_file import save_network, write_atomically

if TYPE_CHECKING:
    import torch

    from .torch_graph import Tensors

#: Epochs of the dense start and of the nested training; every baseline trains as long as the nested network.
START_EPOCHS = 12
NESTED_EPOCHS = 12
DEFAULT_SEED = 1


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """The four arrays of a data set: pixels uint8 (N, H, W), labels uint8 (N,)."""

    train_pixels: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_pixels: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Trained:
    """Outcome of one stage: the network, its accuracy per level on the whole test set (0..1), wall time."""

    network: Network
    accuracies: tuple[float, ...]
    wall_s: float


@dataclass(frozen=True, eq=False)
class Stages:
    """What was trained, and how. ``independent`` (a model per density) and ``thresholded`` (accuracy per level of the start
    pruned without training): empty without baselines. ``recipes``: "start" and "nested"; ``threads``: of PyTorch."""

    nested: Trained
    independent: Sequence[Trained]
    thresholded: Sequence[float]
    recipes: Mapping[str, Recipe]
    start_wall_s: float
    threads: int


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What ``train_fashion`` returns: the nested network and accuracies (0..1) on the whole test set, densest first.

    ``independent`` and ``thresholded`` are empty if the baselines were not asked for.
    """

    network: Network
    accuracies: tuple[float, ...]
    independent: tuple[float, ...]
    thresholded: tuple[float, ...]
    record: Mapping[str, Any]


def start_recipe(*, epochs: int = START_EPOCHS, seed: int = DEFAULT_SEED) -> Recipe:
    """Settings of the dense start with batch normalisation."""
    return Recipe(epochs=epochs, seed=seed, peak_rate=0.1, weight_decay=2e-4)


def nested_recipe(*, epochs: int = NESTED_EPOCHS, seed: int = DEFAULT_SEED) -> Recipe:
    """Settings of the nested training. The baselines use the same ones, one density at a time."""
    return Recipe(epochs=epochs, seed=seed + 1, peak_rate=2e-3, switch_points=True)


def load_arrays(data_dir: Path | str = FASHION_MNIST_FOLDER) -> ImageArrays:
    """Both splits of Fashion-MNIST."""
    return ImageArrays(*load_fashion_mnist(data_dir, "train"), *load_fashion_mnist(data_dir, "test"))


def train_start(
    arrays: ImageArrays,
    recipe: Recipe,
    *,
    keep: Mapping[str, NDArray[np.uint8]] | None = None,
    report: Report | None = None,
) -> tuple[tuple[Tensors, Tensors], float]:
    """Dense weights and biases with the batch normalisation folded in, and the wall time in seconds.

    ``keep``: fixed masks to train under instead (see ``train_dense``).
    """
    from .torch_training import Images, train_dense

    begin = time.perf_counter()
    images = Images.from_arrays(arrays.train_pixels, arrays.train_labels, scale=FASHION_SCALE)
    start = train_dense(fashion_layers(), images, recipe, keep=keep, report=report)
    return start, time.perf_counter() - begin


def train_levels(
    arrays: ImageArrays,
    start: tuple[Tensors, Tensors],
    densities: Sequence[float],
    *,
    recipe: Recipe,
    keep: Mapping[str, NDArray[np.uint8]] | None = None,
    stage: str = "nested",
    report: Report | None = None,
) -> Trained:
    """Train ``densities`` jointly from ``start`` and measure each on the test set; one density = one separate model.

    ``keep``: fixed masks of these densities instead of a ramp.
    """
    from .torch_training import Images, NestedTrainer

    begin = time.perf_counter()
    images = Images.from_arrays(arrays.train_pixels, arrays.train_labels, scale=FASHION_SCALE)
    trainer = NestedTrainer(fashion_layers(), start, densities=densities, recipe=recipe, keep=keep)
    trainer.train(images, stage=stage, report=report)
    network = trainer.network(FASHION_NAME, source="trained on Fashion-MNIST (Xiao et al., arXiv 1708.07747)")
    wall_s = time.perf_counter() - begin
    return Trained(network, measure(network, arrays), wall_s)


def train_independent(
    arrays: ImageArrays, start: tuple[Tensors, Tensors], *, recipe: Recipe, report: Report | None = None
) -> tuple[Trained, ...]:
    """One separately trained model per density: same start, epochs and schedule as the nested network."""
    return tuple(
        train_levels(arrays, start, (d,), recipe=recipe, stage=f"separate {d:.0%}", report=report)
        for d in FASHION_DENSITIES
    )


def threshold_start(arrays: ImageArrays, start: tuple[Tensors, Tensors]) -> tuple[float, ...]:
    """Accuracy per level of the dense start pruned by magnitude without any further training."""
    from .torch_training import threshold_afterwards

    return measure(threshold_afterwards(fashion_layers(), start, FASHION_DENSITIES), arrays)


def measure(network: Network, arrays: ImageArrays) -> tuple[float, ...]:
    """Accuracy (0..1) of every level on the whole test set, computed in float32."""
    from .torch_training import level_accuracies

    return level_accuracies(network, *_test_tensors(arrays))


def measure_switches(network: Network, arrays: ImageArrays) -> list[dict[str, Any]]:
    """Accuracy of every reroute from a denser to a sparser level, one entry per pair of levels and switch point."""
    from .torch_training import switch_accuracies

    images, labels = _test_tensors(arrays)
    return [
        {
            "from_level": denser,
            "to_level": sparser,
            "accuracy_after_layers": list(switch_accuracies(network, images, labels, denser=denser, sparser=sparser)),
        }
        for denser in range(network.levels)
        for sparser in range(denser + 1, network.levels)
    ]


def _test_tensors(arrays: ImageArrays) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    from .torch_graph import to_images

    labels = torch.from_numpy(arrays.test_labels.astype(np.int64))
    return to_images(arrays.test_pixels, scale=FASHION_SCALE), labels


def train_fashion(
    *,
    out_dir: Path | str,
    data_dir: Path | str = FASHION_MNIST_FOLDER,
    epochs: int = NESTED_EPOCHS,
    start_epochs: int = START_EPOCHS,
    seed: int = DEFAULT_SEED,
    baselines: bool = False,
    threads: int = 1,
    report: Report | None = None,
) -> TrainingResult:
    """Train the bundled network from nothing and write its three files into ``out_dir``.

    Parameters
    ----------
    out_dir : receives ``fashion.safetensors`` (weights), ``fashion_test2000.npz`` (images), ``fashion_training.json``.
    data_dir : folder of the data set (see ``load_fashion_mnist``).
    epochs, start_epochs : passes over the 60,000 training images, of the nested training and of the dense start.
    baselines : also train one separate model per density (about doubles the time) and threshold the dense start.
    threads : of PyTorch, process-wide. Another number sums in another order and gives slightly different weights.
    report : called with a Progress after each epoch.

    Raises
    ------
    InputError
        if PyTorch or the data set is missing, or a setting is out of range.
    """
    require_torch(threads)
    recipes = {"start": start_recipe(epochs=start_epochs, seed=seed), "nested": nested_recipe(epochs=epochs, seed=seed)}
    arrays = load_arrays(data_dir)
    stages = _train_stages(arrays, recipes, baselines=baselines, threads=threads, report=report)
    return write_result(Path(out_dir), arrays, stages)


def _train_stages(
    arrays: ImageArrays, recipes: Mapping[str, Recipe], *, baselines: bool, threads: int, report: Report | None
) -> Stages:
    start, start_s = train_start(arrays, recipes["start"], report=report)
    nested = train_levels(arrays, start, FASHION_DENSITIES, recipe=recipes["nested"], report=report)
    return Stages(
        nested=nested,
        thresholded=threshold_start(arrays, start) if baselines else (),
        independent=train_independent(arrays, start, recipe=recipes["nested"], report=report) if baselines else (),
        recipes=recipes,
        start_wall_s=start_s,
        threads=threads,
    )


def require_torch(threads: int) -> None:
    """Load PyTorch and set its number of threads, process-wide; InputError if it is not installed."""
    if threads < 1:
        raise InputError(f"threads = {threads}, must be at least 1")
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("training needs PyTorch, which is not installed: pip install 'nestling[train]'") from None
    torch.set_num_threads(threads)


def write_result(out_dir: Path, arrays: ImageArrays, stages: Stages) -> TrainingResult:
    """Write weights, the first FASHION_TEST_IMAGES test images and the record of stages run anywhere."""
    weights_path, images_path = out_dir / FASHION_WEIGHTS.name, out_dir / FASHION_IMAGES.name
    nested = stages.nested
    save_network(weights_path, nested.network)
    pixels, labels = arrays.test_pixels[:FASHION_TEST_IMAGES], arrays.test_labels[:FASHION_TEST_IMAGES]
    archive = io.BytesIO()
    np.savez_compressed(archive, images=pixels, labels=labels)
    write_atomically(images_path, archive.getvalue())
    first = dataclasses.replace(arrays, test_pixels=pixels, test_labels=labels)
    record = _record(stages, arrays, bundled=measure(nested.network, first)) | {
        "bundled_test_images": len(labels),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights_path, images_path)},
    }
    write_atomically(out_dir / FASHION_RECORD.name, (json.dumps(record, indent=1) + "\n").encode())
    alone = tuple(trained.accuracies[0] for trained in stages.independent)
    return TrainingResult(nested.network, nested.accuracies, alone, tuple(stages.thresholded), record)


def _record(stages: Stages, arrays: ImageArrays, *, bundled: Sequence[float]) -> dict[str, Any]:
    """What was measured and how; ``bundled``: accuracy per level on the images that are written."""
    nested, independent = stages.nested, stages.independent
    alone = [trained.accuracies[0] for trained in independent]
    return {
        "network": FASHION_NAME,
        "input": "pixel / 255",
        "levels": _level_rows(nested, bundled=bundled, independent=alone, thresholded=stages.thresholded),
        # Entry k - 1: the first k layers with weights at from_level, the others at to_level.
        "switches": measure_switches(nested.network, arrays),
        "test_images": len(arrays.test_labels),
        "recipes": {name: dataclasses.asdict(recipe) for name, recipe in stages.recipes.items()},
        "wall_s": {
            "start": round(stages.start_wall_s, 1),
            "nested": round(nested.wall_s, 1),
            "independent": [round(trained.wall_s, 1) for trained in independent],
        },
        "threads": stages.threads,
        "versions": versions(),
    }


def _level_rows(
    nested: Trained, *, bundled: Sequence[float], independent: Sequence[float], thresholded: Sequence[float]
) -> list[dict[str, Any]]:
    """One row per level, densest first; a baseline that was not run is null."""
    return [
        {
            "level": level,
            "density": float(nested.network.densities[level]),
            "nonzeros": int(sum(w.nonzeros[level] for w in nested.network.weights.values())),
            "accuracy": accuracy,
            "accuracy_bundled_images": bundled[level],
            "accuracy_separate_model": independent[level] if independent else None,
            "accuracy_threshold_only": thresholded[level] if thresholded else None,
        }
        for level, accuracy in enumerate(nested.accuracies)
    ]


def versions() -> dict[str, str]:
    """Versions that decide the trained weights."""
    import torch

    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
