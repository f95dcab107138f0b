"""N:M structured sparsity: a fixed number of slots in every group of M consecutive columns."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from .bitpack import BitReader, Section, bits_for, pack, single, to_fields
from .statistics import KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, check_stored, scatter

#: C(64, 32) is the largest pattern count whose ranks fit 64 bits.
MAX_GROUP = 64


class GroupedSlots(StorageFormat):
    """Header N (ceil(log2(M + 1)) bits), then N (index, value) slots for every group of M consecutive columns.

    N is the largest number of retained weights in any group at that level, so one full group sets the cost of all.
    Groups run along each row from column 0; a partial last group has N slots too. The index, ceil(log2 M) bits, is the
    position in the group; the indices of a group are distinct and ascend. A group with fewer than N retained weights
    is filled up with zero values at its lowest free positions (in a partial group these may lie past the row's end).
    The whole matrix takes the header plus N * (value_bits + ceil(log2 M)) bits per group.
    """

    exact_mask = False

    def __init__(self, group: int = 4) -> None:
        """``group`` is M, 2..64."""
        if not 2 <= group <= MAX_GROUP:
            raise InputError(f"group of {group} columns; allowed are 2 to {MAX_GROUP}")
        self.group = group
        self.name = f"nm{group}"
        self.title = f"N:{group} slots"

    def pattern_bits(self, slots: int) -> int:
        """Bits that place one group's ``slots`` slots."""
        return slots * bits_for(self.group)

    def groups(self, rows: int, columns: int) -> int:
        """Number of groups of a matrix, partial ones included."""
        return rows * -(-columns // self.group)

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        header = bits_for(self.group + 1)
        groups = self.groups(statistics.rows, statistics.columns)
        slots = statistics.largest_occupancy(self.group).tolist()
        return np.array([header + groups * (self.pattern_bits(n) + n * value_bits) for n in slots], dtype=np.int64)

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        kept = self._split(np.where(keep > spec.level, codes, 0))
        mask = self._split((keep > spec.level).astype(np.int64))
        slots = int(mask.sum(axis=1).max(initial=0))
        # A stable sort brings the retained positions to the front and the free ones behind them, both ascending.
        index = np.sort(np.argsort(-mask, axis=1, kind="stable")[:, :slots], axis=1)
        fields = to_fields(np.take_along_axis(kept, index, axis=1), spec.value_bits)
        return pack([single(slots, bits_for(self.group + 1)), *self._sections(index, fields, spec.value_bits)])

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        slots = reader.take_one(bits_for(self.group + 1))
        check_stored(slots <= self.group, f"{slots} slots in a group of {self.group}")
        groups = self.groups(spec.rows, spec.columns)
        index, fields = self._read_sections(reader, groups=groups, slots=slots, value_bits=spec.value_bits)
        check_stored(bool((index < self.group).all()), f"an index lies outside its group of {self.group} columns")
        row, group_of_row = np.divmod(np.arange(groups), max(-(-spec.columns // self.group), 1))
        columns = group_of_row[:, None] * self.group + index
        inside = columns < spec.columns
        values, _ = scatter((row[:, None] * spec.columns + columns)[inside], fields[inside], spec)
        return values, values != 0

    def _split(self, matrix: NDArray[np.int64]) -> NDArray[np.int64]:
        """(rows, columns) -> (groups, M), partial groups padded with zeros."""
        padded = np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % self.group)))
        return padded.reshape(self.groups(*matrix.shape), self.group)

    def _sections(self, index: NDArray[np.int64], fields: NDArray[np.uint64], value_bits: int) -> list[Section]:
        """Sections behind the header; ``index`` and ``fields`` are (groups, N)."""
        entries = (index.astype(np.uint64) << np.uint64(value_bits)) | fields
        return [(entries.reshape(-1), bits_for(self.group) + value_bits)]

    def _read_sections(
        self, reader: BitReader, *, groups: int, slots: int, value_bits: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Index and value fields, both (groups, N)."""
        entries = reader.take(groups * slots, bits_for(self.group) + value_bits).reshape(groups, slots)
        return (entries >> np.uint64(value_bits)).astype(np.int64), entries


class PackedSlots(GroupedSlots):
    """Header N (ceil(log2(M + 1)) bits), one pattern number per group, then N values per group.

    N, groups and fill-up are those of ``GroupedSlots``. A group's slot positions p_1 < ... < p_N are one number in the
    combinatorial number system, C(p_1, 1) + ... + C(p_N, N), which counts the C(M, N) patterns from 0: it takes
    ceil(log2 C(M, N)) bits, nothing for N = 0 and N = M. All pattern numbers come first, then all values. As C(M, N)
    is largest at N = M/2, a sparser level with narrow values can take more bits than a denser one.
    """

    def __init__(self, group: int = 4) -> None:
        """``group`` is M, 2..64."""
        super().__init__(group)
        self.name = f"nm{group}_packed"
        self.title = f"N:{group} packed patterns"

    def pattern_bits(self, slots: int) -> int:
        return bits_for(math.comb(self.group, slots))

    def _sections(self, index: NDArray[np.int64], fields: NDArray[np.uint64], value_bits: int) -> list[Section]:
        slots = index.shape[1]
        table = self._binomials(slots)
        ranks = table[np.arange(slots), index].sum(axis=1, dtype=np.uint64)
        return [(ranks, self.pattern_bits(slots)), (fields.reshape(-1), value_bits)]

    def _read_sections(
        self, reader: BitReader, *, groups: int, slots: int, value_bits: int
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        left = reader.take(groups, self.pattern_bits(slots))
        table = self._binomials(slots)
        index = np.zeros((groups, slots), dtype=np.int64)
        for slot in range(slots - 1, -1, -1):
            # The last position is the largest p with C(p, slot + 1) <= what is left of the number.
            index[:, slot] = np.searchsorted(table[slot], left, side="right") - 1
            left = left - table[slot, index[:, slot]]
        check_stored(not left.any(), f"a pattern number lies outside the {slots}:{self.group} patterns")
        return index, reader.take(groups * slots, value_bits).reshape(groups, slots)

    def _binomials(self, slots: int) -> NDArray[np.uint64]:
        """C(p, i + 1) at [i, p] for the slots i and the positions p of a group, uint64 (slots, M)."""
        rows = [[math.comb(p, i + 1) for p in range(self.group)] for i in range(slots)]
        return np.array(rows, dtype=np.uint64).reshape(slots, self.group)
