"""Formats that store an index with every retained weight: compressed sparse rows and coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bitpack import BitReader, Section, bits_for, pack, single, to_fields
from .statistics import KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, check_stored, count_header_bits, scatter


def compressed_rows_bits(count: int, *, rows: int, columns: int, payload_bits: int) -> int:
    """Bits of ``count`` entries as compressed rows: header, row ends, entries (see ``compressed_rows``)."""
    header = count_header_bits(rows * columns)
    return header + rows * bits_for(count + 1) + count * (bits_for(columns) + payload_bits)


def compressed_rows(
    mask: NDArray[np.bool_], payload: NDArray[np.uint64], *, payload_bits: int, spec: MatrixSpec
) -> list[Section]:
    """Sections of the entries under ``mask`` (rows, columns), each with its payload (m,), in row-major order.

    Header m (ceil(log2(rows*columns + 1)) bits); for each row the number of entries up to and including it
    (ceil(log2(m + 1)) bits); for each entry its column (ceil(log2 columns) bits) followed by its payload.
    """
    ends = np.cumsum(mask.sum(axis=1)).astype(np.uint64)
    columns = np.nonzero(mask)[1].astype(np.uint64)
    entries = (columns << np.uint64(payload_bits)) | payload
    return [
        single(payload.size, spec.count_bits),
        (ends, bits_for(payload.size + 1)),
        (entries, spec.column_bits + payload_bits),
    ]


def read_compressed_rows(
    reader: BitReader, *, payload_bits: int, spec: MatrixSpec
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Flat row-major positions (m,) and payloads (m,) of sections written by ``compressed_rows``."""
    count = reader.take_one(spec.count_bits)
    check_stored(count <= spec.elements, f"{count} entries in a matrix of {spec.elements} elements")
    ends = reader.take(spec.rows, bits_for(count + 1)).astype(np.int64)
    entries = reader.take(count, spec.column_bits + payload_bits)
    lengths = np.diff(ends, prepend=0)
    check_stored(bool((lengths >= 0).all()) and int(lengths.sum()) == count, "row ends do not increase up to the count")
    columns = (entries >> np.uint64(payload_bits)).astype(np.int64)
    check_stored(bool((columns < max(spec.columns, 1)).all()), "a column index lies outside the matrix")
    positions = np.repeat(np.arange(spec.rows, dtype=np.int64), lengths) * spec.columns + columns
    return positions, entries & np.uint64((1 << payload_bits) - 1)


class CompressedRows(StorageFormat):
    """Header m (ceil(log2(n + 1)) bits, n = rows * columns), row ends, then (column, value) per retained weight.

    Row end r is the number of retained weights in rows 0..r, ceil(log2(m + 1)) bits each; a column index takes
    ceil(log2 columns) bits; entries are in row-major order. The overhead formula of Hoefler et al. (JMLR 2021, arXiv
    2102.00554), m*ceil(log2 n_c) + n_r*ceil(log2 m), plus the header that makes the stream readable, and one bit more
    per row where m is a power of two (a row end can be m itself).
    """

    name = "csr"
    title = "Compressed sparse rows"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        shape = {"rows": statistics.rows, "columns": statistics.columns}
        counts = statistics.nonzeros.tolist()
        return np.array([compressed_rows_bits(m, **shape, payload_bits=value_bits) for m in counts], dtype=np.int64)

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        mask = keep > spec.level
        payload = to_fields(codes[mask], spec.value_bits)
        return pack(compressed_rows(mask, payload, payload_bits=spec.value_bits, spec=spec))

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        return scatter(*read_compressed_rows(reader, payload_bits=spec.value_bits, spec=spec), spec)


class Coordinate(StorageFormat):
    """Header m (ceil(log2(n + 1)) bits, n = rows * columns), then (position, value) per retained weight.

    The position is the flat row-major index, ceil(log2 n) bits; entries ascend. Overhead m*ceil(log2 n) of Hoefler et
    al. (JMLR 2021, arXiv 2102.00554) plus the header.
    """

    name = "coo"
    title = "Coordinates"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        n = statistics.elements
        return np.asarray(count_header_bits(n) + statistics.nonzeros * (bits_for(n) + value_bits))

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        positions = np.flatnonzero(keep > spec.level)
        fields = to_fields(codes.reshape(-1)[positions], spec.value_bits)
        entries = (positions.astype(np.uint64) << np.uint64(spec.value_bits)) | fields
        width = bits_for(spec.elements) + spec.value_bits
        return pack([single(positions.size, spec.count_bits), (entries, width)])

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        count = reader.take_one(spec.count_bits)
        check_stored(count <= spec.elements, f"{count} entries in a matrix of {spec.elements} elements")
        entries = reader.take(count, bits_for(spec.elements) + spec.value_bits)
        positions = (entries >> np.uint64(spec.value_bits)).astype(np.int64)
        return scatter(positions, entries, spec)
