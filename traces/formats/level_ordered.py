"""Formats that hold all nested levels in one stream: ordered by level, or tagged with the level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bitpack import BitReader, bits_for, pack, to_fields
from .coordinate import compressed_rows, compressed_rows_bits, read_compressed_rows
from .statistics import KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, scatter


class LevelOrdered(StorageFormat):
    """Level-major: L compressed-row streams, the sparsest level first; level l is a prefix of the file's bytes.

    Stream s (s = L-1 down to 0) holds the weights that level s retains and level s+1 does not: header m_s
    (ceil(log2(rows*columns + 1)) bits), one row end per row (ceil(log2(m_s + 1)) bits each), then (column, value) per
    weight in row-major order, padded with zeros to a whole byte. Reading level l means reading streams L-1 .. l and
    nothing else. There are no tag bits; the price is L row-end tables. ``encode`` of a level returns that prefix,
    ``encode`` of level 0 the whole file, and the size of a level is the length of its prefix (padding included).
    """

    name = "level_ordered"
    title = "Level-ordered rows"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        shape = {"rows": statistics.rows, "columns": statistics.columns}
        # Weights that a level adds to the next sparser one.
        added = -np.diff(statistics.nonzeros, append=0)
        streams = [compressed_rows_bits(m, **shape, payload_bits=value_bits) for m in added.tolist()]
        padded = np.array([-(-bits // 8) * 8 for bits in streams], dtype=np.int64)
        return np.asarray(padded[::-1].cumsum()[::-1])

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        streams = []
        for stream in range(spec.levels - 1, spec.level - 1, -1):
            mask = keep == stream + 1
            payload = to_fields(codes[mask], spec.value_bits)
            streams.append(pack(compressed_rows(mask, payload, payload_bits=spec.value_bits, spec=spec)))
        return b"".join(streams)

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        positions, fields = [], []
        for _ in range(spec.levels - spec.level):
            found = read_compressed_rows(reader, payload_bits=spec.value_bits, spec=spec)
            reader.align()
            positions.append(found[0])
            fields.append(found[1])
        return scatter(np.concatenate(positions), np.concatenate(fields), spec)


class LevelTag(StorageFormat):
    """Compressed rows of everything the densest level retains, each entry (column, tag, value).

    The tag, ceil(log2 L) bits, is ``keep - 1``: the sparsest level that still uses the weight. Every level reads the
    whole file and drops the entries whose tag is below it, so all levels have the same size and the same bytes.
    """

    name = "level_tag"
    title = "Level-tagged rows"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        bits = compressed_rows_bits(
            int(statistics.nonzeros[0]),
            rows=statistics.rows,
            columns=statistics.columns,
            payload_bits=value_bits + bits_for(statistics.levels),
        )
        return np.full(statistics.levels, bits, dtype=np.int64)

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        mask = keep > 0
        tags = keep[mask].astype(np.uint64) - np.uint64(1)
        payload = (tags << np.uint64(spec.value_bits)) | to_fields(codes[mask], spec.value_bits)
        payload_bits = spec.value_bits + bits_for(spec.levels)
        return pack(compressed_rows(mask, payload, payload_bits=payload_bits, spec=spec))

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        payload_bits = spec.value_bits + bits_for(spec.levels)
        positions, payload = read_compressed_rows(reader, payload_bits=payload_bits, spec=spec)
        used = (payload >> np.uint64(spec.value_bits)) >= spec.level
        return scatter(positions[used], payload[used], spec)
