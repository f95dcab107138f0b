"""Run the comparison of training methods on digits: every row for every seed, and the record of it.

PyTorch (the extra ``train``) is loaded only when training runs.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .digits import (
    DIGITS_DENSITIES,
    DIGITS_SEED,
    DIGITS_WEIGHTS,
    DigitsSplit,
    Floats,
    accuracy_on,
    digits_split,
    layer_inputs,
)
from .digits_record import DigitsRecord
from .errors import InputError
from .network import Network
from .sparsify import sparsify
from .stage_files import StageFiles
from .training_record import Row, merge, read_rows
from .weights_file import save_network

#: Training images that calibrate OBC.
CALIBRATION_IMAGES = 256
#: Seeds of the full tables, and training runs of each.
FULL_SEEDS, RUNS_PER_SEED = 5, 17
#: Settings were chosen here and nowhere else.
CHOSEN_ON = (
    "batch and learning rate were chosen among (64, 128) and (0.002, 0.004, 0.005) on 347 images held out from the training "
    "part of seed 100; no figure of the tables took part in a choice"
)

#: Called with the seed and the name of what has been trained; KEPT where the whole seed was found finished.
Report = Callable[[int, str], None]
KEPT = "kept"


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
    seeds: Sequence[int] = range(FULL_SEEDS),
    *,
    recipe: DigitsRecipe | None = None,
    folder: Path | None = None,
    report: Report | None = None,
) -> DigitsRecord:
    """All tables for ``seeds``: each seed has its own split, initial weights and order of batches.

    ``folder``: receives the nested network that is bundled (``train_model``) and, in ``parts/``, a file per finished seed;
    what it already has is not run again.

    Raises
    ------
    InputError
        if PyTorch is missing, there is no seed, or ``folder`` holds seeds of other settings or versions.
    """
    from .training import require_torch, versions

    if not seeds:
        raise InputError("no seed given; at least one run is needed")
    require_torch(1)
    recipe = recipe or DigitsRecipe()
    identity = {"settings": asdict(recipe), "versions": versions()}
    files = StageFiles(None if folder is None else folder / "parts", identity)
    parts = [_finished_seed(seed, files, recipe, report) for seed in seeds]
    model = {} if folder is None else _finished_model(folder, files, recipe)
    return DigitsRecord(
        seeds=list(seeds),
        rows=merge([read_rows(part["rows"]) for part in parts]),
        settings=asdict(recipe),
        notes=list(dict.fromkeys([CHOSEN_ON, *(text for part in parts for text in part["notes"])])),
        cpu_s=round(sum(part["cpu_s"] for part in [*parts, model] if part), 1),
        versions=versions(),
        model=model,
    )


def _finished_seed(seed: int, files: StageFiles, recipe: DigitsRecipe, report: Report | None) -> dict[str, Any]:
    """Rows, notes and processor time of a seed: read if they are there, else made and kept."""
    found = files.load(f"seed{seed}")
    if found is not None:
        if report is not None:
            report(seed, KEPT)
        return found
    from .torch_digits import train_rows

    begin, split = time.process_time(), digits_split(seed)
    rows, network = train_rows(split, recipe, seed=seed, report=_for_seed(report, seed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows += post_training_rows(network, split)
    result = {
        "rows": [asdict(row) for row in rows],
        "notes": list(dict.fromkeys(str(warning.message) for warning in caught)),
        "cpu_s": round(time.process_time() - begin, 1),
    }
    files.store(f"seed{seed}", result)
    return result


def _finished_model(folder: Path, files: StageFiles, recipe: DigitsRecipe) -> dict[str, Any]:
    """What is known of the bundled network, which is trained unless ``folder`` has it."""
    path, found = folder / DIGITS_WEIGHTS.name, files.load("model")
    if found is not None and path.is_file() and _sha256(path) == found["sha256"]:
        return found
    from .torch_digits import train_model

    begin, split = time.process_time(), digits_split(DIGITS_SEED)
    network = train_model(split, recipe, seed=DIGITS_SEED)
    save_network(path, network)
    result = {
        "file": path.name,
        "seed": DIGITS_SEED,
        "strategy": "joint",
        "densities": list(DIGITS_DENSITIES),
        "accuracies": [
            accuracy_on(network, split.test, split.test_labels, level=level) for level in range(network.levels)
        ],
        "sha256": _sha256(path),
        "cpu_s": round(time.process_time() - begin, 1),
    }
    files.store("model", result)
    return result


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


def _untrained(method: str, cells: dict[str, float]) -> Row:
    return Row("post-training", method, "-", 0.0, "-", {column: [value] for column, value in cells.items()})
