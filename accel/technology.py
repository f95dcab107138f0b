"""Energy between technology nodes and voltages: the polynomial fits of Stillmaker and Baas, and SRAM below the CACTI sweep.

Energy per operation at a node is proportional to a V^2 + b V + c (A. Stillmaker, B. Baas, "Scaling equations for the accurate
prediction of CMOS device performance from 180 nm to 7 nm", Integration 58, 2017, table of energy factors). Coefficients as
the hwcomponents library ships them (scaling/techscaling.py); UCLA's nodeScale lists the same numbers and shows that they are
those of low-power devices at 45 and 32 nm and of high-performance devices from 20 nm on. One kind throughout would give, from
45 to 7 nm at 1 V, 0.129 (high performance) or 0.079 (low power) instead of 0.109. The fits describe logic.

The paper has delay fits, too. They are not used: they hold in a range of supplies per node that the transcriptions leave out
(at 45 and 32 nm some of them rise with the supply around 1 V), so clocks and supplies stay what the design states.
"""

from __future__ import annotations

from math import exp, isfinite, log, sqrt

from ..workloads.errors import InputError

#: Node in nm -> (a, b, c) of the energy factor.
ENERGY_FACTORS: dict[float, tuple[float, float, float]] = {
    130: (7.171, -6.709, 2.904),
    90: (4.762, -4.781, 2.092),
    65: (3.755, -4.398, 1.975),
    45: (1.103, -0.362, 0.2767),
    32: (0.9559, -0.7823, 0.471),
    20: (0.373, -0.1582, 0.04104),
    16: (0.2958, -0.1241, 0.03024),
    14: (0.2363, -0.09675, 0.02239),
    10: (0.2068, -0.09311, 0.02375),
    7: (0.1776, -0.09097, 0.02447),
}
#: Supply the library scales at where none is given.
DEFAULT_VOLTAGE_V = 0.8
#: Supplies the fits are used for; parabolas, they turn up again below (65 nm: minimum near 0.59 V).
VOLTAGE_RANGE_V = (0.6, 1.4)

#: What a scaled energy gives as its source.
ENERGY_SOURCE = "Stillmaker and Baas 2017, energy polynomials for logic"

#: Smallest and largest node of the CACTI sweep; below it SRAM is scaled as in :func:`sram_scaling`.
SRAM_TABLE_NM = (22.0, 90.0)
#: Nodes a design may be scaled to: where both its logic and its SRAM have a model.
NODE_RANGE_NM = (7.0, 90.0)
SRAM_SOURCE = "square root of the node below 22 nm, leakage x 0.79 for FinFETs: hwcomponents-cacti, citing IRDS 2022"
_FINFET_LEAKAGE = 0.79


def energy_factor(node_nm: float, voltage_v: float = DEFAULT_VOLTAGE_V) -> float:
    """Relative energy per operation at a node and supply.

    Nodes between two of the table are interpolated (logarithm of the factor over the logarithm of the node), a choice of
    ours, not of the paper.

    Raises
    ------
    InputError
        for a node outside 7 to 130 nm or a supply outside 0.6 to 1.4 V.
    """
    nodes = sorted(ENERGY_FACTORS)
    if not (isfinite(node_nm) and nodes[0] <= node_nm <= nodes[-1]):
        raise InputError(
            f"no energy scaling for a node of {node_nm:g} nm; allowed are {nodes[0]:g} to {nodes[-1]:g} nm"
        )
    low, high = VOLTAGE_RANGE_V
    if not (isfinite(voltage_v) and low <= voltage_v <= high):
        raise InputError(f"no energy scaling for a supply of {voltage_v:g} V; allowed are {low:g} to {high:g} V")
    below = max(node for node in nodes if node <= node_nm)
    above = min(node for node in nodes if node >= node_nm)
    if below == above:
        return _polynomial(below, voltage_v)
    share = log(node_nm / below) / log(above / below)
    return exp((1 - share) * log(_polynomial(below, voltage_v)) + share * log(_polynomial(above, voltage_v)))


def energy_scale(
    from_node: float,
    to_node: float,
    voltage: float = DEFAULT_VOLTAGE_V,
    *,
    from_voltage: float | None = None,
) -> float:
    """Factor on an energy known at ``from_node`` (nm) to get it at ``to_node`` (nm) and ``voltage`` (V).

    ``from_voltage``: supply of the known energy, the same by default.
    """
    known = voltage if from_voltage is None else from_voltage
    return energy_factor(to_node, voltage) / energy_factor(from_node, known)


def check_node(node_nm: float) -> None:
    """Refuse a node that a design cannot be scaled to.

    Raises
    ------
    InputError
        outside 7 to 90 nm.
    """
    low, high = NODE_RANGE_NM
    if not (isfinite(node_nm) and low <= node_nm <= high):
        raise InputError(
            f"no technology scaling to {node_nm:g} nm; allowed are {low:g} to {high:g} nm (logic: fits from 7 nm on; "
            f"SRAM: CACTI sweep up to {high:g} nm)"
        )


def sram_scaling(node_nm: float) -> tuple[float, float, float]:
    """(node of the CACTI sweep in nm, factor on access energies, factor on leakage power) that give an SRAM at a node.

    Within the sweep both factors are 1. Below 22 nm the costs at 22 nm are scaled with the square root of the node, leakage
    with 0.79 on top: the rule of hwcomponents-cacti, which cites IRDS 2022 and, for FinFET leakage, Parvais et al. (VLSI-TSA
    2009). SRAM shrinks less than logic there.
    """
    smallest = SRAM_TABLE_NM[0]
    if node_nm >= smallest:
        return node_nm, 1.0, 1.0
    share = sqrt(node_nm / smallest)
    return smallest, share, share * _FINFET_LEAKAGE


def _polynomial(node_nm: float, voltage_v: float) -> float:
    a, b, c = ENERGY_FACTORS[node_nm]
    return a * voltage_v * voltage_v + b * voltage_v + c
