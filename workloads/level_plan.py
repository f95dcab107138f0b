"""Which levels a training step runs, and when the masks of a level are drawn anew. No framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .errors import InputError, unknown_name
from .schedule import cubic_density

#: What the gradient of a step is made of. "joint": the mean over all levels. "sandwich": densest, sparsest, and in every
#: other step on average one in between. "random": one level. "outward": one level after the other, the sparsest first;
#: its weights are then frozen and only those that the next level adds are trained.
Strategy = Literal["joint", "sandwich", "random", "outward"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclass(frozen=True, kw_only=True)
class LevelPlan:
    """The course of a training run over its levels; level 0 is the densest.

    Parameters
    ----------
    steps : optimiser steps in all; "outward" gives every level an equal part, the last one the remainder too.
    ramp : shares of the steps (of a level's part, in "outward") where densities begin to fall and reach their targets.
    interval : steps between two updates of the masks during the ramp.
    switch_points : draw, in every step, one sparser level to begin denser and the number of layers that do.

    Raises
    ------
    InputError
        for an unknown strategy, a count below 1, fewer steps than parts, or a ramp out of order.
    """

    levels: int
    steps: int
    strategy: Strategy = "joint"
    ramp: tuple[float, float] = (0.1, 0.7)
    interval: int = 10
    switch_points: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise unknown_name("strategy", self.strategy, STRATEGIES)
        parts = self.levels if self.strategy == "outward" else 1
        for name, value, least in (("steps", self.steps, parts), ("interval", self.interval, 1)):
            if value < least:
                raise InputError(f"{name} = {value}, must be at least {least}")
        cubic_density(0.0, target=1.0, start=self.ramp[0], end=self.ramp[1])

    def level_in_training(self, step: int) -> int:
        """The level that "outward" works on at ``step`` (0 .. steps); the sparsest one for the other strategies."""
        last = self.levels - 1
        return last - min(last, step // self._part) if self.strategy == "outward" else last

    def density(self, step: int, *, target: float) -> float:
        """Density at ``step`` of a level that is to have ``target``."""
        progress = min(1.0, self._step_of_part(step) / self._part)
        return cubic_density(progress, target=target, start=self.ramp[0], end=self.ramp[1])

    def masks_due(self, step: int) -> bool:
        """True if masks are drawn anew at ``step``: as a part begins, at intervals, and as its densities are reached."""
        position = self._step_of_part(step)
        if position == 0:
            return True
        end = self.ramp[1] * self._part
        return position - 1 < end and (position >= end or position % self.interval == 0)

    def draw_levels(self, step: int, rng: np.random.Generator) -> list[int]:
        """The levels whose losses make up the gradient of ``step``."""
        last = self.levels - 1
        if self.strategy == "outward":
            return [self.level_in_training(step)]
        if self.strategy == "random":
            return [int(rng.integers(last + 1))]
        if self.strategy == "joint" or last < 2:
            return list(range(last + 1))
        return [0, int(rng.integers(1, last)), last] if rng.integers(2) else [0, last]

    def draw_switch(self, levels: list[int], layers: int, rng: np.random.Generator) -> tuple[int, int]:
        """(one of ``levels``, how many of the ``layers`` run one level denser in it), or (0, 0) for none."""
        sparser = [level for level in levels if level]
        if not self.switch_points or not sparser or layers < 2:
            return 0, 0
        return sparser[int(rng.integers(len(sparser)))], int(rng.integers(1, layers))

    @property
    def _part(self) -> int:
        """Steps of one ramp."""
        return self.steps // self.levels if self.strategy == "outward" else self.steps

    def _step_of_part(self, step: int) -> int:
        return step - (self.levels - 1 - self.level_in_training(step)) * self._part
