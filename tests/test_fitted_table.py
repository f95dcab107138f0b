"""Terminal tables at 80, 100 and 120 columns: whole figures or none."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.analysis import output
from nestling.analysis.compare import terminal_comparison
from nestling.analysis.explain import explain, terminal_explanation
from nestling.analysis.fitted_table import Column, FittedTable
from nestling.analysis.study import Study
from nestling.analysis.tables import terminal_table
from nestling.analysis.validate import run_suite
from rich.console import Console

from .spine_cases import design
from .study_cases import study

WIDTHS = (80, 100, 120)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def rendered(parts: Sequence[Any], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, emoji=False)
    for part in parts:
        console.print(part)
    text = out.getvalue()
    assert "…" not in text  # rich shortens what does not fit
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.fixture(scope="module")
def case() -> Study:
    return study(designs=("nm-lanes-16x8", "systolic-16x16", "stc-flexible", "bit-pragmatic"))


@pytest.mark.parametrize("width", WIDTHS)
def test_run_shows_whole_figures(case: Study, width: int) -> None:
    text = rendered(terminal_table(case), width)
    for result in case.results:
        for level in result.levels:
            assert f" {level.cycles:,} " in text
    assert ("not shown in" in text) == (width == 80)


@pytest.mark.parametrize("width", WIDTHS)
def test_compare_shows_whole_figures(case: Study, width: int) -> None:
    text = rendered([terminal_comparison(case)], width)
    for result in case.results:
        assert text.count(f" {result.design.name} ") == len(result.levels)
        for level in result.levels:
            assert f" {level.cycles:,} " in text
    assert ("not shown in 80 columns: " in text) == (width == 80)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("levels", [[0], [0, 1, 2]])
def test_explain_shows_every_level_of_every_figure(case: Study, width: int, levels: list[int]) -> None:
    explanation = explain(case.trace, design("stc-flexible"), "conv1", levels=levels)
    text = rendered(terminal_explanation(explanation), width)
    for result in explanation.results:
        assert f" level {result.level} " in text
        for name in ("mac_effectual", "mac_ineffectual", "mac_gated", "mac_skipped", "mac_dense", "pe_slots"):
            assert f" {result.counts[name]:,} " in text
        assert f" {result.counts['pe_idle']:,} ({result.idle_share:.1%}) " in text
        for pattern, macs in result.patterns.items():
            assert f"MACs run as {pattern} " in text
            assert f" {macs:,} (" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_validate_shows_whole_figures(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, emoji=False))
    outcome = run_suite("tensor-core")
    output.print_outcomes([outcome], as_json=False, details=True)
    text = capsys.readouterr().out
    assert "…" not in text
    assert f" {outcome.summary.rows} " in text
    assert f" {outcome.summary.max_error:.2%} " in text
    for summary in outcome.by_group().values():
        assert f" {summary.checks} " in text or f" {summary.rows} " in text


@given(
    rows=st.lists(st.lists(st.integers(0, 10**12), min_size=6, max_size=6), min_size=1, max_size=4),
    width=st.integers(44, 140),
    below=st.booleans(),
)
def test_a_figure_is_whole_or_its_column_is_named(rows: list[list[int]], width: int, below: bool) -> None:
    columns = [Column("row", [f"r{i}" for i in range(len(rows))], left=True)]
    columns += [Column(f"c{i}", [f"{row[i]:,}" for row in rows], rank=i) for i in range(6)]
    text = rendered([FittedTable("t", columns, overflow="below" if below else "drop")], width)
    shown = set(NUMBER.findall(text))
    for i, column in enumerate(columns[1:]):
        if set(column.cells) <= shown:
            continue
        assert not below
        assert f"c{i}" in text.rsplit("not shown in", maxsplit=1)[1]
    assert columns[1].rank == 0
    assert set(columns[1].cells) <= shown
