"""`nestling train fashion --smartdeal`: the bundled network in SmartDeal form, before and after a short retraining."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.executor import Executor
from ..traces.formats.coefficients import coefficient_bytes
from ..workloads.bundled import FASHION_SCALE, load_bundled
from ..workloads.datasets import FASHION_MNIST_FOLDER
from ..workloads.smartdeal.nested import SmartDealNetwork, SmartDealOptions, decompose_network
from ..workloads.training import load_arrays, nested_recipe
from ..workloads.weights_file import write_atomically
from .fitted_table import Column, FittedTable
from .output import console, note, print_object

#: Starting rate: a quarter of the nested training's, since the network is trained already.
PEAK_RATE = 5e-4
_ELEMENT_ORDERED = "smartdeal_element_ordered"


def retrain_bundled(*, epochs: int, data: Path | None, seed: int, out: Path | None, as_json: bool) -> None:
    """Measure the plain levels, the decomposed ones, and those after ``epochs`` epochs of alternating training.

    Accuracies on all 10,000 test images, by the executor; bytes as the encoders count them.
    """
    from ..workloads.smartdeal.retraining import retrain
    from ..workloads.torch_training import Images

    network, _, _ = load_bundled()
    arrays = load_arrays(data or FASHION_MNIST_FOLDER)
    images = arrays.test_pixels[:, None].astype(np.float32) * np.float32(FASHION_SCALE)
    measured = images.astype(np.float32), arrays.test_labels
    options = SmartDealOptions(unit="coefficient")
    recipe = replace(nested_recipe(epochs=epochs, seed=seed), peak_rate=PEAK_RATE)
    train = Images.from_arrays(arrays.train_pixels, arrays.train_labels, scale=FASHION_SCALE)
    executor = Executor(network)
    plain = [executor.accuracy(*measured, level) for level in range(network.levels)]
    rows = [{"form": "plain levels", "accuracy": plain, "nonzeros": _plain_nonzeros(network.weights)}]
    post = decompose_network(network, options=options)
    rows.append(_row("SmartDeal, no retraining", post, measured))
    done = retrain(network, train, recipe=recipe, options=options, report=lambda step: note(str(step)))
    rows.append(_row(f"SmartDeal, {epochs} epochs retrained", done, measured))
    record = {
        "network": network.name,
        "epochs": epochs,
        "peak_rate": PEAK_RATE,
        "seed": seed,
        "images": 10_000,
        "rows": rows,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "smartdeal.json", (json.dumps(record, indent=1) + "\n").encode())
    if as_json:
        print_object(record)
    else:
        console().print(_table(rows, network.levels))


def _plain_nonzeros(weights: Any) -> list[int]:
    return [int(x) for x in np.sum([w.nonzeros for w in weights.values()], axis=0)]


def _row(name: str, form: SmartDealNetwork, measured: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> dict[str, Any]:
    """Accuracy, non-zero coefficients (plain layers: weights) and bytes of the level-ordered layout per level."""
    levels = form.network.levels
    plain = np.sum([form.network.weights[x].nonzeros for x in form.plain], axis=0) if form.plain else np.zeros(levels)
    sizes = np.sum([coefficient_bytes(basis)[_ELEMENT_ORDERED] for basis in form.bases.values()], axis=0) + plain
    return {
        "form": name,
        "accuracy": [Executor(form.at_level(level)).accuracy(*measured, 0) for level in range(levels)],
        "nonzeros": [int(x) for x in np.sum([basis.nonzeros for basis in form.bases.values()], axis=0) + plain],
        "bytes": [int(x) for x in sizes],
    }


def _table(rows: list[dict[str, Any]], levels: int) -> FittedTable:
    columns = [Column("form", [row["form"] for row in rows], left=True)]
    for level in range(levels):
        columns.append(Column(f"level {level}", [f"{row['accuracy'][level]:.2%}" for row in rows]))
    for level in range(levels):
        sizes = [f"{row['bytes'][level] / 1024:.1f}" if "bytes" in row else "" for row in rows]
        columns.append(Column(f"KiB {level}", sizes, rank=1))
    return FittedTable("accuracy on 10,000 test images; KiB of level-ordered coefficients and bases", columns)
