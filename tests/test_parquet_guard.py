"""Parquet files that claim what they cannot hold never reach a Parquet reader."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.traces.parquet_guard import check_claims, metadata_of, read_directory
from nestling.traces.thrift_compact import read_struct
from nestling.workloads.errors import InputError

PLAIN = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


def write(path: Path, rows: int = 2, **options: object) -> Path:
    table = pa.table({"name": ["a"] * rows, "keep": [b"\1" * 50_000] * rows, "sizes": [[1, 2]] * rows})
    table = table.replace_schema_metadata({"x": "y"})
    pq.write_table(table, path, row_group_size=1, **(PLAIN | options))  # type: ignore[arg-type]
    return path


def check(path: Path) -> None:
    check_claims(path, read_directory(path), ["keep"])


def varint(number: int) -> bytes:
    """Zigzag variable-length integer of Thrift's compact protocol."""
    number, out = number << 1, b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def test_the_directory_is_what_pyarrow_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "t", rows=3)
    directory, expected = read_directory(path), pq.read_metadata(path)
    assert directory[3] == expected.num_rows
    assert metadata_of(directory)[b"x"] == b"y"
    for g, group in enumerate(directory[4]):
        assert group[3] == expected.row_group(g).num_rows
        for c, column in enumerate(group[1]):
            facts, theirs = column[3], expected.row_group(g).column(c)
            assert b".".join(facts[3]).decode() == theirs.path_in_schema
            found = (facts[5], facts[6], facts[7], facts[9])
            named = ("num_values", "total_uncompressed_size", "total_compressed_size", "data_page_offset")
            assert found == tuple(getattr(theirs, name) for name in named)
    check(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_group_size": 2}, "2 rows in 1 row groups"),
        ({"use_dictionary": True}, "not stored as a trace's columns are"),
        ({"compression": "snappy"}, "not stored as a trace's columns are"),
        ({"data_page_version": "2.0"}, "directory is broken"),
    ],
)
def test_files_of_other_writers(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = tmp_path / "t"
    table = pa.table({"name": ["a", "b"], "keep": [b"\1" * 50_000] * 2})
    pq.write_table(table, path, **({"row_group_size": 1} | PLAIN | options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        check(path)


@pytest.mark.parametrize(("size", "refused"), [(60 << 20, False), (80 << 20, True)])
def test_a_bomb_of_zeros(tmp_path: Path, size: int, refused: bool) -> None:
    pq.write_table(pa.table({"name": ["a"], "keep": [bytes(size)]}), tmp_path / "t", **PLAIN)
    assert (tmp_path / "t").stat().st_size < size / 1000
    if refused:
        with pytest.raises(InputError, match=r"column 'keep' of row group 0 would grow from \d+ to \d+ bytes"):
            check(tmp_path / "t")
    else:
        check(tmp_path / "t")


def test_small_columns_stay_small(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a" * 70_000]}), tmp_path / "t", **PLAIN)
    with pytest.raises(InputError, match="at most 65536 are read"):
        check(tmp_path / "t")


def test_long_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sizes": [[7] * 256]}), tmp_path / "t", **PLAIN)
    with pytest.raises(InputError, match=r"'sizes\.list\.element' of row group 0 is not stored"):
        check(tmp_path / "t")


def test_a_page_that_claims_more_than_the_directory(tmp_path: Path) -> None:
    """The same number of bytes, another number: the page of ``keep`` would become a GiB."""
    path = write(tmp_path / "t", rows=1)
    facts = read_directory(path)[4][0][1][1][3]
    data = bytearray(path.read_bytes())
    old = varint(read_struct(bytes(data[facts[9] :]))[2])
    position = data.index(old, facts[9])
    data[position : position + len(old)] = varint((1 << (7 * len(old) - 1)) - 1)
    path.write_bytes(data)
    with pytest.raises(InputError, match="its page would grow to 1048575 bytes, the directory says 500"):
        check(path)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 3, b"PAR1" + bytes(20), b"PAR1\0\0\0\0\0\0\0\xffPAR1"])
def test_no_parquet(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        check(tmp_path / "t")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_structure_or_a_value_error(data: bytes) -> None:
    try:
        found = read_struct(data)
    except ValueError:
        return
    assert all(isinstance(number, int) for number in found)


@pytest.mark.parametrize(
    "data",
    [
        b"\x1c" * 100,  # structures in structures
        b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\0" * 50,  # a list of four thousand million structures
        b"\x18\xff\xff\xff\xff\x0f",  # a text of that size
        b"\x16" + b"\xff" * 20,  # an integer without end
        b"\x1d\x00",  # an unknown type
        b"\x16",
    ],
)
def test_structures_that_claim_too_much(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_struct(data)
