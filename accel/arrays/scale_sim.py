"""What SCALE-Sim reports for a product on a systolic array: cycles, utilisations, words of SRAM and DRAM traffic.

SCALE-Sim (Samajdar et al., ISPASS 2020), checked against runs of version 3.0.0 (suites `systolic`, `sparse-systolic`). A
product has m output positions, n filters and k reduction steps; the array has R rows and C columns. It is cut into folds:

    dataflow   on rows   on columns   streamed T   cycles of a fold
    output     m         n            k            T + R + C - 2
    weight     k         n            m            T + 2R + C - 2
    input      k         m            n            T + 2R + C - 2

Every fold costs as much as a full one. These are pure functions of numbers; the array model for whole networks, which
keeps partial sums on chip, is `systolic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ..loopnest import ceil_div
from .scale_sim_kernel import stationary_misses, streamed_misses

Dataflow = Literal["weight_stationary", "output_stationary", "input_stationary"]

#: A buffer is a row of blocks that are filled one after the other; when the last is full all are emptied (version 3.0.0).
BUFFER_BLOCKS = 50


@dataclass(frozen=True)
class SramWords:
    """Words that the array asks of each on-chip buffer. ``counted_outputs`` is the tool's own number: for output
    stationary it adds R + C per fold, an error of the tool that is documented in its issue tracker."""

    inputs: int
    filters: int
    outputs: int
    counted_outputs: int


@dataclass(frozen=True, kw_only=True)
class FoldedProduct:
    """A product of m x k inputs with k x n filters, folded onto rows x columns PEs.

    Raises
    ------
    InputError
        for a dimension or an array side below 1, or an unknown dataflow.
    """

    m: int
    n: int
    k: int
    rows: int
    columns: int
    dataflow: Dataflow

    def __post_init__(self) -> None:
        for name in ("m", "n", "k", "rows", "columns"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} = {getattr(self, name)}: a product and an array need at least 1 in every direction"
                )
        if self.dataflow not in ("weight_stationary", "output_stationary", "input_stationary"):
            raise InputError(
                f"dataflow '{self.dataflow}' must be weight_stationary, output_stationary or input_stationary"
            )

    @cached_property
    def spread(self) -> tuple[int, int, int]:
        """Elements along the rows, along the columns, and streamed through each PE."""
        return {
            "output_stationary": (self.m, self.n, self.k),
            "weight_stationary": (self.k, self.n, self.m),
            "input_stationary": (self.k, self.m, self.n),
        }[self.dataflow]

    @cached_property
    def row_folds(self) -> int:
        return ceil_div(self.spread[0], self.rows)

    @cached_property
    def column_folds(self) -> int:
        return ceil_div(self.spread[1], self.columns)

    @property
    def folds(self) -> int:
        return self.row_folds * self.column_folds

    @property
    def fold_cycles(self) -> int:
        """Cycles of one fold: load of the stationary operand (R, not for output stationary), stream, fill and drain."""
        load = 0 if self.dataflow == "output_stationary" else self.rows
        return self.spread[2] + load + self.rows + self.columns - 2

    @property
    def demand_rows(self) -> int:
        """Cycles of all folds, without waiting for memory."""
        return self.folds * self.fold_cycles

    @property
    def total_cycles(self) -> int:
        """The tool's "Total Cycles" without stalls: the index of the last cycle, counted from 0."""
        return self.demand_rows - 1

    @property
    def mapping_efficiency(self) -> float:
        """Share of PEs that hold something, averaged over folds."""
        along_rows, along_columns, _ = self.spread
        return along_rows * along_columns / (self.folds * self.rows * self.columns)

    @property
    def compute_utilisation(self) -> float:
        """The tool's "Compute Util" as a fraction: for stationary operands its cycles of a fold are R + C - 1 too many."""
        extra = 0 if self.dataflow == "output_stationary" else self.columns - 1
        return self.mapping_efficiency * self.spread[2] / (self.fold_cycles + extra)

    def overall_utilisation(self, macs: int, *, stall_cycles: int = 0) -> float:
        """Multiply-accumulates per PE and cycle of "Total Cycles"; above 1 where ``macs`` counts skipped work.

        The one product that ends in cycle 0 (1 x 1 x 1 on one PE) counts as one cycle.
        """
        return macs / (max(1, self.total_cycles + stall_cycles) * self.rows * self.columns)

    @property
    def sram_words(self) -> SramWords:
        """Words the array reads and writes."""
        inputs, filters, outputs = self.m * self.k, self.k * self.n, self.m * self.n
        if self.dataflow == "output_stationary":
            counted = outputs + self.folds * (self.rows + self.columns)
            return SramWords(inputs * self.column_folds, filters * self.row_folds, outputs, counted)
        outputs *= self.row_folds
        if self.dataflow == "weight_stationary":
            return SramWords(inputs * self.column_folds, filters, outputs, outputs)
        return SramWords(inputs, filters * self.column_folds, outputs, outputs)


@dataclass(frozen=True)
class InputAddresses:
    """Word addresses of the input operand: element (position, step) lies at ``positions[p] + steps[s]``.

    ``absent`` (bool, per address): True where no word lies, i.e. in the border beyond the image that the last windows of a
    strided convolution reach into. Shapes (m,), (k,), (addresses,).
    """

    positions: NDArray[np.int64]
    steps: NDArray[np.int64]
    absent: NDArray[np.bool_]


def window_addresses(*, H: int, W: int, R: int, S: int, C: int, stride: int) -> InputAddresses:
    """Addresses of a convolution's windows in an (H, W, C) image, channels fastest; the tool pads nothing.

    Output positions: ceil((H - R + stride) / stride) per column and likewise per row, so that a window may reach beyond the
    image; those elements are not fetched.
    """
    if min(H, W, R, S, C, stride) < 1 or R > H or S > W:
        raise InputError(f"a window of {R}x{S} with stride {stride} does not fit an image of {H}x{W}x{C}")
    down, across = ceil_div(H - R + stride, stride), ceil_div(W - S + stride, stride)
    height, width = max(H, (down - 1) * stride + R), max(W, (across - 1) * stride + S)
    top, left = np.divmod(np.arange(down * across, dtype=np.int64), across)
    row, rest = np.divmod(np.arange(R * S * C, dtype=np.int64), S * C)
    absent = np.ones((height, width, C), dtype=np.bool_)
    absent[:H, :W] = False
    return InputAddresses((top * width + left) * stride * C, row * width * C + rest, absent.reshape(-1))


def matrix_addresses(*, m: int, k: int) -> InputAddresses:
    """Addresses of an m x k matrix, rows one after the other."""
    return InputAddresses(np.arange(m, dtype=np.int64) * k, np.arange(k, dtype=np.int64), np.zeros(m * k, np.bool_))


def dram_reads(
    product: FoldedProduct, inputs: InputAddresses, *, input_buffer_bytes: int, filter_buffer_bytes: int
) -> tuple[int, int]:
    """Words read from DRAM for inputs and filters where the tool estimates bandwidth itself (mode CALC).

    Its buffers know no reuse distance: a buffer is 50 blocks of floor(bytes / 100) distinct words (half of it is the active
    half, words are bytes); a word that is not there is fetched, and when the last block is full everything is dropped. The
    words are asked for in cycle order: row folds inside column folds, skewed streams, stationary operands bottom row first.

    Raises
    ------
    InputError
        if the addresses do not have the product's shape or a buffer holds less than 100 bytes.
    """
    if inputs.positions.shape != (product.m,) or inputs.steps.shape != (product.k,):
        raise InputError(
            f"input addresses for {inputs.positions.size} x {inputs.steps.size} elements do not belong to a product of "
            f"{product.m} x {product.k}"
        )
    filters = (
        np.arange(product.n, dtype=np.int64) * product.k,
        np.arange(product.k, dtype=np.int64),
        np.zeros(product.n * product.k, np.bool_),
    )
    image = (inputs.positions, inputs.steps, inputs.absent)
    return (
        _operand_reads(product, *image, is_filter=False, block_words=_block_words(input_buffer_bytes)),
        _operand_reads(product, *filters, is_filter=True, block_words=_block_words(filter_buffer_bytes)),
    )


def _block_words(buffer_bytes: int) -> int:
    words = buffer_bytes // (2 * BUFFER_BLOCKS)
    if words < 1:
        raise InputError(f"a buffer of {buffer_bytes} bytes is too small: at least {2 * BUFFER_BLOCKS} are needed")
    return words


def _operand_reads(
    product: FoldedProduct,
    outer: NDArray[np.int64],
    steps: NDArray[np.int64],
    absent: NDArray[np.bool_],
    *,
    is_filter: bool,
    block_words: int,
) -> int:
    """Misses of one operand. ``outer``: address part of its m (or n) elements, ``steps``: of its k reduction steps."""
    capacity = (block_words, BUFFER_BLOCKS)
    folds = (product.column_folds, product.row_folds)
    stationary = product.dataflow == ("weight_stationary" if is_filter else "input_stationary")
    if stationary:
        return stationary_misses(steps, outer, absent, rows=product.rows, columns=product.columns, capacity=capacity)
    if product.dataflow == "output_stationary":  # the reduction streams, positions lie on rows, filters on columns
        lanes = product.columns if is_filter else product.rows
        return streamed_misses(
            steps, outer, absent, folds=folds, lanes=lanes, inner_lanes=not is_filter, capacity=capacity
        )
    return streamed_misses(outer, steps, absent, folds=folds, lanes=product.rows, inner_lanes=True, capacity=capacity)


def layerwise_rows(k: int, *, kept: int, group: int) -> int:
    """Reduction steps left of k where every filter keeps the first ``kept`` of every ``group`` (layer-wise N:M)."""
    check_pattern(kept, group)
    return kept * (k // group) + min(k % group, kept)


def rowwise_rows(k: int, *, block: int) -> int:
    """Rows that k reduction steps occupy row-wise: each filter keeps at most half of each ``block``, all are padded to
    that half, and k to whole pairs of blocks."""
    if block < 2 or block % 2:
        raise InputError(f"row-wise sparsity needs an even block of at least 2, found {block}")
    return ceil_div(k, 2 * block) * block


def check_pattern(kept: int, group: int) -> None:
    """InputError unless 1 <= kept <= group."""
    if not 1 <= kept <= group:
        raise InputError(f"sparsity {kept}:{group}: N:M keeps N of every M elements, so 1 <= N <= M is needed")


def metadata_words(layout: str, *, values: int, k: int, n: int, group: int) -> float:
    """32-bit words that say where ``values`` non-zeros of a k x n operand lie.

    ``ellpack_block``: ceil(log2 M) bits per value; ``csr``: an index per value and k + 1 pointers; ``csc``: n + 1 pointers.
    """
    if layout == "ellpack_block":
        return values * ceil(log2(group)) / 32
    if layout == "csr":
        return values + k + 1
    if layout == "csc":
        return values + n + 1
    raise InputError(f"unknown sparse layout '{layout}': allowed are ellpack_block, csr, csc")
