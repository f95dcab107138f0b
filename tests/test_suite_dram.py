"""The suite against DRAMsim3: a sample of rows every day, the estimate's stated error, and the errors of the suite."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from nestling.accel.dram_estimate import estimate
from nestling.analysis.bench_dram import bench_rows
from nestling.analysis.suites.dram import (
    CONFIGURATIONS,
    GROUPS,
    SUITE,
    configuration,
    group_of,
    requests_of,
    rows,
    statistics,
)
from nestling.analysis.suites.suite import failures
from nestling.analysis.validate import REFERENCE
from nestling.traces.dram_streams import stream
from nestling.workloads.errors import InputError

TABLE = REFERENCE / "dram" / "dramsim3.csv"


def sample(tmp_path: Path, *, most_lines: int, step: int) -> Path:
    """Every ``step``-th short row of the reference, in a folder of its own, without the catalogue."""
    with TABLE.open() as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        chosen = [row for row in reader if int(row["lines"]) <= most_lines][::step]
    folder = tmp_path / "dram"
    folder.mkdir()
    with (folder / "dramsim3.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(chosen)
    return tmp_path


def test_sample_of_rows_is_exact(tmp_path: Path) -> None:
    results = list(rows(sample(tmp_path, most_lines=70_000, step=9)))
    assert len(results) > 50
    assert {result.config for result in results} == set(CONFIGURATIONS) - {"d4x8_2rank"}
    assert {result.group for result in results} == set(GROUPS) - {"other"}
    for result in results:
        assert (result.cycles_error, result.activations_error) == (0, 0), result.name
        assert abs(result.energy_error) < 2e-4, result.name
    table = statistics(results)
    assert sum(summary["cycles"].rows for summary in table.values()) == len(results)
    assert all(summary["cycles"].max_error == 0 for summary in table.values())


@pytest.mark.long
def test_all_rows_meet_the_bars() -> None:
    checks = list(SUITE.checks(REFERENCE))
    assert len(checks) == 3 * 616
    assert [missed for bar in SUITE.bars for missed in failures(bar, checks)] == []


def test_mean_latencies_of_reads(tmp_path: Path) -> None:
    with TABLE.open() as file:
        expected = {
            (row["config"], row["trace"], float(row["throttle"])): float(row["rd_lat_ns"])
            for row in csv.DictReader(file)
        }
    for result in rows(sample(tmp_path, most_lines=20_000, step=12)):
        found = result.run.mean_read_latency_cycles * result.run.device.timing.tCK_ns
        assert found == pytest.approx(expected[result.config, result.trace, result.throttle], abs=0.006)


def test_estimate_is_as_good_as_it_says() -> None:
    cases = [
        ("ddr4_bgi", "d4x8_bgi", "seqR_4MiB", 0.05), ("gather", "d4x8_def", "gath_d25", 0.05),
        ("random", "d4x16_def", "randR", 0.10), ("stride", "hbm2_1ch", "strideR_1024", 0.10),
        ("channels", "hbm2_8ch_li", "seqR_4MiB", 0.10),
    ]  # fmt: skip
    for _, config, name, limit in cases:
        controller, requests = configuration(config), stream(name)
        run = controller.run(requests)
        found = estimate(controller.device, requests, mapping=controller.mapping)
        assert found.cycles == pytest.approx(run.cycles, rel=limit)
        assert found.core_energy_pj == pytest.approx(run.core_energy_pj, rel=limit)
        assert found.reads + found.writes == run.requests


def test_groups_and_streams() -> None:
    assert group_of("mix2s_64B_al") == "mixes, aligned"
    assert group_of("tile_8k2k2k_st") == "streams"
    assert group_of("new") == "other"
    assert len(requests_of("mine", {"mine": ("seq", "nbytes=640 write=1")})) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d4x8_dfe,seqR_1MiB,0,16384,1,1,1", "did you mean 'd4x8_def'"),
        ("d4x8_def,secR_1MiB,0,16384,1,1,1", "unknown stream 'secR_1MiB'"),
        ("d4x8_def,seqR_1MiB,0,16385,1,1,1", "has 16384 lines here, 16385 there"),
        ("d4x8_def,seqR_1MiB,fast,16384,1,1,1", "throttle = 'fast' is not a number"),
    ],
)
def test_bad_reference_rows(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "dram").mkdir()
    header = "config,trace,throttle,lines,cycles,n_act,e_core_total_pJ\n"
    (tmp_path / "dram" / "dramsim3.csv").write_text(header + line + "\n")
    with pytest.raises(InputError, match=message):
        list(rows(tmp_path))


def test_benchmark_rows() -> None:
    found = bench_rows(repeats=1)
    assert all(row.ours > 1e5 and row.ratio == row.ours / row.peer for row in found)
    assert {row.peer for row in found} == {20e6, 5e6}
