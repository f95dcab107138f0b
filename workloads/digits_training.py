"""Run the comparison of training methods on digits: every row for every seed, and the record of it.

PyTorch (the extra ``train``) is loaded only when training runs.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .digits import DigitsSplit, Floats, accuracy_on, digits_split, layer_inputs
from .digits_record import DigitsRecord, Row
from .errors import InputError
from .network import Network
from .sparsify import sparsify

#: Training images that calibrate OBC.
CALIBRATION_IMAGES = 256
#: Seeds of the full tables, and training runs of each.
FULL_SEEDS, RUNS_PER_SEED = 5, 17
#: Settings were chosen here and nowhere else.
CHOSEN_ON = (
    "batch and learning rate were chosen among (64, 128) and (0.002, 0.004, 0.005) on 347 images held out from the training "
    "part of seed 100; no figure of the tables took part in a choice"
)

#: Called with the seed and the name of what has been trained.
Report = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class DigitsRecipe:
    """Settings of every training run: Adam without weight decay, linear warm-up, then a cosine to zero."""

    epochs: int = 60
    peak_rate: float = 4e-3
    batch: int = 64
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.peak_rate > 0.0:
            raise InputError(f"{self}: epochs and batch must be at least 1, peak_rate positive")


def compare_on_digits(
    seeds: Sequence[int] = range(FULL_SEEDS), *, recipe: DigitsRecipe | None = None, report: Report | None = None
) -> DigitsRecord:
    """All tables for ``seeds``: each seed has its own split, initial weights and order of batches.

    Raises
    ------
    InputError
        if PyTorch is missing or there is no seed.
    """
    from .training import require_torch, versions

    if not seeds:
        raise InputError("no seed given; at least one run is needed")
    require_torch(1)
    from .torch_digits import train_rows

    recipe = recipe or DigitsRecipe()
    begin, notes = time.process_time(), {CHOSEN_ON: None}
    per_seed = []
    for seed in seeds:
        split = digits_split(seed)
        rows, network = train_rows(split, recipe, seed=seed, report=_for_seed(report, seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows += post_training_rows(network, split)
        notes.update((str(warning.message), None) for warning in caught)
        per_seed.append(rows)
    return DigitsRecord(
        seeds=list(seeds),
        rows=merge(per_seed),
        settings=asdict(recipe),
        notes=list(notes),
        cpu_s=round(time.process_time() - begin, 1),
        versions=versions(),
    )


def _for_seed(report: Report | None, seed: int) -> Callable[[str], None]:
    return lambda what: None if report is None else report(seed, what)


def post_training_rows(network: Network, split: DigitsSplit) -> list[Row]:
    """Magnitude pruning against OBC without training, on the first CALIBRATION_IMAGES training images.

    90 %: a tenth of every layer's weights is kept; 2:4: two of four inputs. The error ratio is the smallest over the layers.
    """
    calibration, _ = layer_inputs(network, split.train[:CALIBRATION_IMAGES])
    rows = [_untrained("dense", {"90%": accuracy_on(network, split.test, split.test_labels)})]
    errors: dict[str, dict[str, NDArray[np.float64]]] = {}
    for label, by_weight, by_pattern in (("magnitude", "magnitude", "nm"), ("OBC", "obc", "obc_nm")):
        pruned = {
            "90%": sparsify(network, by_weight, densities=[0.1], calibration=calibration),
            "2:4": sparsify(network, by_pattern, patterns=["2:4"], calibration=calibration),
        }
        cells = {column: accuracy_on(one, split.test, split.test_labels) for column, one in pruned.items()}
        rows.append(_untrained(label, cells))
        errors[label] = {column: layer_errors(network, one, calibration) for column, one in pruned.items()}
    ratios = {column: float((errors["magnitude"][column] / errors["OBC"][column]).min()) for column in ("90%", "2:4")}
    return [*rows, _untrained("error ratio", ratios)]


def layer_errors(dense: Network, pruned: Network, inputs: dict[str, Floats]) -> NDArray[np.float64]:
    """Squared error of every layer's output, summed over ``inputs`` (layer -> (samples, features)), shape (layers,)."""
    moves = {n: pruned.weights[n].dense(0).astype(np.float64) - w.dense(0) for n, w in dense.weights.items()}
    return np.array([((moves[name] @ x.T) ** 2).sum() for name, x in inputs.items()])


def merge(per_seed: Sequence[Sequence[Row]]) -> list[Row]:
    """The same rows of several seeds as one list of rows; ``passes`` are averaged."""
    merged = []
    for rows in zip(*per_seed, strict=True):
        cells = {column: [row.cells[column][0] for row in rows] for column in rows[0].cells}
        merged.append(replace(rows[0], cells=cells, passes=float(np.mean([row.passes for row in rows]))))
    return merged


def record_text(record: DigitsRecord) -> str:
    """The record as JSON, one line per row."""
    content = record.to_json()
    listed = {key: content.pop(key) for key in ("rows", "claims", "row_notes", "not_shown", "notes")}
    head = json.dumps(content, indent=1).removesuffix("\n}")
    blocks = [
        f' "{key}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"
        for key, entries in listed.items()
    ]
    return head + ",\n" + ",\n".join(blocks) + "\n}\n"


def _untrained(method: str, cells: dict[str, float]) -> Row:
    return Row("post-training", method, "0", 0.0, 0.0, {column: [value] for column, value in cells.items()})
