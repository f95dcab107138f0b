"""What a Parquet file claims, checked against its size before a Parquet reader sees it: no zip bombs, no absurd counts.

A trace has one row per row group and, in each column, one data page. The directory at the end of the file and the header of
each page say how large the page becomes, and a reader allocates that much. Both are read here, as ``parquet.thrift`` of
the Apache Parquet format defines them, and held against each other: PyArrow ends the process on some broken directories,
so they must not reach it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..workloads.errors import InputError
from .thrift_compact import Fields, read_struct

#: Layers of one network.
MAX_ROWS = 100_000
#: Entries of a list cell: levels, or axes of a sample.
_MAX_LIST = 255
#: Bytes of a cell that holds a name, a number or a number per level.
_MAX_SMALL = 1 << 16
#: A mask may be this large, or this many times its compressed bytes; real masks of large layers compress far less.
_FREE_BYTES, _MAX_RATIO = 64 << 20, 1000
#: A page header takes some 30 bytes: a second page hidden behind the first would have no room.
_HEADER_BYTES = 64
#: Bytes that are read of a header that another program wrote, with statistics in it.
_LONGEST_HEADER = 4096
#: Codes of parquet.thrift: compressions (uncompressed, zstd), a data page.
_CODECS, _DATA_PAGE = (0, 6), 0
_MAGIC = b"PAR1"


class _Cell(NamedTuple):
    """One column of one row, as the directory has it."""

    what: str
    large: bool
    codec: int
    values: int
    unpacked: int
    packed: int
    offset: int


@contextmanager
def _sound() -> Iterator[None]:
    """Fields that are missing or of another type than ``parquet.thrift`` has them."""
    try:
        yield
    except InputError:  # a ValueError, too, but one that says what is wrong
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError("not a readable Parquet file: its directory is broken") from None


def read_directory(path: Path) -> Fields:
    """The directory of a Parquet file, ``FileMetaData``, as field number -> value; nothing of it is believed yet.

    Raises
    ------
    InputError
        if there is none.
    """
    with path.open("rb") as file, _sound():
        return _directory(file, path.stat().st_size)


def metadata_of(directory: Fields) -> dict[bytes, bytes]:
    """The file's key-value metadata."""
    with _sound():
        return {entry[1]: entry.get(2, b"") for entry in directory.get(5, [])}


def check_claims(path: Path, directory: Fields, large: Collection[str]) -> None:
    """Hold the directory of a Parquet file and its page headers against the file's size.

    ``large``: columns whose cells may be large.

    Raises
    ------
    InputError
        for the first claim that a trace never makes.
    """
    size = path.stat().st_size
    with path.open("rb") as file, _sound():
        cells = _cells(directory, large)
        for cell in cells:
            _check_cell(cell, size)
            _check_page(cell, file)
    if sum(cell.packed for cell in cells) > size:
        raise InputError(f"columns of {sum(cell.packed for cell in cells)} bytes in a file of {size}")


def _directory(file: BinaryIO, size: int) -> Fields:
    """It stands before its own length and the closing mark."""
    if size < 12 or file.read(4) != _MAGIC:
        raise InputError("not a readable Parquet file (no Parquet mark at its start)")
    file.seek(size - 8)
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > size - 12:
        raise InputError("not a readable Parquet file (cut off, or no Parquet mark at its end)")
    file.seek(size - 8 - length)
    return read_struct(file.read(length))


def _cells(directory: Fields, large: Collection[str]) -> list[_Cell]:
    rows, groups = directory[3], directory[4]
    if not 0 <= rows <= MAX_ROWS or len(groups) != rows:
        raise InputError(f"{rows} rows in {len(groups)} row groups; a trace has one row in each")
    cells = []
    for number, group in enumerate(groups):
        if group[3] != 1:
            raise InputError(f"row group {number} claims {group[3]} rows; a trace has one row in each")
        for column in group[1]:
            facts = column[3]
            name = b".".join(facts[3]).decode()
            what = f"column '{name}' of row group {number}"
            if 1 in column or 11 in facts:  # a path to another file, a dictionary page
                raise InputError(f"{what} is not stored as a trace's columns are")
            cells.append(_Cell(what, name in large, facts[4], facts[5], facts[6], facts[7], facts[9]))
    return cells


def _check_cell(cell: _Cell, size: int) -> None:
    if not 0 <= cell.offset < size or not 0 < cell.packed <= size:
        raise InputError(f"{cell.what} does not lie in the file")
    if cell.codec not in _CODECS or not 0 <= cell.values <= _MAX_LIST:
        raise InputError(f"{cell.what} is not stored as a trace's columns are")
    most = max(_FREE_BYTES, _MAX_RATIO * cell.packed) if cell.large else _MAX_SMALL
    if not 0 < cell.unpacked <= most:
        raise InputError(f"{cell.what} would grow from {cell.packed} to {cell.unpacked} bytes; at most {most} are read")


def _check_page(cell: _Cell, file: BinaryIO) -> None:
    """The header of the cell's only page must say what the directory says."""
    file.seek(cell.offset)
    header = read_struct(file.read(_LONGEST_HEADER))
    kind, unpacked, packed, values = header[1], header[2], header[3], header[5][1]
    if kind != _DATA_PAGE or values != cell.values or not 0 <= cell.packed - packed <= _HEADER_BYTES:
        raise InputError(f"{cell.what}: its page and the file's directory contradict each other")
    if not 0 <= unpacked <= cell.unpacked:
        raise InputError(f"{cell.what}: its page would grow to {unpacked} bytes, the directory says {cell.unpacked}")
