"""What hardware sees of a network: per layer the loop dimensions, bits, exact bytes and masks of every level at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError
from ..workloads.layers import Layer

MAX_ACTIVATION_BITS = 32
#: What of a layer's shape hardware sees, besides the GEMM view.
DIMENSIONS = ("C", "H", "W", "K", "P", "Q", "R", "S", "stride", "padding", "dilation", "groups", "repeat")


@dataclass(frozen=True, eq=False)
class Activations:
    """Zeros of a layer's input operand.

    Either captured from real inputs: ``tap_nonzeros[j]`` (int64, shape (b*k,)) counts, over ``images`` inputs and all m
    output positions, how often the operand of reduction index j is non-zero (padding counts as zero); or assumed:
    ``tap_nonzeros`` is None and ``density`` is the stated fraction. ``sample`` (optional): input codes of a few real images
    for arrays whose cycles depend on values, shape (images, C, H, W), or (images, b, m, k) where no convolution reads them.
    """

    density: float
    images: int = 0
    tap_nonzeros: NDArray[np.int64] | None = None
    sample: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.density <= 1.0:
            raise InputError(f"activation density {self.density} is outside 0..1")
        if self.tap_nonzeros is not None and self.images < 1:
            raise InputError(f"activation zeros captured from {self.images} images; at least 1 is needed")

    @property
    def measured(self) -> bool:
        return self.tap_nonzeros is not None


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One product layer at every sparsity level.

    ``keep``: uint8 (rows = b*n, k), reduction index in the order (c, r, s); None where no operand is a stored weight.
    ``nonzeros``: int64 (levels,). ``storage``: format name -> int64 (levels,) exact bytes of the encoded weights.
    ``bias_bytes``: bytes of one level's biases.
    """

    layer: Layer
    levels: int
    keep: NDArray[np.uint8] | None
    nonzeros: NDArray[np.int64]
    storage: Mapping[str, NDArray[np.int64]]
    activations: Activations
    weight_bits: int = 8
    activation_bits: int = 8
    bias_bytes: int = 0

    def __post_init__(self) -> None:
        gemm = self.layer.gemm
        if gemm is None:
            raise InputError(f"layer '{self.layer.name}' ({self.layer.op}) is not a product and has no trace")
        if self.keep is not None and self.keep.shape != (gemm.b * gemm.n, gemm.k):
            raise InputError(f"layer '{self.layer.name}': keep map has shape {self.keep.shape}")
        if self.nonzeros.shape != (self.levels,) or (np.diff(self.nonzeros) > 0).any():
            raise InputError(f"layer '{self.layer.name}': non-zeros {self.nonzeros.tolist()} do not shrink by level")
        for name, size in self.storage.items():
            if size.shape != (self.levels,) or (size < 0).any():
                raise InputError(f"layer '{self.layer.name}': storage '{name}' is not one size per level")
        if not 1 <= self.activation_bits <= MAX_ACTIVATION_BITS:
            raise InputError(f"activation_bits = {self.activation_bits}; allowed are 1 to {MAX_ACTIVATION_BITS}")
        self._check_taps()

    def _check_taps(self) -> None:
        taps, gemm = self.activations.tap_nonzeros, self.layer.gemm
        if taps is None or gemm is None:
            return
        most = self.activations.images * gemm.m
        if taps.shape != (gemm.b * gemm.k,) or taps.min(initial=0) < 0 or taps.max(initial=0) > most:
            raise InputError(
                f"layer '{self.layer.name}': captured activations must be {gemm.b * gemm.k} counts of 0 to {most}"
            )

    @property
    def weights(self) -> int:
        """Elements of the (dense) second operand."""
        assert self.layer.gemm is not None
        return self.layer.gemm.b * self.layer.gemm.n * self.layer.gemm.k

    def macs(self, level: int) -> int:
        """Multiply-accumulates with a non-zero weight at ``level``: nnz * m * repeat, exact."""
        assert self.layer.gemm is not None
        return int(self.nonzeros[level]) * self.layer.gemm.m * self.layer.repeat

    def bytes(self, storage_format: str, level: int) -> int:
        """Exact encoded bytes of the weights at ``level``, biases included."""
        try:
            return int(self.storage[storage_format][level]) + self.bias_bytes
        except KeyError:
            raise InputError(
                f"layer '{self.layer.name}': the trace has no storage format '{storage_format}'; "
                f"it has {', '.join(sorted(self.storage))}"
            ) from None


@dataclass(frozen=True)
class DataMovement:
    """An operator without multiply-accumulates: no accelerator model covers it, its bytes are reported."""

    name: str
    op: str
    bytes: int


@dataclass(frozen=True, eq=False)
class Trace:
    """A network lowered for the accelerator: product layers in execution order and what is not modelled."""

    network: str
    levels: int
    layers: Sequence[LayerTrace]
    data_movement: Sequence[DataMovement] = ()
    source: str = ""
    weight_densities: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        if any(layer.levels != self.levels for layer in self.layers):
            raise InputError(f"trace of '{self.network}': layers have different numbers of levels")

    def check_level(self, level: int) -> None:
        if not 0 <= level < self.levels:
            raise InputError(
                f"level {level} does not exist: '{self.network}' has levels 0 (densest) to {self.levels - 1}"
            )

    def macs(self, level: int) -> int:
        """Multiply-accumulates with a non-zero weight, all layers."""
        self.check_level(level)
        return sum(layer.macs(level) for layer in self.layers)

    def weight_bytes(self, storage_format: str, level: int) -> int:
        """Encoded bytes of all stored weights and biases at ``level``."""
        self.check_level(level)
        return sum(layer.bytes(storage_format, level) for layer in self.layers if layer.layer.has_weights)

    def digest(self) -> str:
        """SHA-256 over dimensions, masks and activation statistics: names the input of a result."""
        sha = hashlib.sha256()
        for layer in self.layers:
            dimensions = [layer.layer.name, layer.layer.op, layer.layer.gemm]
            dimensions += [getattr(layer.layer, name) for name in DIMENSIONS]
            facts = (layer.weight_bits, layer.activation_bits, layer.bias_bytes, layer.nonzeros.tolist())
            sha.update(repr((dimensions, facts, layer.activations.density, layer.activations.images)).encode())
            for part in (layer.keep, layer.activations.tap_nonzeros, layer.activations.sample):
                if part is not None:
                    sha.update(np.ascontiguousarray(part).data)
        return sha.hexdigest()
