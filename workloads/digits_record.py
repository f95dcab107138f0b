"""What the digits tables hold: accuracies per method, level and seed, and the claims they do or do not support."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .digits import DIGITS_DENSITIES, DIGITS_RECORD
from .level_plan import Strategy
from .training_record import Claim, TrainingRecord, at_least, at_most

#: Densities of the levels, densest first: the bundled network's without its dense one.
LEVELS = DIGITS_DENSITIES[1:]
COLUMNS = tuple(f"{density:.0%}" for density in LEVELS)
#: Rows of the table of levels that train nested levels.
NESTED: tuple[Strategy, ...] = ("joint", "sandwich", "random", "outward")
#: Bars of the claims: points of accuracy, and how many times smaller an error is.
MOST_POINTS_LOST, FEWEST_POINTS_WON, LEAST_ERROR_RATIO = 1.0, 10.0, 5.0


@dataclass(frozen=True)
class DigitsRecord(TrainingRecord):
    """The tables of `nestling train digits`. ``model``: what was written beside them as the bundled network."""

    stem: ClassVar = "digits_training"
    command: ClassVar = "nestling train digits"
    bundled: ClassVar = DIGITS_RECORD
    test_images: ClassVar = 450
    titles: ClassVar = {
        "levels": "Nested levels and their baselines: accuracy per density, %",
        "N:M": "N:M on the hidden layers: accuracy, %",
        "post-training": "Without training, from the dense network: accuracy, %",
    }
    row_notes: ClassVar = (
        "passes: forward and backward passes over the training images for the whole row; rate: peak of the learning rate",
        "independent: one gradually pruned model per level; post-hoc threshold: the densest of them, cut further untrained",
        "joint, sandwich, random, outward: one set of nested weights; outward trains one level after the other",
        "scratch: random weights under the fixed masks of joint; E: same epochs; B: as many as cost the same "
        "multiplications as the dense run (same FLOPs), capped at twice its epochs",
        "90%: a tenth of every layer's weights is kept; 2:4: two of four inputs; the error ratio is magnitude's squared "
        "error of a layer's output over OBC's, the smallest of all layers and seeds",
    )
    not_shown: ClassVar = (
        "LBC against SR-STE, and either against fine-tuning one-shot masks: on a task this easy they differ by less than "
        "the spread over seeds",
        "one nested strategy against another: their differences are of the size of the spread",
        "scratch against inherited weights beyond this task: on ImageNet unstructured masks favour fine-tuning (Liu et "
        "al., arXiv 1810.05270)",
    )

    model: dict[str, Any] = field(default_factory=dict)

    def claims(self) -> list[Claim]:
        """What this data set can decide, on means over the seeds; error ratios on the worst layer and seed."""
        middle = COLUMNS[1]
        found = []
        for method in NESTED:
            lost = max(self.points("independent", method, column) for column in COLUMNS)
            found.append(at_most(f"{method}: points behind independent models, worst level", lost, MOST_POINTS_LOST))
            won = self.points(method, "post-hoc threshold", middle)
            text = f"{method}: points ahead of the post-hoc threshold at {middle}"
            found.append(at_least(text, won, FEWEST_POINTS_WON))
        for trained in ("ASP fine-tune", "SR-STE", "LBC"):
            won = self.points(trained, "one-shot", "1:8", table="N:M")
            found.append(at_least(f"1:8 {trained}: points ahead of one-shot", won, FEWEST_POINTS_WON))
        won = self.points("OBC", "magnitude", "90%", table="post-training")
        found.append(at_least("OBC at 90 % sparsity: points ahead of magnitude", won, FEWEST_POINTS_WON))
        ratio = min(self.row("post-training", "error ratio").cells["2:4"])
        found.append(at_least("2:4: layer error of magnitude over OBC, smallest", ratio, LEAST_ERROR_RATIO))
        return found
