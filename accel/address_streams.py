"""From a tile table to runs of DRAM lines: where tensors lie, and which lines each tile's fetch and store touch.

Where tensors lie (per layer, byte addresses from 0): the stored weights, then the inputs, then the outputs, each from a
4 KiB boundary. The stored weights consist of sections, one behind the other:

* ``level_ordered``: one stream per level, the sparsest first, then the biases of every level; level l reads the streams
  L-1 .. l and its own biases. The file is the same for all levels, so the inputs begin at the same address at all of them.
* ``bitmap``: the bitmap, the values; ``csr``: header and row ends, the entries (column and value lie side by side); each
  with the biases behind. In ``coo``, run-length, N:M and dense streams position and value lie side by side: one section.

A tile whose weights are bytes [x, y) of the T that a level reads takes from a section of S bytes at ``base`` the bytes
``base + floor(S x / T)`` to ``base + floor(S y / T)``: consecutive tiles meet exactly, and all tiles cover the section. Where
the true boundary lies depends on the codes; it is proportional on average.

Lines have 64 bytes. A fetch that begins where the one before it in the same section ended does not fetch the line they share
again; a store that ends where the next one begins leaves their common line to that one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..traces.formats.bitpack import bits_for
from ..traces.requests import LINE_BYTES, Requests
from ..traces.trace import LayerTrace
from .loopnest import ceil_div
from .schedule import TENSOR_ALIGNMENT
from .tiles import TileTable

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class Section:
    """Contiguous bytes of a layer's stored weights that one level reads."""

    base: int
    size: int


@dataclass(frozen=True)
class StoredWeights:
    """What a level reads of the stored weights, and how many bytes are stored for all of it."""

    sections: tuple[Section, ...]
    stored_bytes: int

    @property
    def read_bytes(self) -> int:
        return sum(section.size for section in self.sections)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of consecutive lines per tile, int64: tile i owns the runs ``ends[i-1]`` to ``ends[i]`` (exclusive)."""

    ends: Int64Array
    address: Int64Array
    lines: Int64Array

    @property
    def bytes(self) -> int:
        """Bytes of all lines."""
        return int(self.lines.sum()) * LINE_BYTES

    def tile(self) -> Int64Array:
        """Tile of every run."""
        return np.repeat(np.arange(self.ends.size), np.diff(self.ends, prepend=0))


@dataclass(frozen=True, eq=False)
class AddressStreams:
    """Lines that each tile of a layer reads and writes, in the order it asks for them. ``end``: first byte behind all."""

    fetches: Runs
    stores: Runs

    @property
    def end(self) -> int:
        """First byte behind all runs."""
        ends = [runs.address + runs.lines * LINE_BYTES for runs in (self.fetches, self.stores)]
        return int(np.concatenate(ends).max(initial=0))

    def requests(self) -> Requests:
        """All lines one by one, tile after tile, a tile's fetch before its store, all arriving at cycle 0."""
        tiles = self.fetches.ends.size
        return self.requests_at(np.arange(tiles), np.arange(tiles), cycle=np.zeros_like)

    def requests_at(
        self, fetch_time: Int64Array, store_time: Int64Array, *, cycle: Callable[[Int64Array], Int64Array]
    ) -> Requests:
        """All lines one by one in the order of their tiles' times, at a tie a fetch before a store.

        ``fetch_time``, ``store_time``: (tiles,), when each tile asks for its fetch and its store. ``cycle``: the
        arrivals that belong to times, not decreasing with them.
        """
        parts = [(self.fetches, fetch_time, False), (self.stores, store_time, True)]
        time = np.concatenate([of_tile[runs.tile()] for runs, of_tile, _ in parts])
        write = np.concatenate([np.full(runs.lines.size, kind) for runs, _, kind in parts])
        address, lines = (
            np.concatenate([getattr(runs, name) for runs, _, _ in parts]) for name in ("address", "lines")
        )
        order = np.argsort(time, kind="stable")
        lines, write, arrival = lines[order], write[order], cycle(time[order])
        first = np.cumsum(lines) - lines
        within = np.arange(int(lines.sum()), dtype=np.int64) - np.repeat(first, lines)
        addresses = np.repeat(address[order], lines) + within * LINE_BYTES
        return Requests(addresses, np.repeat(write, lines), np.repeat(arrival, lines))


def stored_weights(trace: LayerTrace, storage_format: str, level: int) -> StoredWeights:
    """The sections that ``level`` reads of a layer's weights in ``storage_format``.

    Raises
    ------
    InputError
        if the trace has no such format.
    """
    total = trace.bytes(storage_format, level)
    if trace.keep is None:  # the second operand is an activation: dense, as it was written
        return StoredWeights((Section(0, total),), total)
    if storage_format == "level_ordered":
        return _level_ordered(trace, level)
    index_bytes = _index_bytes(trace, storage_format, level)
    parts = [index_bytes, total - trace.bias_bytes - index_bytes, trace.bias_bytes]
    return StoredWeights(_consecutive(parts), total)


def _level_ordered(trace: LayerTrace, level: int) -> StoredWeights:
    prefix = [int(size) for size in trace.storage["level_ordered"]]
    streams = [a - b for a, b in zip(prefix, [*prefix[1:], 0], strict=True)][::-1]  # the sparsest first
    sections = _consecutive(streams[: trace.levels - level])
    bias = Section(prefix[0] + level * trace.bias_bytes, trace.bias_bytes)
    return StoredWeights(sections + ((bias,) if bias.size else ()), prefix[0] + trace.levels * trace.bias_bytes)


def _index_bytes(trace: LayerTrace, storage_format: str, level: int) -> int:
    """Whole bytes in front of the values (bitmap) or entries (csr); 0 where position and value lie side by side."""
    assert trace.keep is not None
    rows, columns = trace.keep.shape
    if storage_format == "bitmap":
        return ceil_div(rows * columns, 8)
    if storage_format == "csr":
        return ceil_div(bits_for(rows * columns + 1) + rows * bits_for(int(trace.nonzeros[level]) + 1), 8)
    return 0


def _consecutive(sizes: list[int]) -> tuple[Section, ...]:
    found, base = [], 0
    for size in sizes:
        if size:
            found.append(Section(base, size))
        base += size
    return tuple(found)


def address_streams(tiles: TileTable, weights: StoredWeights) -> AddressStreams:
    """Lines of every tile's fetch (weight sections in order, then inputs) and store.

    Raises
    ------
    ValueError
        if the tiles read weights that are not stored.
    """
    total = weights.read_bytes
    if int((tiles.weight_address + tiles.weight_bytes).max(initial=0)) > total:
        raise ValueError(f"tiles read weights beyond the {total} stored bytes")
    # The table places inputs behind what this level reads; the file may hold more.
    shift = _aligned(weights.stored_bytes) - _aligned(total)
    parts = []
    reading = np.flatnonzero(tiles.weight_bytes)
    start = tiles.weight_address[reading]
    stop = start + tiles.weight_bytes[reading]
    for section in weights.sections:
        cut = [section.base + _proportional(x, section.size, total) for x in (start, stop)]
        parts.append(_lines(reading, *cut, held_back=False))
    for address, size, held_back in (
        (tiles.input_address, tiles.input_bytes, False),
        (tiles.store_address, tiles.store_bytes, True),
    ):
        moving = np.flatnonzero(size)
        begin = address[moving] + shift
        parts.append(_lines(moving, begin, begin + size[moving], held_back=held_back))
    return AddressStreams(_gather(parts[:-1], len(tiles)), _gather(parts[-1:], len(tiles)))


def _aligned(size: int) -> int:
    return ceil_div(size, TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT


def _proportional(offset: Int64Array, size: int, total: int) -> Int64Array:
    """floor(size * offset / total) for offsets up to ``total``."""
    if size * total < 1 << 62:
        return np.asarray(offset * size // total, dtype=np.int64)
    # Python's integers where 64 bits would overflow
    return np.array([int(x) * size // total for x in offset], dtype=np.int64)


def _lines(
    tile: Int64Array, start: Int64Array, stop: Int64Array, *, held_back: bool
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """(tile, address, lines) of the byte ranges [start, stop), without those that need no line of their own."""
    used = stop > start
    tile, start, stop = tile[used], start[used], stop[used]
    first, after = start // LINE_BYTES, -(-stop // LINE_BYTES)
    joined = start[1:] == stop[:-1]  # begins where the range before it ended
    if held_back:
        after[:-1] = np.where(joined, stop[:-1] // LINE_BYTES, after[:-1])
    else:
        first[1:] = np.where(joined, -(-start[1:] // LINE_BYTES), first[1:])
    lines = after - first
    kept = lines > 0
    return tile[kept], first[kept] * LINE_BYTES, lines[kept]


def _gather(parts: list[tuple[Int64Array, Int64Array, Int64Array]], tiles: int) -> Runs:
    """The runs of all parts sorted by tile, within a tile in the order of the parts."""
    tile, address, lines = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(parts) > 1:
        order = np.argsort(tile, kind="stable")
        tile, address, lines = tile[order], address[order], lines[order]
    ends = np.cumsum(np.bincount(tile, minlength=tiles), dtype=np.int64)
    return Runs(ends, np.ascontiguousarray(address), np.ascontiguousarray(lines))
