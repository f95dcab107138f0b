"""Formats whose positions are implicit: every element, or one bit per element."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bitpack import BitReader, pack, to_codes, to_fields
from .statistics import KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, scatter


class Dense(StorageFormat):
    """Every element's value (``value_bits``, two's complement) in row-major order, zero where the level prunes it.

    No metadata: rows * columns * value_bits bits at every level.
    """

    name = "dense"
    title = "Dense"
    exact_mask = False

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        return np.full(statistics.levels, statistics.elements * value_bits, dtype=np.int64)

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        kept = np.where(keep > spec.level, codes, 0).reshape(-1)
        return pack([(to_fields(kept, spec.value_bits), spec.value_bits)])

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        codes = to_codes(reader.take(spec.elements, spec.value_bits), spec.value_bits)
        values = codes.astype(np.int32).reshape(spec.rows, spec.columns)
        return values, values != 0


class Bitmap(StorageFormat):
    """One bit per element in row-major order (1 = retained), then the retained values in the same order.

    rows * columns + m * value_bits bits for m retained weights; m is the bitmap's population count, so no header.
    Overhead n bits: Hoefler et al., JMLR 2021, arXiv 2102.00554 (storage formats).
    """

    name = "bitmap"
    title = "Bitmap"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        return np.asarray(statistics.elements + statistics.nonzeros * value_bits)

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        mask = (keep > spec.level).reshape(-1)
        fields = to_fields(codes.reshape(-1)[mask], spec.value_bits)
        return pack([(mask.astype(np.uint64), 1), (fields, spec.value_bits)])

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        positions = np.flatnonzero(reader.take(spec.elements, 1))
        return scatter(positions, reader.take(positions.size, spec.value_bits), spec)
