"""One file per nested network: safetensors, weights level-ordered.

Per prunable layer ``<name>``:

* ``<name>.values``  float32 (nnz of the densest level): non-zeros, sparsest level's first, then what each denser level adds;
  within one level in row-major order. Level l is the prefix of length ``<name>.prefix[l]``.
* ``<name>.index``   uint16 or uint32, same length: flat position of each value in the weight tensor.
* ``<name>.prefix``  int64 (levels): prefix lengths, densest level first.
* ``<name>.bias``    float32 (levels, K), where the layer has biases.

The graph stands as JSON in the header's ``nestling`` entry (schema version 1). Nothing is executed on reading; no pickle.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layer_json import layer_from_json, layer_to_json
from .layers import Layer
from .nesting import MAX_LEVELS, NestedWeights
from .network import Network

SCHEMA = 1
#: Larger files are refused before anything is read.
MAX_FILE_BYTES = 1 << 36
#: A header cannot make us allocate much more than the file holds: larger layers need one stored value in so many.
MAX_EXPANSION = 4096
_SMALL_LAYER = 1 << 27


def level_order(weights: NestedWeights) -> NDArray[np.int64]:
    """Flat positions of the densest level's non-zeros, sparsest level's first, row-major within a level."""
    keep = weights.keep.reshape(-1)
    stored = np.flatnonzero(keep)
    return np.asarray(stored[np.argsort(-keep[stored].astype(np.int16), kind="stable")], dtype=np.int64)


def save_network(path: Path, network: Network) -> None:
    """Write ``network`` (values required) to ``path``; written to a temporary name first, so never half-written."""
    from safetensors.numpy import save

    if not network.weights:
        raise InputError(f"network '{network.name}' has no weights to save")
    tensors: dict[str, NDArray[Any]] = {}
    for name, weights in network.weights.items():
        if weights.values is None:
            raise InputError(f"layer '{name}' has no weight values to save")
        order = level_order(weights)
        small = weights.keep.size <= np.iinfo(np.uint16).max + 1
        tensors[f"{name}.values"] = weights.values.reshape(-1)[order]
        tensors[f"{name}.index"] = order.astype(np.uint16 if small else np.uint32)
        tensors[f"{name}.prefix"] = weights.nonzeros
    for name, bias in network.biases.items():
        tensors[f"{name}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    header = {
        "schema": SCHEMA,
        "name": network.name,
        "source": network.source,
        "levels": network.levels,
        "layers": [layer_to_json(layer) for layer in network.layers],
    }
    write_atomically(path, save(tensors, metadata={"nestling": json.dumps(header, sort_keys=True)}))


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, then rename: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_network(path: Path) -> Network:
    """Read a network written by :func:`save_network`.

    Raises
    ------
    InputError
        if the file is missing, is not safetensors, has another schema, or its tensors do not fit the graph.
    """
    tensors, metadata = read_tensors(path)
    header = _parse_header(path, metadata)
    try:
        return _build(header, tensors)
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: the file's graph lacks or garbles {error}") from None


def _build(header: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Network:
    """The network of a parsed header; messages do not name the file."""
    layers = tuple(layer_from_json(entry) for entry in header["layers"])
    levels = header["levels"]
    if type(levels) is not int or not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"{levels!r} levels; allowed are 1 to {MAX_LEVELS}")
    weights = {layer.name: _layer_weights(layer, levels, tensors) for layer in layers if layer.has_weights}
    biases = {layer.name: tensors[f"{layer.name}.bias"] for layer in layers if f"{layer.name}.bias" in tensors}
    for name, bias in biases.items():
        if bias.dtype != np.float32:
            raise InputError(f"bias of layer '{name}' is {bias.dtype}, must be float32")
    return Network(str(header["name"]), layers, weights, biases, str(header.get("source", "")))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of any safetensors file; InputError if it is missing, damaged or too large."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def tensor_names(path: Path) -> list[str]:
    """Names of a safetensors file's tensors; nothing but the header is read. Errors as in :func:`read_tensors`."""
    with _opened(path) as file:
        return list(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file; whatever goes wrong with it, in here or in the caller, becomes an InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OSError(f"{path.stat().st_size} bytes; files over {MAX_FILE_BYTES} bytes are refused")
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        # AttributeError, LookupError and TypeError: number types that NumPy does not have
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def _parse_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata["nestling"])
    except KeyError:
        raise InputError(f"{path}: safetensors without a 'nestling' header: not a nested network") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the 'nestling' header is not JSON ({error})") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else header
        raise InputError(f"{path}: schema {found!r}; this version reads schema {SCHEMA}")
    return header


def _layer_weights(layer: Layer, levels: int, tensors: dict[str, NDArray[Any]]) -> NestedWeights:
    name = layer.name
    size = math.prod(layer.weight_shape)
    values, prefix, index = (tensors[f"{name}.{part}"] for part in ("values", "prefix", "index"))
    problem = None
    if size > _SMALL_LAYER and size > MAX_EXPANSION * values.size:
        problem = f"{values.size} values for {size} positions; refused below one in {MAX_EXPANSION}"
    elif prefix.dtype != np.int64 or index.dtype not in (np.uint16, np.uint32):
        problem = f"prefix is {prefix.dtype} and index {index.dtype}, must be int64 and uint16 or uint32"
    elif values.shape != index.shape or values.ndim != 1 or values.dtype != np.float32:
        problem = f"{values.size} values of {values.dtype} for {index.size} positions"
    elif prefix.shape != (levels,) or (np.diff(prefix) > 0).any() or prefix[0] != values.size or prefix[-1] < 0:
        problem = f"level prefixes {prefix.tolist()} do not shrink from {values.size}"
    elif index.size and (index.max() >= size or np.unique(index).size != index.size):
        problem = f"positions repeat or lie outside 0..{size - 1}"
    if problem:
        raise InputError(f"weights of layer '{name}': {problem}")
    dense = np.zeros(size, dtype=np.float32)
    keep = np.zeros(size, dtype=np.uint8)
    dense[index] = values
    for length in prefix:
        keep[index[:length]] += 1
    shape = layer.weight_shape
    return NestedWeights(dense.reshape(shape), keep.reshape(shape), levels, name=name)
