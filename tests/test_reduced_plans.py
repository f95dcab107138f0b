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
from nestling.analysis.reduced_formats import check_allow, failure, format_notes, refuse_unexecuted
from nestling.sim.executor import executor_for, reference
from nestling.sim.executor.executor import Executor
from nestling.sim.executor.simd import machine_plans, planner
from nestling.sim.executor.simd.host.work import units
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planner import Planner, layer_key
from nestling.sim.executor.simd.product import Choice, LayerPlan, windowed
from nestling.sim.executor.simd.reduced import choices, formats_kernel
from nestling.sim.executor.simd.reduced.layer_check import check_layers
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
BF16_DENSE = LayerPlan(Choice("direct", 1), 1, (0, 1), "bfloat16")
HALF = LayerPlan(Choice("half", 1))
needs_half = pytest.mark.skipif(COMPILES and not formats_kernel.CONVERTS_HALF, reason="no fp16 conversions")
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


@pytest.mark.parametrize("plan", [BF16_DENSE, BLOCKS, pytest.param(HALF, marks=needs_half)])
def test_rounding_stays_within_the_bound_and_is_no_float32(plan: LayerPlan) -> None:
    network, runs = small(), {}
    for threads in (1, 2):
        runner = PlaneNetwork(network, threads=threads, choose=lambda *_: plan)
        runs[threads] = [runner.run(image(), level) for level in (0, 1)]
    np.testing.assert_array_equal(runs[1], runs[2])
    for level in (0, 1):
        check = check_layers(runner, [image(), -image()], level)
        expected = reference.forward(network, image()[None], level)[0]
        error = np.abs(runs[1][level] - expected).max() / np.abs(expected).max()
        assert 0 < check.share <= 1
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
    check = check_layers(runner, [image()], 0)
    assert check.share > 1
    assert check.layer == "b"
    assert check_layers(runner, [0 * image()], 0).share == 0  # it cannot be seen here,
    assert check_layers(runner, [0 * image(), image()], 0) == check  # so every image counts


@needs_half
def test_values_beyond_a_format_are_told_and_the_first_layer_is_named() -> None:
    network = small()
    network.weights["a"].values[0, 0] = 1e3
    runner = PlaneNetwork(network, choose=lambda *_: HALF)
    with pytest.raises(InputError, match=r"values beyond float16's 65504 in layer 'a': up to .*do not allow float16"):
        check_layers(runner, [image() * np.float32(1e5)], 0)
    assert check_layers(runner, [image()], 0).share <= 1
    assert check_layers(runner, [np.full_like(image(), np.nan)], 0) == (np.inf, "a")
    mixed = PlaneNetwork(network, choose=lambda layer, *_: BF16_DENSE if layer.name == "a" else HALF)
    mixed.prepare(0)
    mixed._dense["a", 0].weights.words[:] = 0x7F7F7F7F  # type: ignore[union-attr]  # a wrong layer, whatever the next can hold
    found = check_layers(mixed, [image()], 0)
    assert found.share > 1
    assert found.layer == "a"


def test_weights_beyond_a_format_are_no_candidates() -> None:
    layer, weights, *planes = places(small(), "a")
    for largest, fits in ((6e4, ("bfloat16", "float16")), (1e5, ("bfloat16",)), (3.395e38, ())):
        values = weights.values.copy()  # type: ignore[attr-defined]
        values[3, 5] = -largest
        changed = replace(weights, values=values)  # type: ignore[type-var]
        assert choices.in_range(changed, ("bfloat16", "float16")) == fits
        kinds = choices.reduced_kinds(layer, changed, ("bfloat16", "float16"))  # type: ignore[arg-type]
        assert ("bfloat16" in kinds) == ("bfloat16" in fits)
        assert ("half" in kinds) == ("float16" in fits and formats_kernel.CONVERTS_HALF)
        assert ("bfloat16" in layer_key(layer, changed, *planes, allow=("bfloat16",))) == ("bfloat16" in fits)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 20])
def test_fully_connected_layers_are_checked(rows: int) -> None:
    layer = linear("fc", "input", features_in=64, features_out=32, rows=rows)
    values = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
    weights = NestedWeights(values=values, keep=np.full(values.shape, 2, np.uint8), levels=2, name="fc")
    network = Network("rows", (layer,), weights={"fc": weights})
    x = np.random.default_rng(1).standard_normal(64 * rows).astype(np.float32)
    runner = PlaneNetwork(network, choose=lambda *_: BF16_DENSE)
    assert runner.formats(0) == {"fc": "float32" if rows == 1 else "bfloat16"}
    check = check_layers(runner, [x], 0)
    assert 0 < check.share <= 1
    assert check.layer == "fc"
    runner.network = replace(network, weights={"fc": replace(weights, values=values * np.float32(1.05))})
    assert check_layers(runner, [x], 0).share > 1


def test_a_deep_difference_passes_by_its_layers() -> None:
    """Each layer subtracts nearly equal numbers: the outputs' error grows beyond the layers', and is no verdict."""
    layers, weights, source = [], {}, "input"
    for i in range(2):
        layer = conv(f"d{i}", source, C=32, H=14 - 2 * i, K=32, R=3, padding=0)
        values = np.zeros(layer.weight_shape, np.float32)
        values[range(32), range(32), 1] = [-1.003, 0.001, 1.009]
        full = NestedWeights(values=values, keep=np.ones(values.shape, np.uint8), levels=1, name=layer.name)
        layers, weights, source = [*layers, layer], {**weights, layer.name: full}, layer.name
    executor = Executor(Network("differences", tuple(layers), weights=weights), allow=("bfloat16",))
    executor.planes = PlaneNetwork(executor.network, choose=lambda *_: LayerPlan(windowed(1), 1, (0,), "bfloat16"))
    ramp = np.broadcast_to(np.exp(1.5 * np.arange(14) / 14), (1, 32, 14, 14)).astype(np.float32)
    check = executor.check(ramp, 0)
    assert check.passed
    assert check.error > 2 * 2.0**-7  # both layers' roundings of value and operand
    assert check.layer_share is not None
    assert not replace(check, layer_share=np.nan).passed
    assert failure(0, replace(check, layer_share=2.0)).endswith("by 2 times the bound of its number format")


def test_codes_are_exact_weights() -> None:
    network = small(powers=True)
    coded = PlaneNetwork(network, threads=2, choose=lambda *_: CODED)
    for level in (0, 1):
        assert 0 < check_layers(coded, [image()], level).share <= 1  # of float32's bound
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
    many = np.repeat(images, 20, axis=0)
    together = executor_for(network, threads=2, allow=["bfloat16"]).run(many, 0)
    np.testing.assert_array_equal(together, np.repeat(executor.run(images, 0), 20, axis=0))
    check, far = executor.check(images, 0), executor.deviation(images, 0)
    assert check.passed
    assert check.error > 1e-5
    assert far.error > 1e-5
    assert far.images == 2
    (text,) = format_notes(executor, [0], images)
    assert "a, b in bfloat16 (100% of the MACs)" in text
    assert f"{far.error:.1e}" in text
    assert isinstance(executor, Executor)
    executor.store.values[:] *= 1.01  # activations are counted with these, in float32
    assert not executor.check(images, 0).passed


def test_what_cannot_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'bfloat61'; did you mean 'bfloat16'\? Allowed: bfloat16, float16"):
        check_allow(["bfloat61"])
    assert choices.allowed_formats("bfloat16") == choices.allowed_formats(["bfloat16"]) == ("bfloat16",)
    for wrong in (None, 5, [None], [["bfloat16"]], b"bfloat16"):
        with pytest.raises(InputError, match=r"is no name of a number format; allowed: bfloat16, float16"):
            choices.allowed_formats(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing is executed"):
        refuse_unexecuted(("bfloat16",), executed=False)
    monkeypatch.setattr("nestling.sim.executor.executor.unsupported", lambda network: ["layer 'x': reasons"])
    with pytest.raises(InputError, match=r"bfloat16: there are kernels on planes only; .*reasons"):
        executor_for(small(), allow=["bfloat16"])


def test_a_note_knows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    executor, images = executor_for(small(), allow=["bfloat16", "float16"]), image()[None]
    executor.planes = PlaneNetwork(small(), choose=lambda *_: LayerPlan(windowed(1)))  # type: ignore[misc]
    (text,) = format_notes(executor, [0], images)
    assert "bfloat16 and float16 are allowed, but neither measured nor" in text
    monkeypatch.setattr(planner, "measured_plan", lambda *_, **__: LayerPlan(windowed(1, 14 << 10)))
    Planner(allow=executor.allow).tune(small())
    (text,) = format_notes(executor, [0], images)
    assert "bfloat16 and float16 are allowed, but float32 was measured to be faster" in text


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
