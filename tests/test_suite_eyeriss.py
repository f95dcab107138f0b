"""Suite `eyeriss`: bars, what is explained, bad tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.eyeriss import HALVES, MAPPINGS, SUITE
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


def test_what_is_not_modelled_is_in_the_title(checks: list[Check]) -> None:
    assert all(c.found < c.expected for c in checks if c.quantity == "power")  # no clock network in the model
    off = [c.found / c.expected - 1 for c in checks if c.quantity == "latency"]
    assert (round(100 * min(off)), round(100 * max(off))) == (-9, 1)
    assert "9 % below to 1 % above" in SUITE.title


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_chips_mapping_fits_the_chip(name: str) -> None:
    """What the recalled mapping table says agrees with sizes that were seen: scratchpads, PEs in use, buffer."""
    half, halves = HALVES[name]
    mapping, one = MAPPINGS[name], MAPPINGS[name].one
    assert one.filters_per_pe <= 24
    assert one.channels_per_pe * half.S <= 12
    assert 224 / 2 < one.filters_per_pe * one.channels_per_pe * half.S <= 224  # one pass's weights, not two
    assert half.K * halves % one.filters == 0
    assert half.C % one.channels == 0
    active = {"conv1": 154, "conv2": 135, "conv3": 156, "conv4": 156, "conv5": 156}
    sets = one.filter_sets * one.channel_sets
    assert sets * half.R * one.out_rows == active[name] <= 12 * 14
    high = (one.out_rows - 1) * half.stride + half.R
    wide = (half.F - 1) * half.stride + half.S
    words = mapping.images * (mapping.kept_filters * one.out_rows * half.F + one.channels * high * wide)
    assert 0.87 * 51200 < words <= 51200


def test_bad_tables(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "eyeriss", tmp_path / "eyeriss")
    table = tmp_path / "eyeriss" / "eyeriss_jssc17_tableV_alexnet.csv"
    table.write_text(table.read_text().replace("conv5", "conv6"))
    with pytest.raises(InputError, match=r"unknown layer of AlexNet .* did you mean"):
        list(SUITE.checks(tmp_path))
    table.write_text(table.read_text().replace("conv6", "conv5").replace("latency_ms", "latency"))
    with pytest.raises(InputError, match="columns latency_ms are missing"):
        list(SUITE.checks(tmp_path))
