"""Suite `eyeriss`: bars, what is explained, bad tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.eyeriss import SUITE
from nestling.analysis.suites.suite import Check, failures
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(SUITE.checks(REFERENCE))


def test_the_suite_meets_its_bars(checks: list[Check]) -> None:
    assert [miss for bar in SUITE.bars for miss in failures(bar, checks)] == []


def test_dram_energy_reproduces_figure_10_to_its_digits(checks: list[Check]) -> None:
    dram = [c for c in checks if c.quantity == "dram energy"]
    assert len(dram) == 8
    assert all(abs(c.found - c.expected) <= 0.0051 for c in dram)


def test_what_misses_ten_percent_is_explained_in_the_title(checks: list[Check]) -> None:
    late = [c for c in checks if c.quantity == "latency" and c.error > 0.1]
    assert [c.row for c in late] == ["conv2 chip"]
    assert "conv2" in SUITE.title
    assert all(c.found < c.expected for c in checks if c.quantity == "power")  # no clock network in the model


def test_bad_tables(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "eyeriss", tmp_path / "eyeriss")
    table = tmp_path / "eyeriss" / "eyeriss_jssc17_tableV_alexnet.csv"
    table.write_text(table.read_text().replace("conv5", "conv6"))
    with pytest.raises(InputError, match=r"unknown layer of AlexNet .* did you mean"):
        list(SUITE.checks(tmp_path))
    table.write_text(table.read_text().replace("conv6", "conv5").replace("latency_ms", "latency"))
    with pytest.raises(InputError, match="columns latency_ms are missing"):
        list(SUITE.checks(tmp_path))
