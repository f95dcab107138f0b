"""Input operands for arrays whose cycles depend on input values: a layer as a convolution, and its input codes.

Where a trace carries real input codes (``Activations.sample``) the first image is used. Otherwise a tensor is drawn, an
assumption the simulation warns of: independent elements, non-zero with the stated density, magnitudes |N(0, peak/4)| rounded
and clipped to 1..peak with peak = 2^(bits-1) - 1, from a generator seeded by ``SEED`` and the layer's name, so that every
level, design and run sees the same tensor.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...traces.trace import LayerTrace
from ...workloads.errors import InputError
from ...workloads.layers import CONV_OPS, Layer
from ..strict import ZeroHandling
from .count_kernel import count_taps

if TYPE_CHECKING:
    from ..design import Design

SEED = 20240607
#: Widest input code: codes are int32.
MAX_CODE_BITS = 31


@dataclass(frozen=True, kw_only=True)
class ConvView:
    """A product as a convolution over a map of ``height`` x ``width``; sizes in elements.

    Other products than convolutions are 1x1 kernels over a map of m x 1 positions, one group per independent product.
    """

    channels: int
    height: int
    width: int
    filters: int
    taps_high: int = 1
    taps_wide: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def out_height(self) -> int:
        return self._out(self.height, self.taps_high)

    @property
    def out_width(self) -> int:
        return self._out(self.width, self.taps_wide)

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def group_filters(self) -> int:
        return self.filters // self.groups

    @property
    def taps(self) -> int:
        return self.taps_high * self.taps_wide

    @property
    def depthwise(self) -> bool:
        """One input channel per group, and more than one group."""
        return self.group_channels == 1 and self.groups > 1

    def _out(self, size: int, taps: int) -> int:
        return (size + 2 * self.padding - self.dilation * (taps - 1) - 1) // self.stride + 1


def conv_view(layer: Layer) -> ConvView:
    """The product of ``layer`` as a convolution."""
    gemm = layer.gemm
    assert gemm is not None
    if layer.op not in CONV_OPS:
        return ConvView(channels=gemm.b * gemm.k, height=gemm.m, width=1, filters=gemm.b * gemm.n, groups=gemm.b)
    return ConvView(
        channels=layer.C,
        height=layer.H,
        width=layer.W,
        filters=layer.K,
        taps_high=layer.R,
        taps_wide=layer.S,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )


def input_pattern(trace: LayerTrace) -> NDArray[np.bool_]:
    """Where the layer's input is non-zero, bool (channels, height, width) of :func:`conv_view`."""
    sample = _sample(trace)
    return sample != 0 if sample is not None else _drawn_pattern(trace, _generator(trace))


def input_codes(trace: LayerTrace) -> NDArray[np.int32]:
    """The layer's input codes, int32 (channels, height, width) of :func:`conv_view`; non-negative where drawn."""
    sample = _sample(trace)
    if sample is not None:
        return sample.astype(np.int32)
    if trace.activation_bits > MAX_CODE_BITS:
        raise InputError(f"layer '{trace.layer.name}': input codes have at most {MAX_CODE_BITS} bits")
    generator = _generator(trace)
    pattern = _drawn_pattern(trace, generator)
    peak = max(1, 2 ** (trace.activation_bits - 1) - 1)
    magnitude = np.abs(generator.standard_normal(pattern.shape, dtype=np.float32)) * (peak / 4)
    return np.asarray(np.clip(np.rint(magnitude), 1, peak) * pattern, dtype=np.int32)


def kept_levels(trace: LayerTrace) -> NDArray[np.uint8]:
    """The keep map, uint8 (b*n, k); the second operand of a product of two activations counts as dense."""
    gemm = trace.layer.gemm
    assert gemm is not None
    if trace.keep is None:
        return np.full((gemm.b * gemm.n, gemm.k), trace.levels, dtype=np.uint8)
    return trace.keep


def both_nonzero(trace: LayerTrace, level: int, tap_nonzeros: NDArray[np.int64]) -> int:
    """Multiply-accumulates of one run whose weight and input are both non-zero.

    ``tap_nonzeros``: int64 (b*k,), how often the input of each reduction index is non-zero over the m positions.
    """
    gemm = trace.layer.gemm
    assert gemm is not None
    if trace.keep is None:
        return int(tap_nonzeros.sum()) * gemm.n
    kept = (trace.keep > level).reshape(gemm.b, gemm.n, gemm.k).sum(axis=1, dtype=np.int64).reshape(-1)
    return int(kept @ tap_nonzeros)


def tap_nonzeros(pattern: NDArray[np.bool_], view: ConvView) -> NDArray[np.int64]:
    """How often the input at each reduction index (c, r, s) is non-zero over all output positions, int64 (b*k,)."""
    pad = view.padding
    padded = np.pad(pattern, ((0, 0), (pad, pad), (pad, pad)))
    counts = np.zeros((view.channels, view.taps_high, view.taps_wide), dtype=np.int64)
    high, wide = (view.out_height - 1) * view.stride + 1, (view.out_width - 1) * view.stride + 1
    for r in range(view.taps_high):
        for s in range(view.taps_wide):
            top, left = r * view.dilation, s * view.dilation
            seen = padded[:, top : top + high : view.stride, left : left + wide : view.stride]
            counts[:, r, s] = np.count_nonzero(seen, axis=(1, 2))
    return counts.reshape(-1)


def tap_positions(view: ConvView) -> NDArray[np.int64]:
    """At how many output positions each kernel tap lies on the map, not on its padding: int64 (taps,), order (r, s)."""

    def inside(outputs: int, size: int, taps: int) -> NDArray[np.int64]:
        first = np.arange(outputs) * view.stride - view.padding
        place = first[None, :] + view.dilation * np.arange(taps)[:, None]
        return np.asarray(np.count_nonzero((place >= 0) & (place < size), axis=1), dtype=np.int64)

    high = inside(view.out_height, view.height, view.taps_high)
    return np.outer(high, inside(view.out_width, view.width, view.taps_wide)).reshape(-1)


def input_nonzero_macs(trace: LayerTrace, level: int | None) -> int:
    """Multiply-accumulates of one run with both operands non-zero; without a level, with any weight and a non-zero input.

    With captured activations: sum over reduction indices of (weights kept there) x (how often the input is non-zero there),
    averaged over the captured inputs and rounded to the nearest integer. Otherwise the stated density x the products whose
    input lies on the map: padding is zero in either case.
    """
    gemm, taps = trace.layer.gemm, trace.activations.tap_nonzeros
    assert gemm is not None
    if taps is None:
        return round(_products_on_map(trace, level) * trace.activations.density)
    return round(both_nonzero(trace, -1 if level is None else level, taps) / trace.activations.images)


def _products_on_map(trace: LayerTrace, level: int | None) -> int:
    """Products of one run of the retained (without a level: all) weights with inputs that are not padding."""
    layer, gemm = trace.layer, trace.layer.gemm
    assert gemm is not None
    if layer.op not in CONV_OPS or layer.padding == 0 or trace.keep is None:
        return gemm.macs if level is None else trace.macs(level) // layer.repeat
    positions = tap_positions(conv_view(layer))
    return int(count_taps(trace.keep, taps=positions.size, level=-1 if level is None else level) @ positions)


def require_zero_handling(
    design: Design, *, weights: tuple[ZeroHandling, ...], inputs: tuple[ZeroHandling, ...]
) -> None:
    """InputError if the design file promises a zero handling that this kind of array does not have."""
    for operand, allowed in (("weights", weights), ("inputs", inputs)):
        found = getattr(design.zero_handling, operand)
        if found not in allowed:
            raise InputError(
                f"design '{design.name}': zero_handling.{operand} = {found}, but arrays of kind '{design.array.kind}' "
                f"can only do {' or '.join(allowed)}"
            )


def _generator(trace: LayerTrace) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(trace.layer.name.encode())])


def _drawn_pattern(trace: LayerTrace, generator: np.random.Generator) -> NDArray[np.bool_]:
    view = conv_view(trace.layer)
    shape = (view.channels, view.height, view.width)
    return np.asarray(generator.random(shape, dtype=np.float32) < trace.activations.density)


def _sample(trace: LayerTrace) -> NDArray[np.int16] | None:
    """The first image of the trace's real inputs as (channels, height, width); None without any."""
    sample = trace.activations.sample
    if sample is None:
        return None
    view, gemm = conv_view(trace.layer), trace.layer.gemm
    assert gemm is not None
    if trace.layer.op in CONV_OPS:
        expected: tuple[int, ...] = (view.channels, view.height, view.width)
    else:
        expected = (gemm.b, gemm.m, gemm.k)
    if sample.ndim != 4 or sample.shape[0] < 1 or sample.shape[1:] != expected:
        raise InputError(
            f"layer '{trace.layer.name}': the sample of real inputs has shape {sample.shape}, must be (images, "
            f"{', '.join(map(str, expected))})"
        )
    first = sample[0]
    if trace.layer.op not in CONV_OPS:
        first = first.transpose(0, 2, 1).reshape(view.channels, view.height, view.width)
    return np.asarray(first)
