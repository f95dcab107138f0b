"""Nested levels for the weights of any PyTorch model, trained in the user's own loop."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputError, unknown_name
from ..level_plan import LevelPlan, Strategy
from ..nesting import check_densities
from ..torch_export.levels import own_class
from .parametrizations import (
    LevelBias,
    LevelMask,
    LevelNorm,
    prunable_layers,
    recalibrate,
    replace_norms,
    split_biases,
)
from .ranking import Allocation, Tensors, nested_keep


class NestedMasks:
    """Nested levels of a model's weights: one set of values, masks from one magnitude ranking.

    ::

        masks = NestedMasks(model, (0.2, 0.08, 0.03), steps=len(loader) * epochs)
        optimizer = torch.optim.Adam(model.parameters())  # after the masks: they add parameters
        for images, labels in loader_of_all_epochs:
            optimizer.zero_grad()
            for share in masks.passes():  # each pass runs the model at one level
                (share * criterion(model(images), labels)).backward()
            optimizer.step()
            masks.step()
        export(model, (example,), "my_model", levels=masks.states())

    The densities fall from 1 to their targets along the cubic schedule (Zhu and Gupta, arXiv 1710.01878); after the ramp
    the masks stay. Nesting: Qin et al., arXiv 2112.10930. Freezing outward: as PackNet (Mallya and Lazebnik, arXiv
    1711.05769), beginning with the sparsest level.

    Parameters
    ----------
    densities : fraction of the chosen layers' weights per level, densest first.
    steps, strategy, ramp, interval, switch_points : see ``LevelPlan``.
    seed : of the levels and switch points drawn.
    layers : names of the convolutions and linear layers to prune; None: all. Switch points count them in the order of
        ``model.named_modules()``.
    allocation : one ranking over all layers, or the Erdos-Renyi-Kernel rule (``nested_keep``).
    own_biases, own_norms : every level has its own biases (of the chosen layers) and its own batch normalisations.
        "outward" needs both, so that nothing changes a finished level; what else the levels share it trains with the
        sparsest level only. Own normalisations scale
        each level's weights differently once they are folded in, so such levels stay in PyTorch; for levels to export,
        fold first (``torch.fx.experimental.optimization.fuse(model.eval())``) and let the levels' biases do the rest.
    keep : fixed masks, layer name -> number of levels that keep each weight, uint8; there is no ramp then.

    Raises
    ------
    InputError
        for densities out of order or range, an unknown layer or strategy, or settings that contradict each other.
    """

    def __init__(
        self,
        model: nn.Module,
        densities: Sequence[float],
        *,
        steps: int,
        seed: int = 0,
        strategy: Strategy = "joint",
        layers: Sequence[str] | None = None,
        allocation: Allocation = "global",
        ramp: tuple[float, float] = (0.1, 0.7),
        interval: int = 10,
        own_biases: bool = True,
        own_norms: bool = True,
        switch_points: bool = False,
        keep: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        check_densities(densities)
        levels = len(densities)
        self.plan = LevelPlan(
            levels=levels, steps=steps, strategy=strategy, ramp=ramp, interval=interval, switch_points=switch_points
        )
        if strategy == "outward" and not (own_biases and own_norms and keep is None):
            raise InputError("strategy 'outward' needs own_biases, own_norms and masks that are not fixed")
        self.model, self.densities, self._allocation = model, tuple(densities), allocation
        self._done, self._rng = 0, np.random.default_rng(seed)
        self._layers = prunable_layers(model, layers)
        self._norms = replace_norms(model, levels) if own_norms else []
        self._biases = split_biases(self._layers, levels) if own_biases else []
        self._masks: dict[str, LevelMask] = {}
        for name, module in self._layers.items():
            self._masks[name] = LevelMask(module.weight, levels)
            parametrize.register_parametrization(module, "weight", self._masks[name])
        self._fixed = keep is not None
        #: Layer name -> number of levels that keep each weight, uint8; "outward": of the levels reached so far.
        self.keep: Tensors = {name: torch.zeros_like(w, dtype=torch.uint8) for name, w in self._originals().items()}
        if keep is None:
            self._update_masks()
        else:
            self._set_keep(_checked_keep(keep, self.keep, levels))

    def use(self, level: int, *, denser_layers: int = 0) -> None:
        """Run the model at ``level`` from now on, its first ``denser_layers`` masked layers one level denser."""
        last = len(self.densities) - 1
        if not 0 <= level <= last or (denser_layers and not level):
            raise InputError(
                f"level {level} with {denser_layers} layers one level denser: levels are 0 (densest) to {last}"
            )
        for position, mask in enumerate(self._masks.values()):
            mask.level = level - (position < denser_layers)
        per_level: list[LevelBias | LevelNorm] = [*self._biases, *self._norms]
        for other in per_level:
            other.level = level

    def passes(self) -> Iterator[float]:
        """The forward and backward passes of one step: sets the level of each and yields its share of the loss.

        Afterwards the model is at the densest level.
        """
        levels = self.plan.draw_levels(self._done, self._rng)
        switched, layers = self.plan.draw_switch(levels, len(self._masks), self._rng)
        for level in levels:
            self.use(level, denser_layers=layers if level == switched else 0)
            yield 1.0 / len(levels)
        self.use(0)

    def step(self) -> None:
        """Call after every optimiser step: moves along the ramp, and in "outward" from level to level."""
        self._done += 1
        if self._done > self.plan.steps:
            raise InputError(f"step {self._done}, but the schedule was made for steps={self.plan.steps}")
        finished = self.plan.level_in_training(self._done - 1)
        if self._done < self.plan.steps and finished != self.plan.level_in_training(self._done):
            self._freeze(finished)
        if not self._fixed and self._done < self.plan.steps and self.plan.masks_due(self._done):
            self._update_masks()

    def states(self) -> list[dict[str, torch.Tensor]]:
        """One plain state dict per level, densest first, as ``export(levels=...)`` takes them.

        The exporter folds batch normalisation: it refuses levels that have their own (see ``own_norms``).
        """
        return [self.plain(level).state_dict() for level in range(len(self.densities))]

    def plain(self, level: int) -> nn.Module:
        """A copy of the model at ``level`` in evaluation mode: zeros written out, nothing of this class in it."""
        self.use(level)
        model = copy.deepcopy(self.model).eval()
        self.use(0)
        for module in list(model.modules()):
            for key, child in list(module.named_children()):
                if isinstance(child, LevelNorm):
                    setattr(module, key, child.norms[level])
            if parametrize.is_parametrized(module):
                own_class(module)
                for key, entries in list(module.parametrizations.items()):
                    if isinstance(entries[0], LevelMask | LevelBias):
                        parametrize.remove_parametrizations(module, key, leave_parametrized=True)
        return model

    def recalibrate(self, level: int, batches: Iterable[torch.Tensor]) -> None:
        """Gather the batch normalisation statistics of ``level`` anew (see ``recalibrate``); leaves the model at it.

        With ``own_norms=False`` the one set of statistics then fits this level and no other.
        """
        self.use(level)
        recalibrate(self.model, batches)

    def _originals(self) -> Tensors:
        """Layer name -> trained values of the weights, without masks."""
        return {name: module.parametrizations.weight.original.detach() for name, module in self._layers.items()}

    def _update_masks(self) -> None:
        """Masks for the current step, from the current magnitudes."""
        scores = {name: weight.abs() for name, weight in self._originals().items()}
        if self.plan.strategy != "outward":
            current = [self.plan.density(self._done, target=d) for d in self.densities]
            self._set_keep(nested_keep(scores, current, allocation=self._allocation))
            return
        level = self.plan.level_in_training(self._done)
        inner = {name: keep > level + 1 for name, keep in self.keep.items()}
        for name, score in scores.items():
            score[inner[name]] = torch.inf
        current = [self.plan.density(self._done, target=self.densities[level])]
        found = nested_keep(scores, current, allocation=self._allocation)
        self._set_keep({n: torch.where(inner[n], self.keep[n], kept * (level + 1)) for n, kept in found.items()})

    def _set_keep(self, keep: Tensors) -> None:
        self.keep = keep
        for name, mask in self._masks.items():
            mask.set_keep(keep[name])

    def _freeze(self, level: int) -> None:
        """``level`` is finished: nothing changes what it consists of any more; the next one inherits."""
        for name, weight in self._originals().items():
            self._masks[name].freeze(weight, self.keep[name] > level)
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for module in self._layers.values():
            if "bias" in module.parametrizations:
                rows = module.parametrizations.bias
                pairs.append((getattr(rows, f"original{level}"), getattr(rows, f"original{level - 1}")))
        for norm in self._norms:
            norm.norms[level - 1].load_state_dict(norm.norms[level].state_dict())
            pairs += zip(norm.norms[level].parameters(), norm.norms[level - 1].parameters(), strict=True)
        with torch.no_grad():
            for done, following in pairs:
                following.copy_(done)
        # Without a gradient an optimiser leaves a parameter alone, whatever momentum it has gathered for it.
        for parameter in (*(done for done, _ in pairs), *self._shared_parameters()):
            parameter.grad = None
            parameter.requires_grad_(False)

    def _shared_parameters(self) -> list[torch.Tensor]:
        """Parameters that all levels use as they are: those of layers that are not masked, scales of other kinds."""
        owned = [p for module in self._layers.values() for p in module.parameters()]
        owned += [p for norm in self._norms for p in norm.parameters()]
        known = {id(p) for p in owned}
        return [p for p in self.model.parameters() if id(p) not in known]


def _checked_keep(keep: Mapping[str, torch.Tensor], expected: Tensors, levels: int) -> Tensors:
    """``keep`` if it fits the layers."""
    for name in keep:
        if name not in expected:
            raise unknown_name("layer with masks", name, expected)
    for name, like in expected.items():
        if name not in keep:
            raise InputError(f"layer '{name}' has no masks; name the layers to prune, or give it some")
        given = keep[name]
        if given.shape != like.shape or given.dtype != torch.uint8 or int(given.max()) > levels:
            raise InputError(
                f"masks of layer '{name}' are {given.dtype} {tuple(given.shape)} up to {int(given.max())}; must be "
                f"uint8 {tuple(like.shape)} up to {levels}"
            )
    return {name: keep[name].to(like.device) for name, like in expected.items()}
