"""Tables of a study: sums agree with the result they come from, JSON keeps its contract, the terminal table fits."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.energy import BOOKKEEPING, COMPONENTS
from nestling.analysis.study import Study, design_labels
from nestling.analysis.tables import GROUPS, SPLIT_PARTS, layer_table, level_table, terminal_table, tidy, to_json
from nestling.analysis.units import byte_scale, number, percent, si_scale
from nestling.sim.results import LayerResult, LevelResult
from rich.console import Console

from .study_cases import study, with_slower_cpu


@pytest.fixture(scope="module")
def case() -> Study:
    return study()


def dump(case: Study) -> str:
    return json.dumps(to_json(case), sort_keys=True, allow_nan=False)


def test_level_table_has_a_row_per_design_and_level(case: Study) -> None:
    table = level_table(case)
    assert [*zip(table.design, table.level, strict=True)] == [(d, n) for d in design_labels(case) for n in range(3)]
    first = case.results[0].levels[0]
    row = table.iloc[0]
    assert row.cycles == first.cycles
    assert row.macs == case.trace.macs(0)
    assert row.latency_ms == pytest.approx(1e3 * first.cycles / case.results[0].point.clock_hz, rel=1e-12)
    assert row.accuracy == 0.92
    assert row.cpu_latency_ms == pytest.approx(2.0)


def test_level_table_components_sum_to_the_energy(case: Study) -> None:
    table = level_table(case)
    assert table[[f"{name}_mj" for name in COMPONENTS]].sum(axis=1).tolist() == pytest.approx(table.energy_mj.tolist())
    assert (table.energy_mj > 0).all()


def test_what_nobody_measured_is_nan_and_null(case: Study) -> None:
    blind = replace(case, executions=())
    assert level_table(blind).accuracy.isna().all()
    assert level_table(blind).cpu_latency_ms.isna().all()
    assert all(x["accuracy"] is None and x["cpu_latency_s"] is None for x in to_json(blind)["levels"])


def test_layer_table_sums_to_the_levels(case: Study) -> None:
    table = layer_table(case)
    assert len(table) == 2 * 3 * 3
    by_level = table.groupby(["design", "level"], sort=False)
    assert by_level.cycles.sum().tolist() == level_table(case).cycles.tolist()
    assert (table[[f"{part}_cycles" for part in SPLIT_PARTS]].sum(axis=1) == table.cycles).all()
    assert (table.dram_bytes == table.dram_read_bytes + table.dram_write_bytes).all()
    assert (table.dram_read_bytes >= table.compulsory_bytes).all()
    assert table.mac_dense.dtype == "int64"
    assert (table.mac_computed + table.mac_gated + table.mac_skipped == table.mac_dense).all()


def test_tidy_sums_to_every_layer(case: Study) -> None:
    table = tidy(case)
    sums = table.groupby(["design", "level", "layer"])[["cycles", "energy_j"]].sum()
    parts = table.groupby(["design", "level", "layer", "component"]).energy_j.sum()
    for label, result in zip(design_labels(case), case.results, strict=True):
        for level in result.levels:
            for layer in level.layers:
                key = (label, level.level, layer.layer)
                assert sums.cycles[key] == layer.cycles
                assert sums.energy_j[key] == pytest.approx(sum(layer.energy_j.values()), rel=1e-12)
                for component, joules in layer.energy_j.items():
                    if joules:
                        assert parts[(*key, component)] == pytest.approx(joules, rel=1e-12)


def test_tidy_prices_every_action_but_bookkeeping(case: Study) -> None:
    table = tidy(case)
    free = set(table[table.component == ""].action)
    assert free == BOOKKEEPING
    assert set(table.component) == {*COMPONENTS, "time", ""}


def test_groups_of_the_terminal_cover_every_component_but_leakage() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted([*grouped, "leakage"]) == sorted(COMPONENTS)


def test_json_keeps_the_contract(case: Study) -> None:
    data: dict[str, Any] = json.loads(dump(case))
    assert data["network"] == "net"
    assert data["accelerator"] == "nm-lanes-16x8"
    keys = {"level", "density", "weight_bytes", "macs", "accuracy", "cycles", "latency_s", "energy_j"}
    for level in data["levels"]:
        assert keys | {"energy_by_component_j", "cpu_latency_s"} <= set(level)
        assert sum(level["energy_by_component_j"].values()) == pytest.approx(level["energy_j"], rel=1e-12)
    assert [x["accelerator"] for x in data["designs"]] == ["nm-lanes-16x8", "systolic-16x16"]
    assert data["designs"][0]["levels"] == data["levels"]
    densities = [level["density"] for level in data["levels"]]
    assert densities == sorted(densities, reverse=True)


def test_json_of_one_design_has_no_list_of_designs() -> None:
    assert "designs" not in to_json(study(designs=["systolic-16x16"]))


def test_levels_are_densest_first_however_they_were_asked_for() -> None:
    case = study(levels=[2, 0], designs=["systolic-16x16"])
    assert [level["level"] for level in to_json(case)["levels"]] == [0, 2]
    assert level_table(case).level.tolist() == [0, 2]


def test_only_measured_times_differ_between_two_runs(case: Study) -> None:
    again = study()
    assert dump(again) == dump(case)
    slower = to_json(with_slower_cpu(again))
    expected = to_json(case)
    assert slower["measured"] != expected["measured"]
    for data in (slower, expected):
        del data["measured"]
        for part in (data, *data["designs"]):
            assert all(level.pop("cpu_latency_s") > 0 for level in part["levels"] if "cpu_latency_s" in level)
    assert slower == expected


def test_a_design_at_two_points_gets_two_names() -> None:
    labels = design_labels(study(designs=["systolic-16x16"], points=["low", "high"]))
    assert labels == ["systolic-16x16 @ low", "systolic-16x16 @ high"]


def test_the_same_result_twice_still_gets_two_names(case: Study) -> None:
    twice = replace(case, results=[case.results[0]] * 3)
    assert len(set(design_labels(twice))) == 3


def text_of(case: Study) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100)
    for table in terminal_table(case):
        console.print(table)
    return out.getvalue()


def enlarged(case: Study, factor: int) -> Study:
    """Every cycle, byte, MAC and joule times ``factor``."""

    def layer(x: LayerResult) -> LayerResult:
        return replace(x, cycles=x.cycles * factor, energy_j={k: v * factor for k, v in x.energy_j.items()})

    def level(x: LevelResult) -> LevelResult:
        return replace(
            x, layers=[layer(y) for y in x.layers], weight_bytes=x.weight_bytes * factor, macs=x.macs * factor
        )

    return replace(case, results=[replace(r, levels=[level(x) for x in r.levels]) for r in case.results])


@pytest.mark.parametrize("factor", [1, 997, 10**6 - 1, 10**9])
@pytest.mark.parametrize("executed", [True, False])
def test_terminal_table_fits_100_columns(case: Study, factor: int, executed: bool) -> None:
    shown = enlarged(case if executed else replace(case, executions=()), factor)
    text = text_of(shown)
    assert "…" not in text  # rich shortens what does not fit
    assert max(map(len, text.splitlines())) <= 100
    for heading in ("level", "density", "weights", "MACs", "accuracy", "cycles", "latency", "energy", *GROUPS, "CPU"):
        assert text.count(heading) >= 2
    assert text.count("not measured") == (0 if executed else 6)


def test_terminal_table_shows_the_numbers(case: Study) -> None:
    text = text_of(case)
    assert f"{case.results[0].levels[0].cycles:,}" in text
    assert "92.00%" in text
    assert "627.2 MHz" in text


@given(st.floats(1e-15, 1e15))
def test_number_keeps_four_digits(value: float) -> None:
    shown = float(number(value).replace(",", ""))
    assert abs(shown - value) <= max(0.5e-9, value * 0.5e-3) * 1.001


@given(st.lists(st.floats(0, 1e14), max_size=5))
def test_scale_puts_the_largest_between_1_and_1000(values: list[float]) -> None:
    scale = si_scale(values, "s")
    largest = max(values, default=0.0)
    if largest >= 1e-12:
        assert 1 <= largest / scale.size < 1000.000001
    assert scale.unit.endswith("s")


def test_numbers_for_people() -> None:
    assert number(12345) == "12,345"
    assert number(0.0) == "0"
    assert number(math.nan) == "–"
    assert percent(0.05) == "5 %"
    assert percent(1.0) == "100 %"
    assert percent(0.123) == "12.3 %"
    assert byte_scale([3 * 2**20]).text(2**20) == "1.000 MiB"
    assert si_scale([0.02, 0.5], "J").text(0.02) == "20.00 mJ"
