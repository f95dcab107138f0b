"""The bundled network's training against its baselines, over seeds, in parts that can be interrupted and run at once.

A part is one training run. Its result stands in a file of its own, and the record is put together from these files; what
a part needs of an earlier one (the dense start, the nested masks) it reads from that part's network. PyTorch (the extra
``train``) is loaded only when a part runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bundled import FASHION_DENSITIES, FASHION_NAME, fashion_layers
from .datasets import FASHION_MNIST_FOLDER
from .errors import InputError
from .fashion_record import COLUMNS, DENSE, INDEPENDENT, METHODS, NESTED, SCRATCH_B, SCRATCH_E, THRESHOLD, FashionRecord
from .nesting import NestedWeights
from .network import Network
from .schedule import Recipe, scratch_b_epochs
from .stage_files import StageFiles
from .training import (
    ImageArrays,
    load_arrays,
    measure,
    nested_recipe,
    require_torch,
    start_recipe,
    threshold_start,
    train_levels,
    train_start,
    versions,
)
from .training_record import Row, merge
from .weights_file import load_network, save_network

if TYPE_CHECKING:
    from .torch_graph import Tensors

#: Seeds, and epochs of either part of a run: together well under an hour on two quiet cores.
STUDY_SEEDS, STUDY_EPOCHS = 3, 1
#: What is trained first: of all seeds what nested is compared with, then scratch seed by seed, which takes most of the time.
TURN = {DENSE: 0, NESTED: 1, INDEPENDENT: 2, SCRATCH_E: 3, SCRATCH_B: 3}

#: Called with a finished part, how many are finished, and how many there are.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What decides the results besides the seed. ``epochs``: of the start, and again of what follows it."""

    epochs: int = STUDY_EPOCHS
    batch: int = 64

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise InputError(f"{self}: epochs and batch must be at least 1")

    def recipes(self, seed: int, *, epochs: int | None = None) -> tuple[Recipe, Recipe]:
        """Recipes of the two parts of a run, of ``epochs`` each (None: as usual)."""
        start = start_recipe(epochs=epochs or self.epochs, seed=seed)
        nested = nested_recipe(epochs=epochs or self.epochs, seed=seed)
        return dataclasses.replace(start, batch=self.batch), dataclasses.replace(nested, batch=self.batch)

    def to_json(self) -> dict[str, Any]:
        """The settings with the learning rates that follow from them."""
        start, nested = self.recipes(0)
        return {**dataclasses.asdict(self), "start_rate": start.peak_rate, "nested_rate": nested.peak_rate}


@dataclass(frozen=True)
class Part:
    """One training run of one seed; ``level`` where a row takes one run per level."""

    seed: int
    method: str
    level: int | None = None

    @property
    def name(self) -> str:
        suffix = "" if self.level is None else f"-{COLUMNS[self.level].rstrip('%')}"
        return f"seed{self.seed}-{self.method}{suffix}"

    @property
    def needs(self) -> Part | None:
        """The part whose network this one starts from or takes its masks of."""
        if self.method == DENSE:
            return None
        return Part(self.seed, NESTED if self.method in {SCRATCH_E, SCRATCH_B} else DENSE)


def parts_of(seed: int) -> list[Part]:
    """All parts of a seed, each behind the one it needs; scratch has none at the dense level."""
    levels = range(len(FASHION_DENSITIES))
    parts = [Part(seed, DENSE), Part(seed, NESTED), *(Part(seed, INDEPENDENT, level) for level in levels)]
    return parts + [Part(seed, method, level) for method in (SCRATCH_E, SCRATCH_B) for level in levels[1:]]


def study_fashion(
    folder: Path,
    *,
    seeds: Sequence[int] = range(STUDY_SEEDS),
    settings: StudySettings | None = None,
    data: Path = FASHION_MNIST_FOLDER,
    workers: int = 1,
    stop_after_s: float = math.inf,
    report: Report | None = None,
) -> FashionRecord:
    """The record of ``seeds``; parts that ``folder`` already has are not run again.

    Parameters
    ----------
    folder : receives ``parts/``: a JSON file per part, and the networks that later parts start from.
    workers : processes that run parts at the same time, one thread each. Their number does not change a result.
    stop_after_s : no part is begun later; a row of the record then has the seeds that it is finished for, in their order.

    Raises
    ------
    InputError
        if PyTorch or the data is missing, there is no seed, nothing is finished for the first one, or ``folder`` holds parts
        with other settings or versions.
    """
    if not seeds or workers < 1:
        raise InputError("at least one seed and one worker are needed")
    require_torch(1)
    settings = settings or StudySettings()
    arrays = load_arrays(data)
    identity = {"settings": settings.to_json(), "train_images": len(arrays.train_labels), "versions": versions()}
    files = StageFiles(folder / "parts", identity)
    parts = sorted((part for seed in seeds for part in parts_of(seed)), key=lambda part: TURN[part.method])
    pending = [part for part in parts if files.load(part.name) is None]
    job = partial(run_part, files=files, settings=settings, data=data)
    counted = _counted(report, len(parts), len(parts) - len(pending))
    _run_all(pending, job, workers=workers, deadline=time.monotonic() + stop_after_s, report=counted)
    return study_record(files, seeds, settings, train_images=len(arrays.train_labels))


def _counted(report: Report | None, total: int, done: int) -> Callable[[str], None]:
    def finished(name: str) -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(name, done, total)

    return finished


def _run_all(
    parts: Sequence[Part],
    job: Callable[[Part], None],
    *,
    workers: int,
    deadline: float,
    report: Callable[[str], None],
) -> None:
    """Run ``job`` on every part, at most ``workers`` at once, none before the one it needs or after ``deadline``."""
    if workers == 1:
        for part in parts:
            if time.monotonic() < deadline:
                job(part)
                report(part.name)
        return
    waiting, running = list(parts), dict[Future[None], Part]()
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        while waiting or running:
            waiting = waiting if time.monotonic() < deadline else []
            unfinished = {*waiting, *running.values()}
            ready = [part for part in waiting if part.needs not in unfinished][: workers - len(running)]
            running.update((pool.submit(job, part), part) for part in ready)
            waiting = [part for part in waiting if part not in ready]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                report(running.pop(future).name)
    finally:
        pool.shutdown(cancel_futures=True)


def run_part(part: Part, *, files: StageFiles, settings: StudySettings, data: Path) -> None:
    """Train one part and write its result: accuracy per row and column, epochs, passes over the data, processor time."""
    require_torch(1)
    begin, arrays = time.process_time(), load_arrays(data)
    assert files.folder is not None
    needed = None if part.needs is None else load_network(files.folder / f"{part.needs.name}.safetensors")
    cells, epochs, network = _train(part, arrays, needed, settings)
    if part in {Part(part.seed, DENSE), Part(part.seed, NESTED)}:
        save_network(files.folder / f"{part.name}.safetensors", network)
    files.store(part.name, {"cells": cells, "epochs": epochs, "cpu_s": round(time.process_time() - begin, 1)})


def _train(
    part: Part, arrays: ImageArrays, needed: Network | None, settings: StudySettings
) -> tuple[dict[str, dict[str, float]], tuple[int, int], Network]:
    """Accuracy per row and column, epochs of the two parts of the run, and the trained network."""
    start, nested = settings.recipes(part.seed)
    if needed is None:
        network = dense_network(*train_start(arrays, start)[0])
        return {DENSE: {COLUMNS[0]: measure(network, arrays)[0]}}, (start.epochs, 0), network
    if part.method in {SCRATCH_E, SCRATCH_B}:
        return _train_scratch(part, arrays, needed, settings)
    densities = FASHION_DENSITIES if part.level is None else FASHION_DENSITIES[part.level : part.level + 1]
    trained = train_levels(arrays, dense_tensors(needed), densities, recipe=nested)
    columns = COLUMNS if part.level is None else COLUMNS[part.level : part.level + 1]
    cells = {part.method: dict(zip(columns, trained.accuracies, strict=True))}
    if part == Part(part.seed, INDEPENDENT, 0):
        cut = threshold_start(arrays, dense_tensors(trained.network))
        cells[THRESHOLD] = dict(zip(COLUMNS, cut, strict=True))
    return cells, (start.epochs, nested.epochs), trained.network


def _train_scratch(
    part: Part, arrays: ImageArrays, needed: Network, settings: StudySettings
) -> tuple[dict[str, dict[str, float]], tuple[int, int], Network]:
    """Random weights under the fixed masks of one level, trained as the nested network was or longer."""
    assert part.level is not None
    level = part.level
    keep = {name: w.mask(level).astype(np.uint8) for name, w in needed.weights.items()}
    same_work = part.method == SCRATCH_B
    epochs = scratch_b_epochs(settings.epochs, multiplication_share(keep)) if same_work else settings.epochs
    # Other initial weights than those the masks were found from.
    start, nested = settings.recipes(part.seed + 1000, epochs=epochs)
    begun, _ = train_start(arrays, start, keep=keep)
    densities = FASHION_DENSITIES[level : level + 1]
    trained = train_levels(arrays, begun, densities, recipe=nested, keep=keep)
    cells = {part.method: {COLUMNS[level]: trained.accuracies[0]}}
    return cells, (start.epochs, nested.epochs), trained.network


def multiplication_share(keep: Mapping[str, NDArray[np.uint8]]) -> float:
    """Multiplications of the network under masks ``keep`` over those of the dense one."""
    layers = [layer for layer in fashion_layers() if layer.has_weights]
    kept = sum(float(keep[layer.name].mean()) * layer.macs for layer in layers)
    return kept / sum(layer.macs for layer in layers)


def dense_network(weights: Tensors, biases: Tensors) -> Network:
    """Weights and biases (K,) as a network of one level."""
    nested = {}
    for name, weight in weights.items():
        values = np.ascontiguousarray(weight.numpy())
        nested[name] = NestedWeights(values=values, keep=np.ones(values.shape, np.uint8), levels=1, name=name)
    return Network(FASHION_NAME, fashion_layers(), nested, {n: b.numpy()[None] for n, b in biases.items()})


def dense_tensors(network: Network) -> tuple[Tensors, Tensors]:
    """Weights and biases (K,) of a network's densest level."""
    import torch

    from .torch_graph import channels_last

    weights = {n: channels_last(torch.from_numpy(w.dense(0))) for n, w in network.weights.items()}
    return weights, {n: torch.from_numpy(b[0].copy()) for n, b in network.biases.items()}


def study_record(
    files: StageFiles, seeds: Sequence[int], settings: StudySettings, *, train_images: int
) -> FashionRecord:
    """What ``files`` has of the seeds: every row with the leading seeds that it is finished for, none without any."""
    results = {part: files.load(part.name) for seed in seeds for part in parts_of(seed)}
    found = {part: result for part, result in results.items() if result is not None}
    rows, notes = [], []
    for method in METHODS:
        per_seed = [
            _row(method, [results[part] for part in _sources(seed, method)], settings=settings) for seed in seeds
        ]
        finished = list(itertools.takewhile(bool, per_seed))
        rows += merge([[row] for row in finished if row is not None])
        if len(finished) < len(seeds):
            notes.append(
                f"{method}: finished for {len(finished)} of {len(seeds)} seeds; the same command goes on with it"
            )
    if not rows:
        raise InputError(f"{files.folder}: nothing is finished of seed {seeds[0]} yet")
    return FashionRecord(
        seeds=list(seeds),
        rows=rows,
        settings={**settings.to_json(), "train_images": train_images},
        notes=notes,
        cpu_s=round(sum(result["cpu_s"] for result in found.values()), 1),
        versions=versions(),
    )


def _sources(seed: int, method: str) -> list[Part]:
    """The parts that the row of ``method`` is made of."""
    if method == THRESHOLD:
        return [Part(seed, INDEPENDENT, 0)]
    return [part for part in parts_of(seed) if part.method == method]


def _row(method: str, runs: Sequence[Mapping[str, Any] | None], *, settings: StudySettings) -> Row | None:
    """The row of one seed; None if a run of it is missing."""
    finished = [run for run in runs if run is not None]
    if len(finished) < len(runs):
        return None
    start, nested = settings.recipes(0)
    cells = {column: [value] for run in finished for column, value in run["cells"][method].items()}
    lengths = "/".join(dict.fromkeys(_length(run["epochs"]) for run in finished))
    text = lengths if len(runs) == 1 else f"{len(runs)} x ({lengths})"
    rate = f"{start.peak_rate:g}" if method == DENSE else f"{start.peak_rate:g}, {nested.peak_rate:g}"
    return Row("levels", method, text, _passes(method, finished), rate, cells)


def _length(epochs: Sequence[int]) -> str:
    return " + ".join(str(count) for count in epochs if count)


def _passes(method: str, runs: Sequence[Mapping[str, Any]]) -> float:
    """Passes over the data: the runs of one method share their start unless it is under masks of its own."""
    levels = len(FASHION_DENSITIES) if method == NESTED else 1
    following = sum(levels * run["epochs"][1] for run in runs)
    starts = [run["epochs"][0] for run in runs]
    return float(following + (sum(starts) if method in {SCRATCH_E, SCRATCH_B} else starts[0]))
