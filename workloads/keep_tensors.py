"""Safetensors with one ``keep`` tensor per weight: weights as training frameworks store them, levels beside them.

Per layer NAME: ``NAME.weight`` (floating point, the layer's natural shape), ``NAME.weight.keep`` uint8 of the same shape (how
many levels, counted from the densest, keep each weight; 0 = pruned everywhere) and ``NAME.bias``, (K,) or (levels, K).
Without a keep tensor the zeros of the weights are the one level.

Which layers these are says, in this order: a layer table given beside the file (rows named like the weights); the layers
in the header's ``nestling`` entry, ``{"layers": [...]}`` as :mod:`.layer_json` writes them; else every two-dimensional weight
is a linear layer over one row. A convolution's output size is not in its weights, so four dimensions need one of the former.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .layer_json import check_counts, layer_from_json
from .layers import Layer, linear
from .nesting import MAX_LEVELS, NestedWeights
from .network import INPUT, Network
from .weights_file import read_tensors

_WEIGHT, _KEEP = ".weight", ".weight.keep"
_FLOATS = (np.float16, np.float32, np.float64)


def load_keep_file(path: Path, *, table: Network | None = None) -> Network:
    """The network of a safetensors file with weights by name.

    Parameters
    ----------
    table : layers that the weights belong to, from a layer table; layers without weights in the file are an error.

    Raises
    ------
    InputError
        if the file is missing or damaged, holds no weights, or does not say which layers they are (what is missing and how
        to give it).
    """
    tensors, metadata = read_tensors(path)
    try:
        layers = table.layers if table is not None else _stated_layers(metadata) or _linear_layers(tensors)
        check_counts(layers)
        levels = _levels(tensors)
        products = [layer for layer in layers if layer.has_weights]
        weights = {layer.name: layer_weights(layer, tensors, levels=levels) for layer in products}
        biases = {layer.name: level_biases(layer, tensors, levels=levels) for layer in products}
        kept = {name: bias for name, bias in biases.items() if bias is not None}
        return Network(path.stem, tuple(layers), weights, kept, source=f"weights of {path.name}")
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None


def has_keep_layout(tensors: Iterable[str]) -> bool:
    """True for the tensor names of a file with weights by name, false for nestling's own level-ordered one."""
    names = list(tensors)
    return any(name.endswith(_WEIGHT) for name in names) and not any(name.endswith(".prefix") for name in names)


def layer_weights(layer: Layer, tensors: Mapping[str, NDArray[Any]], *, levels: int) -> NestedWeights:
    """Nested weights of one layer from ``NAME.weight`` and ``NAME.weight.keep``."""
    values = tensors.get(f"{layer.name}{_WEIGHT}")
    if values is None:
        names = [name for name in tensors if name.endswith(_WEIGHT)]
        raise InputError(f"layer '{layer.name}' has no weights; the file has {', '.join(sorted(names)[:5]) or 'none'}")
    if values.dtype not in _FLOATS or values.shape != layer.weight_shape:
        raise InputError(
            f"'{layer.name}{_WEIGHT}' is {values.dtype} {values.shape}; the layer needs floats of {layer.weight_shape}"
        )
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    keep = tensors.get(f"{layer.name}{_KEEP}")
    if keep is None:
        keep = (values != 0).astype(np.uint8) * np.uint8(levels)
    return NestedWeights(np.where(keep > 0, values, np.float32(0)) if keep.shape == values.shape else values, keep, levels,
                         name=layer.name)  # fmt: skip


def level_biases(layer: Layer, tensors: Mapping[str, NDArray[Any]], *, levels: int) -> NDArray[np.float32] | None:
    """``NAME.bias`` as float32 (levels, K), the same for all levels where the file holds one; None without one."""
    bias = tensors.get(f"{layer.name}.bias")
    if bias is None:
        return None
    if bias.dtype not in _FLOATS or bias.shape not in ((layer.K,), (levels, layer.K)):
        raise InputError(f"'{layer.name}.bias' is {bias.dtype} {bias.shape}; must be floats of ({levels}, {layer.K})")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(np.broadcast_to(bias, (levels, layer.K)), dtype=np.float32)


def _levels(tensors: Mapping[str, NDArray[Any]]) -> int:
    """As many levels as the largest keep count; 1 without keep tensors."""
    keeps = [array for name, array in tensors.items() if name.endswith(_KEEP)]
    if any(array.dtype != np.uint8 for array in keeps):
        raise InputError("a keep tensor is not uint8")
    return min(MAX_LEVELS, max([int(array.max(initial=1)) for array in keeps], default=1))


def _stated_layers(metadata: Mapping[str, str]) -> Sequence[Layer] | None:
    """Layers of the header's ``nestling`` entry; None if there is none."""
    if "nestling" not in metadata:
        return None
    try:
        header = json.loads(metadata["nestling"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the 'nestling' header is not JSON ({error})") from None
    entries = header.get("layers") if isinstance(header, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError("the 'nestling' header has no list 'layers'")
    return [layer_from_json(entry) for entry in entries]


def _linear_layers(tensors: Mapping[str, NDArray[Any]]) -> list[Layer]:
    """Every two-dimensional weight as a linear layer over one row, in the order of the names in the file."""
    weights = {name.removesuffix(_WEIGHT): array for name, array in tensors.items() if name.endswith(_WEIGHT)}
    if not weights:
        raise InputError("no tensor is called NAME.weight: there are no weights to read")
    spatial = [f"'{name}{_WEIGHT}' {array.shape}" for name, array in weights.items() if array.ndim > 2]
    if spatial:
        raise InputError(
            f"{len(spatial)} weights are convolutions, such as {spatial[0]}: their output size is not in the file. Give "
            "the layers with --table FILE.csv (rows named like the weights; `nestling table` prints a template), or "
            "export the model with `nestling exporter`"
        )
    matrices = {name: array for name, array in weights.items() if array.ndim == 2 and array.size}
    if not matrices:
        raise InputError("no weight has two dimensions: there are no products to model")
    chained: list[Layer] = []
    for name, array in matrices.items():
        source = chained[-1].name if chained and array.shape[1] == chained[-1].K else INPUT
        chained.append(linear(name, source, features_in=array.shape[1], features_out=array.shape[0]))
    return chained
