"""Counts of the executor's steps against loops over the masks, and the synthetic layers that costs are measured on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.executor import Executor
from nestling.sim.executor.simd import packing_kernel
from nestling.sim.executor.simd.host import host, synthetic
from nestling.sim.executor.simd.host.host_costs import crossing, measured_calls
from nestling.sim.executor.simd.host.work import cleared, kernel_name, level_work, network_bytes, units
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.product import Choice, LayerPlan
from nestling.sim.executor.simd.team import Call, Team, call
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.bundled import load_bundled
from nestling.workloads.layers import Layer
from nestling.workloads.network import Network

from .simd_cases import conv_layers, make_case

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")


def of_one_layer(layer: Layer, seed: int, plan: LayerPlan, *, levels: int = 3) -> PlaneNetwork:
    case = make_case(layer, seed, levels=levels)
    network = Network("one", (layer,), weights={layer.name: case.weights})
    return PlaneNetwork(network, choose=lambda *_: plan)


@settings(deadline=None, max_examples=25)
@given(conv_layers(), st.integers(0, 99), st.sampled_from([("windowed", 5), ("direct", 0), ("packed", 0)]))
def test_a_sparse_product_is_counted_as_its_loops_run(layer: Layer, seed: int, how: tuple[str, int]) -> None:
    kind, window = how
    if layer.groups > 1:
        kind, window = "direct", 0
    vectors = 1
    layer = replace(layer, sources=("input",))
    runner = of_one_layer(layer, seed, LayerPlan(Choice(kind, vectors, window)))  # type: ignore[arg-type]
    if vectors not in runner.products["c"].target.vectors:
        return
    keep = runner.network.weights["c"].keep.reshape(layer.K, -1)
    tiles = runner.products["c"].target.tiles(vectors)
    reduction = layer.C * layer.R * layer.S
    for level in range(3):
        work = units(runner, level)[-1].work
        assert work is not None
        kept = keep > level
        assert work.multiply_adds == kept.sum() * tiles * vectors
        assert work.useful_flop == 2 * kept.sum() * layer.P * layer.Q
        width = window or keep.shape[1]
        blocks = [kept[:, k : k + width] for k in range(0, keep.shape[1], width)]
        visits = sum(
            layer.K if i in (0, len(blocks) - 1) else int(block.any(axis=1).sum()) for i, block in enumerate(blocks)
        )
        assert work.visits == visits * tiles * vectors
        assert work.segments == visits * (3 - level) * tiles
        assert work.copies == (0 if kind == "direct" else reduction * tiles * vectors)
        assert work.stores == layer.K * tiles * vectors
        assert work.passes == tiles


def test_a_dense_level_is_counted_with_its_zeros() -> None:
    layer = Layer(name="c", op="conv", C=5, H=6, W=6, K=7, P=6, Q=6, sources=("input",))
    runner = of_one_layer(layer, 0, LayerPlan(Choice("direct", 1), 1, (0,)), levels=2)
    dense, sparse = (units(runner, level)[-1].work for level in (0, 1))
    assert dense is not None
    assert sparse is not None
    assert (dense.kernel, sparse.kernel) == ("dense 1", "direct 1")
    tiles = runner.products["c"].target.tiles(1)
    assert dense.multiply_adds == 12 * 5 * tiles  # 7 rows fill up one group of 12
    assert dense.stores == 7 * tiles
    assert dense.useful_flop == 2 * int(runner.network.weights["c"].nonzeros[0]) * 36


def test_useful_work_is_the_executors_own_count() -> None:
    network = load_bundled()[0]
    runner, executor = PlaneNetwork(network), Executor(network)
    for level in range(network.levels):
        found = level_work(runner, level)
        flop: dict[str, int] = {}
        for name, work in found:
            assert work is not None
            flop[name] = flop.get(name, 0) + work.useful_flop
        assert {name: n // 2 for name, n in flop.items() if n} == executor.macs(level)
        assert network_bytes(work for _, work in found) > sum(x.stream_bytes for _, x in found if x is not None)


@pytest.mark.parametrize("gaps", [0, 2, 3])
def test_zeros_around_a_tensor_are_counted_as_they_are_written(gaps: int) -> None:
    layout = PlaneLayout(3, 9, 13, 2)  # planes apart: nothing is zeroed twice
    planes = layout.new()
    planes[:] = 1
    step = call(packing_kernel.clear, layout.channels, planes, layout.dimensions, gaps)
    Team(1).run(step)
    assert (layout.view(planes) == 1).all()
    work, written = cleared(step), int((planes == 0).sum())
    assert work.output_bytes == 4 * written
    assert work.copies == -(-written // 16)
    assert work.visits == 3 + 9 * gaps


def test_every_step_belongs_to_one_unit() -> None:
    runner = PlaneNetwork(load_bundled()[0])
    steps = [step for unit in units(runner, 1) for step in unit.steps]
    assert [type(step) for step in steps] == [type(step) for _, step in runner.steps(1)]
    assert sum(isinstance(step, Call) for step in steps) > 5


@pytest.mark.parametrize(
    "kernel",
    [
        "windowed 4",
        "dense 4",
        "blocks 4x4 windows",
        "channels 4",
        "phases",
        "phases 1",
        "phases 2",
        "pool",
        "pool phases",
        "maps",
        "scale",
        "join",
        "gate 2",
        "add",
        "rows",
    ],
)
def test_synthetic_networks_hold_calls_of_every_kernel(kernel: str) -> None:
    case = next(iter(synthetic.cases(kernel)))
    runner = PlaneNetwork(case.network, choose=case.choose)
    names = {unit.work.kernel for unit in units(runner, 0) if unit.work is not None}
    assert kernel in names


def test_an_unknown_kernel_has_no_cases() -> None:
    for unknown in ("quantum 7", "dense bfloat16 7", "windowed", "half 4"):
        assert list(synthetic.cases(unknown)) == []
        assert list(synthetic.chains({unknown})) == []
    assert measured_calls(["quantum 7"]) == {}


def test_names_tell_kernels_of_different_cost_apart() -> None:
    assert kernel_name(Choice("windowed", 7, 64)) == "windowed 7" == kernel_name(Choice("windowed", 7, 32))
    assert kernel_name(Choice("blocks", 4, 64, 2)) == "blocks 2x4 windows" != kernel_name(Choice("blocks", 4, 0, 2))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that take part of a second, and mean less."""
    monkeypatch.setattr(synthetic, "CHAINS", ())
    monkeypatch.setattr(host, "REPEATS", 1)
    monkeypatch.setattr(host, "MEMORY_BYTES", (1 << 20, 1 << 20))


@pytest.mark.usefixtures("quick")
def test_an_idle_machine_has_its_whole_peak(tmp_path: Path) -> None:
    found = host.host_cpu([], folder=tmp_path)[0]
    assert 0.1 < host.peak_share(found) < 10  # one reading of the peak on a machine that may be busy
    higher = found.multiply_add_flop_per_s.model_copy(update={"value": 100 * found.multiply_add_flop_per_s.value})
    assert (
        host.peak_share(found.model_copy(update={"multiply_add_flop_per_s": higher})) < 0.1
    )  # a hundredth of the above


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kernel", ["copy in", "copy out", "clear"])
def test_measured_copies_take_longer_with_more_to_copy(kernel: str) -> None:
    timed = sorted(measured_calls([kernel], rounds=3)[kernel], key=lambda call: call.work.copies)
    assert len(timed) == (2 if kernel == "clear" else 1) * len(synthetic.TENSORS)
    assert timed[-1].seconds > timed[0].seconds > 0


def test_the_crossover_lies_where_the_line_meets_the_dense_time() -> None:
    densities, seconds = (0.8, 0.4, 0.2), (8.0, 4.0, 3.0)
    assert crossing(densities, seconds, 6.0) == pytest.approx(0.6)
    assert crossing(densities, seconds, 3.5) == pytest.approx(0.3)
    assert crossing(densities, seconds, 16.0) == pytest.approx(1.6)  # faster than dense at every density
    assert crossing(densities, seconds, 1.5) == pytest.approx(0.1)
    assert crossing((0.5,), (2.0,), 3.0) == pytest.approx(0.75)


def caches(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    for index, parts in enumerate(rows):
        entry = folder / f"index{index}"
        entry.mkdir()
        for name, text in zip(("type", "level", "size"), parts, strict=True):
            (entry / name).write_text(text + "\n", encoding="utf-8")
    return folder


def test_cache_sizes_are_those_of_the_system(tmp_path: Path) -> None:
    rows = [("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "2", "2048K"), ("Unified", "3", "30720K")]
    sizes, source = host.cache_sizes(caches(tmp_path, rows))
    assert sizes == [("L1", 48 << 10), ("L2", 2 << 20), ("L3", 30 << 20)]
    assert source == "the operating system"


@pytest.mark.parametrize("rows", [[], [("Data", "1", "huge")], [("Data", "1", "48K"), ("Unified", "2", "48K")]])
def test_unknown_cache_sizes_are_assumed_and_say_so(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    sizes, source = host.cache_sizes(caches(tmp_path, rows))
    assert sizes == list(host.ASSUMED_CACHES)
    assert source.startswith("assumed")


@pytest.mark.usefixtures("quick")
def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, kept = host.host_cpu(["copy in", "quantum 7"], folder=tmp_path)
    assert kept
    assert set(found.kernels) == {"copy in"}
    assert 1e8 < found.multiply_add_flop_per_s.value < 1e13
    assert [level.name for level in found.caches][-1] == "memory"
    monkeypatch.setattr(host, "kernel_costs", lambda *_, **__: pytest.fail("measured again"))
    assert host.host_cpu(["copy in"], folder=tmp_path) == (found, True)
    monkeypatch.setattr(host, "kernel_costs", lambda *_, **__: {})
    assert host.host_cpu(["copy in"], folder=tmp_path, fresh=True)[0].kernels == {}


@pytest.mark.usefixtures("quick")
def test_a_damaged_file_is_measured_anew_and_a_folder_may_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "kernel_costs", lambda *_, **__: {})
    host.host_cpu([], folder=tmp_path)
    (file,) = tmp_path.glob("host-*.json")
    file.write_text(json.dumps({"kind": "host-cpu"}), encoding="utf-8")
    assert host.host_cpu([], folder=tmp_path)[1]
    assert json.loads(file.read_text(encoding="utf-8"))["energy"] == "not modelled"
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert host.host_cpu([], folder=blocked)[1] is False


def families(runner: PlaneNetwork) -> set[str]:
    return {unit.work.kernel for unit in units(runner, 0) if unit.work is not None}


def test_chains_are_run_by_kernels_that_are_measured_anyway() -> None:
    wanted, known = {"windowed 4", "rows", "phases 2", "copy in"}, {"dense 7", "direct 7", "add"}
    found = [families(PlaneNetwork(case.network, choose=case.choose)) for case in synthetic.chains(wanted, known)]
    assert len(found) == len(synthetic.CHAINS)
    for names in found:
        assert {"windowed 4", "direct 7", "rows", "phases 2", "clear"} >= names >= {"windowed 4", "rows"}
    both = list(synthetic.chains({"windowed 4", "dense 7"}))
    assert len(both) == 2 * len(synthetic.CHAINS)
    assert "dense 7" in families(PlaneNetwork(both[0].network, choose=both[0].choose))


def test_chains_hold_pooling_only_where_it_is_measured() -> None:
    for kernels, held in (({"direct 4"}, False), ({"direct 4", "pool"}, True)):
        for case in synthetic.chains(kernels):
            assert ("pool" in families(PlaneNetwork(case.network, choose=case.choose))) == held


def test_kernels_that_no_chain_holds_need_none() -> None:
    assert list(synthetic.chains({"copy in", "maps", "gate 2"})) == []
    assert len(list(synthetic.chains({"rows"}))) == len(synthetic.CHAINS)


@pytest.mark.usefixtures("quick")
def test_a_call_in_a_chain_counts_for_each_kernel_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "PRODUCTS", synthetic.PRODUCTS[-1:])
    monkeypatch.setattr(synthetic, "VECTORS", synthetic.VECTORS[:1])
    alone = measured_calls({"direct 4", "rows"}, rounds=1)
    monkeypatch.setattr(synthetic, "CHAINS", (((4, 8, 3, 15, 1), (8, 8, 1, 15, 1), (8, 8, 1, 15, 1)),))
    parts: list[tuple[int, int]] = []
    both = measured_calls({"direct 4", "rows"}, rounds=1, progress=lambda *part: parts.append(part))
    assert {name: len(calls) - len(alone[name]) for name, calls in both.items()} == {"direct 4": 3 * 2, "rows": 2}
    assert all(call.within == 0 for calls in alone.values() for call in calls)
    assert sum(call.within > 0 for call in both["direct 4"]) == 3 * 2
    assert parts == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("quick")
def test_the_crossover_is_measured_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "measured_crossover", lambda: pytest.fail("nobody asked"))
    assert host.host_cpu([], folder=tmp_path)[0].crossover_density is None
    monkeypatch.setattr(host, "measured_crossover", lambda: 0.7)
    found, kept = host.host_cpu([], crossover=True, folder=tmp_path)
    assert kept
    assert found.crossover_density is not None
    assert found.crossover_density.value == 0.7
    monkeypatch.setattr(host, "measured_crossover", lambda: pytest.fail("measured again"))
    assert host.host_cpu([], folder=tmp_path) == (found, True)
    assert host.host_cpu([], crossover=True, folder=tmp_path) == (found, True)


@pytest.mark.parametrize("densities", [(0.6, 0.2), (1.0, 0.5, 0.1)])
def test_random_masks_are_nested_and_as_dense_as_asked(densities: tuple[float, ...]) -> None:
    layer = Layer(name="c", op="conv", C=64, H=3, W=3, K=64, P=3, Q=3, sources=("input",))
    weights = synthetic.pruned([layer], densities).weights["c"]
    for level, density in enumerate(densities):
        error = 4 * np.sqrt(density * (1 - density) / weights.keep.size)  # four standard deviations
        assert weights.densities[level] == pytest.approx(density, abs=error)


def test_structured_masks_keep_their_structure() -> None:
    layer = Layer(name="c", op="conv", C=16, H=3, W=3, K=8, P=3, Q=3, sources=("input",))
    rows = synthetic.pruned([layer], (0.5, 0.2), rows=4).weights["c"].keep
    assert (rows.reshape(2, 4, -1) == rows.reshape(2, 4, -1)[:, :1]).all()
    keep = synthetic.pruned([layer], (0.5, 0.25), channels=8).weights["c"].keep.reshape(8, 2, 8)
    assert [int(n) for n in np.unique((keep > 0).sum(axis=2))] == [4]
    assert [int(n) for n in np.unique((keep > 1).sum(axis=2))] == [2]
