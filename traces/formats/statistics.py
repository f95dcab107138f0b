"""What the size calculators need to know about a sparsity pattern, for all levels from one pass each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.nesting import MAX_LEVELS

#: Run-field widths 0..15 that a run-length coder may choose from (four header bits).
RUN_WIDTHS = 16
#: Zero runs shorter than this are counted in a histogram; it fits the first-level cache for a few levels.
_SHORT_RUN = 1024
#: Numbers of scratch memory; they fit the first-level cache, too.
_SCRATCH = 4096
#: A kernel that takes keep (n,), fills escapes (levels, RUN_WIDTHS) and histogram (levels + 1, _SHORT_RUN), and works in
#: scratch memory (_SCRATCH,).
RunCounter = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], None]


@dataclass(frozen=True, eq=False)
class KeepStatistics:
    """Counts of one weight matrix's ``keep`` map; each is computed when first asked for, then remembered.

    Parameters
    ----------
    keep : uint8 (rows, columns), number of levels, counted from the densest, that retain the weight.
    levels : number of levels, 1..255.

    Raises
    ------
    InputError
        if ``keep`` is no uint8 matrix or exceeds ``levels``.
    """

    keep: NDArray[np.uint8]
    levels: int
    _occupancy: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_keep(self.keep, self.levels)
        object.__setattr__(self, "keep", np.ascontiguousarray(self.keep))

    @property
    def rows(self) -> int:
        return int(self.keep.shape[0])

    @property
    def columns(self) -> int:
        return int(self.keep.shape[1])

    @property
    def elements(self) -> int:
        return self.keep.size

    @cached_property
    def nonzeros(self) -> NDArray[np.int64]:
        """Retained weights per level, int64 (levels,)."""
        return np.array([np.count_nonzero(self.keep > level) for level in range(self.levels)], dtype=np.int64)

    @cached_property
    def escapes(self) -> NDArray[np.int64]:
        """Padding entries that run fields of k bits need, int64 (levels, RUN_WIDTHS).

        Entry [l, k] is the sum, over the retained weights of level l in row-major order, of the zero run in front of
        each divided by 2**k and rounded down. Zeros after the last retained weight are no run.
        """
        from .format_kernels import count_escapes

        return self._sum_quotients(count_escapes)

    @cached_property
    def added(self) -> NDArray[np.int64]:
        """Weights that each level retains and the next sparser one does not, int64 (levels,)."""
        return -np.diff(self.nonzeros, append=0)

    @cached_property
    def stream_escapes(self) -> NDArray[np.int64]:
        """Rounded-down run quotients within the stream of each level, int64 (levels, RUN_WIDTHS).

        Entry [l, k] is the sum, over the weights that level l adds, of the zero run in front of each divided by 2**k
        and rounded down. The sequence is row-major over the weights that level l + 1 does not retain.
        """
        from .format_kernels import count_stream_escapes

        return self._sum_quotients(count_stream_escapes)

    def _sum_quotients(self, count: RunCounter) -> NDArray[np.int64]:
        escapes = np.zeros((self.levels, RUN_WIDTHS), dtype=np.int64)
        histogram = np.zeros((self.levels + 1, _SHORT_RUN), dtype=np.int64)
        count(self.keep.reshape(-1), escapes, histogram, np.zeros(_SCRATCH, dtype=np.int64))
        quotients = np.arange(_SHORT_RUN, dtype=np.int64)[:, None] >> np.arange(RUN_WIDTHS, dtype=np.int64)
        return np.asarray(escapes + histogram[1:] @ quotients)

    def largest_occupancy(self, group: int) -> NDArray[np.int64]:
        """Largest number of retained weights in a group of ``group`` consecutive columns, int64 (levels,).

        Groups start at column 0 of each row; the last group of a row may be narrower.
        """
        from .format_kernels import find_largest_occupancy

        if group not in self._occupancy:
            largest = np.zeros(self.levels, dtype=np.int64)
            find_largest_occupancy(self.keep, group, largest)
            self._occupancy[group] = largest
        return self._occupancy[group]


def check_keep(keep: NDArray[np.uint8], levels: int) -> None:
    """Raise InputError unless ``keep`` is a uint8 matrix with entries up to ``levels``, and ``levels`` is 1..255."""
    if not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"{levels} levels; allowed are 1 to {MAX_LEVELS}")
    if keep.ndim != 2 or keep.dtype != np.uint8:
        raise InputError(
            f"keep has shape {keep.shape} and dtype {keep.dtype}; it must be a (rows, columns) uint8 matrix"
        )
    if keep.size and int(keep.max()) > levels:
        raise InputError(f"keep reaches {int(keep.max())}, but there are {levels} levels")


def entropy_bound_bits(elements: int, nonzeros: int, *, value_bits: int) -> float:
    """Bits that no format can beat on average for independently placed non-zeros: n*H(m/n) + m*value_bits.

    H is the binary entropy (Shannon 1948). A pattern with structure (N:M, blocks) may need fewer.
    """
    if not 0 <= nonzeros <= elements:
        raise InputError(f"{nonzeros} non-zeros among {elements} elements")
    pattern = sum(-count * math.log2(count / elements) for count in (nonzeros, elements - nonzeros) if count)
    return pattern + nonzeros * value_bits
