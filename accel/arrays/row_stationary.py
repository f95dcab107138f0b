"""Row stationary: how a convolution lies on the PE array, and which loop blocking needs the least energy.

A *PE set* of R x E PEs (kernel rows x output rows) computes one output plane from one input plane; each PE slides a kernel
row over an input row. Sets taller or wider than the array are folded, smaller ones replicated over channels and filters (Chen
et al., ISCA 2016 and JSSC 2017). Around the array three loops remain, over input channels (i), filters (o) and images (b),
blocked at the global buffer and again at the PEs' register files. The counting of accesses follows the analysis of Gao et
al. (ASPLOS 2017), which reproduces ISCA 2016's figure 10:

* an operand is fetched anew for every iteration of a loop it does not depend on that runs outside its own innermost loop;
* partial sums are read as well as written: 2 f - 1 instead of f fetches;
* register files: one access per MAC for filters and inputs, two for partial sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ..loopnest import ceil_div

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Operands and the loops (0 channels, 1 filters, 2 images) they depend on, and the one they do not.
OPERANDS: Mapping[str, tuple[tuple[int, int], int]] = {
    "filters": ((0, 1), 2),
    "inputs": ((0, 2), 1),
    "sums": ((1, 2), 0),
}
_LEVELS = 2  # global buffer, register files
_ORDERS = tuple(itertools.permutations(range(3)))  # position of each loop, 0 = innermost


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """One convolution: C channels to K filters, R x S taps, E x F outputs, ``images`` inputs."""

    C: int
    K: int
    E: int
    F: int
    R: int
    S: int
    stride: int
    images: int

    def __post_init__(self) -> None:
        if min(self.C, self.K, self.E, self.F, self.R, self.S, self.stride, self.images) < 1:
            raise InputError(f"empty convolution {self}")

    @property
    def macs(self) -> int:
        return self.C * self.K * self.E * self.F * self.R * self.S * self.images


@dataclass(frozen=True, kw_only=True)
class RowStationaryChip:
    """Array size in PEs, capacities in words, and energy per word access (DRAM, buffer, array) in any unit."""

    rows: int
    columns: int
    buffer_words: int
    register_words: int
    dram_cost: float
    buffer_cost: float
    array_cost: float


@dataclass(frozen=True)
class Placement:
    """Folding and replication of the PE set: ``rows_at_a_time`` output rows per pass (a mean where folds differ)."""

    fold_high: int
    fold_wide: int
    copies_high: int
    copies_wide: int


def place(shape: ConvShape, *, rows: int, columns: int) -> Placement:
    """Fold or replicate the R x E PE set; a set too wide first uses the copies that fit above each other."""
    fold_high, copies_high = (ceil_div(shape.R, rows), 1) if rows < shape.R else (1, rows // shape.R)
    fold_wide, copies_wide = (ceil_div(shape.E, columns), 1) if columns < shape.E else (1, columns // shape.E)
    moved = min(copies_high, fold_wide)
    return Placement(fold_high, ceil_div(fold_wide, moved), copies_high // moved, copies_wide)


@dataclass(frozen=True)
class Blocking3:
    """Iterations of the loops (channels, filters, images) at DRAM, buffer and register file, and words moved."""

    loops: tuple[tuple[int, int, int], ...]
    dram_words: float
    buffer_words: float
    array_words: float


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one pass over the array moves and holds, per operand in words, and how often it is repeated."""

    counts: tuple[int, int, int]
    dram: Mapping[str, float]
    buffer: Mapping[str, float]
    array: Mapping[str, float]
    held: Mapping[str, int]
    registers: Mapping[str, int]


@lru_cache(maxsize=256)
def best_blocking(shape: ConvShape, chip: RowStationaryChip) -> Blocking3:
    """The blocking and loop order with the least energy, exhaustive over divisors and both levels' orders.

    Raises
    ------
    InputError
        if not even one pass fits the buffer and register files.
    """
    best: tuple[float, Blocking3] | None = None
    for one in _passes(shape, chip):
        found = _search(one, chip)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        raise InputError(
            f"convolution {shape} is too large for any tiling: one pass exceeds the global buffer of {chip.buffer_words} "
            f"words or the register files of {chip.register_words}"
        )
    return best[1]


def _passes(shape: ConvShape, chip: RowStationaryChip) -> Iterator[_Pass]:
    """All ways to split the vertical copies between channels and filters that need the fewest passes."""
    placed = place(shape, rows=chip.rows, columns=chip.columns)
    splits = []
    for channels in _divisors(placed.copies_high):
        filters = placed.copies_high // channels * placed.copies_wide
        counts = (ceil_div(shape.C, channels), ceil_div(shape.K, filters), shape.images * placed.fold_wide)
        splits.append((counts[0] * counts[1] * counts[2], counts, channels, filters))
    fewest = min(split[0] for split in splits)
    for passes, counts, channels, filters in splits:
        if passes == fewest:
            yield _one_pass(shape, placed, counts=counts, copies=(channels, filters))


def _one_pass(shape: ConvShape, placed: Placement, *, counts: tuple[int, int, int], copies: tuple[int, int]) -> _Pass:
    """Words of a pass; ``used``: share of the copies that do work, averaged over the passes."""
    rows = shape.E / placed.fold_wide
    wide = (shape.F - 1) * shape.stride + shape.S
    planes = {
        "filters": float(shape.R * shape.S),
        "inputs": ((rows - 1) * shape.stride + shape.R) * wide,
        "sums": rows * shape.F,
    }
    whole_rows = ceil_div(shape.E, placed.fold_wide)
    held = {
        "filters": shape.R * shape.S,
        "inputs": ((whole_rows - 1) * shape.stride + shape.R) * wide,
        "sums": whole_rows * shape.F,
    }
    pes = shape.R * shape.E * placed.fold_high
    array = {"filters": shape.S * pes, "inputs": wide * pes, "sums": shape.F * pes}
    multiples = {"filters": copies[0] * copies[1], "inputs": copies[0], "sums": copies[1]}
    totals = (shape.C / copies[0], shape.K / copies[1], float(counts[2]))
    repeats = {name: totals[loops[0]] * totals[loops[1]] * multiples[name] for name, (loops, _) in OPERANDS.items()}
    folded = {"filters": 1, "inputs": placed.fold_high, "sums": placed.fold_high}
    return _Pass(
        counts=counts,
        dram={name: planes[name] * repeats[name] for name in OPERANDS},
        buffer={name: planes[name] * repeats[name] * folded[name] for name in OPERANDS},
        array={name: array[name] * repeats[name] for name in OPERANDS},
        held={name: held[name] * multiples[name] for name in OPERANDS},
        registers={"filters": shape.S, "inputs": shape.S, "sums": 1},
    )


def _search(one: _Pass, chip: RowStationaryChip) -> tuple[float, Blocking3] | None:
    """The best blocking of one kind of pass, or None if nothing fits."""
    factors = _fitting(one, chip)
    if not factors.size:
        return None
    best: tuple[float, Blocking3] | None = None
    for orders in itertools.product(_ORDERS, repeat=_LEVELS):
        fetches = _fetches(factors, orders)
        dram = _sum(one.dram, fetches[0])
        buffer, array = _sum(one.buffer, fetches[1]), _sum(one.array, fetches[1])
        cost = dram * chip.dram_cost + buffer * chip.buffer_cost + array * chip.array_cost
        at = int(np.argmin(cost))
        if best is None or cost[at] < best[0]:
            loops = tuple((int(t[0]), int(t[1]), int(t[2])) for t in factors[at])
            best = (float(cost[at]), Blocking3(loops, float(dram[at]), float(buffer[at]), float(array[at])))
    return best


def _fitting(one: _Pass, chip: RowStationaryChip) -> IntArray:
    """Loop factors that fit both memories, int64 (candidates, levels + 1, loops); level 0 is the outermost."""
    channels, filters, images = (_triples(count) for count in one.counts)
    grid = np.indices((len(channels), len(filters), len(images))).reshape(3, -1)
    factors = np.stack((channels[grid[0]], filters[grid[1]], images[grid[2]]), axis=2)
    fits = np.ones(len(factors), dtype=np.bool_)
    for first, unit, limit in ((2, one.registers, chip.register_words), (1, one.held, chip.buffer_words)):
        inside = factors[:, first:, :].prod(axis=1)
        words = sum(inside[:, loops[0]] * inside[:, loops[1]] * unit[name] for name, (loops, _) in OPERANDS.items())
        fits &= np.asarray(words) <= limit
    return np.asarray(factors[fits])


def _fetches(factors: IntArray, orders: tuple[tuple[int, ...], ...]) -> list[dict[str, FloatArray]]:
    """How often each operand is fetched into the buffer and into the register files, per candidate."""
    found: list[dict[str, FloatArray]] = []
    outside = np.ones((len(factors), 3), dtype=np.int64)
    for level, order in enumerate(orders):
        current = {}
        for name, (loops, other) in OPERANDS.items():
            inner, outer = sorted(loops, key=lambda loop: order[loop])
            runs_inner, runs_outer = factors[:, level, inner] > 1, factors[:, level, outer] > 1
            innermost = np.where(runs_inner, order[inner], order[outer])
            repeats = outside[:, other] * np.where(order[other] > innermost, factors[:, level, other], 1)
            fetched = np.asarray(2 * repeats - 1 if name == "sums" else repeats, dtype=np.float64)
            still = found[-1][name] if found else np.ones(len(factors))
            current[name] = np.where(runs_inner | runs_outer, fetched, still)
        found.append(current)
        outside = outside * factors[:, level, :]
    return found


def _sum(words: Mapping[str, float], fetches: Mapping[str, FloatArray]) -> FloatArray:
    return np.asarray(sum(words[name] * fetches[name] for name in OPERANDS))


@lru_cache(maxsize=1024)
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, number + 1) if number % d == 0)


@lru_cache(maxsize=1024)
def _triples(number: int) -> IntArray:
    """All ways to write ``number`` as a product of three factors, int64 (ways, 3)."""
    found = [(a, b, number // (a * b)) for a in _divisors(number) for b in _divisors(number // a)]
    return np.array(found, dtype=np.int64)
