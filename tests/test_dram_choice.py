"""The dram section of a design file: flat, a flat device by name, or a device simulated by commands."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from nestling.accel.design import DESIGN_FOLDER, Design, load_design
from nestling.accel.dram import DEVICES, load_command_device
from nestling.accel.dram_choice import DeviceDram, FlatDram
from nestling.accel.energy import unit_energies_pj
from nestling.accel.yaml_errors import parse_validated
from nestling.sim.results import DramTotals, Result
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, mixed_network, network

TEXT = (DESIGN_FOLDER / "nm-lanes-16x8.yaml").read_text(encoding="utf-8")
BEFORE, AFTER = TEXT[: TEXT.index("dram:\n")], TEXT[TEXT.index("energies:\n") :]
COMMAND = "lpddr4_3200_x32_lockstep"


def parsed(section: str) -> Design:
    return parse_validated(f"{BEFORE}{section}\n\n{AFTER}", Design, name="my.yaml")


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_fits_every_design_file(name: str) -> None:
    dram = parsed(f"dram: {{device: {name}}}").dram
    assert dram == load_design("systolic-16x16").with_dram(name).dram
    assert dram.peak_bytes_per_s > 1e9
    assert 10 < dram.stream_pj_per_byte < 1000


def test_a_flat_device_takes_the_flat_form_and_adds_no_latency() -> None:
    dram = parsed("dram: {device: smartexchange_100pj_per_byte}").dram
    assert isinstance(dram, FlatDram)
    assert (dram.read_pj_per_byte.value, dram.write_pj_per_byte.value, dram.latency_s.value) == (100, 100, 0)
    assert not dram.latency_s.verified
    assert "no latency" in dram.latency_s.source


def test_a_command_device_with_mapping_channels_and_settings() -> None:
    dram = parsed(
        "dram: {device: hbm2, mapping: line_interleaved, channels: 4, settings: {read_queue: 16, power_down_after: 100}}"
    ).dram
    assert isinstance(dram, DeviceDram)
    assert dram.command_device.organisation.channels == 4
    assert dram.settings.given() == {"read_queue": 16, "power_down_after": 100}
    assert load_command_device("hbm2").organisation.channels == 1


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{device: lpddr4_3200_x32_lock}", "did you mean 'lpddr4_3200_x32_lockstep'"),
        ("{device: hbm2, maping: x}", "did you mean 'mapping'"),
        ("{device: hbm2, mapping: bank}", "unknown mapping of hbm2 'bank'"),
        ("{device: hbm2, mapping: co bg ba}", "each bit once"),
        ("{device: hbm2, channels: 3}", "must be a power of two"),
        ("{device: hbm2, settings: {read_queue: 0}}", "dram.settings.read_queue: found 0"),
        ("{device: horowitz_45nm, channels: 2}", "'horowitz_45nm' is flat"),
        ("{latency_s: {value: 0, source: none, verified: false}}", "missing key 'read_pj_per_byte' in 'dram'"),
        ("5", "dram: found 5"),
    ],
)
def test_mistakes_are_named(section: str, words: str) -> None:
    with pytest.raises(InputError, match=r"my\.yaml:") as caught:
        parsed(f"dram: {section}")
    assert any(words in problem for problem in caught.value.problems)
    assert not any("errors.pydantic.dev" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lpddr",), "did you mean"),
        (("hbm2", "bank"), "unknown mapping"),
        (("horowitz_45nm", "x"), "no address mapping"),
    ],
)
def test_an_override_that_does_not_exist(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_design("nm-lanes-16x8").with_dram(*arguments)


def run(engine: Any = "recurrence", *, name: str = "nm-lanes-16x8", dram: str | None = COMMAND) -> Result:
    design = load_design(name)
    return simulate(lower(mixed_network()), design.with_dram(dram) if dram else design, engine=engine)


def test_both_engines_give_the_same_result() -> None:
    for fast, slow in zip(run().levels, run("simpy").levels, strict=True):
        assert fast.energy_by_component_j == slow.energy_by_component_j
        for a, b in zip(fast.layers, slow.layers, strict=True):
            assert {f.name: getattr(a, f.name) for f in fields(a)} == {f.name: getattr(b, f.name) for f in fields(b)}


def test_dram_energy_is_that_of_the_commands() -> None:
    result = run()
    units = unit_energies_pj(result.design)
    for level in result.levels:
        assert level.dram is not None
        assert level.energy_by_component_j["dram"] == pytest.approx(sum(level.dram.energy_j.values()), rel=1e-12)
        for layer in level.layers:
            priced = sum(layer.counts[name] * pj for name, (part, pj) in units.items() if part == "dram")
            assert layer.energy_j["dram"] == pytest.approx(priced * 1e-12, rel=1e-12)
            assert layer.dram is not None
            assert layer.dram.bytes_moved >= layer.counts["dram_read_bytes"] + layer.counts["dram_write_bytes"]
            assert layer.dram.flat_energy_j == pytest.approx(layer.dram.bytes_moved * 100e-12)
            assert 0 <= layer.dram.row_hit_rate <= 1
            assert layer.dram.bytes_per_s <= result.design.dram.peak_bytes_per_s
            assert layer.split.total == layer.cycles


def test_levels_add_up_their_layers() -> None:
    level = run().levels[0]
    parts = [layer.dram for layer in level.layers if layer.dram is not None]
    assert len(parts) == len(level.layers)
    assert level.dram is not None
    for name in (f.name for f in fields(DramTotals) if f.name != "energy_j"):
        assert getattr(level.dram, name) == pytest.approx(sum(getattr(part, name) for part in parts)), name
    assert level.dram.seconds == pytest.approx(level.latency_s)


def test_a_flat_dram_has_no_commands() -> None:
    for level in run(dram=None).levels:
        assert level.dram is None
        assert all(layer.dram is None and "dram_act" not in layer.counts for layer in level.layers)


def test_repeats_count_every_time_step() -> None:
    trace = lower(network(SHAPES["recurrent"]))
    layer = simulate(trace, load_design("nm-lanes-16x8").with_dram(COMMAND)).levels[0].layers[0]
    assert layer.dram is not None
    assert layer.dram.reads % 3 == 0
    assert layer.dram.bytes_moved % 3 == 0


@pytest.mark.parametrize("name", ["systolic-16x16", "scnn", "eyeriss", "dstc"])
def test_other_designs_run_before_a_command_device(name: str) -> None:
    for level in run(name=name, dram="hbm2_8ch").levels:
        assert level.dram is not None
        assert level.dram.activations > 0


def test_contradicting_settings_are_an_input_error() -> None:
    design = parsed("dram: {device: ddr4_2400_x8, settings: {drain_low: 5, drain_high: 3}}")
    with pytest.raises(InputError, match="drain_low = 5, must lie between 0 and 3"):
        simulate(lower(mixed_network()), design)
