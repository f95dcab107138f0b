"""What hardware sees of a network: per layer the loop dimensions, bits, exact bytes and masks of every level at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from ..workloads.layers import Gemm, Layer
from .coefficients import CoefficientTrace, is_coefficient_format

MAX_ACTIVATION_BITS = 32
#: What of a layer's shape hardware sees, besides the GEMM view.
DIMENSIONS = ("C", "H", "W", "K", "P", "Q", "R", "S", "stride", "padding", "dilation", "groups", "repeat")
#: SHA-256 of one layer.
Digest = bytes


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


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerFacts:
    """What a trace says of one product layer beside its masks: a few hundred bytes, however large the layer is.

    ``nonzeros``: int64 (levels,). ``storage``: format name -> int64 (levels,) exact bytes of the encoded weights.
    ``measured``: the zeros of its inputs were captured from real ones. ``bias_bytes``: bytes of one level's biases.
    """

    layer: Layer
    levels: int
    nonzeros: NDArray[np.int64]
    storage: Mapping[str, NDArray[np.int64]]
    measured: bool = False
    weight_bits: int = 8
    activation_bits: int = 8
    bias_bytes: int = 0

    def __post_init__(self) -> None:
        if self.layer.gemm is None:
            raise InputError(f"layer '{self.layer.name}' ({self.layer.op}) is not a product and has no trace")
        if self.nonzeros.shape != (self.levels,) or (np.diff(self.nonzeros) > 0).any():
            raise InputError(f"layer '{self.layer.name}': non-zeros {self.nonzeros.tolist()} do not shrink by level")
        for name, size in self.storage.items():
            if size.shape != (self.levels,) or (size < 0).any():
                raise InputError(f"layer '{self.layer.name}': storage '{name}' is not one size per level")
        if not 1 <= self.activation_bits <= MAX_ACTIVATION_BITS:
            raise InputError(f"activation_bits = {self.activation_bits}; allowed are 1 to {MAX_ACTIVATION_BITS}")

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
        """Exact encoded bytes of the weights at ``level``, biases included; plain ones where a format is for coefficients."""
        stored_as = "dense" if is_coefficient_format(storage_format) else storage_format
        try:
            return int(self.storage[stored_as][level]) + self.bias_bytes
        except KeyError:
            raise InputError(
                f"layer '{self.layer.name}': the trace has no storage format '{storage_format}'; "
                f"it has {', '.join(sorted(self.storage))}"
            ) from None


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerTrace(LayerFacts):
    """One product layer at every sparsity level, with its masks.

    ``keep``: uint8 (rows = b*n, k), reduction index in the order (c, r, s); None where no operand is a stored weight.
    ``measured`` follows from ``activations``. ``coefficients``: of a layer in SmartDeal form.
    """

    keep: NDArray[np.uint8] | None
    activations: Activations
    coefficients: CoefficientTrace | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", self.activations.measured)
        super().__post_init__()
        gemm = self.layer.gemm
        assert gemm is not None
        if self.keep is not None and self.keep.shape != (gemm.b * gemm.n, gemm.k):
            raise InputError(f"layer '{self.layer.name}': keep map has shape {self.keep.shape}")
        self._check_taps(gemm)
        self._check_coefficients()

    def bytes(self, storage_format: str, level: int) -> int:
        """Exact encoded bytes at ``level``, biases included: of coefficients and bases where the format is theirs."""
        if self.coefficients is None or not is_coefficient_format(storage_format):
            return super().bytes(storage_format, level)
        return self.coefficients.bytes(storage_format, level, name=self.layer.name) + self.bias_bytes

    def _check_coefficients(self) -> None:
        if self.coefficients is None:
            return
        if self.keep is None or self.coefficients.slicing.shape != self.layer.weight_shape:
            raise InputError(
                f"layer '{self.layer.name}': coefficients of weights of shape {self.coefficients.slicing.shape}, the layer "
                f"has {self.layer.weight_shape}"
            )
        if not self.coefficients.covers(self.keep):
            raise InputError(f"layer '{self.layer.name}': a weight is retained whose coefficient row is not")

    def _check_taps(self, gemm: Gemm) -> None:
        taps = self.activations.tap_nonzeros
        if taps is None:
            return
        most = self.activations.images * gemm.m
        if taps.shape != (gemm.b * gemm.k,) or taps.min(initial=0) < 0 or taps.max(initial=0) > most:
            raise InputError(
                f"layer '{self.layer.name}': captured activations must be {gemm.b * gemm.k} counts of 0 to {most}"
            )

    def digest(self) -> Digest:
        """SHA-256 over dimensions, masks and activation statistics."""
        dimensions = [self.layer.name, self.layer.op, self.layer.gemm]
        dimensions += [getattr(self.layer, name) for name in DIMENSIONS]
        facts = (self.weight_bits, self.activation_bits, self.bias_bytes, self.nonzeros.tolist())
        sha = hashlib.sha256(repr((dimensions, facts, self.activations.density, self.activations.images)).encode())
        coefficients = None if self.coefficients is None else self.coefficients.keep
        for part in (self.keep, self.activations.tap_nonzeros, self.activations.sample, coefficients):
            if part is not None:
                sha.update(np.ascontiguousarray(part).data)
        return sha.digest()


class LayerSource(Sequence[LayerTrace]):
    """Layers that are read one at a time, when they are asked for; ``facts``: what is known of all of them at once."""

    facts: Sequence[LayerFacts]


def channels_last(keep: NDArray[np.uint8], taps: int) -> NDArray[np.uint8]:
    """A keep map (rows, k) with reduction order (c, tap) in the order (tap, c): input channels beside each other."""
    return np.ascontiguousarray(keep.reshape(len(keep), -1, taps).transpose(0, 2, 1)).reshape(keep.shape)


@dataclass(frozen=True)
class DataMovement:
    """An operator without multiply-accumulates: no accelerator model covers it, its bytes are reported."""

    name: str
    op: str
    bytes: int


@dataclass(frozen=True, eq=False)
class Trace:
    """A network lowered for the accelerator: product layers in execution order and what is not modelled.

    ``layers``: all of them in memory, or a :class:`LayerSource` that reads a layer each time it is asked for; take a layer
    once and let go of it. Sums over layers need the ``facts`` only. ``notes``: the network's, shown with every result.
    """

    network: str
    levels: int
    layers: Sequence[LayerTrace]
    data_movement: Sequence[DataMovement] = ()
    source: str = ""
    weight_densities: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(layer.levels != self.levels for layer in self.facts):
            raise InputError(f"trace of '{self.network}': layers have different numbers of levels")

    @property
    def facts(self) -> Sequence[LayerFacts]:
        """Every layer without its masks; costs nothing."""
        return self.layers.facts if isinstance(self.layers, LayerSource) else self.layers

    def layer(self, name: str) -> LayerTrace:
        """The layer of that name; InputError with the nearest match if there is none."""
        names = [facts.layer.name for facts in self.facts]
        if name not in names:
            raise unknown_name("layer", name, names)
        return self.layers[names.index(name)]

    def check_level(self, level: int) -> None:
        if not 0 <= level < self.levels:
            raise InputError(
                f"level {level} does not exist: '{self.network}' has levels 0 (densest) to {self.levels - 1}"
            )

    def macs(self, level: int) -> int:
        """Multiply-accumulates with a non-zero weight, all layers."""
        self.check_level(level)
        return sum(layer.macs(level) for layer in self.facts)

    def weight_bytes(self, storage_format: str, level: int) -> int:
        """Encoded bytes of all stored weights and biases at ``level``."""
        self.check_level(level)
        return sum(layer.bytes(storage_format, level) for layer in self.facts if layer.layer.has_weights)

    def digest(self) -> str:
        """Names the input of a result: SHA-256 over the layers' digests."""
        return combined_digest(layer.digest() for layer in self.layers)


def combined_digest(layers: Iterable[Digest]) -> str:
    """The digest of a trace whose layers have these digests, in execution order."""
    return hashlib.sha256(b"".join(layers)).hexdigest()
