"""The plan of a nested training run: learning rate, how many weights each layer keeps when, and which. No framework.

One allocation order and one magnitude ranking decide everything, so the levels are nested at every step of the ramp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .nesting import check_densities

#: "Scratch-B" trains as many epochs as cost the same multiplications as the dense run, but never more than twice as many
#: (the cap of Liu et al., arXiv 1810.05270, on ImageNet; at 3 % of the weights the rule would give 33 times as many).
SCRATCH_B_CAP = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run. Rates are per step; ``seed`` fixes order, augmentation and initial weights.

    The learning rate rises linearly to ``peak_rate`` over the first ``warmup`` of the steps, then falls to zero with a
    cosine (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    """

    epochs: int
    seed: int
    peak_rate: float
    batch: int = 128
    warmup: float = 0.1
    weight_decay: float = 0.0
    #: Share of the sparser levels' loss that follows the densest level's outputs instead of the labels (0..1).
    distillation: float = 0.5
    #: The density ramp runs between these shares of the steps; afterwards the masks are frozen.
    ramp_start: float = 0.1
    ramp_end: float = 0.7
    #: Steps between two updates of the masks during the ramp.
    mask_interval: int = 10
    #: Compute the steps in bfloat16 where PyTorch's autocast allows it; measurements are always float32.
    bfloat16: bool = True
    #: In every step one sparser level, chosen at random, runs its first layers at the next denser level, up to a random
    #: switch point: trains the network for being rerouted to a sparser level in mid-inference, at no extra cost.
    switch_points: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"recipe: {name} = {getattr(self, name)}, must be at least 1"
            for name in ("epochs", "batch", "mask_interval")
            if getattr(self, name) < 1
        ]
        if not 0.0 <= self.distillation <= 1.0:
            problems.append(f"recipe: distillation = {self.distillation}, must lie in 0..1")
        if not self.peak_rate > 0.0:
            problems.append(f"recipe: peak_rate = {self.peak_rate}, must be positive")
        if problems:
            raise InputError(problems)


@dataclass(frozen=True)
class Progress:
    """What a callback hears after each epoch: stage, epochs done and planned, mean loss, density per level."""

    stage: str
    epoch: int
    epochs: int
    loss: float
    densities: tuple[float, ...]

    def __str__(self) -> str:
        densities = ", ".join(f"{d:.1%}" for d in self.densities)
        return f"{self.stage}: epoch {self.epoch} of {self.epochs}, loss {self.loss:.4f}, densities {densities}"


Report = Callable[[Progress], None]


def learning_rate(progress: float, *, peak: float, warmup: float) -> float:
    """Learning rate at ``progress`` (0..1 of the steps): linear warm-up, then a cosine to zero."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def scratch_b_epochs(epochs: int, share: float) -> int:
    """Epochs that cost a network with ``share`` of the dense one's multiplications as many as ``epochs`` cost the dense one.

    At most SCRATCH_B_CAP times ``epochs``.
    """
    return min(math.floor(epochs / share), SCRATCH_B_CAP * epochs)


def erk_shares(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Relative number of weights that each layer keeps: the Erdos-Renyi-Kernel rule.

    A layer's density is proportional to sum(dimensions) / prod(dimensions) (Evci et al., RigL, arXiv 1911.11134,
    section 3), hence its number of weights to the sum of its dimensions. Small layers stay denser.

    Parameters
    ----------
    shapes : layer name -> shape of its weights, (K, C, R, S) or (K, C).

    Raises
    ------
    InputError
        if there is no layer, or a shape is empty or has a size below 1.
    """
    if not shapes:
        raise InputError("no layers with weights: there is nothing to allocate densities to")
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise InputError(f"layer '{name}': weight shape {shape} must have sizes of at least 1")
    return {name: float(sum(shape)) for name, shape in shapes.items()}


def allocation_order(shapes: Mapping[str, tuple[int, ...]]) -> NDArray[np.int64]:
    """Order in which layers receive weights: entry i is the i-th weight's layer (position in ``shapes``).

    The first n entries allocate n weights: exactly n in total, never more than a layer has, and never fewer for a
    layer when n grows. This is the Webster divisor method (j + 1/2) / share, which has no Alabama paradox; rounding
    the shares by largest remainder could take weights from a layer while the total grows, and so break nesting.
    """
    shares = erk_shares(shapes)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    priority = np.concatenate(
        [(np.arange(size) + 0.5) / share for size, share in zip(sizes, shares.values(), strict=True)]
    )
    owner = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return owner[np.argsort(priority, kind="stable")]


def layer_counts(order: NDArray[np.int64], *, density: float, layers: int) -> NDArray[np.int64]:
    """Weights that each layer keeps, shape (layers,), when ``round(density * total)`` are kept overall."""
    check_densities([density])
    return np.bincount(order[: round(density * order.size)], minlength=layers).astype(np.int64)


def cubic_density(progress: float, *, target: float, start: float = 0.1, end: float = 0.7) -> float:
    """Density at ``progress`` (0..1 of the training): 1 until ``start``, then cubic down to ``target`` at ``end``.

    d = target + (1 - target) * (1 - u)**3, u = (progress - start) / (end - start) (Zhu and Gupta, "To prune, or not to
    prune", arXiv 1710.01878, equation 1, written for densities).
    """
    if not 0.0 <= start < end <= 1.0:
        raise InputError(f"density ramp from {start} to {end}: needs 0 <= start < end <= 1")
    check_densities([1.0, target])
    u = min(max((progress - start) / (end - start), 0.0), 1.0)
    # Each operation of this form is monotone in `target` under rounding too: two levels' ramps never cross.
    return target if u == 1.0 else 1.0 - (1.0 - target) * (1.0 - (1.0 - u) ** 3)


def keep_from_ranking(
    scores: Mapping[str, NDArray[np.floating]], densities: Sequence[float], *, order: NDArray[np.int64] | None = None
) -> dict[str, NDArray[np.uint8]]:
    """``keep`` of every layer (see NestedWeights) from one ranking per layer: highest scores first.

    Parameters
    ----------
    scores : layer name -> importance of each weight, for example its magnitude; ties go to the lower index.
    densities : fraction of all weights of the network per level, not increasing.
    order : ``allocation_order`` of the shapes of ``scores``, to avoid computing it again at each step.
    """
    check_densities(densities)
    if order is None:
        order = allocation_order({name: score.shape for name, score in scores.items()})
    counts = np.stack([layer_counts(order, density=d, layers=len(scores)) for d in densities])
    keep = {}
    for position, (name, score) in enumerate(scores.items()):
        ranking = np.argsort(-score.reshape(-1), kind="stable")
        kept = np.zeros(score.size, dtype=np.uint8)
        for count in counts[:, position]:
            kept[ranking[:count]] += 1
        keep[name] = kept.reshape(score.shape)
    return keep
