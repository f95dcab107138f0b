"""`nestling dram`, `--dram` and `lower --requests`, and what reports say about a command-level DRAM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nestling.accel.arrays import ARRAYS
from nestling.accel.design import load_design
from nestling.accel.dram import DEVICES, load_command_device
from nestling.accel.dram_choice import DeviceDram, FlatDram
from nestling.accel.dram_energy import clock_hz
from nestling.analysis.dram_command import REPLAY_DEVICE, scheduled_requests
from nestling.analysis.dram_tables import COMMANDS, report_dram, terminal_dram
from nestling.analysis.lanes import lanes_of
from nestling.analysis.report import render_report
from nestling.analysis.run import study_of_trace
from nestling.analysis.study import Study
from nestling.analysis.tables import layer_table, tidy, to_json
from nestling.sim.dram import Controller
from nestling.sim.dram_pipeline import DramTileEvents
from nestling.sim.memory import controller_of, layer_streams, open_memory
from nestling.traces.lowering import lower
from nestling.traces.requests import read_requests
from nestling.traces.trace import Trace

from .spine_cases import mixed_network
from .test_cli import call

COMMAND = "lpddr4_3200_x32_lockstep"
LINES = "0x0 READ 0\n0x40 READ 0\n0x4000 WRITE 25\n"


@pytest.fixture
def nestling(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def mixed() -> Trace:
    return lower(mixed_network())


@pytest.fixture(scope="module")
def study() -> Study:
    from nestling.analysis.run import RunOptions

    flat = load_design("nm-lanes-16x8")
    designs = [flat.with_dram(COMMAND), load_design("systolic-16x16")]
    return study_of_trace(lower(mixed_network()), designs, options=RunOptions())


@pytest.mark.parametrize("text", [LINES, "LD 0x0\nLD 0x40\nST 0x4000\n"])
def test_a_trace_is_served_as_the_controller_does(nestling: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "requests.trace"
    path.write_text(text)
    status, out, _ = nestling("dram", path, "--device", "ddr4_2400_x8", "--json")
    found = json.loads(out)
    alone = Controller(load_command_device("ddr4_2400_x8")).run(read_requests(path))
    assert status == 0
    assert (found["cycles"], found["reads"], found["writes"]) == (alone.cycles, 2, 1)
    assert found["energy_j"] == pytest.approx(sum(found["energy_by_command_j"].values()))
    assert found["flat_energy_j"]["smartexchange_100pj_per_byte"] == pytest.approx(192 * 100e-12)


def test_a_mapping_changes_the_result_and_the_table_names_it(nestling: Any, tmp_path: Path) -> None:
    path = tmp_path / "requests.trace"
    path.write_text("".join(f"{64 * i:#x} READ 0\n" for i in range(2000)))
    outs = [
        json.loads(nestling("dram", path, "--device", "ddr4_2400_x8", "--mapping", m, "--json")[1])["cycles"]
        for m in ("default", "bank_group_interleaved")
    ]
    assert outs[0] > outs[1]  # one bank group at a time is bound by tCCD_L
    status, out, _ = nestling("dram", path, "-d", "ddr4_2400_x8")
    assert status == 0
    assert "energy, refresh" in out
    assert "row hits" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "ddr4_2400_x9"), "did you mean 'ddr4_2400_x8'?"),
        (("--device", "horowitz_45nm"), "is flat"),
        (("--device", "hbm2", "--mapping", "bank"), "unknown mapping of hbm2 'bank'"),
        (("--device", "hbm2", "--mapping", "co bg ba"), "each bit once"),
        ((), "a TRACE and --device NAME are needed"),
    ],
)
def test_wrong_devices_and_mappings(nestling: Any, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    path = tmp_path / "requests.trace"
    path.write_text(LINES)
    status, out, err = nestling("dram", path, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0x3 READ 0\n", ":1: address 0x3 is not aligned to 64 bytes"),
        ("0x40 READ 0\n0x40 LOAD 0\nx\n", ": 2 bad lines"),
        ("0x4000000000000 READ 0\n", "1 of 1 addresses lie beyond ddr4_2400_x8"),
        ("", ": no requests"),
    ],
)
def test_wrong_traces(nestling: Any, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "requests.trace"
    path.write_text(text)
    status, out, err = nestling("dram", path, "--device", "ddr4_2400_x8")
    assert (status, out) == (2, "")
    assert words in err


def test_the_list_shows_every_device(nestling: Any) -> None:
    status, out, _ = nestling("dram", "--list")
    assert status == 0
    assert all(name in out for name in DEVICES)
    found = json.loads(nestling("dram", "--list", "--json")[1])["devices"]
    assert [device["name"] for device in found] == list(DEVICES)
    found = json.loads(nestling("dram", "--list", "--device", "hbm2", "--json")[1])["devices"]
    assert [device["name"] for device in found] == ["hbm2"]
    status, out, err = nestling("dram", "--list", "--device", "hbm3")
    assert (status, out) == (2, "")
    assert "did you mean 'hbm2'" in err


def test_lower_exports_requests_that_dram_reads_again(nestling: Any, tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    options = ("lower", "fashion", "-o", tmp_path / "t.parquet", "-a", "systolic-16x16", "--requests", folder)
    status, _, err = nestling(*options, "--layer", "conv99")
    assert status == 2
    assert "unknown layer 'conv99'" in err
    assert nestling(*options)[0] == 2  # which layer?
    assert nestling(*options, "--layer", "conv1", "--level", 9)[0] == 2
    assert nestling(*options, "--layer", "conv1", "--level", 2)[0] == 0
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"conv1.level2.{form}.trace" for form in ("dramsim3", "ramulator")]
    first, second = (read_requests(path) for path in paths)
    assert first.addresses.tolist() == second.addresses.tolist()
    assert first.is_write.tolist() == second.is_write.tolist()
    assert first.writes > 0
    assert first.cycles[-1] > 0 == second.cycles[-1]
    assert nestling("dram", paths[0], "--device", "hbm2", "--json")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "conv22"], "did you mean 'conv2'"),
        (["--layer", "conv2", "--level", "4"], "levels are 0 (densest) to 3"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_lowered(
    nestling: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    trace = tmp_path / "t.parquet"
    status, _, err = nestling("lower", "fashion", "--out", trace, "--requests", tmp_path / "r", *options)
    assert status == 2
    assert message in err
    assert not trace.exists()


def test_replayed_requests_are_taken_as_in_the_closed_loop(mixed: Trace) -> None:
    """An independent run from the exported arrivals alone: same lines, merging and acceptance, a device's cycles."""
    design = load_design("systolic-16x16")
    for name in ("ddr4_2400_x8", "lpddr4_3200_x16", "hbm2_8ch"):
        chosen = design.with_dram(name)
        memory = open_memory(chosen, clock_hz=chosen.point().clock_hz, engine="recurrence")
        for layer in mixed.layers:
            for level in range(mixed.levels):
                plan = next(iter(ARRAYS[chosen.array.kind].plans(layer, [level], chosen)))
                events = memory.events(layer, plan)
                assert isinstance(events, DramTileEvents)
                assert isinstance(chosen.dram, DeviceDram)
                loop = events.dram
                requests, cycles = scheduled_requests(layer, chosen, level)
                alone = controller_of(chosen.dram).run(requests)
                assert (alone.requests, alone.reads, alone.last_accept_cycle) == (
                    loop.requests, loop.reads, loop.last_accept_cycle
                )  # fmt: skip
                assert name in cycles


def test_before_a_flat_dram_requests_keep_its_bandwidth(mixed: Trace) -> None:
    design = load_design("systolic-16x16")
    assert isinstance(design.dram, FlatDram)
    memory = open_memory(design, clock_hz=design.point().clock_hz, engine="recurrence")
    per_cycle = design.dram.bandwidth_bytes_per_s.value / clock_hz(load_command_device(REPLAY_DEVICE))
    layer = max(mixed.layers, key=lambda x: x.layer.macs)
    plan = next(iter(ARRAYS[design.array.kind].plans(layer, [0], design)))
    requests, cycles = scheduled_requests(layer, design, 0)
    assert f"cycles of {REPLAY_DEVICE} " in cycles
    assert "flat" in cycles
    assert len(requests) == len(layer_streams(layer, plan, design.weight_format).requests())
    seconds = memory.events(layer, plan).end / design.point().clock_hz
    assert requests.cycles[0] == 0
    assert requests.cycles[-1] <= seconds * clock_hz(load_command_device(REPLAY_DEVICE)) + 1
    # Transfers that begin before a cycle are over, but for the last, and no transfer beats the channel.
    begins = np.unique(requests.cycles)
    moved = np.searchsorted(requests.cycles, begins) * 64
    slack = 2 * 64 * len(begins)  # lines that transfers touch in part
    assert (moved <= begins * per_cycle + slack).all()


def test_the_main_job_takes_another_dram(nestling: Any, tmp_path: Path) -> None:
    options = ("run", "fashion", "--no-execute", "-a", "nm-lanes-16x8", "--level", 1)
    status, out, _ = nestling(*options, "--dram", COMMAND, "--json")
    assert status == 0
    dram = json.loads(out)["levels"][0]["dram"]
    assert dram["bytes_moved"] == 64 * (dram["reads"] + dram["writes"] + dram["merged"])
    assert json.loads(nestling(*options, "--json")[1])["levels"][0]["dram"] is None
    flat = json.loads(nestling(*options, "--dram", "smartexchange_100pj_per_byte", "--json")[1])["levels"][0]
    assert flat["dram"] is None
    status, out, err = nestling(*options, "--dram", "lpddr4")
    assert (status, out) == (2, "")
    assert "unknown DRAM device 'lpddr4'" in err


def test_tables_carry_the_dram_and_still_add_up(study: Study) -> None:
    layers = layer_table(study)
    mine = layers[layers["design"] == "nm-lanes-16x8"]
    by_command = mine[[f"dram_{name}_j" for name in COMMANDS]].sum(axis=1)
    assert by_command.to_numpy() == pytest.approx(mine["dram_j"].to_numpy(), rel=1e-12)
    assert mine["dram_row_hit_rate"].between(0, 1).all()
    other = layers[layers["design"] == "systolic-16x16"]
    assert other["dram_row_hit_rate"].isna().all()
    assert (other["dram_act"] == 0).all()
    rows: pd.DataFrame = tidy(study)
    rows = rows[(rows["design"] == "nm-lanes-16x8") & (rows["component"] == "dram")]
    assert rows["energy_j"].sum() == pytest.approx(mine["dram_j"].sum(), rel=1e-12)


def test_report_and_terminal_show_commands_row_hits_and_bandwidth(study: Study) -> None:
    section = report_dram(study)
    assert section is not None
    levels, layers = len(study.results[0].levels), len(study.results[0].levels[0].layers)
    assert (len(section["levels"]), len(section["layers"])) == (levels, levels * layers)
    width = 3 + 3 + len(COMMANDS) + 2
    assert {len(row) for row in section["levels"] + section["layers"]} == {width}
    page = render_report(study)
    assert '<section id="dram">' in page
    assert "row hits" in page
    tables = list(terminal_dram(study))
    assert len(tables) == 1
    assert COMMAND in str(tables[0].title)
    json.dumps(to_json(study), allow_nan=False)


def test_a_flat_study_has_no_dram_section(study: Study) -> None:
    from dataclasses import replace

    flat = replace(study, results=study.results[1:])
    assert report_dram(flat) is None
    assert list(terminal_dram(flat)) == []
    assert '<section id="dram">' not in render_report(flat)
    assert not any(name.startswith("dram_act") for name in layer_table(flat))


def test_lanes_are_the_ports_times(study: Study) -> None:
    timeline = study.results[0].timeline
    assert timeline is not None
    events = timeline.events
    assert isinstance(events, DramTileEvents)
    lanes = lanes_of(study.results[0], timeline)
    assert (lanes["fetch"].begin[1:] >= lanes["fetch"].end[:-1]).all()
    assert lanes["store"].end.max() == events.stored.max()
