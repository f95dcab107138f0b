"""Callbacks for your own PyTorch training loop (extra ``train``): nested levels, N:M patterns, narrower channels."""

from __future__ import annotations

from ..level_plan import LevelPlan, Strategy
from .masks import NestedMasks
from .nm import Lbc, SrSte, magnitude_mask
from .parametrizations import recalibrate
from .ranking import nested_keep
from .slimming import SlimChannels, add_l1_subgradient, masked_channels, narrowed, slim_channels

__all__ = [
    "Lbc",
    "LevelPlan",
    "NestedMasks",
    "SlimChannels",
    "SrSte",
    "Strategy",
    "add_l1_subgradient",
    "magnitude_mask",
    "masked_channels",
    "narrowed",
    "nested_keep",
    "recalibrate",
    "slim_channels",
]
