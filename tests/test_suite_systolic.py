"""Suite `systolic` on the product's copy, on tables of other shapes, and the benchmark built on it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from nestling.analysis.bench_scalesim import SCALE_SIM_CPU_S, scale_sim_rows
from nestling.analysis.suites.scale_sim_rows import layer_addresses
from nestling.analysis.suites.suite import failures, summarise
from nestling.analysis.suites.systolic import SUITE
from nestling.analysis.validate import REFERENCE, run_suite
from nestling.workloads.errors import InputError


def copy_of_the_tables(folder: Path) -> Path:
    shutil.copytree(REFERENCE / "scalesim", folder / "scalesim")
    return folder / "scalesim" / "dense.csv"


def rewrite(path: Path, change) -> None:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [change(row) for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_every_row_is_exact() -> None:
    outcome = run_suite("systolic")
    assert outcome.passed
    assert outcome.summary.rows == outcome.summary.exact == 317 + 54
    quantities = {check.quantity for check in outcome.checks}
    assert {"cycles", "total cycles", "SRAM output writes", "DRAM input reads", "DRAM filter reads"} <= quantities
    dram = [check for check in outcome.checks if check.quantity == "DRAM input reads"]
    assert len(dram) == 371


def test_a_wrong_number_fails_the_bar(tmp_path: Path) -> None:
    path = copy_of_the_tables(tmp_path)
    rewrite(path, lambda row: row | ({"dram_ifmap_reads": "7"} if row["layer"] == "g05" else {}))
    checks = list(SUITE.checks(tmp_path))
    wrong = {check.quantity for check in checks if not check.exact}
    assert wrong == {"DRAM input reads"}
    assert any("exact" in text for text in failures(SUITE.bars[0], checks))


def test_other_modes_check_what_is_determined(tmp_path: Path) -> None:
    """Stalls are the tool's; without its own bandwidth estimate the DRAM reads are not comparable."""
    path = copy_of_the_tables(tmp_path)

    def user_mode(row: dict[str, str]) -> dict[str, str]:
        total = int(row["total_cycles"]) + 40
        return row | {
            "mode": "USER",
            "stall_cycles": "40",
            "total_cycles": str(total),
            "overall_util_pct": str(100 * int(row["macs"]) / (total * int(row["array_rows"]) * int(row["array_cols"]))),
            "dram_ifmap_reads": "",
        }

    rewrite(path, user_mode)
    checks = [check for check in SUITE.checks(tmp_path) if check.row.startswith("dense")]
    assert summarise(checks).exact == 317
    assert not any("DRAM" in check.quantity for check in checks)
    assert any(check.quantity == "overall utilisation" for check in checks)


def test_rows_without_topology_keep_their_other_checks(tmp_path: Path) -> None:
    copy_of_the_tables(tmp_path)
    (tmp_path / "scalesim" / "topologies" / "conv_random20.csv").unlink()
    checks = list(SUITE.checks(tmp_path))
    assert summarise(checks).exact == 371
    assert sum(check.quantity == "DRAM input reads" for check in checks) == 371 - 165


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Layer, M, N, K,\nother, 1, 2, 3,\n", "no layer 'g00'"),
        ("Layer, M, N, K,\ng00, 1, 2,\n", "has 2 numbers"),
        ("Layer, M, N, K,\ng00, 1, two, 3,\n", "not a whole number"),
        ("Layer, M, N, K,\ng00, 9, 9, 9,\n", "do not belong to a product"),
    ],
)
def test_bad_topologies_are_named(tmp_path: Path, text: str, message: str) -> None:
    copy_of_the_tables(tmp_path)
    (tmp_path / "scalesim" / "topologies" / "gemm_random20.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(SUITE.checks(tmp_path))


def test_missing_columns_and_strange_cells_are_named(tmp_path: Path) -> None:
    path = copy_of_the_tables(tmp_path)
    rewrite(path, lambda row: row | {"dataflow": "rs"})
    with pytest.raises(InputError, match=r"dataflow = 'rs'; allowed are ws, os, is"):
        list(SUITE.checks(tmp_path))
    rewrite(path, lambda row: row | {"dataflow": "ws", "demand_rows": "many"})
    with pytest.raises(InputError, match="demand_rows = 'many' is not a number"):
        list(SUITE.checks(tmp_path))
    rewrite(path, lambda row: {key: value for key, value in row.items() if key != "array_rows"})
    with pytest.raises(InputError, match="columns array_rows are missing"):
        list(SUITE.checks(tmp_path))
    assert layer_addresses(tmp_path, "nowhere", "g00") is None


def test_benchmark_prints_both_times() -> None:
    (row,) = scale_sim_rows(repeats=1)
    assert "6349206 cycles" in row.name  # the reference's total for ResNet-50 on 32x32, weight stationary
    assert row.peer == SCALE_SIM_CPU_S
    assert row.ratio == row.ours / SCALE_SIM_CPU_S
    assert row.ratio < 0.1


def test_benchmark_refuses_other_numbers(tmp_path: Path) -> None:
    copy_of_the_tables(tmp_path)
    table = tmp_path / "scalesim" / "resnet50_32x32_ws.csv"
    rewrite(table, lambda row: row | {"dram_filter_reads": "1"})
    with pytest.raises(RuntimeError, match="54 of 54 layers differ"):
        scale_sim_rows(tmp_path, repeats=1)
    shutil.rmtree(tmp_path / "scalesim" / "topologies")
    with pytest.raises(InputError, match="no topology 'resnet50_exact'"):
        scale_sim_rows(tmp_path, repeats=1)
