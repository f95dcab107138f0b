"""From a network to a trace: exact masks and exact bytes of every level, activations measured or assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from ..workloads.layers import CONV_OPS, DATA_OPS, Layer
from ..workloads.nesting import NestedWeights
from ..workloads.network import Network
from ..workloads.smartdeal.basis_weights import BasisWeights
from ..workloads.synthetic import SyntheticLevels
from .coefficients import CoefficientTrace
from .formats import FORMATS, GroupedSlots, sizes_by_format
from .trace import Activations, DataMovement, LayerTrace, Trace, channels_last

#: Density assumed for inputs that come out of a ReLU when nobody measured them: half of a symmetric distribution.
ASSUMED_RELU_DENSITY = 0.5
_BIAS_BYTES = 4
#: Operators that read and write as many elements, row by row: an embedding looks up as many rows as it writes.
ROW_OPS = frozenset({"layernorm", "embed"})


@dataclass(frozen=True, eq=False, kw_only=True)
class Lowering:
    """A network about to be lowered: everything that is known before the masks are, and each layer when it is asked for.

    ``pattern``: draws the masks of a network without weights, layer by layer; without it the masks are the network's own,
    or dense. The other fields are those of :func:`lower`.
    """

    network: Network
    pattern: SyntheticLevels | None = None
    weight_bits: int = 8
    activation_bits: int = 8
    activations: Mapping[str, Activations] = field(default_factory=dict)
    formats: Sequence[str] = tuple(FORMATS)
    bases: Mapping[str, BasisWeights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, basis in self.bases.items():
            if name not in self.network.weights:
                raise unknown_name("layer with coefficients", name, self.network.weights)
            if basis.levels != self.levels:
                raise InputError(f"coefficients of '{name}' have {basis.levels} levels, the network {self.levels}")
        unknown = sorted(set(self.activations) - {layer.name for layer in self.network.layers})
        if unknown:
            raise unknown_name("layer with activations", unknown[0], [layer.name for layer in self.network.layers])
        if self.pattern is not None and self.pattern.network.layers is not self.network.layers:
            raise ValueError("the patterns are those of another network")

    @cached_property
    def products(self) -> tuple[Layer, ...]:
        """The layers that are lowered, in execution order."""
        return tuple(layer for layer in self.network.layers if layer.gemm is not None)

    @property
    def levels(self) -> int:
        return self.network.levels if self.pattern is None else self.pattern.levels

    def layer(self, layer: Layer) -> LayerTrace:
        """Lower one of the ``products``."""
        return _lower_layer(
            layer,
            self._weights(layer),
            levels=self.levels,
            bits=(self.weight_bits, self.activation_bits),
            activations=self.activations.get(layer.name) or assumed_activations(layer),
            formats=self.formats,
            basis=self.bases.get(layer.name),
        )

    def trace(self, layers: Sequence[LayerTrace]) -> Trace:
        """The trace of these lowered layers."""
        known = self.network if self.pattern is None else self.pattern
        return Trace(
            network=self.network.name,
            levels=self.levels,
            layers=layers,
            data_movement=data_movement(self.network.layers, self.activation_bits),
            source=known.source,
            weight_densities=known.densities,
            notes=self.network.notes,
        )

    def _weights(self, layer: Layer) -> NestedWeights | None:
        if self.pattern is not None and layer.has_weights:
            return self.pattern.pattern(layer)
        return self.network.weights.get(layer.name)

    def digest(self) -> str:
        """SHA-256 over everything that the lowered layers follow from, masks included: equal digests, equal traces."""
        sha = hashlib.sha256()
        drawn = None if self.pattern is None else (self.pattern.level_densities, self.pattern.seed)
        facts = (self.network.name, self.network.source, self.levels, drawn, self.weight_bits, self.activation_bits)
        sha.update(repr((facts, tuple(self.formats), self.network.layers, self.network.notes)).encode())
        for name, weights in self.network.weights.items():
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(weights.keep).data)
        for name, captured in self.activations.items():
            sha.update(repr((name, captured.density, captured.images)).encode())
            for part in (captured.tap_nonzeros, captured.sample):
                sha.update(b"-" if part is None else np.ascontiguousarray(part).data)
        return sha.hexdigest()


def lower(
    network: Network,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    activations: Mapping[str, Activations] | None = None,
    formats: Sequence[str] | None = None,
    bases: Mapping[str, BasisWeights] | None = None,
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
    bases : layers in SmartDeal form; the network's weights are what their coefficients and bases make up.
    progress : called with each layer's name.

    Raises
    ------
    InputError
        for widths or formats that do not exist, or activations of a layer that the network does not have.
    """
    lowering = Lowering(
        network=network, weight_bits=weight_bits, activation_bits=activation_bits, activations=activations or {},
        formats=tuple(FORMATS) if formats is None else tuple(formats), bases=bases or {},
    )  # fmt: skip
    layers = []
    for layer in lowering.products:
        if progress is not None:
            progress(layer.name)
        layers.append(lowering.layer(layer))
    return lowering.trace(tuple(layers))


def assumed_activations(layer: Layer) -> Activations:
    """The stated density of a layer's input when no real input was run."""
    return Activations(density=ASSUMED_RELU_DENSITY if layer.relu_in else 1.0)


def _lower_layer(
    layer: Layer,
    weights: NestedWeights | None,
    *,
    levels: int,
    bits: tuple[int, int],
    activations: Activations,
    formats: Sequence[str],
    basis: BasisWeights | None,
) -> LayerTrace:
    gemm = layer.gemm
    assert gemm is not None
    shape = (gemm.b * gemm.n, gemm.k)
    weight_bits, activation_bits = bits
    keep = None
    nonzeros = np.full(levels, shape[0] * shape[1], dtype=np.int64)
    if not layer.has_weights:  # two activations: the second operand is stored dense, at activation width
        weight_bits = activation_bits
        dense = np.full(levels, -(-shape[0] * gemm.k * weight_bits // 8), dtype=np.int64)
        storage = dict.fromkeys(formats, dense)
    else:
        if weights is None:  # a shape-only network keeps everything
            keep = np.full(shape, levels, dtype=np.uint8)
        else:
            keep, nonzeros = weights.keep.reshape(shape), weights.nonzeros
        taps = layer.R * layer.S if layer.op in CONV_OPS else 1
        storage = _storage(keep, levels, taps=taps, weight_bits=weight_bits, formats=formats)
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
        coefficients=None if basis is None else CoefficientTrace.of(basis),
    )


def _storage(
    keep: NDArray[np.uint8], levels: int, *, taps: int, weight_bits: int, formats: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Exact encoded bytes per format and level. The groups of N:M formats run along input channels, one tap after another."""
    along_channels = [name for name in formats if isinstance(FORMATS.get(name), GroupedSlots)]
    others = [name for name in formats if taps == 1 or name not in along_channels]
    bits: dict[str, NDArray[np.int64]] = {}
    if others or not along_channels:
        bits |= sizes_by_format(keep, levels, value_bits=weight_bits, allowed=others)
    if taps > 1 and along_channels:
        bits |= sizes_by_format(channels_last(keep, taps), levels, value_bits=weight_bits, allowed=along_channels)
    return {name: -(-bits[name] // 8) for name in formats}


def data_movement(layers: Sequence[Layer], activation_bits: int) -> tuple[DataMovement, ...]:
    """Bytes of the operators without products: every source read once, the output written once."""
    return tuple(
        DataMovement(x.name, x.op, -(-_moved_elements(x, layers[:i], layers[i + 1 :]) * activation_bits // 8))
        for i, x in enumerate(layers)
        if x.op in DATA_OPS - {"view"}  # a view moves nothing
    )


def _moved_elements(layer: Layer, before: Sequence[Layer], after: Sequence[Layer]) -> int:
    if layer.op in ROW_OPS:
        rows = layer.P * layer.Q if layer.P * layer.Q > 1 else _rows(layer, before, after)
        return 2 * rows * layer.K
    sources = max(1, len(layer.sources) if layer.op in ("add", "mul") else 1)
    return layer.input_size * sources + layer.output_size


def _rows(layer: Layer, before: Sequence[Layer], after: Sequence[Layer]) -> int:
    """Rows (tokens) that pass a layer of the tables that state features only.

    A normalisation has as many as the linear layer just before it, if that one produces its features; anything else as many
    as the next product reads of that many features.
    """
    last = next((x for x in reversed(before) if x.gemm is not None), None)
    if layer.op == "layernorm" and last is not None and last.op == "linear" and last.K == layer.K:
        return last.output_size // last.K * last.repeat
    following = (x.gemm.m * x.repeat for x in after if x.gemm is not None and x.has_weights and x.gemm.k == layer.K)
    return next(following, 1)
