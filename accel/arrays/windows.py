"""The input operand of a product as a matrix: which reduction index meets a non-zero input at which output position."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ...traces.trace import LayerTrace
from .operands import ConvView, conv_view, input_pattern


def window_pattern(trace: LayerTrace) -> NDArray[np.bool_]:
    """Non-zeros of the layer's (first) input, bool (b, k, m): reduction order (c, r, s), positions row by row.

    Padding counts as zero. Real input codes are used where the trace has them, a drawn tensor otherwise (:mod:`operands`).
    """
    return windows(input_pattern(trace), conv_view(trace.layer))


def windows(pattern: NDArray[np.bool_], view: ConvView) -> NDArray[np.bool_]:
    """``pattern`` (channels, height, width) seen through the kernel of ``view``, bool (groups, k, positions)."""
    pad, reach_high = view.padding, view.dilation * (view.taps_high - 1) + 1
    reach_wide = view.dilation * (view.taps_wide - 1) + 1
    padded = np.pad(pattern, ((0, 0), (pad, pad), (pad, pad)))
    seen = sliding_window_view(padded, (reach_high, reach_wide), axis=(1, 2))
    seen = seen[:, :: view.stride, :: view.stride, :: view.dilation, :: view.dilation]
    ordered = seen.transpose(0, 3, 4, 1, 2)
    shape = (view.groups, view.group_channels * view.taps, view.out_height * view.out_width)
    return np.ascontiguousarray(ordered).reshape(shape)


def count_positions(pattern: NDArray[np.bool_], block: int) -> NDArray[np.int64]:
    """Non-zeros of ``pattern`` (b, k, m) in each run of ``block`` positions, int64 (b, k, ceil(m / block))."""
    starts = np.arange(0, pattern.shape[2], block)
    return np.asarray(np.add.reduceat(pattern, starts, axis=2, dtype=np.int64))
