"""The SmartDeal array against loops over outputs; its switches; coefficients, bases and rebuild engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.ablation import switches
from nestling.accel.arrays import ARRAYS, LayerPlan
from nestling.accel.arrays.operands import conv_view
from nestling.accel.arrays.smartdeal_operands import rebuild_cycles, term_counts
from nestling.accel.design import Design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations, LayerTrace
from nestling.traces.trace_file import write_trace
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.network import INPUT, Network
from nestling.workloads.smartdeal.synthetic import synthetic_smartdeal

from .smartdeal_oracle import booth_digits, layer_by_hand
from .spine_cases import SHAPES, design, layer_trace

SWITCHES = switches(design("smartdeal"))
MORE = {
    "column": Layer(name="column", op="conv", C=3, H=9, W=6, K=4, P=7, Q=6, R=3, S=1, sources=(INPUT,)),
    "five": conv("five", INPUT, C=2, H=11, K=3, R=5, padding=2),
    "seven": conv("seven", INPUT, C=3, H=15, K=5, R=7, stride=2, padding=3),
    "squeeze": conv("squeeze", INPUT, C=20, H=1, K=7, R=1),
    "deep strided": conv("deep strided", INPUT, C=6, H=9, K=6, R=5, stride=2, padding=2, groups=6),
}
ALL = SHAPES | MORE


def small(**changes: Any) -> Design:
    """A small array with buffers that hold every layer here in one tile of the reduction."""
    sizes = {"dim_m": 4, "dim_c": 3, "dim_f": 4, **changes}
    described = {f"array.{name}": value for name, value in sizes.items()}
    if not sizes.get("rebuild_engine", True):
        described["weight_format"] = "dense"
    return design("smartdeal", described)


def with_inputs(trace: LayerTrace, seed: int, *, bits: int = 8) -> tuple[LayerTrace, np.ndarray]:
    """The layer with signed real inputs, some rows of them zero; codes as (channels, height, width)."""
    view, rng = conv_view(trace.layer), np.random.default_rng(seed)
    shape = (view.channels, view.height, view.width)
    codes = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape) * (rng.random(shape) < 0.6)
    codes *= rng.random(shape[:2])[..., None] < 0.7
    gemm = trace.layer.gemm
    assert gemm is not None
    sample = codes if trace.layer.op in ("conv", "dwconv") else codes.reshape(gemm.b, gemm.k, gemm.m).swapaxes(1, 2)
    activations = Activations(0.5, sample=sample[None].astype(np.int16))
    return replace(trace, activations=activations), codes.astype(np.int32)


def plans(trace: LayerTrace, described: Design) -> list[LayerPlan]:
    return list(ARRAYS["smartdeal"].plans(trace, range(trace.levels), described))


CASES = given(
    st.sampled_from(sorted(ALL)), st.sets(st.sampled_from(SWITCHES)), st.sampled_from([1, 3, 8]), st.integers(0, 2**32),
    st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 9)),
)  # fmt: skip


@settings(max_examples=10, deadline=None)
@CASES
def test_cycles_and_work_equal_loops_over_outputs(
    name: str, off: set[str], levels: int, seed: int, sizes: tuple[int, int, int]
) -> None:
    check_against_loops(name, off, levels, seed, sizes)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@CASES
def test_cycles_and_work_equal_loops_over_outputs_often(
    name: str, off: set[str], levels: int, seed: int, sizes: tuple[int, int, int]
) -> None:
    check_against_loops(name, off, levels, seed, sizes)


def check_against_loops(name: str, off: set[str], levels: int, seed: int, sizes: tuple[int, int, int]) -> None:
    described = small(**dict(zip(("dim_m", "dim_c", "dim_f"), sizes, strict=True)), **dict.fromkeys(off, False))
    trace, codes = with_inputs(layer_trace(ALL[name], levels=levels, seed=seed % 97), seed)
    for plan in plans(trace, described)[:: max(1, levels - 1)]:
        expected = layer_by_hand(trace, codes, described.array, level=plan.level)
        assert int(plan.tiles.steps.sum()) == expected["cycles"]
        assert plan.mac_dense - plan.mac_skipped == expected["issued"]
        assert plan.slots_used == expected["terms"]


@given(st.integers(-(2**15), 2**15 - 1))
def test_booth_digits_by_division(value: int) -> None:
    assert int(term_counts(np.array([value], np.int32), bits=8, booth=True)[0]) == booth_digits(value, 16)


def test_booth_digits_of_known_values() -> None:
    values = np.array([0, 1, 2, -2, 3, 5, 127, -128, 85, 255], np.int32)
    assert term_counts(values, bits=8, booth=True).tolist() == [0, 1, 2, 1, 2, 2, 2, 1, 4, 2]
    assert term_counts(values, bits=8, booth=False).tolist() == [0, 1, 1, 1, 2, 2, 7, 1, 4, 8]


@pytest.mark.parametrize("name", sorted(ALL))
def test_no_switch_makes_its_own_claim_worse(name: str) -> None:
    """Cycles for what saves time (bit-serial terms in both), bytes for the rebuild engine; running on saves time, too."""
    trace, _ = with_inputs(layer_trace(ALL[name], levels=3, seed=1), 5)
    full = plans(trace, small())
    for switch in SWITCHES:
        if switch == "rebuild_engine":
            continue  # a plain layer: no coefficients to rebuild
        for with_it, without in zip(full, plans(trace, small(**{switch: False})), strict=True):
            fewer, more = (with_it, without) if switch != "synchronised" else (without, with_it)
            assert int(fewer.tiles.steps.sum()) <= int(more.tiles.steps.sum()), switch
            if switch in ("bit_serial", "index_selector_weights"):
                assert with_it.slots_used <= without.slots_used, switch


# --- coefficients ----------------------------------------------------------------------------------------------------


def smartdeal_network(levels: tuple[float, ...] = (0.6, 0.3, 0.1)) -> Any:
    layers = (
        conv("a", INPUT, C=6, H=12, K=40, R=3, padding=1, activation="relu"),
        conv("b", "a", C=40, H=12, K=40, R=3, padding=1, groups=40, relu_in=True),
        conv("c", "b", C=40, H=12, K=70, R=1, stride=2),
        linear("d", "c", features_in=70 * 36, features_out=30, relu_in=True),
    )
    return synthetic_smartdeal(Network("net", layers), levels, filters=8, seed=2)


def test_synthetic_rows_are_exact_and_aligned() -> None:
    made = smartdeal_network()
    assert list(made.plain) == ["b"]
    for name, basis in made.bases.items():
        keep = basis.keep.reshape(basis.slicing.units, -1)
        for first in range(0, basis.slicing.units, 8):
            assert (keep[first : first + 8] == keep[first]).all(), name
        groups = -(-basis.slicing.units // 8)
        for level, density in enumerate((0.6, 0.3, 0.1)):
            # Rows that are padding only are drawn, too, and hold nothing: at most one per group here.
            kept = sum((keep[first] > level).sum() for first in range(0, basis.slicing.units, 8))
            assert 0 <= round(density * groups * keep.shape[1]) - kept <= groups, name


def test_trace_carries_coefficients_and_their_bytes() -> None:
    made = smartdeal_network()
    trace = lower(made.network, bases=made.bases)
    for layer in trace.layers:
        basis = made.bases.get(layer.layer.name)
        if basis is None:
            assert layer.coefficients is None
            assert layer.bytes("smartdeal_row_direct", 1) == layer.bytes("dense", 1)
            continue
        s = basis.slicing
        for level in range(3):
            assert layer.coefficients is not None
            assert layer.coefficients.nonzeros(level) == int(basis.nonzeros[level])
            assert layer.coefficients.rows(level) == int(basis.nonzero_rows[level])
            bits = s.matrices * (9 * 8 + s.rows) + int(basis.nonzero_rows[level]) * s.columns * 4
            assert layer.bytes("smartdeal_row_direct", level) == -(-bits // 8) + layer.bias_bytes
    assert trace.digest() != lower(made.network).digest()


def test_rebuilt_coefficients_by_hand() -> None:
    """Every coefficient row is rebuilt once per run of outputs whose activation row is not zero: S additions each."""
    layer = conv("a", INPUT, C=2, H=6, K=5, R=3, padding=1)
    made = synthetic_smartdeal(Network("net", (layer,)), (0.7, 0.4), filters=1)
    trace, codes = with_inputs(lower(made.network, bases=made.bases).layers[0], 3)
    padded = np.pad(codes, ((0, 0), (1, 1), (1, 1)))
    keep = made.bases["a"].keep.reshape(5, 2, 3)
    for plan in plans(trace, small()):
        rebuilt = sum(
            2 * 3 * int((keep[:, c, r] > plan.level).sum())  # two runs of up to four outputs; three coefficients
            for e in range(6) for c in range(2) for r in range(3) if padded[c, e + r].any()
        )  # fmt: skip
        totals = plan.tiles.totals()
        assert totals["rebuild_shifts"] == rebuilt
        assert totals["rebuild_additions"] == 3 * rebuilt
        plain = plans(replace(trace, coefficients=None), small())[plan.level]
        assert int(plan.tiles.steps.sum()) == int(plain.tiles.steps.sum()) + 9  # the first basis is filled in
        off = plans(trace, small(rebuild_engine=False))[plan.level]
        assert "rebuild_shifts" not in off.tiles.actions or off.tiles.totals()["rebuild_shifts"] == 0
        assert off.tiles.totals()["dram_read_bytes"] > totals["dram_read_bytes"]


def test_a_sparser_level_never_does_more_in_smartdeal_form() -> None:
    made = smartdeal_network()
    result = simulate(lower(made.network, bases=made.bases), design("smartdeal"))
    for denser, sparser in zip(result.levels, result.levels[1:], strict=False):
        for a, b in zip(denser.layers, sparser.layers, strict=True):
            for count in ("terms", "rebuild_shifts", "weight_buffer_read_bytes", "dram_read_bytes"):
                assert b.counts[count] <= a.counts[count], (a.layer, count)
            assert b.split.compute <= a.split.compute, a.layer


def test_rebuild_engines_equal_the_register_transfer_ones() -> None:
    """413, 658 and 1201 cycles for 400 rows at coefficient densities 0.1, 0.5 and 1.0, drawn as its test bench draws them."""
    found = []
    for density in (0.1, 0.5, 1.0):
        rng = np.random.default_rng(3)
        rng.integers(-128, 128, size=(3, 3))
        codes = rng.integers(1, 8, size=(400, 3)) * (rng.random((400, 3)) < density)
        found.append(rebuild_cycles((codes != 0).sum(axis=1)))
        assert rebuild_cycles((codes != 0).sum(axis=1), parallel=True) == 401
    assert found == [413, 658, 1201]


def test_a_lone_weight_waits_for_its_row_to_be_rebuilt() -> None:
    """One of a row's three channels is not zero: its weight takes a cycle, a row of three coefficients as many per engine."""
    for height, engines in ((1, 1), (9, 2)):  # one output per row: each engine feeds a cluster of its own
        layer = conv("a", INPUT, C=30, H=height, K=4, R=1)
        made = synthetic_smartdeal(Network("net", (layer,)), (1.0,), filters=1)
        codes = np.zeros((1, 30, height, height), np.int16)
        codes[:, 1] = 1
        trace = replace(lower(made.network, bases=made.bases).layers[0], activations=Activations(0.5, sample=codes))
        runs = height * -(-height // 4)
        assert int(plans(trace, small())[0].tiles.steps.sum()) == 9 + runs * -(-3 // engines)
        assert int(plans(trace, small(rebuild_engine=False))[0].tiles.steps.sum()) == runs


CUT = {"array.dim_m": 4, "array.dim_c": 3, "array.dim_f": 4}


def test_a_reduction_in_several_tiles_does_the_same_work() -> None:
    layer = linear("long", INPUT, features_in=900, features_out=6, rows=5)
    trace, _ = with_inputs(layer_trace(layer, levels=3, seed=2), 7)
    whole = plans(trace, small())
    cut = plans(trace, design("smartdeal", CUT | {"buffers.weights.bytes": 512}))
    for a, b in zip(whole, cut, strict=True):
        assert len(b.tiles) > len(a.tiles)
        assert (a.mac_skipped, a.slots_used) == (b.mac_skipped, b.slots_used)
        assert int(a.tiles.steps.sum()) <= int(b.tiles.steps.sum())  # lines are dealt pairs tile by tile
        assert b.tiles.totals()["output_buffer_read_bytes"] > 0


def test_fewer_slices_work_where_that_saves_dram_traffic() -> None:
    """A part of four filters at a time leaves room for the sums of 40 of 64 positions, of two filters for all: their weights
    are fetched once instead of for both blocks of positions."""
    layer = conv("deep", INPUT, C=128, H=8, K=8, R=3, padding=1)
    trace, _ = with_inputs(layer_trace(layer, levels=1, seed=2), 7)
    buffers = {"buffers.weights.bytes": 4096, "buffers.outputs.bytes": 512}
    (plan,) = plans(trace, design("smartdeal", CUT | buffers))
    assert len(plan.tiles) == 8  # four pairs of filters, the reduction in two
    assert plan.tiles.totals()["dram_read_bytes"] == plan.compulsory_bytes


# --- bad input -------------------------------------------------------------------------------------------------------


def test_storage_and_rebuild_engine_must_agree() -> None:
    trace = layer_trace(SHAPES["conv"])
    with pytest.raises(InputError, match="rebuild_engine = true weight_format must be a coefficient format"):
        plans(trace, design("smartdeal", {"weight_format": "dense"}))
    with pytest.raises(InputError, match="rebuild_engine = false weight_format must be dense"):
        plans(trace, design("smartdeal", {"array.rebuild_engine": False}))


def test_trace_files_hold_no_coefficients(tmp_path: Path) -> None:
    made = smartdeal_network()
    with pytest.raises(InputError, match="layer 'a' is in SmartDeal form; trace files hold plain weights only"):
        write_trace(tmp_path / "trace.parquet", lower(made.network, bases=made.bases))
    assert list(tmp_path.iterdir()) == []


def test_coefficients_must_belong_to_the_network() -> None:
    made = smartdeal_network()
    with pytest.raises(InputError, match="unknown layer with coefficients 'e'"):
        lower(made.network, bases={"e": made.bases["d"]})
    with pytest.raises(InputError, match="have 1 levels, the network 3"):
        lower(made.network, bases={"a": smartdeal_network((0.5,)).bases["a"]})
    sparser = smartdeal_network((0.1, 0.05, 0.01)).bases
    with pytest.raises(InputError, match="a weight is retained whose coefficient row is not"):
        lower(made.network, bases={"a": sparser["a"]})
    with pytest.raises(InputError, match=r"coefficients of weights of shape \(30, 2520\)"):
        lower(made.network, bases={"a": made.bases["d"]})
