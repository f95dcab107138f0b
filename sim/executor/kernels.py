"""The executor's inner loops: direct sparse convolution, sparse row products, pooling, activations.

Plain functions on plain arrays, compiled by Numba without the interpreter lock, so that several Python threads may run
them on different images. That replaces ``prange``: its thread count is global state, and it doubles the compile time.
Every output element is summed by one thread in a fixed order: results do not depend on the number of threads.

``contract`` (fused multiply-add) is the only relaxed floating-point rule; it drops one rounding per product. With n
products per output and unit roundoff u = 2**-24 the error against exact arithmetic stays below
(n + 2) * u * sum |v * x| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), whatever the order.

Callees are inlined: compiling them with their caller takes half the time. For the same reason kernels that write sums apply
only the activations that clamp; curves take a pass of their own (``activate``).

Tensors are float32 of shape (images, elements of one image).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .geometry import Planes, Window

Floats = NDArray[np.float32]
Offsets = NDArray[np.int32]
Pointers = NDArray[np.int64]

#: Activation codes of the kernels.
NONE, RELU, RELU6, SILU, GELU, SIGMOID, TANH = range(7)
#: Those that kernels apply where they write.
CLAMPS = (NONE, RELU, RELU6)

_index = np.uint64  # unsigned: spares the wrap-around of negative indices, which would block vector code


def _activate_scalar(x: np.float32, code: int) -> np.float32:
    """One activation value; x is its argument, code names the function."""
    if code == RELU:
        return max(x, np.float32(0.0))
    if code == RELU6:
        return min(max(x, np.float32(0.0)), np.float32(6.0))
    if code == GELU:
        return np.float32(0.5 * x * (1.0 + math.erf(x * 0.7071067811865476)))
    if code == TANH:
        return np.float32(math.tanh(x))
    if code in (SILU, SIGMOID):
        # exp of a negative number only: no overflow for any input.
        z = math.exp(-abs(x))
        gate = 1.0 / (1.0 + z) if x >= 0.0 else z / (1.0 + z)
        return np.float32(gate * x) if code == SILU else np.float32(gate)
    return x


activate_scalar = njit(cache=True, nogil=True, error_model="numpy")(_activate_scalar)


def _activate(tensor: Floats, code: int) -> None:
    """Apply an activation in place. tensor : float32 (images, elements); code : int."""
    flat = tensor.reshape(-1)
    for i in range(flat.size):
        flat[i] = activate_scalar(flat[i], code)


activate = njit(cache=True, nogil=True, error_model="numpy")(_activate)


def _error_function(tensor: Floats) -> None:
    """Apply the error function in place. tensor : float32 or float64, any contiguous shape."""
    flat = tensor.reshape(-1)
    for i in range(flat.size):
        flat[i] = math.erf(flat[i])


error_function = njit(cache=True, nogil=True, error_model="numpy")(_error_function)


def _pack(image: Floats, planes: Floats, p: Planes) -> None:
    """Copy one image (float32, (C*H*W,)) into its zero-padded phase planes (float32, (>= size,)); p : Planes."""
    planes[:] = np.float32(0.0)
    row_stride, column_stride = p.row_stride, p.column_stride
    for c in range(p.channels):
        for i in range(p.row_phases):
            for j in range(p.column_phases):
                base = ((c * p.row_phases + i) * p.column_phases + j) * p.plane
                first = max(0, -((j - p.left) // column_stride))
                last = max(first, min(p.columns, -((j - p.left - p.width) // column_stride)))
                for y in range(p.rows):
                    row = y * row_stride + i - p.top
                    if row < 0 or row >= p.height:
                        continue
                    source = _index((c * p.height + row) * p.width + j - p.left + first * column_stride)
                    target = _index(base + y * p.pitch + first)
                    if column_stride == 1:
                        for x in range(_index(last - first)):
                            planes[target + x] = image[source + x]
                    else:
                        for x in range(_index(last - first)):
                            planes[target + x] = image[source + x * _index(column_stride)]


pack = njit(cache=True, nogil=True, error_model="numpy", inline="always")(_pack)


def _accumulate(
    run: Floats, length: int, planes: Floats, base: int, values: Floats, offsets: Offsets, first: int, last: int
) -> None:
    """run[x] += sum over i in [first, last) of values[i] * planes[base + offsets[i] + x], for x < length.

    Eight weights per pass over the run: one load and store of the sum for eight products.
    """
    n = _index(length)
    i = first
    while i + 8 <= last:
        v0, v1, v2, v3 = values[i], values[i + 1], values[i + 2], values[i + 3]
        v4, v5, v6, v7 = values[i + 4], values[i + 5], values[i + 6], values[i + 7]
        a0, a1 = _index(base + offsets[i]), _index(base + offsets[i + 1])
        a2, a3 = _index(base + offsets[i + 2]), _index(base + offsets[i + 3])
        a4, a5 = _index(base + offsets[i + 4]), _index(base + offsets[i + 5])
        a6, a7 = _index(base + offsets[i + 6]), _index(base + offsets[i + 7])
        for x in range(n):
            low = v0 * planes[a0 + x] + v1 * planes[a1 + x] + v2 * planes[a2 + x] + v3 * planes[a3 + x]
            high = v4 * planes[a4 + x] + v5 * planes[a5 + x] + v6 * planes[a6 + x] + v7 * planes[a7 + x]
            run[x] += low + high
        i += 8
    while i + 2 <= last:
        v0, v1 = values[i], values[i + 1]
        a0, a1 = _index(base + offsets[i]), _index(base + offsets[i + 1])
        for x in range(n):
            run[x] += v0 * planes[a0 + x] + v1 * planes[a1 + x]
        i += 2
    if i < last:
        v0, a0 = values[i], _index(base + offsets[i])
        for x in range(n):
            run[x] += v0 * planes[a0 + x]


accumulate = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")(_accumulate)


def _store_rows(run: Floats, pitch: int, out: Floats, first: int, rows: int, width: int, code: int) -> None:
    """Write rows of a run (row pitch ``pitch``) without the gaps to out[first:], clamped."""
    n = _index(width)
    for y in range(rows):
        source, target = _index(y * pitch), _index(first + y * width)
        if code == RELU:
            for x in range(n):
                out[target + x] = max(run[source + x], np.float32(0.0))
        elif code == RELU6:
            for x in range(n):
                out[target + x] = min(max(run[source + x], np.float32(0.0)), np.float32(6.0))
        else:
            for x in range(n):
                out[target + x] = run[source + x]


store_rows = njit(cache=True, nogil=True, error_model="numpy", inline="always")(_store_rows)


def _convolve(
    inputs: Floats,
    outputs: Floats,
    scratch: Floats,
    run: Floats,
    values: Floats,
    offsets: Offsets,
    row_start: Pointers,
    row_end: Pointers,
    bias: Floats,
    p: Planes,
    tile_rows: int,
    lanes: int,
    code: int,
) -> None:
    """Direct sparse convolution with bias and clamp (Park et al., SkimCaffe; arXiv 2112.15445).

    inputs : float32 (images, C*H*W); outputs : float32 (images, K*P*Q), written.
    scratch : float32, at least the planes' size (unused where the input is read in place).
    run : float32, sums of ``tile_rows`` output rows of one channel. bias : float32 (K,). p : Planes.
    lanes : run lengths are rounded up to a multiple of this (1 where the planes have no slack behind them).
    code : one of :data:`CLAMPS`.
    """
    for image in range(inputs.shape[0]):
        planes = inputs[image]
        if p.packed:
            pack(inputs[image], scratch, p)
            planes = scratch
        out = outputs[image]
        for y in range(0, p.out_height, tile_rows):
            rows = min(tile_rows, p.out_height - y)
            length = ((rows - 1) * p.pitch + p.out_width + lanes - 1) // lanes * lanes
            for k in range(row_start.size):
                run[:length] = bias[k]
                accumulate(run, length, planes, y * p.pitch, values, offsets, row_start[k], row_end[k])
                first = (k * p.out_height + y) * p.out_width
                store_rows(run, p.pitch, out, first, rows, p.out_width, code)


convolve = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(_convolve)


def _row_products(
    inputs: Floats,
    outputs: Floats,
    rows: int,
    values: Floats,
    offsets: Offsets,
    row_start: Pointers,
    row_end: Pointers,
    bias: Floats,
    code: int,
) -> None:
    """Sparse matrix times each of ``rows`` input vectors per image, with bias and clamp.

    inputs : float32 (images, rows*k); outputs : float32 (images, rows*n), written; bias : float32 (n,).
    code : one of :data:`CLAMPS`.
    Four partial sums per output hide the latency of the additions; their order is fixed.
    """
    n, k = row_start.size, inputs.shape[1] // rows
    for image in range(inputs.shape[0]):
        for t in range(rows):
            x = inputs[image, t * k : (t + 1) * k]
            for r in range(n):
                s0 = s1 = s2 = s3 = np.float32(0.0)
                i, last = row_start[r], row_end[r]
                while i + 4 <= last:
                    s0 += values[i] * x[offsets[i]]
                    s1 += values[i + 1] * x[offsets[i + 1]]
                    s2 += values[i + 2] * x[offsets[i + 2]]
                    s3 += values[i + 3] * x[offsets[i + 3]]
                    i += 4
                while i < last:
                    s0 += values[i] * x[offsets[i]]
                    i += 1
                total = (s0 + s1) + (s2 + s3) + bias[r]
                if code != NONE:
                    total = max(total, np.float32(0.0))
                if code == RELU6:
                    total = min(total, np.float32(6.0))
                outputs[image, t * n + r] = total


row_products = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})(_row_products)


def _pool(inputs: Floats, outputs: Floats, w: Window, average: bool) -> None:
    """Maximum (padding never wins) or average (padding counts as zeros) over windows.

    inputs : float32 (images, C*H*W); outputs : float32 (images, C*P*Q), written; w : Window; average : bool.
    Averages are summed in float64: global pools are long.
    """
    for image in range(inputs.shape[0]):
        for c in range(w.channels):
            for y in range(w.out_height):
                for x in range(w.out_width):
                    largest, total = np.float32(-np.inf), np.float64(0.0)
                    for r in range(w.kernel_height):
                        row = y * w.stride + r * w.dilation - w.padding
                        if row < 0 or row >= w.height:
                            continue
                        for s in range(w.kernel_width):
                            column = x * w.stride + s * w.dilation - w.padding
                            if 0 <= column < w.width:
                                value = inputs[image, (c * w.height + row) * w.width + column]
                                largest = max(largest, value)
                                total += value
                    result = np.float32(total / (w.kernel_height * w.kernel_width)) if average else largest
                    outputs[image, (c * w.out_height + y) * w.out_width + x] = result


pool = njit(cache=True, nogil=True, error_model="numpy")(_pool)
