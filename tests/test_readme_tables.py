"""Measured tables replace their block of a README, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from nestling.analysis.bench import BenchRow
from nestling.analysis.readme_tables import bench_markdown, check_block, write_block
from nestling.workloads.errors import InputError

TEXT = "before\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- a b -->\nother\n<!-- end -->\nafter\n"


def test_a_block_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(TEXT, encoding="utf-8")
    write_block(readme, "a", "new \\1")
    expected = TEXT.replace("\nold\n", "\n\nnew \\1\n\n")
    assert readme.read_text(encoding="utf-8") == expected
    write_block(readme, "a b", "table")
    assert readme.read_text(encoding="utf-8") == expected.replace("\nother\n", "\n\ntable\n\n")


@pytest.mark.parametrize(
    "text", ["no marks", "<!-- a -->\n", "<!-- end --><!-- a -->", TEXT + TEXT, TEXT.replace("<!-- end -->", "", 1)]
)
def test_a_file_without_the_block_once_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="needs one line <!-- a -->"):
        write_block(readme, "a", "new")
    assert readme.read_text(encoding="utf-8") == text


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        write_block(tmp_path / "none.md", "a", "new")


def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(TEXT, encoding="utf-8")
    check_block(readme, "a", ())
    check_block(None, "any", ("part",))
    with pytest.raises(InputError, match="all of 'a', not only dram"):
        check_block(readme, "a", ("dram",))
    with pytest.raises(InputError, match="needs one line"):
        check_block(readme, "c", ())


def test_rows_of_the_benchmark() -> None:
    rows = [BenchRow("fast", 1.8e7, 2e7, 0.9, "lines/CPU s"), BenchRow("plain", 0.123456, None, None, "CPU s")]
    assert bench_markdown(rows).splitlines()[2:] == [
        "| fast | 1.8e7 | 2e7 | 0.90 | lines/CPU s |",
        "| plain | 0.123 | - | - | CPU s |",
    ]


def test_the_project_readme_has_both_blocks() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for command in ("nestling bench", "nestling bench executor"):
        start = text.index(f"<!-- {command} -->")
        assert text.index("<!-- end -->", start) > start
