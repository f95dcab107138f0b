"""A tensor core on one GEMM with stated densities: cycles, action counts and the mapping that needs the least of them.

The core of the Sparseloop case study (Wu et al., MICRO 2022, figure 15): four sub-partitions of 16 rows x 16 multipliers.
Weights A (M x K) stay in one-word registers at the multipliers (LRF) while up to 128 columns of the inputs B (K x N) pass;
the 16 products of a row are summed and added to a partial sum Z in the register file (RF); A and B come from a shared
memory (SMEM) of limited bandwidth; K is never split between DRAM and SMEM. A structured pattern, two of every g weights,
needs 2/g of the issue steps, but every step still needs the inputs of 16 g / 2 reduction indices: SMEM becomes the bound.

Accesses, with r = ceil(M / 64) row blocks and c = columns held stationary:

    LRF: a fill per A word and group of c columns, a read per MAC.
    RF: a read and a write per 16 MACs, as Timeloop, the tool of the case study, counts partial sums (model/buffer.cpp): a
    tile of Z is filled once, one write per sum; its first update overwrites what was filled, each later one reads first.
    SMEM reads: A once per group of c columns; B once per row block.   SMEM writes: what DRAM delivers.
    DRAM: Z once; A again for every column supertile that cannot keep it (rows inner), or B for every row supertile.

Metadata words are packed whole into data words: floor(8 / bits) of them per byte of bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Literal

from ...workloads.errors import InputError
from ..loopnest import ceil_div

#: Weight patterns by name: dense core; 2:4 only; two of every 4, 6 or 8.
Mode = Literal["dense", "stc_2_4", "flexible_2_m"]
#: How a kept weight says where it stood: its position in the group, or the zeros since the one before.
WeightIndex = Literal["coordinate", "run_length"]
GROUPS: Mapping[str, tuple[int, ...]] = {"dense": (), "stc_2_4": (4,), "flexible_2_m": (8, 6, 4)}
KEPT = 2
_BYTE_BITS = 8


@dataclass(frozen=True, kw_only=True)
class TensorCore:
    """Sizes of the core. Bandwidths in bytes per cycle."""

    partitions: int = 4
    rows: int = 16
    lanes: int = 16
    stationary_columns: int = 128
    smem_bytes: int = 262144
    smem_bytes_per_cycle: int = 42
    dram_read_bytes_per_cycle: int = 32
    dram_write_bytes_per_cycle: int = 32
    blocks_per_supertile: int = 8

    @property
    def block_rows(self) -> int:
        return self.partitions * self.rows

    @property
    def macs(self) -> int:
        return self.block_rows * self.lanes


@dataclass(frozen=True)
class WeightPattern:
    """``kept`` of every ``group`` weights along K are issued; ``index_bits`` of metadata each (0 = dense, no metadata)."""

    kept: int
    group: int
    index_bits: int

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}" if self.index_bits else "dense"

    @property
    def density(self) -> Fraction:
        return Fraction(self.kept, self.group)

    @property
    def metadata_ratio(self) -> Fraction:
        """Metadata per data byte as bandwidth sees it."""
        return Fraction(1, _BYTE_BITS // self.index_bits) if self.index_bits else Fraction(0)


DENSE = WeightPattern(1, 1, 0)


def pattern_of(group: int, index: WeightIndex) -> WeightPattern:
    """Two of every ``group``. A coordinate takes ceil(log2 group) bits.

    A run length is as wide as the case study makes it: it counts 0 to group / 2 zeros, 2 bits for 2:4 and 2:6, 3 for 2:8. The
    case study neglects the padding that longer runs (up to group - 2) would need, and so does this model.
    """
    values = group if index == "coordinate" else group // KEPT + 1
    return WeightPattern(KEPT, group, max(1, (values - 1).bit_length()))


def pattern_for_density(mode: Mode, density: float, *, index: WeightIndex = "coordinate") -> WeightPattern:
    """The sparsest pattern the core has that still holds a weight matrix of ``density``."""
    if not 0 < density <= 1:
        raise InputError(f"weight density {density:g} must lie above 0 and not above 1")
    for group in GROUPS[mode]:
        # 2:6 holds a density published as 0.3333.
        if density <= KEPT / group:
            return pattern_of(group, index)
    return DENSE


@dataclass(frozen=True, kw_only=True)
class GemmRun:
    """A GEMM on a core: weights rows x reduction, inputs reduction x columns.

    ``input_density``: share of non-zero inputs; it matters only with ``compressed_inputs`` (a bit mask and the non-zeros).
    """

    core: TensorCore
    rows: int
    reduction: int
    columns: int
    pattern: WeightPattern
    compressed_inputs: bool = False
    input_density: float = 1.0

    def __post_init__(self) -> None:
        if min(self.rows, self.reduction, self.columns) < 1:
            raise InputError(f"empty GEMM {self.rows} x {self.reduction} x {self.columns}")
        if not 0 <= self.input_density <= 1:
            raise InputError(f"input density {self.input_density:g} is outside 0..1")

    @cached_property
    def steps(self) -> int:
        """Issue steps per column: each takes one weight per multiplier."""
        return ceil_div(self.reduction * self.pattern.kept, self.pattern.group * self.core.lanes)

    @cached_property
    def padded_reduction(self) -> int:
        """Reduction indices in whole issue steps; the last group's gap is stored and issued as zeros."""
        return self.steps * self.core.lanes * self.pattern.group // self.pattern.kept

    @property
    def row_blocks(self) -> int:
        return ceil_div(self.rows, self.core.block_rows)

    @property
    def dense_macs(self) -> int:
        return self.rows * self.padded_reduction * self.columns

    @property
    def issued_macs(self) -> int:
        return self.rows * self.steps * self.core.lanes * self.columns

    @property
    def weight_words(self) -> int:
        return self.rows * self.steps * self.core.lanes

    @cached_property
    def input_words(self) -> int:
        """Inputs as stored: all, or the non-zero ones."""
        size = self.padded_reduction * self.columns
        return ceil(Fraction(str(self.input_density)) * size) if self.compressed_inputs else size

    @property
    def input_mask_bytes(self) -> Fraction:
        return Fraction(self.padded_reduction * self.columns, _BYTE_BITS) if self.compressed_inputs else Fraction(0)


@dataclass(frozen=True, kw_only=True)
class CoreMapping:
    """Columns held stationary, row and column blocks per SMEM supertile, and whether row supertiles are the inner loop."""

    stationary: int
    row_supertiles: int
    column_supertiles: int
    rows_inner: bool


@dataclass(frozen=True)
class CoreResult:
    """``actions``: name -> count (Fraction where words are partly filled); see :func:`price`."""

    mapping: CoreMapping
    cycles: int
    actions: Mapping[str, Fraction]


def evaluate(run: GemmRun, mapping: CoreMapping) -> CoreResult:
    """Cycles and action counts of one mapping. Data actions count bytes, MAC and RF actions operations."""
    core, ratio = run.core, run.pattern.metadata_ratio
    columns_of_weights = ceil_div(run.columns, mapping.stationary)
    weight_reads, input_reads = run.weight_words * columns_of_weights, run.input_words * run.row_blocks
    mask_reads = run.input_mask_bytes * run.row_blocks
    weight_fetch = run.weight_words * (mapping.column_supertiles if _refetched(mapping, weights=True) else 1)
    input_passes = mapping.row_supertiles if _refetched(mapping, weights=False) else 1
    input_fetch = run.input_words * input_passes
    outputs = run.rows * run.columns
    smem_bytes = ceil(weight_reads * (1 + ratio)) + input_reads + mask_reads
    cycles = max(
        run.row_blocks * run.steps * run.columns,
        ceil(smem_bytes / Fraction(core.smem_bytes_per_cycle)),
        ceil_div(weight_fetch + input_fetch, core.dram_read_bytes_per_cycle),
        ceil_div(outputs, core.dram_write_bytes_per_cycle),
    )
    sums = Fraction(run.issued_macs, core.lanes)
    actions = {
        "mac": Fraction(run.issued_macs),
        "lrf": Fraction(run.issued_macs + weight_reads),
        "lrf_metadata": (run.issued_macs + weight_reads) * ratio,
        "rf_read": sums - outputs,
        "rf_write": sums + outputs,
        "smem_read": Fraction(weight_reads + input_reads),
        "smem_write": Fraction(weight_fetch + input_fetch),
        "smem_metadata_read": weight_reads * ratio + mask_reads,
        "smem_metadata_write": weight_fetch * ratio + run.input_mask_bytes * input_passes,
        "dram_read": Fraction(weight_fetch + input_fetch),
        "dram_write": Fraction(outputs),
    }
    return CoreResult(mapping, cycles, actions)


def price(result: CoreResult, unit_pj: Mapping[str, float]) -> float:
    """Energy in picojoules: sum over actions of count x ``unit_pj``; InputError for an action without a unit energy."""
    missing = [name for name in result.actions if name not in unit_pj]
    if missing:
        raise InputError(f"no unit energy for {', '.join(missing)}")
    return sum(float(count) * unit_pj[name] for name, count in result.actions.items())


def best_mapping(run: GemmRun, unit_pj: Mapping[str, float]) -> CoreResult:
    """The mapping with the fewest cycles, and among those the least energy, of all perfect factorisations.

    Raises
    ------
    InputError
        if no tile of the GEMM fits the shared memory.
    """
    best: tuple[int, float] | None = None
    chosen: CoreResult | None = None
    for mapping in mappings(run):
        result = evaluate(run, mapping)
        score = (result.cycles, price(result, unit_pj))
        if best is None or score < best:
            best, chosen = score, result
    if chosen is None:
        raise InputError(
            f"GEMM {run.rows} x {run.reduction} x {run.columns} is too large for any tiling: one block of weights and "
            f"inputs exceeds the shared memory of {run.core.smem_bytes} bytes"
        )
    return chosen


def mappings(run: GemmRun) -> Iterator[CoreMapping]:
    """All mappings whose supertiles fit the shared memory."""
    core = run.core
    for stationary in _divisors(run.columns, core.stationary_columns):
        column_blocks = run.columns // stationary
        for row_share in _divisors(run.row_blocks, core.blocks_per_supertile):
            for column_share in _divisors(column_blocks, core.blocks_per_supertile):
                rows, columns = run.row_blocks // row_share, column_blocks // column_share
                held = Fraction(run.weight_words, rows) + Fraction(run.input_words, columns)
                if held > core.smem_bytes:
                    continue
                for rows_inner in (False, True):
                    yield CoreMapping(
                        stationary=stationary, row_supertiles=rows, column_supertiles=columns, rows_inner=rows_inner
                    )


def _refetched(mapping: CoreMapping, *, weights: bool) -> bool:
    """An operand comes again if its supertiles are the inner loop: they change before the other operand's do."""
    inner = mapping.rows_inner if weights else not mapping.rows_inner
    supertiles = mapping.row_supertiles if weights else mapping.column_supertiles
    return inner and supertiles > 1


def _divisors(number: int, limit: int) -> list[int]:
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]
