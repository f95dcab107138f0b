"""Networks that the PyTorch exporter wrote: PATH.json beside PATH.safetensors.

PATH.json: ``format`` "nestling-export", ``schema`` 1, ``name``, ``torch`` (version), ``levels``; ``layers``: objects with the
fields of :class:`~.layers.Layer`; ``unmodelled``: operators that nobody modelled, each with ``name``, ``operator``,
``bytes`` and ``share`` of the bytes that all operators move; ``activations``: layer name -> ``images`` (inputs seen) and
``density`` (fraction of its input that is not zero).

PATH.safetensors, per product layer with stored weights: ``NAME.weight`` float32, ``NAME.weight.keep`` uint8 (how many levels,
from the densest on, keep each weight), ``NAME.bias`` float32 (levels, K) where there is one, ``NAME.taps`` int64 (b*k,): how
often each reduction index met a non-zero. With labelled inputs: ``images`` float32 (N, C, H, W), ``labels`` int64 (N,) and
``outputs`` float32 (levels, n, elements), what PyTorch computed for the first n images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .keep_tensors import layer_weights, level_biases
from .layer_json import check_counts, layer_from_json
from .layers import Layer
from .nesting import MAX_LEVELS
from .network import Network
from .weights_file import read_tensors

FORMAT, SCHEMA = "nestling-export", 1
#: Larger descriptions are refused before they are parsed: a layer takes about a kilobyte.
MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class InputZeros:
    """Zeros of one layer's input over ``images`` real inputs: ``density`` (0..1) and, where they were counted,
    ``tap_nonzeros`` int64 (b*k,), how often each reduction index met a non-zero over all output positions."""

    images: int
    density: float
    tap_nonzeros: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Unmodelled:
    """An operator whose products, if it has any, are not counted. ``share``: of the bytes that all operators move."""

    name: str
    operator: str
    bytes: int
    share: float


@dataclass(frozen=True, eq=False)
class Exported:
    """A network from PyTorch with what was measured there.

    ``images`` float32 (N, C, H, W), ``labels`` int64 (N,) and ``outputs`` float32 (levels, n, elements) are None unless the
    export had labelled inputs.
    """

    network: Network
    activations: Mapping[str, InputZeros] = field(default_factory=dict)
    unmodelled: tuple[Unmodelled, ...] = ()
    images: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    outputs: NDArray[np.float32] | None = None


def load_exported(path: Path) -> Exported:
    """Read PATH.json and the PATH.safetensors beside it.

    Raises
    ------
    InputError
        if a file is missing or damaged, has another format or schema, or its tensors do not fit its layers.
    """
    document = _read_document(path)
    tensors, _ = read_tensors(path.with_suffix(".safetensors"))
    try:
        return build_exported(document, tensors)
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None


def build_exported(document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Exported:
    """The network of a parsed description and its tensors; messages do not name the file."""
    if document.get("format") != FORMAT or document.get("schema") != SCHEMA:
        found = f"format {document.get('format')!r}, schema {document.get('schema')!r}"
        raise InputError(f"{found}; this version reads format '{FORMAT}', schema {SCHEMA}")
    levels = document.get("levels")
    if type(levels) is not int or not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"{levels!r} levels; allowed are 1 to {MAX_LEVELS}")
    layers = tuple(layer_from_json(entry) for entry in _list(document, "layers"))
    check_counts(layers)
    weights = {layer.name: layer_weights(layer, tensors, levels=levels) for layer in layers if layer.has_weights}
    biases = {layer.name: level_biases(layer, tensors, levels=levels) for layer in layers if layer.has_weights}
    network = Network(
        str(document.get("name", "model")),
        layers,
        weights,
        {name: bias for name, bias in biases.items() if bias is not None},
        source=f"exported from PyTorch {document.get('torch', '')}".rstrip(),
    )
    images, labels, outputs = _images(tensors, levels=levels)
    unmodelled = tuple(_unmodelled(entry) for entry in _list(document, "unmodelled"))
    return Exported(
        network=replace(network, notes=_notes(unmodelled)),
        activations=_activations(document, tensors, layers),
        unmodelled=unmodelled,
        images=images,
        labels=labels,
        outputs=outputs,
    )


def _read_document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes; files over {MAX_JSON_BYTES} bytes are refused")
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not an exported network; it must be one JSON object with 'layers'")
    return document


def _list(document: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise InputError(f"'{key}' is {type(found).__name__}, must be a list")
    return found


def _activations(
    document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], layers: Sequence[Layer]
) -> dict[str, InputZeros]:
    stated = document.get("activations", {})
    by_name = {layer.name: layer for layer in layers}
    if not isinstance(stated, dict) or not set(stated) <= set(by_name):
        raise InputError("'activations' must be an object whose keys are layers")
    return {name: _input_zeros(by_name[name], entry, tensors.get(f"{name}.taps")) for name, entry in stated.items()}


def _input_zeros(layer: Layer, entry: object, taps: NDArray[Any] | None) -> InputZeros:
    facts: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    images, density = facts.get("images"), _fraction(facts.get("density"))
    if type(images) is not int or not 1 <= images < 1 << 40:
        raise InputError(f"activations of layer '{layer.name}': images = {images!r}, must be a number of at least 1")
    if density is None:
        raise InputError(f"activations of layer '{layer.name}': density = {facts.get('density')!r}, must lie in 0..1")
    if taps is not None and layer.gemm is not None:
        most = images * layer.gemm.m
        size = layer.gemm.b * layer.gemm.k
        if taps.dtype != np.int64 or taps.shape != (size,) or taps.min(initial=0) < 0 or taps.max(initial=0) > most:
            raise InputError(f"'{layer.name}.taps' must be {size} int64 counts of 0 to {most}")
    return InputZeros(images=images, density=density, tap_nonzeros=taps)


def _fraction(value: object) -> float | None:
    """A number of 0..1; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return float(value)


def _unmodelled(entry: object) -> Unmodelled:
    if not isinstance(entry, dict):
        raise InputError(f"an entry of 'unmodelled' is {entry!r}, must be an object")
    size, share, operator = entry.get("bytes"), _fraction(entry.get("share")), str(entry.get("operator"))
    if type(size) is not int or share is None:
        raise InputError(f"unmodelled operator {entry.get('name')!r}: bytes = {size!r}, share = {entry.get('share')!r}")
    if not operator.isprintable() or not str(entry.get("name")).isprintable():
        raise InputError(f"unmodelled operator {operator!r}: names hold printable characters only")
    return Unmodelled(str(entry.get("name")), operator, size, share)


def _notes(unmodelled: Sequence[Unmodelled]) -> tuple[str, ...]:
    """What the reports must say: which operators are not modelled."""
    notes = []
    for operator in dict.fromkeys(found.operator for found in unmodelled):
        share = sum(found.share for found in unmodelled if found.operator == operator)
        notes.append(
            f"operator '{operator}' is not modelled: {share:.1%} of the bytes moved; its products are not counted"
        )
    return tuple(notes)


def _images(
    tensors: Mapping[str, NDArray[Any]], *, levels: int
) -> tuple[NDArray[np.float32] | None, NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """Images, labels and outputs; either images and labels are there together, or nothing is."""
    images, labels, outputs = (tensors.get(name) for name in ("images", "labels", "outputs"))
    if images is None or labels is None:
        return None, None, None
    if images.dtype != np.float32 or not images.ndim or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise InputError(
            f"images are {images.dtype} {images.shape} and labels {labels.dtype} {labels.shape}; must be float32 "
            "(N, C, H, W) and int64 (N,)"
        )
    if outputs is not None and (outputs.dtype != np.float32 or outputs.ndim != 3 or len(outputs) != levels):
        raise InputError(f"outputs are {outputs.dtype} {outputs.shape}; must be float32 (levels, n, elements)")
    shaped = images.reshape(len(images), -1, 1, 1) if images.ndim < 4 else images
    return shaped, labels, outputs
