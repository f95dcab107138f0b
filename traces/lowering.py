"""From a network to a trace: exact masks and exact bytes of every level, activations measured or assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import unknown_name
from ..workloads.layers import DATA_OPS, Layer
from ..workloads.network import Network
from .formats import FORMATS, sizes_by_format
from .trace import Activations, DataMovement, LayerTrace, Trace

#: Density assumed for inputs that come out of a ReLU when nobody measured them: half of a symmetric distribution.
ASSUMED_RELU_DENSITY = 0.5
_BIAS_BYTES = 4


def lower(
    network: Network,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    activations: Mapping[str, Activations] | None = None,
    formats: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Trace:
    """Lower every product layer of ``network``.

    Parameters
    ----------
    weight_bits, activation_bits : operand widths the hardware stores. The executor computes in float32; widths only set
        bytes and bus beats.
    activations : captured statistics per layer name (see :class:`Activations`). Layers without an entry are assumed dense,
        or half zero behind a ReLU, and say so.
    formats : storage formats to size (all by default).
    progress : called with each layer's name.

    Raises
    ------
    InputError
        for widths or formats that do not exist, or activations of a layer that the network does not have.
    """
    captured = activations or {}
    unknown = sorted(set(captured) - {layer.name for layer in network.layers})
    if unknown:
        raise unknown_name("layer with activations", unknown[0], [layer.name for layer in network.layers])
    names = tuple(formats) if formats is not None else tuple(FORMATS)
    layers = []
    for layer in network.layers:
        if layer.gemm is None:
            continue
        if progress is not None:
            progress(layer.name)
        layers.append(
            _lower_layer(
                network,
                layer,
                bits=(weight_bits, activation_bits),
                activations=captured.get(layer.name) or assumed_activations(layer),
                formats=names,
            )
        )
    return Trace(
        network=network.name,
        levels=network.levels,
        layers=tuple(layers),
        data_movement=tuple(_movement(x, activation_bits) for x in network.layers if x.op in DATA_OPS),
        source=network.source,
        weight_densities=network.densities,
    )


def assumed_activations(layer: Layer) -> Activations:
    """The stated density of a layer's input when no real input was run."""
    return Activations(density=ASSUMED_RELU_DENSITY if layer.relu_in else 1.0)


def _lower_layer(
    network: Network,
    layer: Layer,
    *,
    bits: tuple[int, int],
    activations: Activations,
    formats: Sequence[str],
) -> LayerTrace:
    gemm = layer.gemm
    assert gemm is not None
    rows, levels = gemm.b * gemm.n, network.levels
    weight_bits, activation_bits = bits
    keep = _keep_matrix(network, layer)
    if keep is None:  # two activations: the second operand is stored dense, at activation width
        weight_bits = activation_bits
        dense = np.full(levels, -(-rows * gemm.k * weight_bits // 8), dtype=np.int64)
        storage = dict.fromkeys(formats, dense)
        nonzeros = np.full(levels, rows * gemm.k, dtype=np.int64)
    else:
        storage = _storage(keep, levels, weight_bits=weight_bits, formats=formats)
        weights = network.weights.get(layer.name)
        nonzeros = weights.nonzeros if weights is not None else np.full(levels, keep.size, dtype=np.int64)
    return LayerTrace(
        layer=layer,
        levels=levels,
        keep=keep,
        nonzeros=nonzeros,
        storage=storage,
        activations=activations,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        bias_bytes=layer.bias_params * _BIAS_BYTES,
    )


def _keep_matrix(network: Network, layer: Layer) -> NDArray[np.uint8] | None:
    """The keep map as (b*n, k); all ones for a prunable layer of a shape-only network; None for dynamic products."""
    if not layer.has_weights or layer.gemm is None:
        return None
    shape = (layer.gemm.b * layer.gemm.n, layer.gemm.k)
    if layer.name in network.weights:
        return network.weights[layer.name].keep.reshape(shape)
    return np.full(shape, network.levels, dtype=np.uint8)


def _storage(
    keep: NDArray[np.uint8], levels: int, *, weight_bits: int, formats: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Exact encoded bytes per format and level."""
    bits = sizes_by_format(keep, levels, value_bits=weight_bits, allowed=formats)
    return {name: -(-size // 8) for name, size in bits.items()}


def _movement(layer: Layer, activation_bits: int) -> DataMovement:
    """Bytes an operator without products reads and writes once (every source read once, the output written once)."""
    elements = layer.input_size * max(1, len(layer.sources) if layer.op in ("add", "mul") else 1) + layer.output_size
    return DataMovement(name=layer.name, op=layer.op, bytes=-(-elements * activation_bits // 8))
