"""Energy as a view of counts: linear, complete, scaled with voltage where it should, and never silently zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.design import DESIGNS, Design, load_design
from nestling.accel.energy import BOOKKEEPING, COMPONENTS, energy_by_component_j, leakage_w, unit_energies_pj
from nestling.accel.sram import sram_cost
from nestling.workloads.errors import InputError

from .spine_cases import design

POINTS = [(name, point.name) for name in DESIGNS for point in load_design(name).operating_points]


def joules(described: Design, counts: dict[str, int], *, cycles: int = 0, point: str | None = None) -> dict[str, float]:
    return energy_by_component_j(counts, cycles=cycles, design=described, point=described.point(point))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_action_belongs_to_a_shown_component_and_costs_something(name: str) -> None:
    units = unit_energies_pj(load_design(name))
    assert {component for component, _ in units.values()} <= set(COMPONENTS)
    described = load_design(name)
    for action, (_, picojoules) in units.items():  # a zero is stated in the file with its reason, never a default
        stated = {"mac_computed": "mac_pj", "mac_gated": "mac_gated_pj"}.get(action)
        assert picojoules > 0 or (stated and getattr(described.energies, stated).value == 0), action
    assert not BOOKKEEPING & set(units)


@pytest.mark.parametrize("name", DESIGNS)
def test_one_action_costs_its_unit_energy(name: str) -> None:
    described = load_design(name)
    for action, (component, picojoules) in unit_energies_pj(described).items():
        found = joules(described, {action: 10**12})
        volts = described.point().voltage_v / described.nominal_voltage_v.value
        assert found[component] == pytest.approx(picojoules * (1 if component == "dram" else volts**2), rel=1e-12)
        assert sum(found.values()) == found[component]


@given(a=st.integers(0, 10**12), b=st.integers(0, 10**12), cycles=st.integers(0, 10**9))
def test_energy_is_linear_in_counts_and_cycles(a: int, b: int, cycles: int) -> None:
    described = design("systolic-16x16")
    parts = [joules(described, {"mac_computed": a}), joules(described, {"dram_read_bytes": b}, cycles=cycles)]
    whole = joules(described, {"mac_computed": a, "dram_read_bytes": b}, cycles=cycles)
    assert tuple(whole) == COMPONENTS
    for component, value in whole.items():
        assert value == pytest.approx(sum(p[component] for p in parts), rel=1e-12, abs=0)


@pytest.mark.parametrize(("name", "point"), POINTS)
def test_voltage_scales_what_is_on_chip(name: str, point: str) -> None:
    described = load_design(name)
    chosen = described.point(point)
    ratio = chosen.voltage_v / described.nominal_voltage_v.value
    counts = dict.fromkeys(unit_energies_pj(described), 1000)
    # At the nominal voltage an action costs its unit energy, and a second leaks the leakage power.
    base = dict.fromkeys(COMPONENTS, 0.0) | {"leakage": leakage_w(described) * 1000 / chosen.clock_hz}
    for component, picojoules in unit_energies_pj(described).values():
        base[component] += 1000 * picojoules * 1e-12
    scaled = joules(described, counts, cycles=1000, point=point)
    for component in COMPONENTS:
        factor = {"dram": 1.0, "leakage": ratio}.get(component, ratio**2)
        assert scaled[component] == pytest.approx(base[component] * factor, rel=1e-12)


@pytest.mark.parametrize("name", DESIGNS)
def test_leakage_is_the_sum_over_srams(name: str) -> None:
    described = load_design(name)
    buffers = [described.buffers.weights, described.buffers.inputs, described.buffers.outputs]
    buffers += [memory for memory in described.memories.values() if hasattr(memory, "bytes")]
    expected = sum(sram_cost(b.bytes, b.width_bits, described.node_nm).leakage_w for b in buffers)
    assert leakage_w(described) == pytest.approx(expected, rel=1e-12)
    point = described.point()
    second = joules(described, {}, cycles=round(point.clock_hz))["leakage"]
    assert second == pytest.approx(expected * point.voltage_v / described.nominal_voltage_v.value, rel=1e-9)


def test_counts_without_a_price_are_an_error() -> None:
    described = load_design("systolic-16x16")
    with pytest.raises(InputError, match="design 'systolic-16x16' has no unit energy for banks_read_bytes, teleports"):
        joules(described, {"teleports": 1, "banks_read_bytes": 2, "mac_computed": 3})
    assert sum(joules(described, {"teleports": 0} | dict.fromkeys(BOOKKEEPING, 10**9)).values()) == 0


def test_buffers_outside_the_sweep_are_an_error() -> None:
    described = design("systolic-16x16", {"buffers.weights.bytes": 512, "buffers.weights.width_bits": 256})
    with pytest.raises(InputError, match="SRAM size 512 bytes is outside"):
        joules(described, {})
