"""Ablations, equalised rivals and the normalised comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.accel.ablation import ablations, switches
from nestling.accel.arrays.diannao import DianNaoArray
from nestling.accel.design import Design, load_design
from nestling.accel.energy import unit_energies_pj
from nestling.accel.equalised import RIVALS, equalised
from nestling.analysis.cli_options import compared_designs
from nestling.analysis.compare_command import able_designs, compare_designs, in_smartdeal_form
from nestling.analysis.normalised import QUOTED, normalised_table, write_normalised
from nestling.analysis.run import RunOptions, make_study
from nestling.analysis.sources import Workload
from nestling.analysis.study import Study
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.network import INPUT, Network
from nestling.workloads.synthetic import SyntheticLevels

from .spine_cases import mixed_network

LAYERS = (
    conv("stem", INPUT, C=3, H=12, K=32, R=3, padding=1, activation="relu"),
    conv("deep", "stem", C=32, H=12, K=32, R=3, padding=1, groups=32, relu_in=True),
    conv("point", "deep", C=32, H=12, K=64, R=1),
    linear("head", "point", features_in=64 * 144, features_out=10, relu_in=True),
)


def drawn(densities: tuple[float, ...] = (0.5, 0.2)) -> Workload:
    network = Network("tiny", LAYERS)
    return Workload(network, pattern=SyntheticLevels(network, densities, 0))


def study(designs: list[Design]) -> Study:
    return make_study(in_smartdeal_form(drawn(), 0), designs, options=RunOptions(execute=False, skip_unable=True))


def multipliers(design: Design) -> int:
    array = design.array.model_dump()
    factors = {
        "smartdeal": ("dim_m", "dim_c", "dim_f"),
        "diannao": ("tiles", "outputs", "inputs"),
        "scnn": ("pes_x", "pes_y", "input_lanes", "weight_lanes"),
        "cambricon_x": ("pes", "multipliers"),
        "pragmatic": ("tiles", "rows", "columns", "lanes"),
    }
    return int(np.prod([array[name] for name in factors[array["kind"]]]))


def test_every_switch_is_turned_alone() -> None:
    design = load_design("smartdeal")
    full, *others = ablations(design)
    assert full is design
    assert switches(design) == [
        "index_selector_weights", "index_selector_activations", "bit_serial", "booth", "synchronised", "rebuild_engine",
        "compact_models",
    ]  # fmt: skip
    for switch, other in zip(switches(design), others, strict=True):
        differs = {k for k, v in other.array if v != getattr(design.array, k)}
        assert differs == {switch}
        assert other.name == f"smartdeal.{switch}-off"
        assert other.weight_format == ("dense" if switch == "rebuild_engine" else design.weight_format)
    off = others[switches(design).index("rebuild_engine")]
    assert ablations(off)[6].weight_format == "smartdeal_row_direct"
    assert ablations(off)[6].name.endswith("rebuild_engine-on")


def test_an_array_without_switches_has_nothing_to_ablate() -> None:
    assert isinstance(load_design("diannao").array, DianNaoArray)
    with pytest.raises(InputError, match="design 'diannao': arrays of kind 'diannao' have no switches to ablate"):
        ablations(load_design("diannao"))


def test_rivals_have_equal_resources() -> None:
    reference, *rivals = equalised()
    assert multipliers(reference) == 8192
    total = sum(buffer.bytes for _, buffer in reference.buffers)
    assert [rival.name for rival in rivals] == [f"{name}-equal" for name in RIVALS]
    for rival in rivals:
        assert multipliers(rival) == (8192 if rival.array.kind == "pragmatic" else 1024), rival.name
        own = sum(buffer.bytes for _, buffer in rival.buffers)
        assert total - 3 * 64 < own <= total, rival.name
        assert rival.dram == reference.dram
        assert rival.operating_points == reference.operating_points
        assert rival.built_nm == reference.built_nm == 28
        prices, ours = unit_energies_pj(rival), unit_energies_pj(reference)
        for action in ("dram_read_bytes", "weight_buffer_read_bytes", "input_buffer_write_bytes", "register_bytes"):
            assert prices[action] == ours[action], (rival.name, action)
        if rival.array.kind == "pragmatic":
            assert prices["terms"] == ours["terms"]
            assert "weight_banks_read_bytes" not in prices
        else:
            assert prices["mac_computed"][1] == 0.143
    rams = unit_energies_pj(rivals[1])["input_rams_read_bytes"][1]
    assert rams == unit_energies_pj(reference)["input_buffer_read_bytes"][1]


def test_ratios_and_breakdown_add_up(tmp_path: Path) -> None:
    found = study(equalised())
    table = normalised_table(found)
    first = table[table["design"] == "smartdeal"]
    assert (first[["energy_ratio", "dram_ratio", "latency_ratio"]] == 1).all(axis=None)
    shares = [name for name in table.columns if name.startswith("share_")]
    np.testing.assert_allclose(table[shares].sum(axis=1), table["energy_ratio"], rtol=1e-12)
    for _, row in table.iterrows():
        base = first[first["level"] == row["level"]].iloc[0]
        assert row["energy_ratio"] == pytest.approx(row["energy_j"] / base["energy_j"])
        assert row["latency_ratio"] == pytest.approx(row["latency_s"] / base["latency_s"])
    write_normalised(found, tmp_path, quoted=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["normalised.csv", "normalised.svg", "report.html"]
    assert "2.0x to 6.7x" in QUOTED
    assert "not computed here" in (tmp_path / "normalised.svg").read_text()


def test_ablation_shows_what_each_switch_saves() -> None:
    designs = ablations(load_design("smartdeal"))
    table = normalised_table(study(designs)).set_index(["design", "level"])
    assert (table.loc["smartdeal.rebuild_engine-off", "dram_ratio"] > 1.2).all()
    # Serial terms save time and energy of the multipliers; each is added to a sum, which costs registers more.
    assert (table.loc["smartdeal.bit_serial-off", "latency_ratio"] > 1).all()
    assert (table.loc["smartdeal.bit_serial-off", "share_mac"] > table.loc["smartdeal", "share_mac"]).all()
    assert (table.loc["smartdeal.compact_models-off", "latency_ratio"] >= 1).all()
    assert table.loc[("smartdeal.index_selector_weights-off", 1), "energy_ratio"] > 1


def test_squeeze_and_excitation_is_left_to_the_others() -> None:
    scaled = Layer(name="scale", op="mul", C=64, H=12, W=12, K=64, P=12, Q=12, sources=("point",))
    head = replace(LAYERS[-1], sources=("scale",))
    designs, unable = able_designs(Network("scaled", (*LAYERS[:3], scaled, head)), equalised())
    assert "scnn-equal" not in [design.name for design in designs]
    assert "squeeze-and-excitation" in unable["scnn-equal"]
    assert able_designs(Network("tiny", LAYERS), equalised())[1] == {}


def test_networks_with_values_are_decomposed() -> None:
    network = mixed_network((0.8, 0.3))
    made = in_smartdeal_form(Workload(network), 0)
    assert set(made.bases) < set(network.weights)  # depthwise layers and short vectors would grow
    assert any("stored plain" in text and "deep" in text for text in made.network.notes)
    assert made.network.has_values
    for name, basis in made.bases.items():
        rows = basis.keep.size
        assert int((basis.keep > 1).sum()) <= round(float(network.densities[1]) * rows), name


def test_one_comparison_at_a_time_and_its_unit_must_run() -> None:
    with pytest.raises(InputError, match="give one of them"):
        compared_designs(["diannao"], "smartdeal", equalise=False)
    names = [design.name for design in compared_designs(None, None, equalise=True, objective="latency")]
    assert names == ["smartdeal", *(f"{name}-equal" for name in RIVALS)]
    tiny = load_design("smartdeal").model_copy(update={"weight_format": "dense"})  # contradicts its rebuild engines
    options = RunOptions(execute=False, skip_unable=True)
    designs = [tiny, *equalised()[1:2]]
    with pytest.raises(
        InputError, match=r"'smartdeal', the unit of the comparison, cannot run this network: .*rebuild"
    ):
        compare_designs(drawn(), designs, options=options, command="", out=None, json=True, smartdeal=True)
