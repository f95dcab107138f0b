"""Zero run-length coding with the run-field width chosen per matrix and level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bitpack import BitReader, bits_for, pack, single, to_fields
from .statistics import RUN_WIDTHS, KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, check_stored, count_header_bits, scatter


class RunLength(StorageFormat):
    """Header k (4 bits) and entry count (ceil(log2(n + 1)) bits, n = rows * columns), then (run, value) entries.

    The matrix is one row-major sequence. An entry means ``run`` zeros (k bits), then ``value``. A run of 2**k zeros or
    more is broken by padding entries (2**k - 1, value 0), each of which covers 2**k zeros: a run of g zeros costs
    floor(g / 2**k) of them. Zeros after the last retained weight are not stored. k in 0..15 is the width with the
    fewest total bits, the smallest of equals. For independent zeros of probability q the expected number of padding
    entries per retained weight is q**(2**k) / (1 - q**(2**k)).
    """

    name = "run_length"
    title = "Zero run-length"
    exact_mask = False

    @staticmethod
    def _candidates(statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        """Bits of all entries, int64 (levels, RUN_WIDTHS)."""
        entries = statistics.nonzeros[:, None] + statistics.escapes
        return np.asarray(entries * (np.arange(RUN_WIDTHS, dtype=np.int64) + value_bits))

    def run_bits(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        """The chosen run-field width k of every level, int64 (levels,)."""
        return np.asarray(self._candidates(statistics, value_bits).argmin(axis=1))

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        header = bits_for(RUN_WIDTHS) + count_header_bits(statistics.elements)
        return np.asarray(header + self._candidates(statistics, value_bits).min(axis=1))

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        level_keep = (keep > spec.level).astype(np.uint8)
        k = int(self.run_bits(KeepStatistics(level_keep, 1), spec.value_bits)[0])
        positions = np.flatnonzero(level_keep)
        gaps = np.diff(positions, prepend=-1) - 1
        ends = np.cumsum((gaps >> k) + 1)
        total = int(ends[-1]) if ends.size else 0
        entries = np.full(total, ((1 << k) - 1) << spec.value_bits, dtype=np.uint64)
        runs = (gaps & ((1 << k) - 1)).astype(np.uint64)
        fields = to_fields(codes.reshape(-1)[positions], spec.value_bits)
        entries[ends - 1] = (runs << np.uint64(spec.value_bits)) | fields
        return pack([single(k, bits_for(RUN_WIDTHS)), single(total, spec.count_bits), (entries, k + spec.value_bits)])

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        k = reader.take_one(bits_for(RUN_WIDTHS))
        count = reader.take_one(spec.count_bits)
        check_stored(count <= spec.elements, f"{count} entries in a matrix of {spec.elements} elements")
        entries = reader.take(count, k + spec.value_bits)
        positions = np.cumsum((entries >> np.uint64(spec.value_bits)).astype(np.int64) + 1) - 1
        values, _ = scatter(positions, entries, spec)
        return values, values != 0
