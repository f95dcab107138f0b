"""The whole chain: identities, reproducibility, energy recomputed from counts, operating points, and user mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nestling.accel.design import DESIGNS, load_design
from nestling.sim import simulate as module
from nestling.sim.pipeline import CycleSplit
from nestling.sim.results import LayerResult, Result
from nestling.sim.simulate import ConservationError, simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, linear
from nestling.workloads.network import INPUT, Network

from .spine_cases import SHAPES, design, mixed_network, network

TRACE = lower(mixed_network())
ROOT = Path(__file__).resolve().parent.parent


def numbers(result: Result) -> list[Any]:
    """Everything a result says, as plain numbers."""
    return [
        [level.level, level.cycles, level.macs, level.weight_bytes, level.density]
        + [
            [x.layer, x.cycles, vars(x.split), dict(x.counts), dict(x.energy_j), x.utilisation, x.tiles]
            for x in level.layers
        ]
        for level in result.levels
    ]


@pytest.mark.parametrize("name", DESIGNS)
def test_parts_sum_to_totals(name: str) -> None:
    result = simulate(TRACE, load_design(name))
    assert result.trace_digest == TRACE.digest()
    assert [x.level for x in result.levels] == [0, 1, 2, 3]
    for level in result.levels:
        assert level.cycles == sum(x.cycles for x in level.layers) == level.split.total
        assert level.latency_s == level.cycles / result.point.clock_hz
        assert level.macs == TRACE.macs(level.level)
        assert level.weight_bytes == TRACE.weight_bytes(result.design.weight_format, level.level)
        assert level.energy_j == pytest.approx(sum(sum(x.energy_j.values()) for x in level.layers), rel=1e-12)
        for layer in level.layers:
            check_layer(layer)


def check_layer(layer: LayerResult) -> None:
    counts = layer.counts
    assert counts["mac_computed"] + counts["mac_gated"] + counts["mac_skipped"] == counts["mac_dense"]
    assert min(counts.values()) >= 0
    assert counts["dram_read_bytes"] >= layer.compulsory_bytes
    assert counts["weight_buffer_write_bytes"] + counts["input_buffer_write_bytes"] == counts["dram_read_bytes"]
    assert layer.split.total == layer.cycles
    assert 0 <= layer.utilisation <= 1


def test_repeats_multiply_everything_once() -> None:
    layer = SHAPES["recurrent"]
    once = replace(layer, repeat=1)
    single, repeated = (simulate(lower(network(x)), load_design("nm-lanes-16x8")) for x in (once, layer))
    for a, b in zip(single.levels, repeated.levels, strict=True):
        assert b.cycles == 3 * a.cycles
        assert b.layers[0].counts == {name: 3 * count for name, count in a.layers[0].counts.items()}
        assert b.split == CycleSplit(**{name: 3 * value for name, value in vars(a.split).items()})
        assert b.layers[0].utilisation == a.layers[0].utilisation


def test_levels_may_be_chosen_in_any_order() -> None:
    full = simulate(TRACE, load_design("nm-lanes-16x8"))
    some = simulate(TRACE, load_design("nm-lanes-16x8"), levels=[2, 0])
    assert numbers(some) == [numbers(full)[2], numbers(full)[0]]
    assert some.timeline is not None
    assert full.timeline is not None
    assert (some.timeline.level, some.timeline.layer) == (full.timeline.level, full.timeline.layer)


@pytest.mark.parametrize("name", DESIGNS)
def test_results_do_not_depend_on_the_engine(name: str) -> None:
    fast, slow = (simulate(TRACE, load_design(name), engine=engine) for engine in ("recurrence", "simpy"))
    assert numbers(fast) == numbers(slow)


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.spine_cases import mixed_network
from tests.test_simulate import numbers
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.network import Network
whole = mixed_network()
network = Network("tiny", whole.layers[:2], {x: whole.weights[x] for x in ("stem", "deep")})
trace = lower(network, formats=["dense", "level_ordered"])
print(json.dumps([trace.digest()] + [numbers(simulate(trace, load_design(x))) for x in ("nm-lanes-16x8", "systolic-16x16")]))
"""


def in_new_process(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def test_results_depend_neither_on_hash_seed_nor_on_compilation() -> None:
    first = in_new_process(PYTHONHASHSEED="1")
    assert len(json.loads(first)) == 3
    assert first == in_new_process(PYTHONHASHSEED="271828")
    assert first == in_new_process(PYTHONHASHSEED="0", NUMBA_DISABLE_JIT="1")


# --- zeros -----------------------------------------------------------------------------------------------------------


def zero_counts(weights: str, inputs: str, *, level: int = 2) -> tuple[int, int, int, int]:
    """Computed, gated, skipped MACs and those with both operands non-zero, from real masks of both operands."""
    layer = SHAPES["conv"]
    gemm = layer.gemm
    assert gemm is not None
    rng = np.random.default_rng(0)
    columns = rng.random((gemm.m, gemm.k)) < 0.6  # one image
    activations = Activations(float(columns.mean()), 1, columns.sum(axis=0))
    net = network(layer, levels=4)
    trace = lower(net, activations={"conv": activations})
    kept = net.weights["conv"].mask(level).reshape(gemm.n, gemm.k)
    both = int((kept[:, None, :] & columns[None]).sum())
    described = design("systolic-16x16", {"zero_handling.weights": weights, "zero_handling.inputs": inputs})
    counts = simulate(trace, described, levels=[level]).levels[0].layers[0].counts
    nonzero_input = int(columns.sum()) * gemm.n
    expected = {
        ("gate", "gate"): gemm.macs - both,
        ("gate", "none"): gemm.macs - int(kept.sum()) * gemm.m,
        ("none", "gate"): gemm.macs - nonzero_input,
        ("none", "none"): 0,
    }[weights, inputs]
    return counts["mac_gated"], expected, counts["mac_computed"], gemm.macs - expected


@pytest.mark.parametrize("weights", ["gate", "none"])
@pytest.mark.parametrize("inputs", ["gate", "none"])
def test_gated_macs_counted_one_by_one(weights: str, inputs: str) -> None:
    gated, expected_gated, computed, expected_computed = zero_counts(weights, inputs)
    assert (gated, computed) == (expected_gated, expected_computed)


def test_skipping_leaves_input_zeros_to_gate() -> None:
    layer = SHAPES["linear"]
    trace = lower(network(layer), activations={"linear": Activations(0.25)})
    counts = simulate(trace, load_design("nm-lanes-16x8"), levels=[1]).levels[0].layers[0].counts
    nonzero = trace.macs(1)
    assert counts["mac_skipped"] == layer.macs - nonzero
    assert counts["mac_computed"] == round(nonzero * 0.25)
    assert counts["mac_gated"] == nonzero - counts["mac_computed"]


# --- energy and operating points -------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["low", "nominal", "high"])
def test_energy_recomputed_from_counts(point: str) -> None:
    described = load_design("systolic-16x16")
    result = simulate(TRACE, described, point=point)
    chosen = next(p for p in described.operating_points if p.name == point)
    ratio = chosen.voltage_v / described.nominal_voltage_v.value
    table = {(int(r["size"]), int(r["width"])): r for r in sram_rows()}
    for layer in result.levels[1].layers:
        counts, found = layer.counts, layer.energy_j
        mac = counts["mac_computed"] * described.energies.mac_pj.value
        mac += counts["mac_gated"] * described.energies.mac_gated_pj.value
        assert found["mac"] == pytest.approx(mac * 1e-12 * ratio**2, rel=1e-12)
        dram = (counts["dram_read_bytes"] + counts["dram_write_bytes"]) * 64
        assert found["dram"] == pytest.approx(dram * 1e-12, rel=1e-12)
        registers = counts["register_bytes"] * described.energies.register_pj_per_byte.value
        assert found["registers"] == pytest.approx(registers * 1e-12 * ratio**2, rel=1e-12)
        leakage = 0.0
        for component, buffer in (
            ("weight_buffer", described.buffers.weights),
            ("input_buffer", described.buffers.inputs),
            ("output_buffer", described.buffers.outputs),
        ):
            row = table[buffer.bytes, buffer.width_bits]
            read, write = float(row["read"]), min(float(row["write"]), 1.2 * float(row["read"]))
            moved = counts.get(f"{component}_read_bytes", 0) * read + counts[f"{component}_write_bytes"] * write
            assert found[component] == pytest.approx(moved * 8 / buffer.width_bits * 1e-12 * ratio**2, rel=1e-12)
            leakage += float(row["leak"]) * 1e-3
        assert found["leakage"] == pytest.approx(leakage * ratio * layer.cycles / chosen.clock_hz, rel=1e-12)


def sram_rows() -> list[dict[str, str]]:
    """45 nm rows of the sweep, read without the product's reader."""
    text = (ROOT / "accel" / "data" / "cacti7_sram.csv").read_text(encoding="utf-8").splitlines()[2:]
    keys = ("node", "cell", "width", "size", "read", "write", "read_byte", "write_byte", "leak")
    rows = [dict(zip(keys, line.split(","), strict=False)) for line in text]
    return [row for row in rows if (row["node"], row["cell"]) == ("45", "itrs-lstp")]


def test_latency_follows_the_clock_and_dram_energy_ignores_the_voltage() -> None:
    """A product that computes far longer than it fetches."""
    layer = linear("deep", INPUT, features_in=512, features_out=512, rows=2048)
    trace = lower(Network("n", (layer,)), formats=["dense"])
    described = design("systolic-16x16", {"dram.latency_s.value": 0.0, "dram.bandwidth_bytes_per_s.value": 1e13})
    results = {p.name: simulate(trace, described, point=p.name) for p in described.operating_points}
    slow, fast = results["low"], results["high"]
    assert slow.levels[0].split.compute > 0.99 * slow.levels[0].cycles
    scale = fast.point.clock_hz / slow.point.clock_hz
    assert slow.levels[0].latency_s == pytest.approx(scale * fast.levels[0].latency_s, rel=1e-3)
    energies = [r.levels[0].energy_by_component_j for r in results.values()]
    assert len({e["dram"] for e in energies}) == 1
    assert len({e["mac"] for e in energies}) == len(energies)
    assert slow.levels[0].cycles <= fast.levels[0].cycles  # a slower clock sees a faster DRAM


def test_a_layer_bound_by_dram_gains_nothing_from_the_clock() -> None:
    layer = linear("wide", INPUT, features_in=2048, features_out=2048)
    trace = lower(Network("n", (layer,)), formats=["dense"])
    described = design("systolic-16x16", {"dram.bandwidth_bytes_per_s.value": 1e9})
    slow, fast = (simulate(trace, described, point=p).levels[0] for p in ("low", "high"))
    assert fast.latency_s == pytest.approx(slow.latency_s, rel=0.01)
    bytes_moved = fast.layers[0].counts["dram_read_bytes"] + fast.layers[0].counts["dram_write_bytes"]
    assert fast.latency_s >= bytes_moved / 1e9


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [4]}, r"level 4 does not exist: 'mixed' has levels 0 \(densest\) to 3"),
        ({"levels": [0, -1]}, "level -1 does not exist"),
        ({"levels": []}, "no level to simulate"),
        ({"levels": [1, 0, 1]}, "levels 1, 0, 1: a level is given twice"),
        ({"point": "nominl"}, "unknown operating point of design 'systolic-16x16' 'nominl'; did you mean 'nominal'"),
        ({"timeline_layer": "stm"}, "unknown layer 'stm'; did you mean 'stem'"),
        ({"engine": "simpi"}, "unknown engine 'simpi'; did you mean 'simpy'"),
    ],
)
def test_names_and_levels_that_do_not_exist(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(TRACE, load_design("systolic-16x16"), **options)


def test_traces_without_the_designs_format() -> None:
    trace = lower(mixed_network(), formats=["csr"])
    with pytest.raises(InputError, match="layer 'stem': the trace has no storage format 'dense'; it has csr"):
        simulate(trace, load_design("systolic-16x16"))


def test_layers_too_large_for_the_buffers() -> None:
    described = design("nm-lanes-16x8", {"buffers.weights.bytes": 512})
    with pytest.raises(
        InputError, match=r"layer 'stem' is too large for any tiling: one tile needs \d+ bytes of the weight"
    ):
        simulate(TRACE, described)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dram.bandwidth_bytes_per_s.value": 1e-300}, "a DRAM of 1e-300 bytes/s"),
        ({"dram.latency_s.value": 1e300}, "1e[+]300 s latency cannot serve a clock"),
    ],
)
def test_drams_in_the_wrong_unit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(TRACE, design("systolic-16x16", changes))


def test_an_endless_bandwidth_is_still_a_bandwidth() -> None:
    described = design("systolic-16x16", {"dram.bandwidth_bytes_per_s.value": 1e30})
    fast, slow = (simulate(TRACE, described, engine=engine).levels[0].cycles for engine in ("recurrence", "simpy"))
    assert fast == slow > 0


def test_a_network_without_products_takes_no_time() -> None:
    pool = Layer(name="p", op="maxpool", C=1, H=2, W=2, K=1, P=1, Q=1, R=2, S=2, sources=(INPUT,))
    result = simulate(lower(Network("n", (pool,))), load_design("systolic-16x16"))
    assert (result.levels[0].cycles, result.levels[0].energy_j, result.timeline) == (0, 0, None)
    assert any("not modelled: 1 operator (maxpool)" in text for text in result.warnings)


def test_warnings_name_what_a_reader_must_know() -> None:
    text = "\n".join(simulate(lower(network(SHAPES["recurrent"])), load_design("systolic-16x16")).warnings)
    for part in (
        "assumed, not measured, for 1 layer (",
        "every time step of 1 recurrent layer",
        "unverified constant: ",
    ):
        assert part in text
    assert "counted as dense" in "\n".join(
        simulate(lower(network(SHAPES["matmul"])), load_design("systolic-16x16")).warnings
    )


def test_a_broken_identity_is_a_defect_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = module.ARRAYS["systolic"]

    def losing(*arguments: Any) -> Any:
        for plan in kind.plans(*arguments):
            yield replace(plan, mac_dense=plan.mac_dense + 1)

    monkeypatch.setitem(module.ARRAYS, "systolic", replace(kind, plans=losing))
    with pytest.raises(ConservationError, match=r"layer 'stem' level 0: issued \+ skipped = dense: \d+ != \d+"):
        simulate(TRACE, load_design("systolic-16x16"))
