"""What stands between a model's parameters and its layers: masks, biases and batch normalisation per level."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputError, unknown_name

#: Modules whose weights are ranked and masked.
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class LevelMask(nn.Module):  # type: ignore[misc] # torch is not seen by the type checker
    """Parametrization of a weight: the values that are frozen, and zeros where the current level has none."""

    masks: torch.Tensor
    frozen: torch.Tensor | None
    frozen_values: torch.Tensor

    def __init__(self, weight: torch.Tensor, levels: int) -> None:
        super().__init__()
        self.level = 0
        self.register_buffer("masks", torch.ones(levels, *weight.shape, device=weight.device), persistent=False)
        self.register_buffer("frozen", None, persistent=False)
        self.register_buffer("frozen_values", None, persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.frozen is not None:
            weight = torch.where(self.frozen, self.frozen_values, weight)
        return weight * self.masks[self.level]

    def set_keep(self, keep: torch.Tensor) -> None:
        """Masks from the number of levels that keep each weight."""
        for level in range(len(self.masks)):
            self.masks[level] = keep > level

    def freeze(self, weight: torch.Tensor, where: torch.Tensor) -> None:
        """From now on the current values hold ``where`` is true, whatever the optimiser does to the parameter."""
        values = weight.detach().clone()
        if self.frozen is not None:
            values = torch.where(self.frozen, self.frozen_values, values)
        self.frozen, self.frozen_values = where, values


class LevelBias(nn.Module):  # type: ignore[misc]
    """Parametrization of a bias: one parameter per level."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.level, self._levels = 0, levels

    def forward(self, *biases: torch.Tensor) -> torch.Tensor:
        return biases[self.level]

    def right_inverse(self, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(bias.detach().clone() for _ in range(self._levels))


class LevelNorm(nn.Module):  # type: ignore[misc]
    """Batch normalisation with statistics, scale and shift of its own at every level (switchable batch normalisation,
    Yu et al., "Slimmable neural networks", arXiv 1812.08928)."""

    def __init__(self, norm: nn.Module, levels: int) -> None:
        super().__init__()
        self.level = 0
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(levels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norms[self.level](x)
        return out


def prunable_layers(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Convolutions and linear layers by name, in the order of ``model.named_modules()``.

    Raises
    ------
    InputError
        if a name is not such a layer, or there is none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}
    for name in names or []:
        if name not in found:
            raise unknown_name("convolution or linear layer", name, found)
    chosen = found if names is None else {name: found[name] for name in found if name in names}
    if not chosen:
        raise InputError("the model has no convolution or linear layer to prune")
    taken = [name for name, module in chosen.items() if parametrize.is_parametrized(module)]
    if taken:
        raise InputError(f"layer '{taken[0]}' is parametrized already; call `remove` of what did it first")
    return chosen


def replace_norms(model: nn.Module, levels: int) -> list[LevelNorm]:
    """Put a LevelNorm in the place of every batch normalisation; the new modules."""
    replaced = []
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, NORMS):
                norm = LevelNorm(child, levels)
                setattr(parent, key, norm)
                replaced.append(norm)
    return replaced


def split_biases(layers: Mapping[str, nn.Module], levels: int) -> list[LevelBias]:
    """Give every bias of ``layers`` one parameter per level; the new parametrizations."""
    made = []
    for module in layers.values():
        if getattr(module, "bias", None) is not None:
            per_level = LevelBias(levels)
            parametrize.register_parametrization(module, "bias", per_level)
            made.append(per_level)
    return made


def current_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The batch normalisations that the model uses now: of a LevelNorm only that of its level."""
    others = {
        id(norm)
        for module in model.modules()
        if isinstance(module, LevelNorm)
        for level, norm in enumerate(module.norms)
        if level != module.level
    }
    for module in model.modules():
        if isinstance(module, NORMS) and id(module) not in others:
            yield module


def recalibrate(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Gather the statistics of the batch normalisations in use anew: mean over ``batches``, nothing else changes.

    Masked weights change what the normalisations see; the statistics of the dense model are wrong for a sparse level.

    Raises
    ------
    InputError
        if there is no batch.
    """
    norms, training, empty = list(current_norms(model)), model.training, True
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        for batch in batches:
            model(batch)
            empty = False
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
    if empty:
        raise InputError("recalibration needs at least one batch of inputs")
