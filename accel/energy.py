"""Energy is a view: total counts x unit energies, once, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

from ..workloads.errors import InputError
from .design import Buffer, Design, OperatingPoint
from .sram import sram_cost

#: Components in the order every table and figure shows them.
COMPONENTS = ("dram", "weight_buffer", "input_buffer", "output_buffer", "banks", "registers", "mac", "leakage")

_BUFFERS = {"weight_buffer": "weights", "input_buffer": "inputs", "output_buffer": "outputs", "banks": "banks"}


def unit_energies_pj(design: Design) -> dict[str, tuple[str, float]]:
    """Action name -> (component, picojoules per count) at the nominal voltage."""
    table = {
        "dram_read_bytes": ("dram", design.dram.read_pj_per_byte.value),
        "dram_write_bytes": ("dram", design.dram.write_pj_per_byte.value),
        "mac_effectual": ("mac", design.energies.mac_pj.value),
        "mac_gated": ("mac", design.energies.mac_gated_pj.value),
        "register_bytes": ("registers", design.energies.register_pj_per_byte.value),
    }
    for component, field in _BUFFERS.items():
        buffer: Buffer | None = getattr(design.buffers, field)
        if buffer is not None:
            cost = sram_cost(buffer.bytes, buffer.width_bits, design.node_nm)
            table[f"{component}_read_bytes"] = (component, cost.read_pj_per_byte)
            table[f"{component}_write_bytes"] = (component, cost.write_pj_per_byte)
    return table


def leakage_w(design: Design) -> float:
    """Leakage of the on-chip SRAMs at the nominal voltage (the logic's is not modelled)."""
    buffers = [getattr(design.buffers, field) for field in _BUFFERS.values()]
    return sum(sram_cost(b.bytes, b.width_bits, design.node_nm).leakage_w for b in buffers if b is not None)


def energy_by_component_j(
    counts: Mapping[str, int], *, cycles: int, design: Design, point: OperatingPoint
) -> dict[str, float]:
    """Joules per component for total ``counts`` over ``cycles`` at an operating point.

    Dynamic on-chip energy scales with (V/V_nominal)^2, SRAM leakage power with V/V_nominal (both first-order models,
    DESIGN.md); DRAM energy does not depend on the accelerator's voltage.

    Raises
    ------
    InputError
        if an action was counted that has no unit energy: nothing is priced at zero in silence.
    """
    units = unit_energies_pj(design)
    unpriced = [name for name, count in counts.items() if count and _is_priced(name) and name not in units]
    if unpriced:
        raise InputError(f"design '{design.name}' has no unit energy for {', '.join(sorted(unpriced))}")
    ratio = point.voltage_v / design.nominal_voltage_v.value
    joules = dict.fromkeys(COMPONENTS, 0.0)
    for action, (component, picojoules) in units.items():
        scale = 1.0 if component == "dram" else ratio * ratio
        joules[component] += counts.get(action, 0) * picojoules * 1e-12 * scale
    joules["leakage"] = leakage_w(design) * ratio * cycles / point.clock_hz
    return joules


def _is_priced(action: str) -> bool:
    """Counts that are energy-bearing actions, as opposed to bookkeeping such as idle lanes or skipped work."""
    return action.endswith("_bytes") or action in ("mac_effectual", "mac_gated")
