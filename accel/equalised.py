"""The rivals of the SmartDeal accelerator, with its resources: multipliers, on-chip SRAM, unit energies, DRAM and clock.

As in the comparison of the SmartExchange paper (ISCA 2020): 1024 8-bit multipliers or 8192 bit-serial ones. What "the same
SRAM" means for designs that divide it differently is a choice: the same total, divided as the design divides its own.
Memories near the PEs that are not part of that total (SCNN's FIFOs and accumulators) are priced by CACTI at the same node;
SCNN's input RAMs are its share of input SRAM and priced as such.
"""

from __future__ import annotations

from typing import Any

from .design import Buffer, Buffers, Design, load_design

REFERENCE = "smartdeal"
#: Rival -> what of its array differs from the built-in design, so that it has as many multipliers as the reference.
RIVALS: dict[str, dict[str, int]] = {
    "diannao": {"tiles": 4},  # 4 x 16 x 16
    "scnn": {},  # 64 PEs of 4 x 4
    "cambricon-x": {"pes": 64},  # x 16
    "bit-pragmatic": {"tiles": 2},  # x 16 x 16 x 16 serial lanes
}
#: Price of a rival's own actions: that of the reference's action of the same work.
_ACTIONS = {"terms": "terms", "accumulations": "tree_additions"}
_ALIGNMENT, _SMALLEST, _LARGEST = 64, 512, 4 << 20


def equalised() -> list[Design]:
    """The SmartDeal design and its rivals with the same resources, named NAME-equal."""
    reference = load_design(REFERENCE)
    return [reference, *(_equal(load_design(name), changes, reference) for name, changes in RIVALS.items())]


def _equal(design: Design, changes: dict[str, int], reference: Design) -> Design:
    buffers = _buffers(design, reference)
    update: dict[str, Any] = {
        "name": f"{design.name}-equal",
        "description": f"{design.description}; resources as '{reference.name}'",
        "node_nm": reference.node_nm,
        "nominal_voltage_v": reference.nominal_voltage_v,
        "array": design.array.model_copy(update=changes),
        "buffers": buffers,
        "memories": _memories(design, buffers),
        "dram": reference.dram,
        "energies": _energies(design, reference),
        "operating_points": reference.operating_points,
    }
    return design.model_copy(update=update)


def _buffers(design: Design, reference: Design) -> Buffers:
    """The reference's total, divided as the design divides its own; bytes and energy of each kind as the reference's."""
    total, own = _sram_bytes(reference), _sram_bytes(design)
    update = {}
    for name, buffer in design.buffers:
        share = buffer.bytes * total // own // _ALIGNMENT * _ALIGNMENT
        size = min(_LARGEST, max(_SMALLEST, share))
        update[name] = getattr(reference.buffers, name).model_copy(update={"bytes": size})
    return design.buffers.model_copy(update=update)


def _sram_bytes(design: Design) -> int:
    return sum(buffer.bytes for _, buffer in design.buffers)


def _memories(design: Design, buffers: Buffers) -> dict[str, Any]:
    """Near-PE memories: not a second copy of the weights; input RAMs at the price of the input SRAM they are part of."""
    kept = {name: memory for name, memory in design.memories.items() if name != "weight_banks"}
    if isinstance(rams := kept.get("input_rams"), Buffer):
        share = max(_SMALLEST, buffers.inputs.bytes * rams.bytes // design.buffers.inputs.bytes)
        kept["input_rams"] = buffers.inputs.model_copy(update={"bytes": share})
    return kept


def _energies(design: Design, reference: Design) -> Any:
    prices = reference.energies.actions
    parallel = reference.energies.mac_pj.model_copy(
        update={key: getattr(prices["products"], key) for key in ("value", "source", "verified")}
    )
    actions = {name: prices[_ACTIONS[name]] for name in design.energies.actions}
    mac = design.energies.mac_pj if design.energies.mac_pj.value == 0 else parallel
    return reference.energies.model_copy(update={"mac_pj": mac, "actions": actions})
