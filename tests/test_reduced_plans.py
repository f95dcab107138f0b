"""Reduced formats as choices: planner, whole networks, executor and command line, with the user's permission only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.analysis import execution
from nestling.analysis.cli import main
from nestling.analysis.host_prediction import HostPredictions
from nestling.analysis.reduced_formats import check_allow, format_notes, refuse_unexecuted
from nestling.sim.executor import executor_for, reference
from nestling.sim.executor.simd import machine_plans, planner
from nestling.sim.executor.simd.host.work import units
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planner import Planner, layer_key
from nestling.sim.executor.simd.product import Choice, LayerPlan, windowed
from nestling.sim.executor.simd.reduced import choices, formats_kernel
from nestling.sim.executor.simd.reduced.layer_check import check_layers
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
BF16_DENSE = LayerPlan(Choice("direct", 1), 1, (0, 1), "bfloat16")
HALF = LayerPlan(Choice("half", 1))
CODED = LayerPlan(Choice("coded", 1))
BLOCKS = LayerPlan(Choice("bfloat16", 1), 1, (0,), "float32")


def small(*, powers: bool = False) -> Network:
    """Two convolutions, the second with a stride, at two levels that keep whole blocks of 16 rows by 32 columns."""
    layers = (
        conv("a", "input", C=32, H=6, K=16, R=1, activation="relu"),
        conv("b", "a", C=16, H=6, K=32, R=3, stride=2, padding=1),
    )
    random, weights = np.random.default_rng(0), {}
    for layer in layers:
        values = random.standard_normal(layer.weight_shape).astype(np.float32)
        if powers:
            values = np.exp2(np.rint(values)).astype(np.float32)
        columns = values[0].size
        block = random.integers(1, 3, (layer.K // 16, -(-columns // 32)))
        keep = np.repeat(np.repeat(block, 16, axis=0), 32, axis=1)[:, :columns].reshape(values.shape)
        weights[layer.name] = NestedWeights(values=values, keep=keep.astype(np.uint8), levels=2, name=layer.name)
    return Network("small", layers, weights=weights)


def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((32, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("plan", [BF16_DENSE, BLOCKS, pytest.param(
    HALF, marks=pytest.mark.skipif(COMPILES and not formats_kernel.CONVERTS_HALF, reason="no fp16 conversions")),
])  # fmt: skip
def test_rounding_stays_within_the_bound_and_is_no_float32(plan: LayerPlan) -> None:
    network, runs = small(), {}
    for threads in (1, 2):
        runner = PlaneNetwork(network, threads=threads, choose=lambda *_: plan)
        runs[threads] = [runner.run(image(), level) for level in (0, 1)]
    np.testing.assert_array_equal(runs[1], runs[2])
    for level in (0, 1):
        check = check_layers(runner, image(), level)
        expected = reference.forward(network, image()[None], level)[0]
        error = np.abs(runs[1][level] - expected).max() / np.abs(expected).max()
        assert check.share <= 1
        assert error <= check.relative
        if plan.format(level) != "float32":
            assert error > 1e-5


def test_the_check_finds_a_wrong_weight() -> None:
    network = small()
    runner = PlaneNetwork(network, choose=lambda *_: BF16_DENSE)
    changed = network.weights["b"].values.copy()
    changed[3, 1] *= 1.5
    wrong = replace(network, weights={**network.weights, "b": replace(network.weights["b"], values=changed)})
    runner.network = wrong
    steps = runner.steps(0)
    runner.network, runner.steps = network, lambda level: steps  # type: ignore[method-assign]
    check = check_layers(runner, image(), 0)
    assert check.share > 1
    assert check.layer == "b"


def test_codes_change_no_bit() -> None:
    network = small(powers=True)
    coded = PlaneNetwork(network, threads=2, choose=lambda *_: CODED)
    plain = PlaneNetwork(network, choose=lambda *_: LayerPlan(windowed(1)))
    for level in (0, 1):
        np.testing.assert_array_equal(coded.run(image(), level), plain.run(image(), level))
        assert coded.formats(level) == {"a": "float32", "b": "float32"}


def test_work_of_reduced_kernels_is_counted() -> None:
    network = small(powers=True)
    for plan, name, each in ((BF16_DENSE, "dense bfloat16 1", None), (CODED, "coded 1", 2), (HALF, "half 1", 4)):
        runner = PlaneNetwork(network, choose=lambda *_, plan=plan: plan)
        found = {u.layer: u.work for u in units(runner, 0) if u.work is not None and u.work.useful_flop}
        assert {work.kernel for work in found.values()} == {name}
        nonzeros = int(network.weights["a"].nonzeros[0])
        assert found["a"].useful_flop == 2 * nonzeros * 36
        assert found["a"].stream_bytes >= (each or 2) * nonzeros


def test_tuning_keeps_permissions_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "REPEATS", (1, 1))
    network = small()
    allowed = Planner(tmp_path, ("bfloat16",))
    assert allowed.tune(network)
    again, plain = Planner(tmp_path, ["bfloat16"]), Planner(tmp_path)
    assert again.measured == 2
    for layer in network.layers:
        where = places(network, layer.name)
        assert again.choose(*where) == allowed.choose(*where)
        assert layer_key(*where) != layer_key(*where, allow=("bfloat16",))
        assert choices.permitted(plain.choose(*where), ())
    file = next(tmp_path.glob("executor-*.json"))
    file.write_text(json.dumps({"x": [["quarter", 1, 0, 0], 0, [], "float32"]}))
    assert Planner(tmp_path).measured == 0
    file.write_text(json.dumps({layer_key(*where): HALF}))
    assert Planner(tmp_path).choose(*where).sparse.kind != "half"


def places(network: Network, name: str) -> tuple[object, ...]:
    runner = PlaneNetwork(network)
    product = runner.products[name]
    return product.layer, network.weights[name], product.source, product.target


def test_stores_that_weights_can_have() -> None:
    layer, weights, *_ = places(small(), "a")
    assert choices.reduced_kinds(layer, weights, ()) == ()  # type: ignore[arg-type]
    assert choices.reduced_kinds(layer, weights, ("bfloat16",)) == ("bfloat16",)  # type: ignore[arg-type]
    layer, weights, *_ = places(small(powers=True), "a")
    assert choices.reduced_kinds(layer, weights, ()) == ("coded",)  # type: ignore[arg-type]
    scattered = from_ranking(weights.values, np.random.default_rng(0).random(weights.shape), (0.5,))  # type: ignore[attr-defined]
    assert "bfloat16" not in choices.reduced_kinds(layer, scattered, ("bfloat16",))  # type: ignore[arg-type]


@pytest.mark.parametrize("native", [True, False])
def test_the_likely_plan_takes_bfloat16_for_dense_levels_where_it_is_native(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "has", lambda path: native)
    full = small()
    every = {name: replace(x, keep=np.full_like(x.keep, 2)) for name, x in full.weights.items()}
    where = places(replace(full, weights=every), "a")
    found = Planner(tmp_path, ("bfloat16",)).choose(*where)  # type: ignore[arg-type]
    assert found.dense_levels == (0, 1)
    assert found.format(0) == ("bfloat16" if native else "float32")
    assert Planner(tmp_path).choose(*where).format(0) == "float32"  # type: ignore[arg-type]


def test_the_executor_runs_everything_in_what_it_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine_plans.Planner, "choose", lambda *_: BF16_DENSE)
    network = small()
    executor = executor_for(network, allow=["bfloat16"])
    images = np.stack([image(), -image()])
    np.testing.assert_array_equal(executor.run(images, 0)[0], executor.planes.run(images[0], 0))  # type: ignore[union-attr]
    check, far = executor.check(images, 0), executor.deviation(images, 0)
    assert check.passed
    assert check.error > 1e-5
    assert 1e-5 < far.error < check.tolerance
    assert far.images == 2
    (text,) = format_notes(executor, [0], images)
    assert "a, b in bfloat16 (100% of the MACs)" in text
    assert f"{far.error:.1e}" in text


def test_what_cannot_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'bfloat61'; did you mean 'bfloat16'\? Allowed: bfloat16, float16"):
        check_allow(["bfloat61"])
    with pytest.raises(InputError, match="nothing is executed"):
        refuse_unexecuted(("bfloat16",), executed=False)
    monkeypatch.setattr("nestling.sim.executor.executor.unsupported", lambda network: ["layer 'x': reasons"])
    with pytest.raises(InputError, match=r"bfloat16: there are kernels on planes only; .*reasons"):
        executor_for(small(), allow=["bfloat16"])


def test_the_command_tells_what_ran_in_which_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["nestling", "run", "digits", "-a", "systolic-16x16", "--level", "3", "--repeats", "1"]
    monkeypatch.setattr(execution, "predicted_levels", lambda *_, **__: HostPredictions({}))
    monkeypatch.setattr("sys.argv", [*command, "--allow", "bfloat16", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = " ".join(capsys.readouterr().err.split())
    assert "level 3: all layers run in float32: bfloat16 exists for convolutions without groups" in told
    assert "all layers run in float32" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", [*command, "--allow", "bfloat61"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "did you mean 'bfloat16'? Allowed: bfloat16, float16" in capsys.readouterr().err
