"""The two training loops in PyTorch: a dense start with batch normalisation, then nested joint training without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .errors import InputError
from .layers import Layer
from .nesting import NestedWeights, check_densities
from .network import Network
from .schedule import Progress, Recipe, Report, allocation_order, cubic_density, keep_from_ranking, learning_rate
from .torch_graph import (
    Tensors,
    accuracy,
    channels_last,
    check_trainable,
    fold_norms,
    forward,
    initial_norms,
    initial_weights,
)

#: Largest random shift of the augmentation, in pixels (padding with zeros, then a random crop).
MAX_SHIFT = 2


@dataclass(frozen=True, eq=False)
class Images:
    """Training images and labels as tensors: pixels uint8, padded by MAX_SHIFT; network input = pixel * scale."""

    padded: torch.Tensor
    labels: torch.Tensor
    scale: float

    @classmethod
    def from_arrays(cls, pixels: NDArray[np.uint8], labels: NDArray[np.uint8], *, scale: float) -> Images:
        """From uint8 (N, H, W) and uint8 (N,)."""
        if len(pixels) != len(labels) or not len(pixels):
            raise InputError(f"training needs as many images as labels, found {len(pixels)} and {len(labels)}")
        padded = np.pad(pixels, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)))
        return cls(padded=torch.from_numpy(padded), labels=torch.from_numpy(labels.astype(np.int64)), scale=scale)

    def batch(self, index: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 (B, 1, H, W), each shifted by up to MAX_SHIFT pixels and mirrored with probability 1/2."""
        count = len(index)
        height, width = (size - 2 * MAX_SHIFT for size in self.padded.shape[1:])
        shift = torch.randint(0, 2 * MAX_SHIFT + 1, (2, count, 1), generator=generator)
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.arange(width)
        rows = shift[0] + torch.arange(height)
        columns = shift[1] + torch.where(mirrored, width - 1 - across, across)
        pixels = self.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return channels_last((pixels.float() * self.scale).unsqueeze(1)), self.labels[index]


def _batches(images: Images, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[int, float, torch.Tensor]]:
    """(epoch, progress 0..1 at the middle of the step, indices) of every step; a last incomplete batch is left out."""
    size = min(recipe.batch, len(images.labels))
    per_epoch = len(images.labels) // size
    steps = recipe.epochs * per_epoch
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images.labels), generator=generator)
        for step in range(per_epoch):
            progress = (epoch * per_epoch + step + 0.5) / steps
            yield epoch, progress, order[step * size : (step + 1) * size]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class _EpochLoss:
    """Sums the losses of an epoch and reports their mean when the next epoch begins."""

    def __init__(self, stage: str, epochs: int, report: Report | None) -> None:
        self._stage, self._epochs, self._report = stage, epochs, report
        self._epoch, self._total, self._steps = 0, 0.0, 0

    def add(self, epoch: int, loss: float, densities: Sequence[float]) -> None:
        if epoch != self._epoch:
            self.flush(densities)
            self._epoch = epoch
        self._total += loss
        self._steps += 1

    def flush(self, densities: Sequence[float]) -> None:
        if self._report is not None and self._steps:
            mean = self._total / self._steps
            self._report(Progress(self._stage, self._epoch + 1, self._epochs, mean, tuple(densities)))
        self._total, self._steps = 0.0, 0


def train_dense(
    layers: Sequence[Layer],
    images: Images,
    recipe: Recipe,
    *,
    keep: Mapping[str, NDArray[np.uint8]] | None = None,
    report: Report | None = None,
) -> tuple[Tensors, Tensors]:
    """Weights and biases (K,) of a dense network, trained with batch normalisation that is then folded into both.

    Stochastic gradient descent with Nesterov momentum 0.9; weight decay on weights only. ``keep``: fixed masks (1 = kept)
    under which the network is trained from the first step on; None: no masks.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    weights, biases = initial_weights(layers, generator)
    norms = initial_norms(layers)
    trained = [*weights.values()]
    # A convolution's own bias is cancelled by the normalisation behind it, so only the other layers' are trained.
    free = [b for name, b in biases.items() if name not in norms.scale] + [*norms.scale.values(), *norms.shift.values()]
    for tensor in trained + free:
        tensor.requires_grad_(True)
    optimizer = torch.optim.SGD(
        [{"params": trained, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=recipe.peak_rate, momentum=0.9, nesterov=True,
    )  # fmt: skip
    masks = None if keep is None else _mask_tensors(keep, 0)
    losses = _EpochLoss("dense", recipe.epochs, report)
    for epoch, progress, index in _batches(images, recipe, generator):
        _set_rate(optimizer, learning_rate(progress, peak=recipe.peak_rate, warmup=recipe.warmup))
        x, labels = images.batch(index, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bfloat16):
            masked = _masked(weights, masks)
            logits = forward(layers, x, weights=masked, biases=biases, norms=norms, training=True)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.add(epoch, loss.item(), (1.0,))
    losses.flush((1.0,))
    return _detached(fold_norms(_masked(weights, masks), biases, norms))


def _masked(weights: Tensors, masks: Tensors | None) -> Tensors:
    return weights if masks is None else {name: weight * masks[name] for name, weight in weights.items()}


def _mask_tensors(keep: Mapping[str, NDArray[np.uint8]], level: int) -> Tensors:
    """Float masks of one level, in the memory order of the weights."""
    return {n: channels_last(torch.from_numpy((k > level).astype(np.float32))) for n, k in keep.items()}


def _detached(pair: tuple[Tensors, Tensors]) -> tuple[Tensors, Tensors]:
    first, second = ({name: value.detach().clone() for name, value in tensors.items()} for tensors in pair)
    return first, second


class NestedTrainer:
    """Joint training of all levels on one set of weights (Qin et al., arXiv 2112.10930; the recipe is ours).

    Loss = mean over the levels of the cross entropy of the network with weights W * mask(level). A sparser level's loss
    is (1 - distillation) * cross entropy + distillation * KL divergence to the densest level's output in the same step,
    without gradient into that (in-place distillation, Yu and Huang, "Universally slimmable networks",
    arXiv 1903.05134). The masks come from one magnitude ranking per layer and follow the cubic density ramp;
    after it they are frozen. With one level this is gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878).

    Parameters
    ----------
    layers : graph of the network.
    start : weights and biases (K,) to start from; they are copied.
    densities : fraction of the prunable weights per level, densest first.
    keep : fixed masks, layer name -> levels that keep each weight; None: from magnitudes, along the ramp.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        start: tuple[Tensors, Tensors],
        *,
        densities: Sequence[float],
        recipe: Recipe,
        keep: Mapping[str, NDArray[np.uint8]] | None = None,
    ) -> None:
        check_trainable(layers)
        check_densities(densities)
        self.layers, self.densities, self.recipe = tuple(layers), tuple(densities), recipe
        weights, biases = _detached(start)
        self.weights: Tensors = {n: w.requires_grad_(True) for n, w in weights.items()}
        self.biases: Tensors = {n: b.repeat(len(densities), 1).requires_grad_(True) for n, b in biases.items()}
        self.keep: dict[str, NDArray[np.uint8]] = dict(keep or {})
        self._fixed = keep is not None
        self._masks: list[Tensors] = []
        self._order = allocation_order({n: tuple(w.shape) for n, w in weights.items()})
        self.update_masks(0.0)

    def update_masks(self, progress: float) -> tuple[float, ...]:
        """Set every level's masks for ``progress`` (0..1) of the ramp from the current magnitudes; the densities."""
        current = tuple(
            cubic_density(progress, target=d, start=self.recipe.ramp_start, end=self.recipe.ramp_end)
            for d in self.densities
        )
        if self._fixed:
            current = self.densities
        else:
            scores = {n: w.detach().abs().contiguous().numpy() for n, w in self.weights.items()}
            self.keep = keep_from_ranking(scores, current, order=self._order)
        self._masks = [_mask_tensors(self.keep, level) for level in range(len(self.densities))]
        return current

    def level_tensors(self, level: int, *, denser_layers: int = 0) -> tuple[Tensors, Tensors]:
        """Masked weights and biases (K,) of one level; gradients flow to the shared weights.

        The first ``denser_layers`` layers with weights are taken from ``level - 1`` instead.
        """
        weights, biases = {}, {}
        for position, name in enumerate(x.name for x in self.layers if x.has_weights):
            source = level - 1 if position < denser_layers else level
            weights[name] = self.weights[name] * self._masks[source][name]
            biases[name] = self.biases[name][source]
        return weights, biases

    def train(
        self,
        images: Images,
        *,
        stage: str = "nested",
        report: Report | None = None,
        after_epoch: Callable[[], None] | None = None,
    ) -> None:
        """Run all epochs of the recipe (AdamW, Loshchilov and Hutter, arXiv 1711.05101; biases do not decay).

        ``after_epoch`` is called between epochs, not after the last one; it may change weights in place.
        """
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed)
        # Drawn apart from the data, so that runs with and without switch points see the same batches.
        switches = torch.Generator().manual_seed(recipe.seed)
        decaying = {"params": [*self.weights.values()], "weight_decay": recipe.weight_decay}
        optimizer = torch.optim.AdamW([decaying, {"params": [*self.biases.values()], "weight_decay": 0.0}], lr=0.0)
        losses = _EpochLoss(stage, recipe.epochs, report)
        current, frozen = self.update_masks(0.0), False
        before = 0
        for step, (epoch, progress, index) in enumerate(_batches(images, recipe, generator)):
            if epoch != before and after_epoch is not None:
                after_epoch()
            before = epoch
            if not frozen and (step % recipe.mask_interval == 0 or progress >= recipe.ramp_end):
                current, frozen = self.update_masks(progress), progress >= recipe.ramp_end
            _set_rate(optimizer, learning_rate(progress, peak=recipe.peak_rate, warmup=recipe.warmup))
            optimizer.zero_grad()
            x, labels = images.batch(index, generator)
            losses.add(epoch, self._accumulate(x, labels, switch=self._draw_switch(switches)), current)
            optimizer.step()
        if not frozen:
            current = self.update_masks(1.0)
        losses.flush(current)

    def _draw_switch(self, generator: torch.Generator) -> tuple[int, int] | None:
        """(sparser level, number of leading layers with weights that run one level denser), or None."""
        if not self.recipe.switch_points or len(self.densities) < 2 or len(self.weights) < 2:
            return None
        level = int(torch.randint(1, len(self.densities), (1,), generator=generator))
        return level, int(torch.randint(1, len(self.weights), (1,), generator=generator))

    def _accumulate(self, x: torch.Tensor, labels: torch.Tensor, *, switch: tuple[int, int] | None) -> float:
        """Add the gradients of all levels' losses; their mean."""
        share, teacher, total = self.recipe.distillation, None, 0.0
        for level in range(len(self.densities)):
            denser = switch[1] if switch is not None and switch[0] == level else 0
            weights, biases = self.level_tensors(level, denser_layers=denser)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.recipe.bfloat16):
                logits = forward(self.layers, x, weights=weights, biases=biases)
            logits = logits.float()
            loss = functional.cross_entropy(logits, labels)
            if teacher is None:
                teacher = functional.log_softmax(logits.detach(), dim=1)
            elif share:
                student = functional.log_softmax(logits, dim=1)
                divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
                loss = (1.0 - share) * loss + share * divergence
            (loss / len(self.densities)).backward()
            total += loss.item() / len(self.densities)
        return total

    def network(self, name: str, *, source: str = "") -> Network:
        """The trained network with nested weights and per-level biases (levels, K)."""
        levels = len(self.densities)
        weights = {n: _nested(n, w.detach(), keep=self.keep[n], levels=levels) for n, w in self.weights.items()}
        biases = {n: np.ascontiguousarray(b.detach().numpy()) for n, b in self.biases.items()}
        return Network(name, self.layers, weights, biases, source)


def level_accuracies(network: Network, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, ...]:
    """Measured accuracy (0..1) of every level of ``network`` in float32 on images (N, 1, H, W), labels int64 (N,)."""
    names = [x.name for x in network.layers if x.has_weights]
    return tuple(
        mixed_accuracy(network, images, labels, levels=dict.fromkeys(names, level)) for level in range(network.levels)
    )


def switch_accuracies(
    network: Network, images: torch.Tensor, labels: torch.Tensor, *, denser: int, sparser: int
) -> tuple[float, ...]:
    """Measured accuracy when an inference begins at level ``denser`` and is rerouted to ``sparser`` on its way.

    Entry k - 1 is the accuracy with the first k layers with weights at ``denser``, k = 1 .. number of them - 1.
    """
    names = [x.name for x in network.layers if x.has_weights]
    return tuple(
        mixed_accuracy(
            network,
            images,
            labels,
            levels={n: denser if position < k else sparser for position, n in enumerate(names)},
        )
        for k in range(1, len(names))
    )


def mixed_accuracy(network: Network, images: torch.Tensor, labels: torch.Tensor, *, levels: Mapping[str, int]) -> float:
    """Measured accuracy (0..1) in float32 with each layer at its own level (``levels``: layer name -> level)."""
    return accuracy(
        network.layers,
        images,
        labels,
        weights={n: channels_last(torch.from_numpy(w.dense(levels[n]))) for n, w in network.weights.items()},
        biases={n: torch.from_numpy(b[levels[n]]) for n, b in network.biases.items()},
    )


def threshold_afterwards(
    layers: Sequence[Layer], start: tuple[Tensors, Tensors], densities: Sequence[float]
) -> Network:
    """The dense network ``start`` pruned by magnitude to every density without any further training."""
    weights, biases = start
    scores = {n: w.abs().contiguous().numpy() for n, w in weights.items()}
    keep = keep_from_ranking(scores, densities)
    nested = {n: _nested(n, w, keep=keep[n], levels=len(densities)) for n, w in weights.items()}
    return Network("threshold", tuple(layers), nested, {n: _per_level(b, densities) for n, b in biases.items()})


def _nested(name: str, weights: torch.Tensor, *, keep: NDArray[np.uint8], levels: int) -> NestedWeights:
    """Nested weights with zeros where no level keeps a weight."""
    values = np.where(keep > 0, weights.contiguous().numpy(), np.float32(0))
    return NestedWeights(values=values, keep=keep, levels=levels, name=name)


def _per_level(bias: torch.Tensor, densities: Sequence[float]) -> NDArray[np.float32]:
    return np.ascontiguousarray(bias.repeat(len(densities), 1).numpy())
