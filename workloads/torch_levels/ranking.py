"""Which weights a level keeps: magnitude rankings on tensors, so that large models stay on their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from ..errors import InputError
from ..nesting import check_densities
from ..schedule import allocation_order, layer_counts

Tensors = dict[str, torch.Tensor]
#: "global": one ranking over all layers. "erk": the Erdos-Renyi-Kernel rule shares the weights out, then one ranking
#: per layer.
Allocation = Literal["global", "erk"]


def nested_keep(
    scores: Mapping[str, torch.Tensor], densities: Sequence[float], *, allocation: Allocation = "global"
) -> Tensors:
    """Number of levels that keep each weight, uint8, in the shapes of ``scores``; nested by construction.

    Parameters
    ----------
    scores : layer name -> importance of each weight; ties go to the earlier one, infinity is kept first.
    densities : fraction of all weights per level, densest first; round(density * total) are kept.

    With "global" the best weight of every layer comes first in the ranking, so that no layer is ever empty.

    Raises
    ------
    InputError
        for densities out of order or range, an unknown allocation, or a level that would leave a layer empty.
    """
    check_densities(densities)
    if allocation == "erk":
        return _keep_per_layer(scores, densities)
    if allocation != "global":
        raise InputError(f"unknown allocation '{allocation}'; allowed: erk, global")
    flat = [score.reshape(-1).clone() for score in scores.values()]
    for score in flat:
        score[score.argmax()] = torch.inf
    counts = [round(d * sum(map(len, flat))) for d in densities]
    if counts[-1] < len(flat):
        raise InputError(f"density {densities[-1]:g} keeps {counts[-1]} of all, fewer than the {len(flat)} layers")
    keep = _keep_first(torch.cat(flat), counts)
    parts = keep.split([len(part) for part in flat])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def _keep_per_layer(scores: Mapping[str, torch.Tensor], densities: Sequence[float]) -> Tensors:
    order = allocation_order({name: tuple(score.shape) for name, score in scores.items()})
    counts = [layer_counts(order, density=d, layers=len(scores)) for d in densities]
    for name, count in zip(scores, counts[-1], strict=True):
        if not count:
            raise InputError(f"density {densities[-1]:g} leaves layer '{name}' empty under the ERK rule")
    return {
        name: _keep_first(score.reshape(-1), [int(count[i]) for count in counts]).reshape(score.shape)
        for i, (name, score) in enumerate(scores.items())
    }


def _keep_first(scores: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    order = scores.argsort(descending=True, stable=True)
    keep = torch.zeros(scores.shape, dtype=torch.uint8, device=scores.device)
    for count in counts:
        keep[order[:count]] += 1
    return keep
