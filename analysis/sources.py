"""What the command line's MODEL may be: a built-in name, a nested network file, a layer table, a trace file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from ..workloads.network import Network

#: Name of the bundled trained network.
BUNDLED = "fashion"
#: What `nestling run` compares unless told otherwise: a sparse array and a dense one with as many multipliers.
DEFAULT_DESIGNS = ("nm-lanes-16x8", "systolic-16x16")
DEFAULT_DENSITIES = (1.0, 0.5, 0.25, 0.13)


@dataclass(frozen=True, eq=False)
class Workload:
    """A network to study, with real inputs if there are any.

    ``images``: float32 (N, C, H, W); ``labels``: integers (N,); both None where accuracy cannot be measured.
    """

    network: Network
    images: NDArray[np.float32] | None = None
    labels: NDArray[np.integer] | None = None

    @property
    def executable(self) -> bool:
        return self.network.has_values and self.images is not None


def load_workload(
    model: str,
    *,
    densities: Sequence[float] | None = None,
    images: Path | None = None,
    seed: int = 0,
) -> Workload:
    """Resolve MODEL.

    * ``fashion``: the bundled network with its trained levels and 2,000 test images;
    * a built-in layer table or a ``.csv`` of the same columns: synthetic levels of the given densities;
    * a ``.safetensors`` file written by nestling: its own levels, with ``images`` (.npz of images and labels) if given.

    Raises
    ------
    InputError
        for an unknown name (nearest match), an unreadable file, or densities for a network that has its own levels.
    """
    path = Path(model)
    if model == BUNDLED or path.suffix == ".safetensors":
        if densities is not None:
            raise InputError(f"'{model}' has its own trained levels; --levels sets densities of shape-only models")
        return _trained(path if model != BUNDLED else None, images)
    if images is not None:
        raise InputError(f"'{model}' has no weight values, so images cannot be run through it")
    network = _table(model, path)
    if densities is None:
        densities = DEFAULT_DENSITIES
    from ..workloads.synthetic import with_synthetic_levels

    return Workload(with_synthetic_levels(network, densities, seed=seed))


def _table(model: str, path: Path) -> Network:
    from ..workloads.tables import load_model, load_table, model_names

    if model in model_names():
        return load_model(model)
    if path.suffix == ".csv":
        return load_table(path)
    error = unknown_name("model", model, [BUNDLED, *model_names()])
    raise InputError(f"{error}; or a .csv layer table or a .safetensors network file")


def _trained(path: Path | None, images: Path | None) -> Workload:
    from ..workloads.bundled import FASHION_SCALE, load_bundled, load_images
    from ..workloads.weights_file import load_network

    if path is None:
        network, pixels, labels = load_bundled()
        if images is not None:
            pixels, labels = load_images(images)
    else:
        network = load_network(path)
        if images is None:
            return Workload(network)
        pixels, labels = load_images(images)
    scaled = (pixels[:, None].astype(np.float32) * np.float32(FASHION_SCALE)).astype(np.float32)
    return Workload(network, scaled, labels)
