"""What the command line's MODEL may be: a built-in name, a nested network file, a layer table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from ..workloads.network import Network
from ..workloads.zoo import MODELS, build

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
    parameters: Mapping[str, float] | None = None,
    densities: Sequence[float] | None = None,
    images: Path | None = None,
    seed: int = 0,
) -> Workload:
    """Resolve MODEL.

    * ``fashion``: the bundled network with its trained levels and 2,000 test images;
    * a network of the zoo, with ``parameters`` that differ from its defaults: synthetic levels of the given densities;
    * a ``.csv`` layer table: synthetic levels, too;
    * a ``.safetensors`` file written by nestling: its own levels, with ``images`` (.npz of images and labels) if given.

    Raises
    ------
    InputError
        for an unknown name (nearest match), an unreadable file, densities for a network that has its own levels, or
        parameters that the model does not have.
    """
    path = Path(model)
    if parameters and model not in MODELS:
        raise _without_parameters(model, path)
    if model == BUNDLED or path.suffix == ".safetensors":
        if densities is not None:
            raise InputError(f"'{model}' has its own trained levels; --levels sets densities of shape-only models")
        return _trained(path if model != BUNDLED else None, images)
    if images is not None:
        raise InputError(f"'{model}' has no weight values, so images cannot be run through it")
    network = _shapes(model, path, parameters or {})
    if densities is None:
        densities = DEFAULT_DENSITIES
    from ..workloads.synthetic import with_synthetic_levels

    return Workload(with_synthetic_levels(network, densities, seed=seed))


def parse_parameters(texts: Sequence[str]) -> dict[str, float]:
    """Model parameters as a person writes them: ``NAME=VALUE``, each name once; values are numbers.

    Raises
    ------
    InputError
        listing every text that is not of this form.
    """
    found: dict[str, float] = {}
    problems = []
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not (name and separator and value):
            problems.append(f"--set '{text}': must be NAME=VALUE, such as image=160")
        elif name in found:
            problems.append(f"--set {name}: given twice")
        else:
            try:
                found[name] = int(value) if value.lstrip("+-").isdecimal() else float(value)
            except ValueError:
                problems.append(f"--set {name}: '{value}' is not a number")
    if problems:
        raise InputError(problems)
    return found


def _shapes(model: str, path: Path, parameters: Mapping[str, float]) -> Network:
    if model in MODELS:
        return build(model, **parameters)
    if path.suffix == ".csv":
        from ..workloads.tables import load_table

        return load_table(path)
    raise _unknown_model(model)


def _unknown_model(model: str) -> InputError:
    error = unknown_name("model", model, [BUNDLED, *MODELS])
    return InputError(f"{error}; or a .csv layer table or a .safetensors network file")


def _without_parameters(model: str, path: Path) -> InputError:
    if model != BUNDLED and path.suffix not in (".csv", ".safetensors"):
        return _unknown_model(model)
    return InputError(f"'{model}' has no parameters; --set is for the networks that `nestling models` lists with some")


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
