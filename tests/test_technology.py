"""Technology scaling: the published polynomials, their composition, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.technology import ENERGY_FACTORS, check_node, energy_factor, energy_scale, sram_scaling
from nestling.workloads.errors import InputError

NODES = sorted(ENERGY_FACTORS)
VOLTAGES = st.floats(0.6, 1.4)


def test_the_polynomial_by_hand() -> None:
    assert energy_factor(45, 0.8) == pytest.approx(1.103 * 0.64 - 0.362 * 0.8 + 0.2767)
    assert energy_scale(65, 7, 0.8) == pytest.approx(0.065358 / 0.8598, rel=1e-6)


@given(st.sampled_from(NODES), VOLTAGES)
def test_no_change_costs_nothing(node: float, voltage: float) -> None:
    assert energy_scale(node, node, voltage) == 1


@given(st.floats(7, 130), st.floats(7, 130), st.floats(7, 130), VOLTAGES)
def test_scaling_composes(a: float, b: float, c: float, voltage: float) -> None:
    assert energy_scale(a, b, voltage) * energy_scale(b, c, voltage) == pytest.approx(energy_scale(a, c, voltage))


@given(st.floats(7, 130), st.floats(7, 130), VOLTAGES)
def test_smaller_nodes_never_cost_more(a: float, b: float, voltage: float) -> None:
    assert energy_factor(min(a, b), voltage) <= energy_factor(max(a, b), voltage) * (1 + 1e-12)


@given(st.floats(7, 130), VOLTAGES, VOLTAGES)
def test_lower_supply_never_costs_more_where_the_fit_is_used(node: float, a: float, b: float) -> None:
    assert energy_factor(node, min(a, b)) <= energy_factor(node, max(a, b)) * (1 + 1e-12)


def test_supply_of_the_known_energy() -> None:
    both = energy_scale(45, 45, 0.8, from_voltage=1.0)
    assert both == pytest.approx(energy_factor(45, 0.8) / energy_factor(45, 1.0))
    assert both < 1


def test_between_nodes() -> None:
    assert energy_factor(32, 0.8) > energy_factor(28, 0.8) > energy_factor(20, 0.8)


@pytest.mark.parametrize("node", [6.9, 131, float("nan"), -45])
def test_unknown_nodes(node: float) -> None:
    with pytest.raises(InputError, match="allowed are 7 to 130 nm"):
        energy_scale(45, node)


@pytest.mark.parametrize("voltage", [0.5, 1.5, float("inf")])
def test_unknown_supplies(voltage: float) -> None:
    with pytest.raises(InputError, match=r"allowed are 0\.6 to 1\.4 V"):
        energy_scale(45, 32, voltage)


def test_sram_below_the_sweep() -> None:
    assert sram_scaling(45) == (45, 1, 1)
    assert sram_scaling(22) == (22, 1, 1)
    node, energy, leakage = sram_scaling(7)
    assert node == 22
    assert energy**2 == pytest.approx(7 / 22)
    assert leakage == pytest.approx(0.79 * energy)


@given(st.floats(7, 22), st.floats(7, 22))
def test_smaller_srams_never_cost_more(a: float, b: float) -> None:
    small, large = sram_scaling(min(a, b)), sram_scaling(max(a, b))
    assert small[1] <= large[1] <= 1
    assert small[2] <= large[2]


@pytest.mark.parametrize("node", [6.9, 91, 130, 0, float("nan"), float("inf")])
def test_nodes_that_a_design_cannot_go_to(node: float) -> None:
    with pytest.raises(InputError, match="allowed are 7 to 90 nm"):
        check_node(node)
