"""Real inputs (``--calibrate``, ``--images`` of an ONNX file): reading them, and what every layer meets of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..accel.arrays.pragmatic import encode_terms
from ..sim.executor.graph_inputs import GraphInputs, feeds_of
from ..sim.executor.graph_plan import plan_graph
from ..traces.trace import Activations
from ..workloads.array_files import MAX_BYTES, Array, read_npy, read_npz
from ..workloads.errors import InputError
from ..workloads.network import Network
from .sources import Workload

#: What a file may call the only input of a network, and its labels.
IMAGES, LABELS = "images", "labels"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Real inputs of a network, by input name where it has a graph; ``labels`` (N,) if the files hold them."""

    inputs: GraphInputs
    labels: NDArray[np.integer] | None = None


def load_calibration(path: Path, network: Network) -> Calibration:
    """Inputs from an ``.npz`` (one array per input of the network, or ``images``), an ``.npy``, or a folder of these.

    The files of a folder are read in the order of their names and joined along the first axis. ``labels`` may stand
    beside the inputs. Values are numbers as the network reads them; nothing is scaled.

    Raises
    ------
    InputError
        for files that are no arrays, pickled objects, more than 2 GiB, names that the network does not have, and arrays
        that do not fit its inputs or are not finite.
    """
    files = _files(path)
    left_bytes = MAX_BYTES
    parts: dict[str, list[Array]] = {}
    for file in files:
        for name, array in _arrays(file, left_bytes).items():
            parts.setdefault(name, []).append(array)
            left_bytes -= array.nbytes
    arrays = {name: _joined(path, name, found) for name, found in parts.items()}
    labels: NDArray[Any] | None = arrays.pop(LABELS, None)
    if labels is not None and not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: labels are {labels.dtype}; needed are integers")
    try:
        inputs = _inputs(arrays, network)
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None
    return Calibration(inputs, labels)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    files = sorted(x for x in path.iterdir() if x.suffix in (".npz", ".npy")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: the folder holds no .npz or .npy files")
    if not path.is_dir() and path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path}: must be an .npz or .npy file, or a folder of these")
    return files


def _arrays(file: Path, left_bytes: int) -> dict[str, Array]:
    """The arrays of one file, by name; that of an ``.npy`` has no name, and is taken as images."""
    if file.suffix == ".npy":
        return {IMAGES: read_npy(file, left_bytes=left_bytes)}
    return read_npz(file, left_bytes=left_bytes)


def _joined(path: Path, name: str, parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise InputError(f"{path}: arrays '{name}' of shapes {shapes} cannot be joined") from None


def _inputs(arrays: Mapping[str, Array], network: Network) -> GraphInputs:
    graph = network.graph
    if graph is None:
        if set(arrays) != {IMAGES}:
            raise InputError(
                f"holds {', '.join(sorted(arrays)) or 'nothing'}; network '{network.name}' reads '{IMAGES}'"
            )
        return arrays[IMAGES].astype(np.float32, copy=False)
    named = dict(arrays)
    if IMAGES in named and IMAGES not in graph.inputs and len(graph.inputs) == 1:
        named[next(iter(graph.inputs))] = named.pop(IMAGES)
    feeds_of(graph, named)
    return named


def bit_statistics(activations: Iterable[Activations]) -> tuple[float, float]:
    """Mean effectual (set) bits, and mean non-zero digits in radix-4 Booth form, of the sampled 8-bit input codes.

    Magnitudes are counted, as a bit-serial array meets them (Albericio et al., "Bit-Pragmatic", MICRO 2017).
    """
    samples = [np.abs(x.sample.astype(np.int64)).reshape(-1) for x in activations if x.sample is not None]
    if not samples:
        return 0.0, 0.0
    codes = np.concatenate(samples)
    return tuple(float(np.bitwise_count(encode_terms(codes, kind)).mean()) for kind in ("binary", "booth_radix4"))  # type: ignore[return-value]


def calibration_note(activations: Mapping[str, Activations]) -> str:
    """One sentence on what was measured."""
    measured = [x for x in activations.values() if x.measured]
    bits, digits = bit_statistics(measured)
    density = float(np.mean([x.density for x in measured])) if measured else 1.0
    images = min((x.images for x in measured), default=0)
    return (
        f"activations calibrated on {images} real inputs: {density:.1%} of a layer's inputs are not zero, {bits:.2f} set "
        f"bits and {digits:.2f} non-zero radix-4 Booth digits per 8-bit code (means over {len(measured)} layers)"
    )


def calibrated(workload: Workload, path: Path) -> Workload:
    """``workload`` with the inputs in ``path``: its activations are captured from them, and a network without images of
    its own is executed on them. Operators that only the ``onnx`` package computes are noted on the network.

    Raises
    ------
    InputError
        for a network without weight values or with operators that cannot be executed, and as :func:`load_calibration`.
    """
    workload, found = _with_inputs(workload, path, "--calibrate")
    if workload.images is not None:
        return replace(workload, calibration=found.inputs)
    return replace(workload, images=found.inputs, labels=found.labels, calibration=found.inputs)


def labelled(workload: Workload, path: Path) -> Workload:
    """``workload`` with the inputs and ``labels`` in ``path``, on which its accuracy is measured.

    Raises
    ------
    InputError
        as :func:`calibrated`, and where there are no labels.
    """
    workload, found = _with_inputs(workload, path, "--images")
    if found.labels is None:
        raise InputError(f"{path}: no array named {LABELS}; without labels, --calibrate takes inputs")
    return replace(workload, images=found.inputs, labels=found.labels)


def _with_inputs(workload: Workload, path: Path, option: str) -> tuple[Workload, Calibration]:
    """The workload with a note on operators that are slow to execute, and the inputs in ``path``."""
    network = workload.network
    if not network.has_values:
        raise InputError(f"{option} {path}: '{network.name}' has no weight values, so nothing can be run through it")
    found = load_calibration(path, network)
    fallbacks = {} if network.graph is None else plan_graph(network, network.graph).fallbacks
    if fallbacks:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(fallbacks.items()))
        slow = f"executed by the reference operators of the onnx package, which are slow: {names}"
        workload = workload if slow in network.notes else workload.noting(slow)
    return workload, found
