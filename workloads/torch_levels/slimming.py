"""Network slimming: channels ranked by their batch normalisation scales (Liu et al., arXiv 1708.06519)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputError
from .channel_groups import ChannelGroup, channel_groups
from .parametrizations import NORMS
from .ranking import Tensors, nested_keep


def add_l1_subgradient(model: nn.Module, strength: float) -> None:
    """Add strength * sign(scale) to the gradient of every batch normalisation's scale: call it after ``backward``.

    The paper takes 1e-4 for VGG and 1e-5 for ResNet-164 and DenseNet-40 (section 4.3).
    """
    for module in model.modules():
        if isinstance(module, NORMS) and module.weight is not None and module.weight.grad is not None:
            module.weight.grad.add_(strength * module.weight.detach().sign())


@dataclass(frozen=True, eq=False)
class SlimChannels:
    """Which channels of a model each level keeps, nested by scale order.

    ``groups``: the removable channel axes. ``keep``: per group, number of levels that keep each channel, uint8 (channels,).
    """

    groups: Sequence[ChannelGroup]
    keep: Sequence[torch.Tensor]
    levels: int

    def widths(self, level: int) -> list[int]:
        """Channels per group at ``level``."""
        return [int((keep > level).sum()) for keep in self.keep]


def slim_channels(model: nn.Module, densities: Sequence[float]) -> SlimChannels:
    """Rank all removable channels of ``model`` by |scale| and keep the best, one global threshold per level.

    The channels of a residual sum stand and fall together, with the largest of their scales. Exactly
    round(density * channels) are kept, ties in favour of the earlier channel, at least one in every group.

    Parameters
    ----------
    densities : fraction of the removable channels per level, densest first.

    Raises
    ------
    InputError
        if no channel is removable, a density would empty a group, or the model cannot be traced (``channel_groups``).
    """
    groups = [group for group in channel_groups(model) if not group.fixed and group.norms]
    if not groups:
        raise InputError(
            "no removable channels: none is written by layers with a batch normalisation right behind them"
        )
    scores: Tensors = {}
    for number, group in enumerate(groups):
        scales = [model.get_submodule(name).weight.detach().abs() for name in group.norms]
        scores[str(number)] = torch.stack(scales).amax(0)
    keep = nested_keep(scores, densities)
    return SlimChannels(groups, list(keep.values()), len(densities))


def masked_channels(model: nn.Module, slim: SlimChannels, level: int) -> nn.Module:
    """A copy of ``model`` in evaluation mode with scale and shift zero where ``level`` keeps no channel."""
    out = copy.deepcopy(model).eval()
    with torch.no_grad():
        for group, keep in _of_level(slim, level):
            for name in group.norms:
                norm = out.get_submodule(name)
                norm.weight *= keep
                norm.bias *= keep
    return out


def narrowed(model: nn.Module, slim: SlimChannels, level: int) -> nn.Module:
    """A copy of ``model`` in evaluation mode without the channels that ``level`` drops: smaller and dense.

    It computes what ``masked_channels`` computes.
    """
    out = copy.deepcopy(model).eval()
    for group, keep in _of_level(slim, level):
        kept = keep.nonzero().flatten()
        for name in (*group.writers, *group.depthwise):
            _keep_outputs(out.get_submodule(name), kept)
        for name in group.norms:
            _keep_normalised(out.get_submodule(name), kept)
        for name in group.readers:
            _keep_inputs(out.get_submodule(name), kept, group.channels)
    return out


def _of_level(slim: SlimChannels, level: int) -> list[tuple[ChannelGroup, torch.Tensor]]:
    if not 0 <= level < slim.levels:
        raise InputError(f"level {level} does not exist; levels are 0 to {slim.levels - 1}")
    return [(group, keep > level) for group, keep in zip(slim.groups, slim.keep, strict=True)]


def _keep_outputs(module: nn.Module, kept: torch.Tensor) -> None:
    """Keep the output channels ``kept`` of a convolution or linear layer; of a depthwise one its inputs with them."""
    _select(module, {"weight": 0, "bias": 0}, kept)
    if isinstance(module, nn.Linear):
        module.out_features = len(kept)
        return
    if module.groups != 1:
        module.groups = module.in_channels = len(kept)
    module.out_channels = len(kept)


def _keep_inputs(module: nn.Module, kept: torch.Tensor, channels: int) -> None:
    """Keep the inputs of ``module`` that come from the channels ``kept``; a flattened image has several per channel."""
    if isinstance(module, nn.Linear):
        each = module.in_features // channels
        kept = (kept[:, None] * each + torch.arange(each, device=kept.device)).flatten()
        module.in_features = len(kept)
    else:
        module.in_channels = len(kept)
    _select(module, {"weight": 1}, kept)


def _keep_normalised(module: nn.Module, kept: torch.Tensor) -> None:
    _select(module, {"weight": 0, "bias": 0}, kept)
    for name in ("running_mean", "running_var"):
        setattr(module, name, getattr(module, name)[kept].clone())
    module.num_features = len(kept)


def _select(module: nn.Module, axes: Mapping[str, int], kept: torch.Tensor) -> None:
    """Replace parameters by their slices along the given axes."""
    for name, axis in axes.items():
        value = getattr(module, name)
        if value is not None:
            setattr(module, name, nn.Parameter(value.detach().index_select(axis, kept).clone()))
