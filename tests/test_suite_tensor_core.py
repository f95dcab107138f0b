"""Suite `tensor-core`: bars on the product's copy, other rows in the same columns, bad tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nestling.analysis.suites.suite import Check, failures
from nestling.analysis.suites.tensor_core import SUITE
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

TABLE = Path("nm_tensor_core") / "stc_dstc_resnet50_int8.csv"


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(SUITE.checks(REFERENCE))


def test_the_suite_meets_its_bars(checks: list[Check]) -> None:
    assert [miss for bar in SUITE.bars for miss in failures(bar, checks)] == []


def test_compressed_rows_are_within_a_cycle_and_dual_side_rows_show_the_trend(checks: list[Check]) -> None:
    compressed = [c for c in checks if c.group == "both compressed" and c.quantity == "cycles"]
    assert compressed
    assert max(abs(c.found - c.expected) for c in compressed) <= 1
    trend = [c.error for c in checks if c.group == "dual-side"]
    assert len(trend) == 21
    assert max(trend) < 0.12


def test_published_errors_of_uniform_models_follow_from_the_times(checks: list[Check]) -> None:
    assert sum(c.quantity == "error of a uniform model" for c in checks) == 4  # one matrix overflowed
    assert all(c.exact for c in checks if c.group == "ExTensor")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in ("nm_tensor_core", "technology"):
        shutil.copytree(REFERENCE / folder, tmp_path / folder)
    return tmp_path


def test_other_rows_of_the_same_columns(copy: Path) -> None:
    """A GEMM that is not in the table: compute bound by hand."""
    head = (copy / TABLE).read_text().splitlines()[1]
    row = "STC-RF2x-24-bandwidth,2048,512,64,0.34,0.5,32768,1,1,1,1,0.56,0.09,0.21,0.2,1"
    (copy / TABLE).write_text(f"{head}\n{row}\n")
    first = next(iter(SUITE.checks(copy)))
    # 32 row blocks x 16 issue steps x 64 columns; weights once per 64 columns make the shared memory the bound:
    # (2048*256*1.25 + 512*64*32) / 42 = 40,569.9
    assert first.found == 40570


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        ("weight_density", "density", "columns weight_density are missing"),
        ("STC-RF2x", "XTC-RF2x", "unknown design in .* 'XTC'"),
        ("128,1152", "128.5,1152", "M = '128.5' is not a whole number"),
        ("STC-RF2x-24-bandwidth,128", "STC-RF3x,128", "has no table"),
    ],
)
def test_bad_tables(copy: Path, found: str, instead: str, message: str) -> None:
    (copy / TABLE).write_text((copy / TABLE).read_text().replace(found, instead, 1))
    with pytest.raises(InputError, match=message):
        list(SUITE.checks(copy))
