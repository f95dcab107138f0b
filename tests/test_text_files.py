"""Text files and CSV tables with comments: what is read, and one message for what is not."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.text_files import read_rows, read_text

#: What a table may hold in one field: no comment sign at the start of a line, no line breaks.
FIELDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=6).map(lambda x: f"x{x}")


def test_text_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    for prefix in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.csv").write_bytes(prefix + "größe\n".encode())
        assert read_text(tmp_path / "a.csv", most_bytes=16) == "größe\n"


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    with pytest.raises(InputError, match=r"a\.csv: no such file"):
        read_text(file)
    with pytest.raises(InputError, match="not a regular file"):
        read_text(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a readable text file"):
        read_text(file)
    with pytest.raises(InputError, match="3 bytes; tables over 2 bytes are refused"):
        read_text(file, most_bytes=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(st.tuples(FIELDS, FIELDS), max_size=5))
def test_rows_are_those_that_were_written(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("a", "b"), *table])
    lines = text.getvalue().splitlines()
    (tmp_path / "a.csv").write_text("# first\n" + "\n# between\n".join(lines) + "\n", encoding="utf-8")
    assert [(row["a"], row["b"]) for row in read_rows(tmp_path / "a.csv", ("b", "a"))] == table


def test_missing_columns_and_endless_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("# a,b,c\na,d\n1,2\n")
    with pytest.raises(InputError, match="columns b, c are missing"):
        read_rows(file, ("a", "b", "c"))
    file.write_text(f"a\n{'1' * (csv.field_size_limit() + 1)}\n")
    with pytest.raises(InputError, match="not CSV"):
        read_rows(file, ("a",))
