"""What the command line's MODEL may be: a built-in name or a file (file_sources has those of other tools).

* ``fashion``: the bundled network with its trained levels and 2,000 test images;
* ``digits``: the small bundled one, with 450 test images and 256 training images that calibrate;
* a network of the zoo, with parameters that differ from its defaults: synthetic levels of given densities;
* a ``.csv`` layer table or SCALE-Sim topology: synthetic levels, too, or its own N:M patterns;
* a ``.safetensors`` file written by nestling, or with weights by name: its own levels, with images and labels if given;
* a ``.json`` file of the PyTorch exporter: its own levels, images and activation zeros;
* an ``.onnx`` file, with shapes for what it leaves open (see ``load_onnx``): its own weights, as one level with their real
  zeros, or pruned to given densities by magnitude with one threshold per level, with images (.npz of an array per input, or
  ``images``, and ``labels``) if given; synthetic levels if its external data is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from ..workloads.network import Network
from ..workloads.synthetic import SyntheticLevels, with_synthetic_levels
from ..workloads.zoo import NETWORKS, build

if TYPE_CHECKING:
    from ..traces.trace import Activations
    from ..workloads.smartdeal.basis_weights import BasisWeights
    from .file_sources import FileOptions

#: Names of the bundled trained networks; the first is what commands use unless told otherwise.
BUNDLED = ("fashion", "digits")
#: What `nestling run` compares unless told otherwise: a sparse array and a dense one with as many multipliers.
DEFAULT_DESIGNS = ("nm-lanes-16x8", "systolic-16x16")
DEFAULT_DENSITIES = (1.0, 0.5, 0.25, 0.13)
#: Masks take a byte per weight: 2 GiB. Larger networks go through a trace file.
MAX_DRAWN_WEIGHTS = 1 << 31

#: Shapes of inputs and sizes of symbolic dimensions that an ONNX file leaves open.
Shapes = Mapping[str, Sequence[int] | int]
#: Images, or an array per input of an imported graph.
Inputs = NDArray[np.generic] | Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Workload:
    """A network to study, with real inputs if there are any.

    ``images``: float32 (N, C, H, W), or an array per input of an imported graph; ``labels``: integers (N,); None where
    accuracy cannot be measured. ``calibration``: inputs whose activations are captured in place of the images'.
    ``pattern``: synthetic levels that were not drawn; the network then has no weights. ``activations``: zeros that were
    counted elsewhere, by layer; what is captured here goes before them. ``bases``: layers in SmartDeal form.
    """

    network: Network
    images: Inputs | None = None
    labels: NDArray[np.integer] | None = None
    pattern: SyntheticLevels | None = None
    calibration: Inputs | None = None
    activations: Mapping[str, Activations] = field(default_factory=dict)
    bases: Mapping[str, BasisWeights] = field(default_factory=dict)

    @property
    def executable(self) -> bool:
        return self.network.has_values and self.images is not None

    def noting(self, note: str) -> Workload:
        """The workload with one more note on its network, which every report shows."""
        return replace(self, network=replace(self.network, notes=(*self.network.notes, note)))


def load_workload(
    model: str,
    *,
    parameters: Mapping[str, float] | None = None,
    densities: Sequence[float] | None = None,
    images: Path | None = None,
    seed: int = 0,
    draw: bool = True,
    shapes: Shapes | None = None,
    options: FileOptions | None = None,
) -> Workload:
    """Resolve MODEL, one of the kinds that the module's description lists.

    ``parameters``: of a network of the zoo; ``densities``: of levels that are made, ``seed`` and ``draw`` of synthetic ones
    (drawn now, a byte of memory per weight, or left to ``Workload.pattern``); ``images``: a file of inputs and labels;
    ``shapes``: what an ONNX file leaves open; ``options``: what other files do.

    Raises
    ------
    InputError
        for an unknown name (nearest match), an unreadable file, densities for a network that has its own levels, or
        parameters that the model does not have; and for masks that are too many to be drawn at once.
    """
    path = Path(model)
    _check_options(model, parameters=parameters, images=images, shapes=shapes, options=options)
    if _has_trained_levels(model):
        return _trained(model, images, densities, options)
    if path.suffix == ".json" and model not in NETWORKS:
        from .file_sources import exported_workload

        return exported_workload(path, densities)
    network = _network(model, parameters=parameters or {}, densities=densities, shapes=shapes, options=options)
    if images is not None:
        from .calibration import labelled

        return labelled(Workload(network), images)
    if not network.weights:
        pattern = SyntheticLevels(network, tuple(DEFAULT_DENSITIES if densities is None else densities), seed)
        return _synthetic(model, pattern, draw=draw)
    return _own_levels(model, network, densities)


def _has_trained_levels(model: str) -> bool:
    return model in BUNDLED or Path(model).suffix == ".safetensors"


def _check_options(
    model: str,
    *,
    parameters: Mapping[str, float] | None,
    images: Path | None,
    shapes: Shapes | None,
    options: FileOptions | None,
) -> None:
    """Raise InputError for options that MODEL does not have."""
    path = Path(model)
    if parameters and model not in NETWORKS:
        raise _without_parameters(model, path)
    if shapes and path.suffix != ".onnx":
        raise InputError(f"'{model}' states its shapes; --shape is for ONNX files")
    if options is not None:
        options.check(path)
    if images is not None and path.suffix != ".onnx" and not _has_trained_levels(model):
        raise InputError(f"'{model}' takes no images: it has no weight values, or brings its own inputs")


def _own_levels(model: str, network: Network, densities: Sequence[float] | None) -> Workload:
    """A network with weights as it is: pruned to ``densities`` before where it has values, else with its file's patterns."""
    if densities is not None and not network.has_values:
        raise InputError(f"'{model}' has its own N:M patterns; --levels sets densities of shape-only models")
    return Workload(network)


def _synthetic(model: str, pattern: SyntheticLevels, *, draw: bool) -> Workload:
    """Levels of given densities for a network without weights; masks drawn now, or left to ``Workload.pattern``."""
    if not draw:
        return Workload(pattern.network, pattern=pattern)
    if pattern.weights > MAX_DRAWN_WEIGHTS:
        raise InputError(
            f"'{model}' has {pattern.weights:,} prunable weights; masks of more than {MAX_DRAWN_WEIGHTS:,} are not held in "
            f"memory at once: `nestling lower {model} -o FILE` and `nestling simulate FILE` work layer by layer"
        )
    return Workload(with_synthetic_levels(pattern.network, pattern.level_densities, seed=pattern.seed))


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


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...] | int]:
    """Shapes as a person writes them: ``NAME=1,3,224,224`` for an input, ``NAME=224`` for a dimension; each name once.

    Raises
    ------
    InputError
        listing every text that is not of this form.
    """
    found: dict[str, tuple[int, ...] | int] = {}
    problems = []
    for text in texts:
        name, _, sizes = (part.strip() for part in text.rpartition("="))
        parts = [part.strip() for part in sizes.split(",")]
        if not name or not all(part.isdecimal() and len(part) < 20 for part in parts):
            problems.append(f"--shape '{text}': must be NAME=SIZE,SIZE,... such as input=1,3,224,224 or tokens=128")
        elif name in found:
            problems.append(f"--shape {name}: given twice")
        else:
            found[name] = tuple(map(int, parts)) if len(parts) > 1 else int(parts[0])
    if problems:
        raise InputError(problems)
    return found


def _onnx(path: Path, shapes: Shapes | None, densities: Sequence[float] | None) -> Network:
    """The imported network, pruned to ``densities`` if it has weights and these are given."""
    from ..workloads.onnx_import import load_onnx

    network = load_onnx(path, shapes=shapes).network
    if densities is None or not network.has_values:
        return network
    from .pruned import pruned

    return pruned(network, densities)


def _network(
    model: str,
    *,
    parameters: Mapping[str, float],
    densities: Sequence[float] | None,
    shapes: Shapes | None,
    options: FileOptions | None,
) -> Network:
    """The network of an ONNX file, of the zoo, or of a table."""
    path = Path(model)
    if path.suffix == ".onnx":
        return _onnx(path, shapes, densities)
    if model in NETWORKS:
        return build(model, **parameters)
    if path.suffix == ".csv":
        from .file_sources import FileOptions, csv_network

        return csv_network(path, options or FileOptions())
    raise _unknown_model(model)


def _unknown_model(model: str) -> InputError:
    error = unknown_name("model", model, [*BUNDLED, *NETWORKS])
    return InputError(
        f"{error}; or a .csv layer table or topology, an .onnx model, a .json export or a .safetensors file"
    )


def _without_parameters(model: str, path: Path) -> InputError:
    if model not in BUNDLED and path.suffix not in (".csv", ".json", ".onnx", ".safetensors"):
        return _unknown_model(model)
    return InputError(f"'{model}' has no parameters; --set is for the networks that `nestling models` lists with some")


def _trained(
    model: str, images: Path | None, densities: Sequence[float] | None, options: FileOptions | None
) -> Workload:
    """A bundled network, or that of a .safetensors file."""
    if densities is not None:
        raise InputError(f"'{model}' has its own trained levels; --levels sets densities of shape-only models")
    return _bundled(model, images) if model in BUNDLED else _safetensors(Path(model), images, options)


def _bundled(name: str, images: Path | None) -> Workload:
    """A bundled network on its test images, or on those of a file."""
    from ..workloads.bundled import FASHION_NAME, FASHION_SCALE, load_bundled, load_images
    from ..workloads.digits import DIGITS_CALIBRATION, DIGITS_SCALE, bundled_digits

    if name == FASHION_NAME:
        network, pixels, labels = load_bundled()
        if images is not None:
            pixels, labels = load_images(images)
        return Workload(network, _scaled(pixels, FASHION_SCALE), labels)
    network, split = bundled_digits()
    calibration = split.train[:DIGITS_CALIBRATION].reshape(-1, 1, 8, 8)
    if images is None:
        return Workload(network, split.test.reshape(-1, 1, 8, 8), split.test_labels, calibration=calibration)
    pixels, labels = load_images(images)
    return Workload(network, _scaled(pixels, DIGITS_SCALE), labels, calibration=calibration)


def _scaled(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    """Network input (N, 1, H, W) of images (N, H, W)."""
    return (pixels[:, None].astype(np.float32) * np.float32(scale)).astype(np.float32)


def _safetensors(path: Path, images: Path | None, options: FileOptions | None) -> Workload:
    from ..workloads.bundled import FASHION_SCALE, load_images
    from ..workloads.weights_file import load_network
    from .file_sources import FileOptions, named_weights

    network = named_weights(path, options or FileOptions()) or load_network(path)
    if images is None:
        return Workload(network)
    pixels, labels = load_images(images)
    return Workload(network, _scaled(pixels, FASHION_SCALE), labels)
