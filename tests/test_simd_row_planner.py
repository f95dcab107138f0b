"""Measured formats of fully connected layers: kept for later processes, used by networks, ignored where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor.simd.machine_plans import MachinePlans
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.rows import row_planner
from nestling.sim.executor.simd.rows.row_formats import likely_formats
from nestling.sim.executor.simd.rows.row_parts import entries_of
from nestling.sim.executor.simd.rows.row_planner import RowPlanner, row_key
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights, from_ranking
from nestling.workloads.network import Network

from .test_simd_rows import nested, of_pattern

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")


def two_layers() -> Network:
    """A layer of a vector, whose weights are 2 of 4, and one of random weights."""
    first, last = (
        linear("a", "input", features_in=64, features_out=32),
        linear("b", "a", features_in=32, features_out=8),
    )
    random = np.random.default_rng(21)
    values = random.standard_normal(last.weight_shape).astype(np.float32)
    weights = {"a": of_pattern(32, 64, (2,), 4), "b": from_ranking(values, np.abs(values), (0.9,))}
    return Network("two", (first, last), weights=weights)


def test_measured_formats_are_kept_and_used_by_later_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = two_layers()
    unlikely: dict[str, tuple[str, ...]] = {"a": ("mask",), "b": ("index",)}
    monkeypatch.setattr(
        row_planner, "measured_formats", lambda weights: unlikely["a" if weights.shape[0] == 32 else "b"]
    )
    planner, parts = RowPlanner(tmp_path), []
    assert planner.measured == 0
    assert planner.tune(network, lambda *part: parts.append(part))
    assert parts == [(1, 2), (2, 2)]
    monkeypatch.setattr(row_planner, "measured_formats", lambda _: pytest.fail("measured again"))
    again = RowPlanner(tmp_path)
    assert again.measured == 2
    assert again.tune(network)
    runner = PlaneNetwork(network, choose_rows=again.choose)
    assert {name: row.formats for name, row in runner._rows.items()} == unlikely  # type: ignore[union-attr]
    x = np.random.default_rng(22).standard_normal(64).astype(np.float32)
    expected = network.weights["b"].dense(0) @ (network.weights["a"].dense(0).astype(np.float64) @ x)
    np.testing.assert_allclose(runner.run(x, 0), expected, rtol=1e-4, atol=1e-4)


def test_what_was_not_measured_gets_the_likely_formats(tmp_path: Path) -> None:
    planner, network = RowPlanner(tmp_path), two_layers()
    planner.tune(network)
    other = entries_of(nested((10, 70), 2, 0.6, 3))
    assert planner.choose(other) == likely_formats(other)
    levels = entries_of(of_pattern(32, 64, (2, 1), 4))
    assert row_key(levels) != row_key(entries_of(network.weights["a"]))
    assert planner.choose(levels) == likely_formats(levels)


def test_the_key_of_formats_tells_patterns_and_codes_apart() -> None:
    weights = of_pattern(32, 64, (2,), 4)
    assert weights.values is not None
    coded = NestedWeights(values=np.sign(weights.values), keep=weights.keep, levels=1)
    shifted = weights.keep.copy()
    shifted[0] = np.roll(shifted[0], 1)
    broken = NestedWeights(values=weights.values, keep=shifted, levels=1)
    assert len({row_key(entries_of(each)) for each in (weights, coded, broken)}) == 3
    scaled = NestedWeights(values=2 * weights.values, keep=weights.keep, levels=1)
    assert row_key(entries_of(scaled)) == row_key(entries_of(weights))


@pytest.mark.parametrize("damage", ["[1, 2", '{"a": 1}', '{"a": ["mask", "telepathy"]}', '["mask"]'])
def test_a_damaged_file_of_formats_counts_as_unmeasured(tmp_path: Path, damage: str) -> None:
    network = two_layers()
    RowPlanner(tmp_path).tune(network)
    (file,) = tmp_path.iterdir()
    file.write_text(damage, encoding="utf-8")
    planner = RowPlanner(tmp_path)
    assert planner.measured == 0
    assert planner.tune(network)
    assert RowPlanner(tmp_path).measured == 2


def test_formats_of_another_number_of_levels_are_not_used(tmp_path: Path) -> None:
    network = two_layers()
    RowPlanner(tmp_path).tune(network)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), ["index"] * 7)), encoding="utf-8")
    entries = entries_of(network.weights["b"])
    assert RowPlanner(tmp_path).choose(entries) == likely_formats(entries)


def test_formats_need_no_writable_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    plans, network = MachinePlans(blocked), two_layers()
    assert not plans.tune(network)
    assert plans.measured == 2


def test_tuning_a_network_measures_convolutions_and_fully_connected_layers(tmp_path: Path) -> None:
    layers = (
        conv("c", "input", C=3, H=4, K=4, R=1),
        linear("a", "c", features_in=64, features_out=32),
        linear("b", "a", features_in=32, features_out=8),
    )
    values = np.random.default_rng(23).standard_normal(layers[0].weight_shape).astype(np.float32)
    weights = two_layers().weights | {"c": from_ranking(values, np.abs(values), (0.5,))}
    network = Network("three", layers, weights=weights)
    plans, parts = MachinePlans(tmp_path), []
    assert plans.tune(network, lambda *part: parts.append(part))
    assert (plans.measured, MachinePlans(tmp_path).measured) == (3, 3)
    assert parts == [(1, 1), (1, 2), (2, 2)]
    assert len(list(tmp_path.iterdir())) == 2
