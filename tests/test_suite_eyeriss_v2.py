"""Suite `eyeriss-v2`: bars, one PE by hand, bad tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.eyeriss_v2 import SUITE, read_channels
from nestling.analysis.suites.suite import failures
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError


def test_the_suite_meets_its_bars() -> None:
    checks = list(SUITE.checks(REFERENCE))
    assert [miss for bar in SUITE.bars for miss in failures(bar, checks)] == []
    assert sum(c.quantity == "cycles" for c in checks) == 5
    assert max(c.error for c in checks) < 3e-4  # the uniform estimate, which theirs rounds tile by tile


def test_channels_are_read_by_layer() -> None:
    channels = read_channels(REFERENCE / "eyeriss_v2" / "channel_nnz.csv")
    assert channels["L07"].shape == (64, 2)
    assert (channels["L07"][:, 0] * channels["L07"][:, 1]).sum() == 1702140


def test_bad_tables(tmp_path: Path) -> None:
    for folder in ("eyeriss_v2", "technology"):
        shutil.copytree(REFERENCE / folder, tmp_path / folder)
    channels = tmp_path / "eyeriss_v2" / "channel_nnz.csv"
    good = channels.read_text()
    channels.write_text(good.replace("L27", "L28"))
    with pytest.raises(InputError, match="layer L27 has no channel counts"):
        list(SUITE.checks(tmp_path))
    channels.write_text(good.replace("L07,0,1021,37", "L07,0,many,37"))
    with pytest.raises(InputError, match="nnz_iacts = 'many' is not a whole number"):
        list(SUITE.checks(tmp_path))
    channels.write_text(good)
    (tmp_path / "technology" / "ert_45nm.csv").write_text("file,component,action,energy_pJ\nx,y,z,1\n")
    with pytest.raises(InputError, match="no table 'fig12"):
        list(SUITE.checks(tmp_path))
