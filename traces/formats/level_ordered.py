"""Formats that hold all nested levels in one stream: ordered by level, or tagged with the level."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .bitpack import BitReader, Section, bits_for, pack, single, to_fields
from .coordinate import compressed_rows, compressed_rows_bits, read_compressed_rows
from .statistics import RUN_WIDTHS, KeepStatistics
from .storage import Decoded, MatrixSpec, StorageFormat, check_stored, check_value_bits, scatter


class PositionMode(IntEnum):
    """How a level's stream says which positions it fills; the value is the stream's 2-bit mode field."""

    ALL = 0
    BITMAP = 1
    ROWS = 2
    RUNS = 3


MODE_BITS = 2
_RUN_WIDTH_BITS = bits_for(RUN_WIDTHS)
#: Larger than any size: the mode cannot describe the stream.
_IMPOSSIBLE = np.iinfo(np.int64).max


class LevelOrdered(StorageFormat):
    """Level-major: one stream per level, the sparsest level first; level l is a prefix of the file's bytes.

    Stream s (s = L-1 down to 0) holds the weights that level s retains and level s+1 does not. Reading level l means
    reading streams L-1 .. l and nothing else. ``encode`` of a level returns that prefix, ``encode`` of level 0 the
    whole file, and the size of a level is the length of its prefix. There is no file header, and there are no tags.

    With m weights in the stream, n = rows * columns, and R = n minus the weights of streams L-1 .. s+1, a reader
    who has the prefix knows the R remaining positions, in row-major order. A stream is, without gaps:

    1. mode, 2 bits (``PositionMode``): the one with the fewest bits, the lowest of equals;
    2. positions, by mode:

       * 0 ``ALL``: nothing; the stream fills every remaining position (m = R), as in a dense level.
       * 1 ``BITMAP``: one bit per remaining position (1 = filled); m is the population count.
       * 2 ``ROWS``: m (ceil(log2(n + 1)) bits); per row the stream's weights up to and including it (ceil(log2(m + 1))
         bits); per weight its column (ceil(log2 columns) bits). Columns count all positions, not the remaining ones.
       * 3 ``RUNS``: k (4 bits); u (ceil(log2(R + 1)) bits); u bits; m fields of k bits. Weight i follows a run of
         g_i unfilled remaining positions. The u bits hold, per weight, floor(g_i / 2**k) zeros and a one, so m is
         their population count; the fields hold g_i mod 2**k. Unfilled positions behind the last weight are not
         stored. k is the width with the fewest total bits, the smallest of equals. This is the code of Golomb (IEEE
         Trans. Information Theory 12(3), 1966) with the power-of-two parameter of Rice and Plaunt (IEEE Trans.
         Communication Technology 19(6), 1971), with quotients and remainders in two sections;
    3. values, m * value_bits bits, in row-major order;
    4. zeros up to a whole byte, so that every prefix ends on one.
    """

    name = "level_ordered"
    title = "Level-ordered streams"

    def sizes(self, statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
        streams = 8 * stream_bytes(statistics, value_bits)
        return np.asarray(streams[::-1].cumsum()[::-1])

    def write(self, codes: NDArray[np.int64], keep: NDArray[np.uint8], spec: MatrixSpec) -> bytes:
        statistics = KeepStatistics(keep, spec.levels)
        modes = _position_bits(statistics).argmin(axis=1)
        widths = _run_bits(statistics).argmin(axis=1)
        parts = []
        for stream in range(spec.levels - 1, spec.level - 1, -1):
            mode, k = PositionMode(int(modes[stream])), int(widths[stream])
            positions = _position_sections(keep, stream, mode=mode, run_bits=k, spec=spec)
            fields = to_fields(codes[keep == stream + 1], spec.value_bits)
            parts.append(pack([single(mode, MODE_BITS), *positions, (fields, spec.value_bits)]))
        return b"".join(parts)

    def read(self, reader: BitReader, spec: MatrixSpec) -> Decoded:
        positions, fields = [], []
        free = np.ones(spec.elements, dtype=np.bool_)
        for _ in range(spec.levels - spec.level):
            found = _read_positions(reader, free, spec)
            free[found] = False
            positions.append(found)
            fields.append(reader.take(found.size, spec.value_bits))
            reader.align()
        return scatter(np.concatenate(positions), np.concatenate(fields), spec)


def streams_per_level(keep: NDArray[np.uint8], levels: int, *, value_bits: int) -> NDArray[np.int64]:
    """Bytes of each level's own ``level_ordered`` stream, mode and padding included, int64 (levels,), densest first.

    The prefix that level l reads is the sum of entries l .. levels-1 (there is no file header), so entry l is what a
    step from level l + 1 to level l fetches in addition.

    Raises
    ------
    InputError
        for a ``keep`` (uint8, (rows, columns)) that does not fit ``levels``, or ``value_bits`` outside 1..16.
    """
    check_value_bits(value_bits)
    return stream_bytes(KeepStatistics(keep, levels), value_bits)


def stream_bytes(statistics: KeepStatistics, value_bits: int) -> NDArray[np.int64]:
    """``streams_per_level`` of a pattern whose statistics are shared."""
    bits = MODE_BITS + _position_bits(statistics).min(axis=1) + statistics.added * value_bits
    return np.asarray(-(-bits // 8))


def _position_bits(statistics: KeepStatistics) -> NDArray[np.int64]:
    """Bits of the positions of each level's stream in each mode, int64 (levels, modes); see ``LevelOrdered``.

    A mode that cannot describe the stream has the largest int64.
    """
    shape = {"rows": statistics.rows, "columns": statistics.columns}
    remaining = _remaining(statistics)
    bits = np.empty((statistics.levels, len(PositionMode)), dtype=np.int64)
    bits[:, PositionMode.ALL] = np.where(statistics.added == remaining, 0, _IMPOSSIBLE)
    bits[:, PositionMode.BITMAP] = remaining
    bits[:, PositionMode.ROWS] = [compressed_rows_bits(m, **shape, payload_bits=0) for m in statistics.added.tolist()]
    bits[:, PositionMode.RUNS] = _run_bits(statistics).min(axis=1)
    return bits


def _remaining(statistics: KeepStatistics) -> NDArray[np.int64]:
    """Positions that no sparser level fills, int64 (levels,)."""
    return np.asarray(statistics.elements - statistics.nonzeros + statistics.added)


def _run_bits(statistics: KeepStatistics) -> NDArray[np.int64]:
    """Bits of mode ``RUNS`` for every width k, int64 (levels, RUN_WIDTHS)."""
    header = np.array([_RUN_WIDTH_BITS + bits_for(r + 1) for r in _remaining(statistics).tolist()], dtype=np.int64)
    fields = statistics.added[:, None] * np.arange(1, RUN_WIDTHS + 1, dtype=np.int64)
    return np.asarray(header[:, None] + fields + statistics.stream_escapes)


def _position_sections(
    keep: NDArray[np.uint8], stream: int, *, mode: PositionMode, run_bits: int, spec: MatrixSpec
) -> list[Section]:
    """The positions of one stream in the given mode; ``run_bits`` is the width k of mode ``RUNS``."""
    if mode is PositionMode.ALL:
        return []
    if mode is PositionMode.ROWS:
        mask = keep == stream + 1
        return compressed_rows(mask, np.zeros(np.count_nonzero(mask), np.uint64), payload_bits=0, spec=spec)
    filled = keep[keep <= stream + 1] == stream + 1
    if mode is PositionMode.BITMAP:
        return [(filled.astype(np.uint64), 1)]
    runs = np.diff(np.flatnonzero(filled), prepend=-1) - 1
    ones = np.cumsum((runs >> run_bits) + 1) - 1
    unary = np.zeros(int(ones[-1]) + 1 if ones.size else 0, dtype=np.uint64)
    unary[ones] = 1
    return [
        single(run_bits, _RUN_WIDTH_BITS),
        single(unary.size, bits_for(filled.size + 1)),
        (unary, 1),
        ((runs & ((1 << run_bits) - 1)).astype(np.uint64), run_bits),
    ]


def _read_positions(reader: BitReader, free: NDArray[np.bool_], spec: MatrixSpec) -> NDArray[np.int64]:
    """Flat positions (m,) that the next stream fills; ``free`` (n,) marks the remaining ones."""
    mode = PositionMode(reader.take_one(MODE_BITS))
    if mode is PositionMode.ROWS:
        positions, _ = read_compressed_rows(reader, payload_bits=0, spec=spec)
        check_stored(bool(free[positions].all()), "two levels store the same weight")
        return positions
    remaining = np.flatnonzero(free)
    if mode is PositionMode.ALL:
        return remaining
    if mode is PositionMode.BITMAP:
        return np.asarray(remaining[reader.take(remaining.size, 1) != 0])
    return np.asarray(remaining[_read_runs(reader, remaining.size)])


def _read_runs(reader: BitReader, remaining: int) -> NDArray[np.int64]:
    """Indices (m,) into the remaining positions, from mode ``RUNS``."""
    k = reader.take_one(_RUN_WIDTH_BITS)
    length = reader.take_one(bits_for(remaining + 1))
    check_stored(length <= remaining, f"{length} run bits for {remaining} positions")
    quotients = np.diff(np.flatnonzero(reader.take(length, 1)), prepend=-1) - 1
    remainders = reader.take(quotients.size, k).astype(np.int64)
    index = np.cumsum((quotients << k) + remainders + 1) - 1
    check_stored(not index.size or int(index[-1]) < remaining, "a run leads outside the matrix")
    return np.asarray(index)


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
