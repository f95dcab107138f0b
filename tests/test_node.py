"""A design at another technology node: what scales, what stays, what is said about it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.design import DESIGN_FOLDER, DESIGNS, Design, load_design
from nestling.accel.energy import leakage_w, unit_energies_pj
from nestling.accel.sram import sram_cost
from nestling.accel.technology import energy_scale
from nestling.analysis.report import design_values
from nestling.workloads.errors import InputError

from .spine_cases import design
from .test_cli import call

NODES = st.floats(7, 90)
NAMES = st.sampled_from(DESIGNS)
#: Components that the technology does not touch.
OFF_CHIP = "dram"
READ = {name: load_design(name) for name in DESIGNS}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def sram_actions(described: Design) -> set[str]:
    memories = ["weight_buffer", "input_buffer", "output_buffer"]
    memories += [name for name, memory in described.memories.items() if hasattr(memory, "bytes")]
    return {f"{name}_{way}_bytes" for name in memories for way in ("read", "write")}


# --- what scales -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in DESIGNS if READ[name].node_nm == 45])
@pytest.mark.parametrize("node", [90, 28, 22, 7])
def test_logic_scales_with_the_fits_and_dram_not_at_all(name: str, node: float) -> None:
    before, moved = READ[name], READ[name].with_node(node)
    old, new = unit_energies_pj(before), unit_energies_pj(moved)
    factor = energy_scale(45, node, before.nominal_voltage_v.value)
    for action, (component, picojoules) in old.items():
        if action not in sram_actions(before):
            expected = picojoules if component == OFF_CHIP else picojoules * factor
            assert new[action] == (component, pytest.approx(expected, rel=1e-12)), action
    assert moved.operating_points == before.operating_points
    assert moved.nominal_voltage_v == before.nominal_voltage_v
    assert moved.dram == before.dram
    assert moved.array == before.array
    assert moved.capacity().mac_pj == moved.energies.mac_pj.value


@pytest.mark.parametrize("node", [90, 65, 30, 22, 16, 7])
def test_sram_comes_from_its_table_and_below_22_nm_from_the_square_root(node: float) -> None:
    moved = READ["systolic-16x16"].with_node(node)
    share = min(1.0, node / 22) ** 0.5
    units = unit_energies_pj(moved)
    expected_w = 0.0
    for component, buffer in zip(("weight", "input", "output"), dict(moved.buffers).values(), strict=True):
        cost = sram_cost(buffer.bytes, buffer.width_bits, max(node, 22.0))
        assert units[f"{component}_buffer_read_bytes"][1] == pytest.approx(cost.read_pj_per_byte * share)
        assert units[f"{component}_buffer_write_bytes"][1] == pytest.approx(cost.write_pj_per_byte * share)
        expected_w += cost.leakage_w * share * (1 if node >= 22 else 0.79)
    assert leakage_w(moved) == pytest.approx(expected_w)


@settings(max_examples=40, deadline=None)
@given(NAMES, NODES, NODES)
def test_a_smaller_node_never_costs_more_energy(name: str, a: float, b: float) -> None:
    small, large = (unit_energies_pj(READ[name].with_node(node)) for node in (min(a, b), max(a, b)))
    for action, (_, picojoules) in small.items():
        assert picojoules <= large[action][1] * (1 + 1e-12), action


@settings(max_examples=40, deadline=None)
@given(NAMES, NODES, NODES)
def test_only_the_last_node_counts(name: str, a: float, b: float) -> None:
    assert READ[name].with_node(a).with_node(b) == READ[name].with_node(b)


@pytest.mark.parametrize("name", DESIGNS)
def test_there_and_back(name: str) -> None:
    back = READ[name].with_node(7).with_node(READ[name].node_nm)
    assert unit_energies_pj(back) == unit_energies_pj(READ[name])
    assert back.unverified() == READ[name].unverified()
    assert back.notes() == READ[name].notes()


# --- in a file -------------------------------------------------------------------------------------------------------


def test_the_section_of_a_file_is_the_option(tmp_path: Path) -> None:
    text = (DESIGN_FOLDER / "nm-lanes-16x8.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text + "technology: {node_nm: 16}\n")
    read = load_design(tmp_path / "mine.yaml")
    assert read == READ["nm-lanes-16x8"].with_node(16)
    assert read.with_node(7) == READ["nm-lanes-16x8"].with_node(7)


def test_a_dumped_design_is_not_scaled_twice() -> None:
    moved = READ["eyeriss"].with_node(7)
    again = Design.model_validate(moved.model_dump())
    assert unit_energies_pj(again) == unit_energies_pj(moved)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"node_nm": 5}, "greater than or equal to 7"),
        ({"node_nm": 130}, "less than or equal to 90"),
        ({"node_nm": "small"}, "valid number"),
        ({"node": 16}, "Extra inputs are not permitted"),
        ({}, "Field required"),
    ],
)
def test_sections_that_are_wrong(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design("systolic-16x16", {"technology": section})


@pytest.mark.parametrize("node", [6.99, 91, 0, -7, float("nan"), float("inf")])
def test_nodes_that_are_refused(node: float) -> None:
    with pytest.raises(InputError, match=r"no technology scaling to .* nm; allowed are 7 to 90 nm"):
        READ["eyeriss"].with_node(node)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_report_names_factor_source_and_that_nobody_verified_it() -> None:
    moved = READ["systolic-16x16"].with_node(7)
    values = {
        path: (value, source, verified)
        for path, value, source, verified in design_values(moved.model_dump(mode="json"))
    }
    value, source, verified = values["energies.mac_pj"]
    assert (value, verified) == ("0.0612213", False)
    assert source.endswith(
        "scaled from 45 to 7 nm at 1 V, x 0.1092 (Stillmaker and Baas 2017, energy polynomials for logic)"
    )
    assert values["technology.node_nm"][0] == "7.0"
    assert values["dram.read_pj_per_byte"][2] is True
    (note,) = moved.notes()
    for part in (
        "for 7 nm",
        "x 0.109 from 45 nm",
        "CACTI at 22 nm x 0.564 and x 0.446",
        "DRAM, clocks and voltages unchanged",
    ):
        assert part in note
    assert moved.unverified() == READ["systolic-16x16"].unverified()


def test_the_command_line_scales_energy_and_nothing_else(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    trace = tmp_path / "t.parquet"
    assert run("lower", "-o", trace)[0] == 0
    found = {}
    for node in (None, 7):
        option = () if node is None else ("--node", node)
        status, out, _ = run("simulate", trace, "-a", "systolic-16x16", "--json", *option)
        assert status == 0
        found[node] = json.loads(out)["levels"][0]
    before, after = found[None], found[7]
    assert (after["cycles"], after["latency_s"]) == (before["cycles"], before["latency_s"])
    factors = {
        name: after["energy_by_component_j"][name] / j for name, j in before["energy_by_component_j"].items() if j
    }
    assert factors["dram"] == 1
    for name in ("mac", "registers"):
        assert factors[name] == pytest.approx(energy_scale(45, 7, 1.0), rel=1e-12)
    assert factors["weight_buffer"] < 0.564  # 45 to 22 nm in the table, then the square root


@pytest.mark.parametrize("node", ["5", "nan"])
def test_the_command_line_refuses(run: Callable[..., tuple[int, str, str]], node: str) -> None:
    status, _, err = run("run", "--no-execute", "-a", "systolic-16x16", "--node", node)
    assert status == 2
    assert "allowed are 7 to 90 nm" in err


def test_compare_takes_the_node(run: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ("compare", "-a", "systolic-16x16", "-a", "nm-lanes-16x8")
    status, out, err = run(*arguments, "--node", "16", "--objective", "latency")
    assert status == 0
    assert "energies estimated for 16 nm" in " ".join((out + err).split())
