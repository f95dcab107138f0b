"""Energy is a view: total counts x unit energies, once, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

from ..workloads.errors import InputError
from .design import Buffer, Design, MemoryCost, OperatingPoint
from .dram_choice import DeviceDram, FlatDram
from .dram_energy import command_energies
from .sram import SramCost, sram_cost
from .technology import sram_scaling

#: Components in the order every table and figure shows them.
COMPONENTS = ("dram", "weight_buffer", "input_buffer", "output_buffer", "pe_memory", "registers", "mac", "leakage")

#: Counts that are no actions: they balance the books of work and slots.
BOOKKEEPING = frozenset({"mac_dense", "mac_effectual", "mac_ineffectual", "mac_skipped", "pe_idle", "pe_slots"})

_BUFFERS = {"weight_buffer": "weights", "input_buffer": "inputs", "output_buffer": "outputs"}


def unit_energies_pj(design: Design) -> dict[str, tuple[str, float]]:
    """Action name -> (component, picojoules per count) at the nominal voltage."""
    table = _dram(design.dram) | {
        "mac_computed": ("mac", design.energies.mac_pj.value),
        "mac_gated": ("mac", design.energies.mac_gated_pj.value),
        "register_bytes": ("registers", design.energies.register_pj_per_byte.value),
    }
    for component, field in _BUFFERS.items():
        table |= _memory(component, component, getattr(design.buffers, field), design.built_nm)
    for name, memory in design.memories.items():
        table |= _memory(name, "pe_memory", memory, design.built_nm)
    table |= {name: (action.component, action.value) for name, action in design.energies.actions.items()}
    return table


def _dram(dram: FlatDram | DeviceDram) -> dict[str, tuple[str, float]]:
    if isinstance(dram, FlatDram):
        prices = {"read_bytes": dram.read_pj_per_byte.value, "write_bytes": dram.write_pj_per_byte.value}
    else:
        e = command_energies(dram.command_device)
        prices = {
            "read_bytes": 0.0,  # bytes cost through the commands that move them
            "write_bytes": 0.0,
            "act": e.act_pj,
            "read": e.read_pj + e.io_read_pj,
            "write": e.write_pj + e.io_write_pj,
            "refresh": e.refresh_pj,
            "open_cycles": e.open_pj_per_cycle,
            "closed_cycles": e.closed_pj_per_cycle,
            "open_power_down_cycles": e.open_power_down_pj_per_cycle,
            "closed_power_down_cycles": e.closed_power_down_pj_per_cycle,
        }
    return {f"dram_{name}": ("dram", pj) for name, pj in prices.items()}


def _memory(name: str, component: str, memory: Buffer | MemoryCost, node_nm: float) -> dict[str, tuple[str, float]]:
    if memory.read_pj_per_byte is not None and memory.write_pj_per_byte is not None:
        read, write = memory.read_pj_per_byte.value, memory.write_pj_per_byte.value
    else:
        assert isinstance(memory, Buffer)  # only a buffer may leave its energies to the table
        cost = _sram(memory, node_nm)
        read, write = cost.read_pj_per_byte, cost.write_pj_per_byte
    return {f"{name}_read_bytes": (component, read), f"{name}_write_bytes": (component, write)}


def _sram(buffer: Buffer, node_nm: float) -> SramCost:
    """Cost of an SRAM at a node: the CACTI table, scaled where the node is below it."""
    table_nm, energy, leakage = sram_scaling(node_nm)
    cost = sram_cost(buffer.bytes, buffer.width_bits, table_nm)
    return SramCost(
        read_pj_per_byte=cost.read_pj_per_byte * energy,
        write_pj_per_byte=cost.write_pj_per_byte * energy,
        leakage_w=cost.leakage_w * leakage,
    )


def leakage_w(design: Design) -> float:
    """Leakage of the on-chip SRAMs at the nominal voltage (that of logic and of MemoryCost memories is not modelled)."""
    memories = [getattr(design.buffers, field) for field in _BUFFERS.values()] + list(design.memories.values())
    srams = [memory for memory in memories if isinstance(memory, Buffer)]
    return sum(_sram(buffer, design.built_nm).leakage_w for buffer in srams)


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
    unpriced = [name for name, count in counts.items() if count and name not in units and name not in BOOKKEEPING]
    if unpriced:
        raise InputError(f"design '{design.name}' has no unit energy for {', '.join(sorted(unpriced))}")
    ratio = point.voltage_v / design.nominal_voltage_v.value
    joules = dict.fromkeys(COMPONENTS, 0.0)
    for action, (component, picojoules) in units.items():
        scale = 1.0 if component == "dram" else ratio * ratio
        joules[component] += counts.get(action, 0) * picojoules * 1e-12 * scale
    joules["leakage"] = leakage_w(design) * ratio * cycles / point.clock_hz
    return joules
