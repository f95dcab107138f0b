"""Train the digits perceptron in every way that its tables compare. Imports torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .digits import DIGITS_DENSITIES, DIGITS_NAME, DIGITS_WIDTHS, DigitsSplit, digits_layers, digits_network
from .digits_record import COLUMNS, LEVELS, NESTED
from .digits_training import DigitsRecipe
from .level_plan import Strategy
from .nesting import NestedWeights
from .network import Network
from .schedule import learning_rate, scratch_b_epochs
from .torch_levels import Lbc, NestedMasks, SrSte, magnitude_mask
from .torch_levels.ranking import Tensors, nested_keep
from .training_record import Row

#: Called with the name of what has been trained.
Report = Callable[[str], None]
#: Layers under an N:M pattern; the classifier stays dense.
HIDDEN = ("fc1", "fc2")


class DigitsTrainer:
    """All runs of one seed: the same split, initial weights and order of batches for each."""

    def __init__(self, split: DigitsSplit, recipe: DigitsRecipe, *, seed: int, report: Report | None = None) -> None:
        self.recipe, self._seed, self._report = recipe, seed, report or (lambda _: None)
        self._inputs, self._labels = torch.from_numpy(split.train), torch.from_numpy(split.train_labels)
        self._test, self._test_labels = torch.from_numpy(split.test), torch.from_numpy(split.test_labels)
        self._rate = f"{recipe.peak_rate:g}"
        self._batches = max(1, round(len(self._labels) / recipe.batch))

    def dense(self) -> tuple[nn.Module, list[Row]]:
        """The dense network and its row."""
        model = self._new_model()
        self._fit(model, self._optimizer(model), self.recipe.epochs)
        self._report("dense")
        return model, [self._row("levels", "dense", {"100%": self._accuracy(model)})]

    def independent(self) -> tuple[nn.Module, list[Row]]:
        """One gradually pruned model per level; the densest of them, and that one thresholded further."""
        models = []
        for density in LEVELS:
            model = self._new_model()
            masks = NestedMasks(model, (density,), steps=self._steps(self.recipe.epochs))
            self._fit(model, self._optimizer(model), self.recipe.epochs, masks=masks)
            models.append(masks.plain(0))
            self._report(f"independent {density:.0%}")
        cells = {c: self._accuracy(m) for c, m in zip(COLUMNS, models, strict=True)}
        weights = {name: module.weight.detach().abs() for name, module in _linear_layers(models[0]).items()}
        keep = nested_keep(weights, LEVELS)
        masks = NestedMasks(models[0], LEVELS, steps=1, keep=keep, own_biases=False)
        rows = [
            self._row("levels", "independent", cells, models=len(LEVELS)),
            self._row("levels", "post-hoc threshold", self._level_accuracies(masks)),
        ]
        return models[0], rows

    def nested(self, strategy: Strategy) -> tuple[Tensors, Row]:
        """Nested levels by one strategy; how many of them keep each weight."""
        parts = len(LEVELS) if strategy == "outward" else 1
        epochs = self.recipe.epochs * parts
        model = self._new_model()
        masks = NestedMasks(model, LEVELS, steps=self._steps(epochs), strategy=strategy, seed=self._seed)
        passes = self._fit(model, self._optimizer(model), epochs, masks=masks, restarts=parts)
        self._report(strategy)
        text = f"{parts} x {self.recipe.epochs}" if parts > 1 else str(epochs)
        cells = {column: [value] for column, value in self._level_accuracies(masks).items()}
        return masks.keep, Row("levels", strategy, text, passes, self._rate, cells)

    def model(self) -> Network:
        """The bundled network: the densities of the tables and a dense level, trained jointly."""
        model, epochs = self._new_model(), self.recipe.epochs
        masks = NestedMasks(model, DIGITS_DENSITIES, steps=self._steps(epochs), strategy="joint", seed=self._seed)
        self._fit(model, self._optimizer(model), epochs, masks=masks)
        levels = [_linear_layers(masks.plain(level)) for level in range(len(DIGITS_DENSITIES))]
        weights = {
            name: NestedWeights(
                values=module.weight.detach().numpy().copy(),
                keep=masks.keep[name].numpy(),
                levels=len(levels),
                name=name,
            )
            for name, module in levels[0].items()
        }
        biases = {name: np.stack([level[name].bias.detach().numpy() for level in levels]) for name in weights}
        source = (
            f"trained at four nested levels on digits 8 x 8: nestling train digits, seed {self._seed}, {epochs} epochs"
        )
        return Network(DIGITS_NAME, digits_layers(), weights, biases, source)

    def scratch(self, keep: Tensors) -> list[Row]:
        """The levels of ``keep`` as fixed masks, trained from random weights: same epochs, and same multiplications."""
        rows = []
        budgets = {
            "scratch-E": [self.recipe.epochs] * len(LEVELS),
            "scratch-B": [scratch_b_epochs(self.recipe.epochs, density) for density in LEVELS],
        }
        for method, budget in budgets.items():
            cells = {}
            for level, epochs in enumerate(budget):
                model = self._new_model(offset=1)
                fixed = {name: (k > level).to(torch.uint8) for name, k in keep.items()}
                masks = NestedMasks(model, (LEVELS[level],), steps=self._steps(epochs), keep=fixed)
                self._fit(model, self._optimizer(model), epochs, masks=masks)
                cells[COLUMNS[level]] = [self._accuracy(model)]
                self._report(f"{method} {COLUMNS[level]}")
            text = "/".join(str(epochs) for epochs in dict.fromkeys(budget))
            rows.append(Row("levels", method, text, float(sum(budget)), self._rate, cells))
        return rows

    def patterns(self, dense: nn.Module, *, n: int, m: int) -> list[Row]:
        """N:M on the hidden layers: one-shot magnitude, the same masks fine-tuned, SR-STE and LBC from random weights."""
        column, epochs = f"{n}:{m}", self.recipe.epochs
        model = self._new_model()
        model.load_state_dict(dense.state_dict())
        keep = {h: magnitude_mask(model.get_submodule(h).weight, n=n, m=m).to(torch.uint8) for h in HIDDEN}
        masks = NestedMasks(model, (n / m,), steps=self._steps(epochs), layers=HIDDEN, keep=keep)
        rows = [Row("N:M", "one-shot", "-", 0.0, "-", {column: [self._accuracy(model)]})]
        self._fit(model, self._optimizer(model), epochs, masks=masks)
        rows.append(self._row("N:M", "ASP fine-tune", {column: self._accuracy(model)}))
        self._report("ASP fine-tune")
        model = self._new_model()
        srste = SrSte(model, n=n, m=m, layers=HIDDEN)
        self._fit(model, self._optimizer(model), epochs)
        srste.finish()
        rows.append(self._row("N:M", "SR-STE", {column: self._accuracy(model)}))
        self._report("SR-STE")
        model = self._new_model()
        lbc = Lbc(model, n=n, m=m, steps=self._steps(epochs), layers=HIDDEN)
        optimizer = torch.optim.Adam(lbc.parameter_groups(), lr=self.recipe.peak_rate, fused=True)
        self._fit(model, optimizer, epochs, after_step=lbc.step)
        lbc.finish()
        rows.append(self._row("N:M", "LBC", {column: self._accuracy(model)}))
        self._report("LBC")
        return rows

    def _row(self, table: str, method: str, cells: dict[str, float], *, models: int = 1) -> Row:
        """A row of ``models`` runs of the recipe's epochs."""
        epochs = self.recipe.epochs
        text = f"{models} x {epochs}" if models > 1 else str(epochs)
        values = {column: [value] for column, value in cells.items()}
        return Row(table, method, text, float(models * epochs), self._rate, values)

    def _new_model(self, *, offset: int = 0) -> nn.Module:
        """The perceptron with weights of variance 2 / fan-in (He et al., arXiv 1502.01852) and zero biases."""
        generator = torch.Generator().manual_seed(self._seed + 1000 * offset)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (a, b) in enumerate(pairwise(DIGITS_WIDTHS), start=1):
            layer = nn.Linear(a, b)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(b, a, generator=generator) * (2.0 / a) ** 0.5)
                layer.bias.zero_()
            parts[f"fc{number}"] = layer
            if number < len(DIGITS_WIDTHS) - 1:
                parts[f"relu{number}"] = nn.ReLU()
        return nn.Sequential(parts)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.recipe.peak_rate, fused=True)

    def _steps(self, epochs: int) -> int:
        return epochs * self._batches

    def _order(self, epochs: int) -> Iterator[torch.Tensor]:
        """Indices of every batch of the run, all images once per epoch."""
        generator = torch.Generator().manual_seed(self._seed)
        for _ in range(epochs):
            yield from torch.randperm(len(self._labels), generator=generator).tensor_split(self._batches)

    def _fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        epochs: int,
        *,
        masks: NestedMasks | None = None,
        restarts: int = 1,
        after_step: Callable[[], None] | None = None,
    ) -> float:
        """Train; the learning rate begins anew in each of ``restarts`` equal parts. Returns passes over the data."""
        passes, part = 0, self._steps(epochs) // restarts
        for step, index in enumerate(self._order(epochs)):
            rate = learning_rate((step % part) / part, peak=self.recipe.peak_rate, warmup=self.recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            for share in [1.0] if masks is None else masks.passes():
                (share * functional.cross_entropy(model(self._inputs[index]), self._labels[index])).backward()
                passes += 1
            optimizer.step()
            for following in (after_step, None if masks is None else masks.step):
                if following is not None:
                    following()
        return passes / self._batches

    def _accuracy(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(self._test).argmax(1) == self._test_labels).double().mean())

    def _level_accuracies(self, masks: NestedMasks) -> dict[str, float]:
        return {column: self._accuracy(masks.plain(level)) for level, column in enumerate(COLUMNS)}


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_children() if isinstance(module, nn.Linear)}


def as_network(model: nn.Module) -> Network:
    """The trained perceptron as a dense network."""
    layers = _linear_layers(model)
    return digits_network(
        {n: m.weight.detach().numpy().copy() for n, m in layers.items()},
        {n: m.bias.detach().numpy().copy() for n, m in layers.items()},
        source="trained on digits",
    )


def train_rows(split: DigitsSplit, recipe: DigitsRecipe, *, seed: int, report: Report) -> tuple[list[Row], Network]:
    """Every trained row of one seed, each with one value per cell, and the dense network."""
    trainer = DigitsTrainer(split, recipe, seed=seed, report=report)
    dense, rows = trainer.dense()
    network = as_network(dense)
    rows += trainer.independent()[1]
    keeps: dict[str, Tensors] = {}
    for strategy in NESTED:
        keeps[strategy], row = trainer.nested(strategy)
        rows.append(row)
    rows += trainer.scratch(keeps["joint"])
    rows += trainer.patterns(dense, n=1, m=8)
    return rows, network


def train_model(split: DigitsSplit, recipe: DigitsRecipe, *, seed: int) -> Network:
    """The network that is bundled."""
    return DigitsTrainer(split, recipe, seed=seed).model()
