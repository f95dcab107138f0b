"""The HTML report: self-contained, escaped, complete, equal in every run, true to the numbers."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nestling.analysis.report import comparison, design_values, headline, render_report, write_report
from nestling.analysis.study import Study, design_labels
from nestling.sim.results import Result
from nestling.workloads.errors import InputError

from .study_cases import DESIGNS, layers, study

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks nesting and collects what a browser would fetch, the sections and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.rows = 0
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action", "data")]
        if tag == "section":
            self.sections.append(values["id"] or "")
        self.rows += tag == "tr" and self.sections[-1:] == ["layers"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def case() -> Study:
    return study()


@pytest.fixture(scope="module")
def page(case: Study) -> Page:
    return Page(render_report(case))


def test_nothing_is_fetched(case: Study, page: Page) -> None:
    assert all(link.startswith("#") for link in page.links)
    assert not {"link", "iframe", "object", "embed", "base"} & page.tags
    text = render_report(case)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_sections_stand_in_order(page: Page) -> None:
    figures = ["energy", "latency", "tradeoff", "utilisation", "timeline", "storage", "measured"]
    assert page.sections == ["levels", "cpu", "warnings", *figures, "layers", "provenance", "glossary"]
    assert page.open == []


def test_two_runs_write_equal_bytes(case: Study, tmp_path: Path) -> None:
    write_report(case, tmp_path / "new" / "a.html")
    write_report(study(), tmp_path / "b.html")
    first = (tmp_path / "new" / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_every_warning_is_on_the_page(case: Study, page: Page) -> None:
    warnings = {warning for result in case.results for warning in result.warnings}
    assert warnings
    assert all(warning in page.text for warning in warnings)


def test_a_warning_of_one_design_names_it(case: Study) -> None:
    first, second = case.results
    odd = replace(case, results=[first, replace(second, warnings=[*second.warnings, "only here"])])
    assert re.search(r"only here\s*\(systolic-16x16\)", Page(render_report(odd)).text)


def test_every_layer_has_a_row(case: Study, page: Page) -> None:
    expected = sum(len(level.layers) for result in case.results for level in result.levels)
    assert page.rows == expected + 1  # and the heading


def test_provenance_is_complete(case: Study, page: Page) -> None:
    for text in (case.command, case.version, case.results[0].trace_digest, case.source):
        assert text in page.text
    for result in case.results:
        assert result.design.dram.latency_s.source in page.text
        assert result.point.source in page.text


def test_design_values_list_every_number_with_its_source(case: Study) -> None:
    design = case.results[0].design
    rows = design_values(design.model_dump(mode="json"))
    values = {path: (value, source, verified) for path, value, source, verified in rows}
    for path, quantity in design.quantities():
        assert values[path] == (f"{quantity.value:g}", quantity.source, quantity.verified)
    assert values["array.rows"] == ("16", "", None)
    assert values["zero_handling.weights"][0] == "skip"
    assert sum(path.startswith("operating_points[") for path in values) == len(design.operating_points)


def test_names_cannot_become_markup(case: Study) -> None:
    evil = "</style></script><script>alert(1)</script>"
    network = layers(name="l{}" + evil)
    bad = replace(study(network_layers=network), command=f"run '{evil}'", source=evil, network=evil)
    text = render_report(bad)
    assert "<script>alert" not in text
    parsed = Page(text)
    assert evil in parsed.text
    assert parsed.open == []


def test_headline_is_computed_from_the_result(case: Study) -> None:
    levels = case.results[0].levels
    energy = levels[2].energy_j / levels[0].energy_j
    latency = levels[2].cycles / levels[0].cycles
    expected = (
        f"Level 2 (10 % of the weights) needs {energy:.2f}× the energy and {latency:.2f}× the time of the dense level"
    )
    assert headline(case).startswith(expected)
    assert "at −4.0 points of accuracy on nm-lanes-16x8" in headline(case)
    assert headline(case) in Page(render_report(case)).text


def test_headline_without_accuracy_does_not_mention_it(case: Study) -> None:
    assert "accuracy" not in headline(replace(case, executions=()))
    assert "not measured" in Page(render_report(replace(case, executions=()))).text


def test_headline_of_a_pruned_densest_level_does_not_call_it_dense() -> None:
    assert "of level 0 (50 %)" in headline(study(densities=(0.5, 0.25)))


def test_headline_of_one_level() -> None:
    case = study(densities=(0.5,), designs=["systolic-16x16"])
    assert re.fullmatch(
        r"Level 0 \(50 % of the weights\) of net needs \S+ .J and \S+ .s per inference on systolic-16x16\.",
        headline(case),
    )
    assert comparison(case) == ""


def test_comparison_names_the_design_with_least_energy(case: Study) -> None:
    at: dict[str, Result] = dict(zip(design_labels(case), case.results, strict=True))
    best = min(DESIGNS, key=lambda name: at[name].levels[2].energy_j)
    other = next(name for name in DESIGNS if name != best)
    ratio = at[best].levels[2].energy_j / at[other].levels[2].energy_j
    assert comparison(case).startswith(f"At level 2, {best} needs the least energy: {ratio:.2f}× the energy")
    assert comparison(case).endswith(f"of {other}.")


def test_a_study_without_results_is_refused_and_the_old_file_stays(case: Study, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match="has no results to report"):
        write_report(replace(case, results=()), path)
    assert path.read_text(encoding="utf-8") == "old"


def test_a_deep_network_stays_small_and_quick(tmp_path: Path) -> None:
    deep = study(network_layers=layers(131), densities=(1.0, 0.5, 0.25, 0.1))
    path = tmp_path / "report.html"
    write_report(deep, path)
    began = time.process_time()
    write_report(deep, path)
    assert time.process_time() - began < 3.0
    assert path.stat().st_size < 2_000_000
