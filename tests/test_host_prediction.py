"""Predicted beside measured CPU time: on the screen, in result files, in the report, and why it may be missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from nestling.accel.host_cpu import HostCpu, KernelCost
from nestling.analysis import executor_plan, host_prediction, report
from nestling.analysis.executor_plan import LayerSpeed, NetworkPlan, plan_table, planned, print_plan
from nestling.analysis.host_prediction import error_text, host_table, predicted_levels, relative_error
from nestling.analysis.output import print_executions
from nestling.analysis.report import render_report
from nestling.analysis.study import Execution, Study
from nestling.analysis.tables import to_json
from nestling.sim.executor.simd.host.work import level_work
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.bundled import load_bundled
from nestling.workloads.network import Network
from nestling.workloads.synthetic import with_synthetic_levels
from rich.console import Console

from .study_cases import DENSITIES, layers, study
from .test_host_cpu import host

needs_kernels = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
CALLS = KernelCost(
    multiply_add_s=0, far_multiply_add_s=0, visit_s=0, far_visit_s=0, segment_s=0, copy_s=0, store_s=0, exposed=0,
    call_s=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundled() -> PlaneNetwork:
    return PlaneNetwork(load_bundled()[0])


@pytest.fixture
def case() -> Study:
    return study()


def pretend(monkeypatch: pytest.MonkeyPatch, found: HostCpu, *, kept: bool = True) -> None:
    for module in (host_prediction, executor_plan):
        monkeypatch.setattr(module, "host_cpu", lambda *_, **__: (found, kept))
    monkeypatch.setattr(host_prediction, "peak_share", lambda _: 1.0)


def calls_only(runner: PlaneNetwork) -> HostCpu:
    """A machine of endless bandwidth on which every step takes a millisecond."""
    names = {work.kernel for level in range(4) for _, work in level_work(runner, level) if work is not None}
    return host(cost=None, sizes=(None,)).model_copy(update={"kernels": dict.fromkeys(names, CALLS)})


@needs_kernels
def test_a_level_is_the_sum_of_its_steps(bundled: PlaneNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, calls_only(bundled))
    found = predicted_levels(bundled, [0, 2])
    assert set(found.seconds) == {0, 2}
    steps = len(level_work(bundled, 2))
    assert steps * 1e-3 <= found.seconds[2] < steps * 1e-3 + 1e-4
    assert found.notes == ()


@needs_kernels
def test_a_kernel_without_a_model_is_named(bundled: PlaneNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    known = calls_only(bundled)
    pretend(monkeypatch, known.model_copy(update={"kernels": known.kernels | {"rows": None}}))
    kernels = {name: cost for name, cost in known.kernels.items() if name != "rows"}
    pretend(monkeypatch, known.model_copy(update={"kernels": kernels}), kept=False)
    found = predicted_levels(bundled, [0])
    assert found.seconds == {}
    assert found.notes[0] == "CPU time is not predicted: no model for fc (rows)"
    assert "measured for this run only" in found.notes[1]


@needs_kernels
def test_a_busy_machine_is_named(bundled: PlaneNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, calls_only(bundled))
    monkeypatch.setattr(host_prediction, "peak_share", lambda _: 0.5)
    (told,) = predicted_levels(bundled, [0]).notes
    assert told.startswith("this CPU reaches 50% of its measured peak")
    monkeypatch.setattr(host_prediction, "peak_share", lambda _: 1.3)
    (told,) = predicted_levels(bundled, [0]).notes
    assert "bench --tune" in told


def test_networks_without_planes_are_not_predicted() -> None:
    found = predicted_levels(None, [0])
    assert (found.seconds, found.host) == ({}, None)
    assert found.notes == ("CPU time is not predicted: single images do not run on planes",)


def test_the_error_is_relative_to_the_measured_cpu_time(case: Study) -> None:
    level = case.executions[0]
    assert relative_error(level) == pytest.approx(1.52 / 1.9 - 1)
    assert error_text(level) == "−20.0 %"
    assert error_text(replace(level, cpu_predicted_s=None)) == "–"
    assert relative_error(replace(level, cpu_median_s=None)) is None


def test_tables_fit_100_columns_and_show_both(case: Study, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=100)
    console.print(host_table(case.executions))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    for shown in ("CPU time", "predicted", "1.900", "1.520", "−20.0 %"):
        assert shown in text
    network = with_synthetic_levels(Network("net", layers(), source="a test"), DENSITIES)
    print_executions(network, Execution(case.executions), as_json=False)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "−20.0 %" in text
    assert "never on the network shown" in text


def test_json_holds_both_times_notes_and_the_machine(case: Study, capsys: pytest.CaptureFixture[str]) -> None:
    told = replace(case, execution_notes=("single images run without planes: x",), host=host())
    measured = to_json(told)["measured"]
    first = measured["levels"][0]
    assert first["cpu_time_median_s"] == pytest.approx(1.9e-3)
    assert first["cpu_time_predicted_s"] == pytest.approx(1.52e-3)
    assert first["cpu_prediction_error"] == pytest.approx(-0.2)
    assert measured["notes"] == ["single images run without planes: x"]
    assert measured["host_cpu"]["energy"] == "not modelled"
    assert "kernels" not in measured["host_cpu"]
    network = with_synthetic_levels(Network("net", layers(), source="a test"), DENSITIES)
    print_executions(network, Execution(case.executions, ("a note",), host()), as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["notes"] == ["a note"]
    assert data["levels"][2]["cpu_prediction_error"] == pytest.approx(-0.2)


def test_the_report_shows_both_and_escapes_notes(case: Study) -> None:
    page = render_report(replace(case, execution_notes=("no <planes>",), host=host()))
    section = page.split('<section id="cpu">')[1].split("</section>")[0]
    for shown in ("1.900", "1.520", "−20.0 %", "no &lt;planes&gt;", "a machine", "not modelled", "measured here"):
        assert shown in section
    assert report._host(replace(case, executions=())) is None


@needs_kernels
def test_a_plan_has_a_row_per_product_and_level(
    bundled: PlaneNetwork, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, calls_only(bundled), kept=False)
    stages: list[str] = []
    plan = planned(bundled.network, tune=False, progress=lambda stage, *_: stages.append(stage))
    network = bundled.network
    products = [layer.name for layer in network.layers if layer.has_weights]
    assert [row.layer for row in plan.layers] == products * network.levels
    assert stages == ["measure"] * network.levels
    for row in plan.layers:
        layer = next(x for x in network.layers if x.name == row.layer)
        assert row.useful_flop == 2 * int(network.weights[row.layer].nonzeros[row.level]) * layer.P * layer.Q
        assert row.fraction == pytest.approx(row.bound_s / row.measured_s)
        assert row.predicted_s is not None
        assert row.predicted_s >= 1e-3
        assert (row.crossover is None) == (
            row.layer in ("conv1", "fc")
        )  # conv1 keeps all weights: dense at every level
    print_plan(plan, as_json=False)
    text = capsys.readouterr().out
    assert "sparse and dense meet at density 0.70" in text
    assert "cannot be written" in text
    print_plan(plan, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["layers"]) == len(plan.layers)


def test_a_plan_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row = LayerSpeed("layer4.0.downsample", 3, "windowed 13/128", 0.0123, None, 10**9, 10**8, 0.01, 0.81, 1.3)
    Console(width=100).print(plan_table(NetworkPlan(host(), [row, replace(row, crossover=None)], 0, True)))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "> 1" in text
    assert "81%" in text
