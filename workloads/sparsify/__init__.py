"""Sparsifiers: from a network's dense weights to nested levels, without training.

A method is an object of ``Sparsifier`` in the dictionary ``METHODS`` (``methods``); to add one, write a module with a
class and add an entry. Quantisers (``quantisation``) and budget allocation (``knapsack``) stand beside them.
"""

from __future__ import annotations

from .allocation import ALLOCATIONS, GLOBAL, er_densities, erk_densities, global_densities, uniform_densities
from .apply import Allocation, Sparsified, sparsify, sparsify_with_report
from .block import Block
from .block_punched import BlockPunched
from .calibration import Calibration
from .channel import Channel, Filter
from .codebooks import QUANTISERS
from .hessian import CalibrationReport, Hessian, hessian_of
from .knapsack import Options, budget_densities, choose_options, retained_energy
from .magnitude import Magnitude
from .methods import METHODS, find_method
from .nm import NM
from .obc import OBC
from .pattern import Pattern
from .quantisation import QuantisedWeights, quantise, quantise_weights
from .sparsifier import LayerResult, Sparsifier, SparsifyWarning

__all__ = [
    "ALLOCATIONS",
    "GLOBAL",
    "METHODS",
    "NM",
    "OBC",
    "QUANTISERS",
    "Allocation",
    "Block",
    "BlockPunched",
    "Calibration",
    "CalibrationReport",
    "Channel",
    "Filter",
    "Hessian",
    "LayerResult",
    "Magnitude",
    "Options",
    "Pattern",
    "QuantisedWeights",
    "Sparsified",
    "Sparsifier",
    "SparsifyWarning",
    "budget_densities",
    "choose_options",
    "er_densities",
    "erk_densities",
    "find_method",
    "global_densities",
    "hessian_of",
    "quantise",
    "quantise_weights",
    "retained_energy",
    "sparsify",
    "sparsify_with_report",
    "uniform_densities",
]
