"""Operands of the SmartDeal array: coefficient rows of the weights, and what activation rows cost on its lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...traces.trace import LayerTrace
from ...workloads.layers import CONV_OPS
from ...workloads.smartdeal.slicing import VECTOR_COLUMNS, Slicing, slicing_of
from ..loopnest import Int64Array, ceil_div
from ..strict import ArrayDescription, Size
from .operands import ConvView, conv_view, input_codes, kept_levels
from .smartdeal_kernel import PairTables

#: Rebuild engines of a line: one rebuilds while the other feeds the multipliers.
ENGINES = 2


class SmartDealArray(ArrayDescription):
    """``dim_m`` slices (filters) of ``dim_c`` lines of ``dim_f`` multipliers (outputs of a row); every mechanism a switch.

    ``index_selector_weights``/``_activations``: skip rows that are zero. ``bit_serial``: off, every ``activation_bits``
    serial multipliers are one parallel multiplier. ``booth``: terms are non-zero radix-4 digits; off, set bits.
    ``synchronised``: the multipliers of a line wait for the slowest at every weight; off, for none within a row.
    ``rebuild_engine``: off, weights are stored plain. ``compact_models``: kernel rows of depthwise layers on lines of
    their own, two weights per line where an output row is one element.
    """

    kind: Literal["smartdeal"]
    dim_m: Size
    dim_c: Size
    dim_f: Size
    index_selector_weights: bool = True
    index_selector_activations: bool = True
    bit_serial: bool = True
    booth: bool = True
    synchronised: bool = True
    rebuild_engine: bool = True
    compact_models: bool = True
    pipeline_stages: int = Field(default=3, gt=0, le=64)

    @property
    def multipliers(self) -> int:
        return self.dim_m * self.dim_c * self.dim_f


@dataclass(frozen=True, eq=False)
class LineView:
    """A layer as the lines see it: ``view`` with rows along its width, ``codes`` int32 (channels, height, width).

    ``transposed``: rows run along the layer's height (column kernels; positions of products that are no convolutions).
    ``vectors``: a coefficient row holds weights of consecutive channels instead of one kernel row.
    """

    view: ConvView
    codes: NDArray[np.int32]
    slicing: Slicing
    transposed: bool
    vectors: bool

    @property
    def rows(self) -> int:
        """Coefficient rows of a filter that hold a weight."""
        return ceil_div(self.slicing.length, self.slicing.columns)

    def sources(self) -> tuple[Int64Array, Int64Array]:
        """Per coefficient row its channel (or run of channels) within the group, and its first line below the output's."""
        row = np.arange(self.rows, dtype=np.int64)
        if self.vectors:
            return row, np.zeros_like(row)
        return row // self.view.taps_high, row % self.view.taps_high * self.view.dilation

    def positions(self, dim_f: int) -> Int64Array:
        """Output position at which each run of ``dim_f`` outputs ends, int64 (output lines, runs)."""
        last = np.minimum(np.arange(dim_f, self.view.out_width + dim_f, dim_f), self.view.out_width) - 1
        line = np.arange(self.view.out_height)
        return np.asarray(
            last[None] * self.view.out_height + line[:, None]
            if self.transposed
            else line[:, None] * self.view.out_width + last[None],
            dtype=np.int64,
        )


def line_view(trace: LayerTrace) -> LineView:
    """The layer as the lines of the array see it."""
    layer, gemm = trace.layer, trace.layer.gemm
    assert gemm is not None
    view, codes = conv_view(layer), input_codes(trace)
    product = layer.op not in CONV_OPS
    slicing = slicing_of(layer.weight_shape or (gemm.b * gemm.n, gemm.k))
    transposed = product or slicing.transposed
    if transposed:
        view = replace(
            view, height=view.width, width=view.height, taps_high=view.taps_wide, taps_wide=view.taps_high
        )  # fmt: skip
        codes = codes.transpose(0, 2, 1)
    return LineView(view, codes, slicing, transposed, vectors=product or view.taps == 1)


def coefficient_keep(trace: LayerTrace, lines: LineView) -> NDArray[np.uint8]:
    """Levels that retain each coefficient, uint8 (groups, filters, rows, columns); of plain layers, each weight."""
    slicing = lines.slicing
    if trace.coefficients is not None:
        keep = trace.coefficients.keep
    else:
        keep = slicing.cut(kept_levels(trace).reshape(slicing.shape))
    shape = (lines.view.groups, lines.view.group_filters, slicing.slices * slicing.rows, slicing.columns)
    return keep.reshape(shape)[:, :, : lines.rows]


def term_counts(codes: NDArray[np.int32], *, bits: int, booth: bool) -> NDArray[np.uint8]:
    """Terms of every input: non-zero digits of its radix-4 Booth recoding (two's complement), or set bits of its magnitude.

    Digit i is bit 2i-1 + bit 2i - 2 * bit 2i+1, hence zero where all three are equal. ``bits``: width of a code; larger
    magnitudes take more digits.
    """
    if not booth:
        return np.bitwise_count(codes)
    peak = max(int(codes.max(initial=0)), -int(codes.min(initial=0)) - 1)
    terms = np.zeros(codes.shape, dtype=np.uint8)
    doubled = codes.astype(np.int64) << 1
    for position in range(0, max(bits, peak.bit_length() + 1), 2):
        triple = doubled >> position & 7
        terms += (triple != 0) & (triple != 7)
    return terms


def active_rows(lines: LineView, array: SmartDealArray) -> NDArray[np.bool_]:
    """Activation rows that are processed, bool (channels, padded height): all but zero ones, if the index selector looks."""
    pad = lines.view.padding
    nonzero = np.pad((lines.codes != 0).any(axis=2), ((0, 0), (pad, pad)))
    return nonzero if array.index_selector_activations else np.ones_like(nonzero)


def pair_tables(lines: LineView, array: SmartDealArray, *, rebuilt: bool) -> PairTables:
    """Cost of every activation row with a coefficient row, per run of ``dim_f`` outputs.

    ``rebuilt``: weights come out of rebuild engines, which take up to a cycle per coefficient of a row and work in turns.
    """
    view, pad = lines.view, lines.view.padding
    terms = term_counts(lines.codes, bits=array.activation_bits, booth=array.booth)
    terms = np.pad(terms, ((0, 0), (pad, pad), (pad, pad)))
    starts = np.arange(0, view.out_width, array.dim_f)
    widths = run_widths(view, array)
    shape = (view.channels, terms.shape[1], starts.size)
    slowest, total, nonzero = (np.zeros(shape, dtype=np.int32) for _ in range(3))
    for tap in range(view.taps_wide):
        left = tap * view.dilation
        seen = terms[:, :, left : left + (view.out_width - 1) * view.stride + 1 : view.stride]
        slowest += np.maximum(np.maximum.reduceat(seen, starts, axis=2), 1)
        total += np.add.reduceat(seen, starts, axis=2, dtype=np.int32)
        nonzero += np.add.reduceat(seen != 0, starts, axis=2, dtype=np.int32)
    if not array.bit_serial:
        nonzero[:] = view.taps_wide * widths
        total = nonzero * array.activation_bits
        slowest[:] = view.taps_wide * array.activation_bits
    elif not array.synchronised:
        slowest = np.maximum(view.taps_wide, -(-total // widths))
    fetched = np.broadcast_to((widths - 1) * view.stride + (view.taps_wide - 1) * view.dilation + 1, shape)
    active = active_rows(lines, array)[:, :, None]
    tables = [_by_source(lines, (table * active).astype(np.int64)) for table in (slowest, nonzero, total, fetched)]
    if rebuilt and lines.vectors:  # a kernel row takes as many cycles anyway
        engines = ENGINES // clusters(lines, array)
        tables[0] = np.where(tables[0], np.maximum(tables[0], ceil_div(VECTOR_COLUMNS, engines)), 0)
    return PairTables(*(table.astype(np.int32) for table in tables))


def _by_source(lines: LineView, table: Int64Array) -> Int64Array:
    """(channels, height, runs) -> (groups, sources, height, runs); a run of channels costs what its channels do."""
    view = lines.view
    table = table.reshape(view.groups, view.group_channels, *table.shape[1:])
    if not lines.vectors:
        return table
    table = np.pad(table, ((0, 0), (0, -view.group_channels % VECTOR_COLUMNS), (0, 0), (0, 0)))
    return np.asarray(np.add.reduceat(table, range(0, table.shape[1], VECTOR_COLUMNS), axis=1))


def run_widths(view: ConvView, array: SmartDealArray) -> Int64Array:
    """Outputs of every run of a line, int64 (runs,)."""
    return np.diff(np.arange(0, view.out_width, array.dim_f), append=view.out_width)


def clusters(lines: LineView, array: SmartDealArray) -> int:
    """Weights that a line works on at once: one per rebuild engine where half its multipliers hold an output row."""
    view = lines.view
    one_row = lines.vectors and view.out_height == 1 and view.out_width <= array.dim_f // ENGINES
    return ENGINES if array.compact_models and one_row else 1


def shared_lines(lines: LineView, array: SmartDealArray) -> int:
    """Lines (or clusters of multipliers) that share the pairs of a tile; a depthwise channel has one unless spread."""
    if lines.view.depthwise and not array.compact_models:
        return 1
    return array.dim_c * clusters(lines, array)


def issue_positions(lines: LineView, array: SmartDealArray) -> Int64Array:
    """Output positions at which each reduction index meets an input that is issued although it may be zero, int64 (b*k,).

    Parallel multipliers take every element of the rows that are processed.
    """
    view = lines.view
    active = active_rows(lines, array)
    counts = np.zeros((view.channels, view.taps_high, view.taps_wide), dtype=np.int64)
    for tap in range(view.taps_high):
        first = tap * view.dilation
        seen = active[:, first : first + (view.out_height - 1) * view.stride + 1 : view.stride]
        counts[:, tap] = (np.count_nonzero(seen, axis=1) * view.out_width)[:, None]
    return counts.reshape(-1)


def rebuild_cycles(nonzeros: NDArray[np.integer], *, parallel: bool = False) -> int:
    """Cycles in which a rebuild engine turns coefficient rows into weights, with the one that empties its output.

    Serial: a non-zero coefficient per cycle, 1 + sum max(1, non-zeros of the row). Parallel: a row per cycle. As the
    project's register-transfer engine. ``nonzeros``: per row.
    """
    return 1 + (nonzeros.size if parallel else int(np.maximum(nonzeros, 1).sum()))
