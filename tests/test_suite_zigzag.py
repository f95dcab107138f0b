"""Suite `zigzag` and the replay behind it: the identity, a hand count, and bad files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.accel.zigzag import read_accelerator, replay
from nestling.analysis.suites.suite import failures, summarise
from nestling.analysis.suites.zigzag import SUITE
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

ACCELERATOR = REFERENCE / "zigzag" / "simple16.yaml"


def test_the_suite_meets_its_bars() -> None:
    checks = list(SUITE.checks(REFERENCE))
    assert [miss for bar in SUITE.bars for miss in failures(bar, checks)] == []
    summary = summarise(checks)
    assert summary.rows == 21
    assert summary.max_error < 1e-12


def test_a_level_by_hand() -> None:
    accelerator = read_accelerator(ACCELERATOR)
    counts = {
        ("O", 1, "RD_OUT_TO_LOW"): 225792.0,
        ("O", 1, "WR_IN_BY_LOW"): 225792.0,
        ("O", 1, "RD_OUT_TO_HIGH"): 3136.0,
        ("W", 2, "WR_IN_BY_HIGH"): 2.0,
    }
    energy = replay(accelerator, macs=1000, accesses=counts)
    assert energy.levels["O", 1] == pytest.approx(136976793.3184)
    assert energy.levels["W", 2] == 1024
    assert energy.mac_pj == pytest.approx(560.8)
    assert energy.total_pj == pytest.approx(136976793.3184 + 1024 + 560.8)


def test_levels_are_numbered_from_the_inside() -> None:
    accelerator = read_accelerator(ACCELERATOR)
    assert [m.r_cost for m in accelerator.levels("W")] == [0.072, 285.71464, 512]
    assert [m.r_cost for m in accelerator.levels("I")] == [285.71464, 512]


def test_accesses_that_do_not_exist() -> None:
    accelerator = read_accelerator(ACCELERATOR)
    with pytest.raises(InputError, match=r"no accesses 'I2 RD_OUT_TO_LOW'; it has I0\.\.I1"):
        replay(accelerator, macs=1, accesses={("I", 2, "RD_OUT_TO_LOW"): 1})
    with pytest.raises(InputError, match="no accesses 'I0 SIDEWAYS'"):
        replay(accelerator, macs=1, accesses={("I", 0, "SIDEWAYS"): 1})
    with pytest.raises(InputError, match="-1 accesses"):
        replay(accelerator, macs=1, accesses={("I", 0, "RD_OUT_TO_LOW"): -1})
    assert replay(accelerator, macs=0, accesses={("I", 2, "RD_OUT_TO_LOW"): 0}).total_pj == 0


def test_results_of_other_networks_beside_an_accelerator_are_checked_too(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "zigzag", tmp_path / "zigzag")
    shown = (tmp_path / "zigzag" / "resnet18_simple16.csv").read_text().splitlines(keepends=True)
    (tmp_path / "zigzag" / "mobilenet_simple16.csv").write_text("".join(shown[:3]))
    assert summarise(list(SUITE.checks(tmp_path))).rows == 21 + 2
    (tmp_path / "zigzag" / "simple16.yaml").rename(tmp_path / "zigzag" / "other.yaml")
    with pytest.raises(InputError, match=r"no accelerator file NAME.yaml with results NETWORK_NAME.csv"):
        list(SUITE.checks(tmp_path))


def test_bad_reference_files(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "zigzag", tmp_path / "zigzag")
    table = tmp_path / "zigzag" / "resnet18_simple16.csv"
    good = table.read_text()
    table.write_text(good.replace("acc_O0_RD_OUT_TO_LOW", "acc_O0_UP", 1))
    with pytest.raises(InputError, match="acc_O0_UP"):
        list(SUITE.checks(tmp_path))
    table.write_text(good.replace("energy_pJ", "energy", 1))
    with pytest.raises(InputError, match="columns energy_pJ are missing"):
        list(SUITE.checks(tmp_path))
    (tmp_path / "zigzag" / "simple16.yaml").write_text("name: x\nmemories: {}\n")
    with pytest.raises(InputError, match="operational_array"):
        list(SUITE.checks(tmp_path))
