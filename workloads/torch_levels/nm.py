"""Training under an N:M pattern: at most N weights among every M consecutive input channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputError
from .parametrizations import prunable_layers

#: Strength of SR-STE's regularisation (Zhou et al., arXiv 2102.04010, section 4).
SRSTE_DECAY = 2e-4
#: Most scores per weight that LBC may need: 4:8 has 70 / 8, 8:16 would have 12,870 / 16.
MAX_SCORES_PER_WEIGHT = 16.0


def to_groups(weight: torch.Tensor, m: int) -> torch.Tensor:
    """Weights (K, C, ...) as groups (groups, m) of consecutive input channels, the last ones filled up with zeros.

    The groups stand in the order (K, kernel positions, C).
    """
    channels_last = weight.movedim(1, -1)
    return nn.functional.pad(channels_last, (0, -weight.shape[1] % m)).reshape(-1, m)


def from_groups(groups: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of ``to_groups`` for weights of ``shape``."""
    padded = groups.reshape(shape[0], *shape[2:], -1)
    return padded[..., : shape[1]].movedim(-1, 1)


def magnitude_mask(weight: torch.Tensor, *, n: int, m: int) -> torch.Tensor:
    """True for the n largest weights of every group; equal ones by channel. A shorter last group keeps min(n, length)."""
    present = to_groups(torch.ones_like(weight), m) > 0
    scores = to_groups(weight.detach().abs(), m).masked_fill(~present, -1.0)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :n]
    mask = torch.zeros_like(present).scatter_(1, best, True)
    return from_groups(mask, weight.shape)


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc] # torch is not seen by the type checker
    """Forward w * mask; backward g + decay * (1 - mask) * w (Zhou et al., arXiv 2102.04010, equation 9)."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, mask: torch.Tensor, decay: float) -> torch.Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * weight * ~mask, None, None


class _SrSteWeight(nn.Module):  # type: ignore[misc]
    """Parametrization of one weight: the mask follows the magnitudes in every forward pass."""

    def __init__(self, n: int, m: int, decay: float) -> None:
        super().__init__()
        self._n, self._m, self._decay = n, m, decay

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        mask = magnitude_mask(weight, n=self._n, m=self._m)
        masked: torch.Tensor = _StraightThrough.apply(weight, mask, self._decay)
        return masked


class SrSte:
    """N:M training with a sparse-refined straight-through estimator (Zhou et al., arXiv 2102.04010).

    The forward pass uses the n largest weights of every group; all weights receive the gradient, those masked also
    ``decay`` times themselves, once per backward pass through the layer. Call ``finish`` after training.
    """

    def __init__(
        self, model: nn.Module, *, n: int, m: int, layers: Sequence[str] | None = None, decay: float = SRSTE_DECAY
    ) -> None:
        _check_pattern(n, m)
        self._layers = prunable_layers(model, layers)
        for module in self._layers.values():
            parametrize.register_parametrization(module, "weight", _SrSteWeight(n, m, decay))

    def finish(self) -> None:
        """Write the masked weights into the model, which is plain again then."""
        _make_plain(self._layers)


class _LbcWeight(nn.Module):  # type: ignore[misc]
    """Parametrization of one weight: scores of all combinations of n positions, of which some are still alive."""

    combinations: torch.Tensor
    alive: torch.Tensor

    def __init__(self, weight: torch.Tensor, n: int, m: int) -> None:
        super().__init__()
        self._m = m
        chosen = torch.zeros(math.comb(m, n), m, device=weight.device)
        for row, positions in enumerate(combinations(range(m), n)):
            chosen[row, list(positions)] = 1.0
        self.register_buffer("combinations", chosen)
        present = to_groups(torch.ones_like(weight), m)
        length = present.sum(1)
        # In a shorter last group only combinations that use as many real positions as there can be compete.
        self.register_buffer("alive", present @ chosen.T == length.clamp(max=n)[:, None])
        self.scores = nn.Parameter(torch.full_like(present @ chosen.T, 1.0 / math.comb(m - 1, n - 1)))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        soft = torch.where(self.alive, self.scores, 0.0) @ self.combinations
        hard = (self.alive.to(soft.dtype) @ self.combinations > 0).to(soft.dtype)
        # The difference is exactly zero: the value is the binary mask, the gradient that of the scores' sum.
        mask = hard + (soft - soft.detach())
        return weight * from_groups(mask, weight.shape)

    def keep_best(self, count: int) -> None:
        """Leave the ``count`` highest of the scores alive in every group, or all if there are fewer."""
        ranked = self.scores.detach().masked_fill(~self.alive, -torch.inf).argsort(dim=1, descending=True, stable=True)
        best = torch.zeros_like(self.alive).scatter_(1, ranked[:, :count], True)
        self.alive &= best
        if count == 1:
            self.scores.requires_grad_(False)
            self.scores.grad = None


class Lbc:
    """N:M training that learns the best combination of positions in every group (LBC, Zhang et al., arXiv 2206.06662).

    Every combination has a score, 1 / C(m - 1, n - 1) at first; the mask is the union of the combinations alive, and
    gradients pass straight through it into their scores. Along a cubic schedule the lowest scores are removed, until one
    combination per group is left. What is alive is a state of its own: a live score of exactly zero stays alive.

    Give the optimiser ``parameter_groups()``: weight decay on the scores would push all of them to zero alike. Call
    ``step`` after every optimiser step and ``finish`` after training.

    Parameters
    ----------
    steps : optimiser steps in all.
    ramp : shares of the steps where the removal begins and ends.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        n: int,
        m: int,
        steps: int,
        layers: Sequence[str] | None = None,
        ramp: tuple[float, float] = (0.0, 0.5),
    ) -> None:
        _check_pattern(n, m)
        self._combinations = math.comb(m, n)
        if self._combinations / m > MAX_SCORES_PER_WEIGHT:
            raise InputError(
                f"LBC for {n}:{m} needs {self._combinations / m:.0f} scores per weight; at most "
                f"{MAX_SCORES_PER_WEIGHT:.0f} are allowed. Take a smaller M, or SR-STE"
            )
        if not 0.0 <= ramp[0] < ramp[1] <= 1.0 or steps < 1:
            raise InputError(f"LBC: ramp {ramp} with {steps} steps; needs 0 <= start < end <= 1 and at least one step")
        self._model, self._layers, self._steps, self._ramp, self._done = (
            model,
            prunable_layers(model, layers),
            steps,
            ramp,
            0,
        )
        self._masks = [_LbcWeight(module.weight, n, m) for module in self._layers.values()]
        for module, mask in zip(self._layers.values(), self._masks, strict=True):
            parametrize.register_parametrization(module, "weight", mask)

    def parameter_groups(self, *, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Two groups for an optimiser: the model's own parameters, and the scores without decay."""
        scores = {id(mask.scores) for mask in self._masks}
        own = [p for p in self._model.parameters() if id(p) not in scores]
        return [
            {"params": own, "weight_decay": weight_decay},
            {"params": [mask.scores for mask in self._masks], "weight_decay": 0.0},
        ]

    def alive(self, step: int) -> int:
        """Combinations alive per group after ``step``: 1 + ceil((C - 1) * (1 - u)^3), u along the ramp."""
        start, end = self._ramp
        u = min(max((step / self._steps - start) / (end - start), 0.0), 1.0)
        return 1 + math.ceil((self._combinations - 1) * (1.0 - u) ** 3)

    def step(self) -> None:
        """Call after every optimiser step: removes the combinations that the schedule gives up."""
        before, self._done = self.alive(self._done), self._done + 1
        if (count := self.alive(self._done)) < before:
            for mask in self._masks:
                mask.keep_best(count)

    def finish(self) -> None:
        """Write the masked weights into the model, which is plain again then; the pattern is exact after the ramp."""
        _make_plain(self._layers)


def _check_pattern(n: int, m: int) -> None:
    if not 1 <= n < m:
        raise InputError(f"pattern {n}:{m}: needs 1 <= N < M, such as 2:4")


def _make_plain(layers: dict[str, nn.Module]) -> None:
    for module in layers.values():
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
