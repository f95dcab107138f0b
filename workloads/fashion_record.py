"""What the Fashion-MNIST table holds: the bundled network's training against honest baselines, over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .bundled import FASHION_DENSITIES, FASHION_STUDY
from .digits_record import FEWEST_POINTS_WON, MOST_POINTS_LOST
from .training_record import Claim, TrainingRecord, at_least, at_most

COLUMNS = tuple(f"{density:.0%}" for density in FASHION_DENSITIES)
#: Rows, in the order of the table.
DENSE, INDEPENDENT, THRESHOLD, NESTED = "dense", "independent", "post-hoc threshold", "nested"
SCRATCH_E, SCRATCH_B = "scratch-E", "scratch-B"
METHODS = (DENSE, INDEPENDENT, THRESHOLD, NESTED, SCRATCH_E, SCRATCH_B)


@dataclass(frozen=True)
class FashionRecord(TrainingRecord):
    """The table of `nestling train fashion --study`."""

    stem: ClassVar = "fashion_study"
    command: ClassVar = "nestling train fashion --study"
    bundled: ClassVar = FASHION_STUDY
    test_images: ClassVar = 10_000
    titles: ClassVar = {"levels": "Fashion-MNIST, nested levels and their baselines: accuracy per density, %"}
    row_notes: ClassVar = (
        "epochs: with batch normalisation, then with it folded in and the masks coming; passes: forward and backward passes "
        "over the training images for the whole row; rate: peak of the learning rate in either part",
        "dense: the start that independent and nested share; independent: one gradually pruned model per density from it "
        "(100%: the dense network trained as long); post-hoc threshold: the independent 100% cut by magnitude, untrained",
        "nested: all levels on one set of weights, as the bundled network is trained",
        "scratch: random weights under the fixed masks of nested from the first step on; E: as many epochs as nested had; "
        "B: as many as cost the same multiplications as the dense network's (same FLOPs), capped at twice E",
    )
    not_shown: ClassVar = (
        "what full training reaches: these runs are short, see `nestling train fashion` for 12 + 12 epochs of one seed",
        "scratch against inherited weights beyond this task: on ImageNet unstructured masks favour fine-tuning (Liu et "
        "al., arXiv 1810.05270)",
    )

    def claims(self) -> list[Claim]:
        """The bars that the digits tables are held against, on means over the seeds."""
        if not {INDEPENDENT, THRESHOLD, NESTED} <= {row.method for row in self.rows}:
            return []
        middle = COLUMNS[len(COLUMNS) // 2]
        lost = {column: self.points(INDEPENDENT, NESTED, column) for column in COLUMNS}
        won = self.points(NESTED, THRESHOLD, middle)
        return [
            *(
                at_most(f"nested: points behind independent models at {column}", points, MOST_POINTS_LOST)
                for column, points in lost.items()
            ),
            at_least(f"nested: points ahead of the post-hoc threshold at {middle}", won, FEWEST_POINTS_WON),
        ]
