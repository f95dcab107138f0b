"""The `nestling train` command: what it needs, what it prints."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..workloads.errors import InputError, unknown_name
from .output import note
from .sources import BUNDLED


def train_bundled(network: str, *, out: Path, data: Path | None, baselines: bool, seed: int) -> None:
    """Train the bundled network again and write weights, images and the training record to ``out``."""
    if network != BUNDLED:
        raise unknown_name("trainable network", network, [BUNDLED])
    if find_spec("torch") is None:
        raise InputError("training needs PyTorch: pip install 'nestling[train]' (or any CPU build of torch)")
    from ..workloads.datasets import FASHION_MNIST_FOLDER
    from ..workloads.training import train_fashion

    result = train_fashion(
        out_dir=out,
        data_dir=data or FASHION_MNIST_FOLDER,
        seed=seed,
        baselines=baselines,
        report=lambda progress: note(str(progress)),
    )
    note(f"accuracy per level on 10,000 test images: {', '.join(f'{a:.2%}' for a in result.accuracies)}")
