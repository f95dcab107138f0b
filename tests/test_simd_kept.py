"""Measurements kept in files: what does not fit a layer is not used, what others wrote is not lost, and no home is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nestling.sim.executor.simd import kept, planner
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planner import Planner, layer_key
from nestling.sim.executor.simd.prior import candidates, likely_plan, whole_rows_fit
from nestling.sim.executor.simd.product import LayerPlan
from nestling.sim.executor.simd.rows.row_formats import likely_formats
from nestling.sim.executor.simd.rows.row_parts import entries_of
from nestling.sim.executor.simd.rows.row_planner import RowPlanner, row_key
from nestling.sim.executor.simd.structure import structure_of
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")


def one(layer: Layer) -> Network:
    values = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
    return Network("one", (layer,), weights={layer.name: from_ranking(values, np.abs(values), (0.9, 0.4))})


def places(network: Network) -> tuple[Any, ...]:
    (product,) = PlaneNetwork(network).products.values()
    return product.layer, network.weights[product.layer.name], product.source, product.target


UNFIT: dict[str, list[Any]] = {
    "vectors that no kernel of the layer has": [["direct", 14, 0, 0], 0, [], "float32"],
    "no vectors": [["direct", 0, 0, 0], 0, [], "float32"],
    "five vectors": [["direct", 5, 0, 0], 0, [], "float32"],
    "true vectors": [["direct", True, 0, 0], 0, [], "float32"],
    "no dense vectors": [["direct", 4, 0, 0], 0, [0], "float32"],
    "five dense vectors": [["direct", 4, 0, 0], 5, [0], "float32"],
    "a level too many": [["direct", 4, 0, 0], 4, [2], "float32"],
    "a negative level": [["direct", 4, 0, 0], 4, [-1], "float32"],
    "no window": [["windowed", 4, 0, 0], 0, [], "float32"],
    "no group": [["blocks", 1, 0, 0], 0, [], "float32"],
    "unstructured blocks": [["blocks", 4, 0, 4], 0, [], "float32"],
    "unstructured channels": [["channels", 4, 64, 4], 0, [], "float32"],
    "many numbers as codes": [["coded", 4, 0, 0], 0, [], "float32"],
}


@pytest.mark.parametrize("plan", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_kept_plan_that_does_not_fit_the_layer_is_not_used(tmp_path: Path, plan: list[Any], groups: int) -> None:
    where = places(one(conv("c", "input", C=4, H=7, W=8, K=8, R=3, padding=1, groups=groups)))
    assert 4 in where[3].vectors
    assert 14 not in where[3].vectors
    kept.kept_file("executor", tmp_path).write_text(json.dumps({layer_key(*where): plan}))
    assert Planner(tmp_path).choose(*where) == likely_plan(*where)


def test_a_kept_plan_that_fits_is_used_and_grouped_layers_have_no_windows(tmp_path: Path) -> None:
    plan = [["windowed", 4, 56, 0], 4, [0], "float32"]
    for groups in (1, 2):
        where = places(one(conv("c", "input", C=4, H=7, W=8, K=8, R=3, padding=1, groups=groups)))
        kept.kept_file("executor", tmp_path).write_text(json.dumps({layer_key(*where): plan}))
        found = Planner(tmp_path).choose(*where)
        assert (found.sparse == tuple(plan[0]) and found.dense_levels == (0,)) == (groups == 1)


def test_what_does_not_fit_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "REPEATS", (1, 1))
    network = one(conv("c", "input", C=4, H=8, K=8, R=1))
    key = layer_key(*places(network))
    file = kept.kept_file("executor", tmp_path)
    file.write_text(json.dumps({key: UNFIT["five vectors"]}))
    assert Planner(tmp_path).tune(network)
    assert json.loads(file.read_text())[key][0][1] != 5


@pytest.mark.parametrize("formats", [["pattern", "index"], ["index"], ["index", "mask", "index"], [], "mask"])
def test_kept_formats_that_do_not_fit_are_not_used(tmp_path: Path, formats: list[str]) -> None:
    entries = entries_of(one(linear("a", "input", features_in=64, features_out=8)).weights["a"])
    kept.kept_file("rows", tmp_path).write_text(json.dumps({row_key(entries): formats}))
    assert RowPlanner(tmp_path).choose(entries) == likely_formats(entries)


@pytest.mark.parametrize("kind", ["executor", "rows"])
def test_deeply_nested_lists_are_damage(tmp_path: Path, kind: str) -> None:
    kept.kept_file(kind, tmp_path).write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert (Planner if kind == "executor" else RowPlanner)(tmp_path).measured == 0


@pytest.mark.parametrize("kind", [Planner, RowPlanner])
def test_processes_keep_what_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Planner | RowPlanner]
) -> None:
    monkeypatch.setattr(planner, "REPEATS", (1, 1))
    first, second = kind(tmp_path), kind(tmp_path)
    for each, size in ((first, 4), (second, 5)):
        layer = linear("a", "input", features_in=size, features_out=4)
        assert each.tune(one(conv("a", "input", C=size, H=4, K=4, R=1) if kind is Planner else layer))
    assert kind(tmp_path).measured == 2


def test_the_name_depends_on_what_lays_out_operands() -> None:
    folder, found = Path(kept.__file__).parent, kept._kernel_sources()
    for name in ("planes", "streams", "structure", "phases", "product", "windowed_kernel"):
        assert (folder / f"{name}.py").read_text() in found


@pytest.mark.parametrize("structured", [False, True])
def test_rows_too_long_for_16_bit_counts_run_in_windows(structured: bool) -> None:
    layer = conv("c", "input", C=70_000, H=1, K=2, R=1)
    values = np.ones(layer.weight_shape, np.float32)
    values[1, ::2] = -1
    keep = np.ones(values.shape, np.uint8)
    if not structured:  # otherwise both rows keep the same
        keep[1, :100] = 0
    network = Network("long", (layer,), weights={"c": NestedWeights(values=values, keep=keep, levels=1, name="c")})
    where = places(network)
    assert not whole_rows_fit(where[1])
    found = candidates(layer, where[3], structure_of(layer, where[1]), whole_rows=False)
    assert all(choice.window for choice in found)
    for choice in {likely_plan(*where).sparse, *found}:
        runner = PlaneNetwork(network, choose=lambda *_, choice=choice: LayerPlan(choice))
        np.testing.assert_array_equal(runner.run(np.ones((70_000, 1, 1), np.float32), 0), [70_000, 0])


def test_long_rows_of_short_streams_run_whole() -> None:
    layer = conv("c", "input", C=70_000, H=1, K=2, R=1)
    keep = np.ones(layer.weight_shape, np.uint8)
    keep[:, ::2] = 2
    keep[1, :100] = 0
    weights = NestedWeights(values=np.ones(keep.shape, np.float32), keep=keep, levels=2, name="c")
    assert whole_rows_fit(weights)
    where = places(Network("long", (layer,), weights={"c": weights}))
    assert likely_plan(*where).sparse.kind == "direct"


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_an_empty_variable_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kept.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert kept.cache_folder() == tmp_path / ".cache" / "nestling"


def test_without_a_home_nothing_is_kept_and_all_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planner, "REPEATS", (1, 1))
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.cache_folder() == tmp_path / "nestling"
    monkeypatch.delenv("XDG_CACHE_HOME")
    network, tuned = one(conv("c", "input", C=4, H=8, K=8, R=1)), Planner()
    assert tuned.measured == 0
    assert not tuned.tune(network)
    assert PlaneNetwork(network, choose=tuned.choose).run(np.ones((4, 8, 8), np.float32), 0).size == 512
