"""The `nestling train` command: what it needs, what it prints."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..workloads.errors import InputError
from .output import note


def train_bundled(*, out: Path, data: Path | None, baselines: bool, seed: int) -> None:
    """Train the bundled network again and write weights, images and the training record to ``out``."""
    if find_spec("torch") is None:
        raise InputError("training needs PyTorch: pip install 'nestling[train]' (or any CPU build of torch)")
    from ..workloads.datasets import FASHION_MNIST_FOLDER
    from ..workloads.training import train_fashion

    train_fashion(data_dir=data or FASHION_MNIST_FOLDER, out_dir=out, seed=seed, baselines=baselines, report=note)
