"""The `nestling train` command: the bundled networks again, and the tables of training methods with their baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..workloads.errors import InputError, unknown_name
from . import cli_options as opt

#: What can be trained, and how -> the options that it takes (besides ``--seed``).
_TAKES = {
    "digits": {"--out", "--seeds", "--quick", "--json"},
    "digits --recorded": {"--json"},
    "fashion": {"--out", "--data", "--baselines"},
    "fashion --recorded": {"--study", "--json"},
    "fashion --study": {"--study", "--out", "--data", "--seeds", "--epochs", "--workers", "--stop-after", "--json"},
    "fashion --smartdeal": {"--smartdeal", "--out", "--data", "--json"},
}


def train(
    network: Annotated[str, typer.Argument(help="`fashion` or `digits`.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for what is trained and measured.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="fashion: folder with the four Fashion-MNIST .gz files.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="fashion: also train one separate model per density.")] = False,
    study: Annotated[
        bool, typer.Option("--study", help="fashion: the table of nested levels and baselines over seeds.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(help="--study: epochs of either part of a run, 1 by default.", min=1)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="--study: runs at the same time; default: every processor.", min=1)
    ] = None,
    stop_after: Annotated[
        float | None, typer.Option(help="--study: begin no run after so many minutes, and show what there is.", min=0)
    ] = None,
    smartdeal: Annotated[
        int | None,
        typer.Option(
            "--smartdeal",
            help="fashion: epochs of training that alternates with the projection on SmartDeal form.",
            min=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="(First) seed of initialisation, order and augmentation.", min=0)] = 0,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds: digits 5, fashion --study 3 by default.", min=1)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="digits: one seed, about a minute.")] = False,
    recorded: Annotated[
        bool,
        typer.Option("--recorded", help="Train nothing: show the bundled tables of `digits`, or of `fashion --study`."),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Train nested levels and compare methods (needs the extra: pip install 'nestling[train]').

    `nestling train digits` trains a small perceptron on 8 x 8 digits in every way, with baselines: nested levels, N:M, OBC;
    mean and spread over seeds. `nestling train fashion --study --out DIR` compares the bundled network's training with its
    baselines; `nestling train fashion --out DIR` trains that network again, `--smartdeal 3` in SmartDeal form. Both tables
    go on where they were interrupted if --out is the same folder.
    """
    given = {
        "--out": out, "--data": data, "--baselines": baselines, "--study": study, "--epochs": epochs,
        "--workers": workers, "--stop-after": stop_after is not None, "--smartdeal": smartdeal, "--seeds": seeds,
        "--quick": quick, "--json": json,
    }  # fmt: skip
    job = _job(network, given, recorded=recorded)
    if recorded:
        show_recorded(network, as_json=json)
        return
    if find_spec("torch") is None:
        raise InputError("training needs PyTorch: pip install 'nestling[train]' (or any CPU build of torch)")
    if job == "digits":
        train_digits(first=seed, seeds=seeds, quick=quick, out=out, json=json)
    elif job == "fashion --study":
        study_bundled(
            out, data=data, first=seed, seeds=seeds, epochs=epochs, workers=workers, stop_after=stop_after, as_json=json
        )
    elif smartdeal:
        from .retrain_command import retrain_bundled

        retrain_bundled(epochs=smartdeal, data=data, seed=seed, out=out, as_json=json)
    else:
        train_bundled(out=out, data=data, baselines=baselines, seed=seed)


def _job(network: str, given: Mapping[str, object], *, recorded: bool) -> str:
    """What is to be done, a key of ``_TAKES``; InputError for an unknown network or an option that the job does not take."""
    networks = [job for job in _TAKES if " " not in job]
    if network not in networks:
        raise unknown_name("trainable network", network, networks)
    modes = ["--recorded"] if recorded else [mode for mode in ("--study", "--smartdeal") if given[mode]]
    job = " ".join([network, *modes[:1]])
    known = job if job in _TAKES else network
    for option, value in given.items():
        if value and option not in _TAKES[known]:
            raise InputError(f"{option} has no meaning for '{known}'")
    return job


def show_recorded(network: str, *, as_json: bool) -> None:
    """Show a bundled record."""
    from ..workloads.digits import DIGITS_NAME
    from ..workloads.digits_record import DigitsRecord
    from ..workloads.fashion_record import FashionRecord
    from .training_tables import deliver_record

    deliver_record(DigitsRecord.read() if network == DIGITS_NAME else FashionRecord.read(), None, as_json=as_json)


def train_bundled(*, out: Path | None, data: Path | None, baselines: bool, seed: int) -> None:
    """Train the bundled network again and write weights, images and the training record to ``out``."""
    if out is None:
        raise InputError("'fashion' needs --out FOLDER for the weights and the training record")
    from ..workloads.datasets import FASHION_MNIST_FOLDER
    from ..workloads.training import train_fashion
    from .output import note

    result = train_fashion(
        out_dir=out,
        data_dir=data or FASHION_MNIST_FOLDER,
        seed=seed,
        baselines=baselines,
        report=lambda progress: note(str(progress)),
    )
    note(f"accuracy per level on 10,000 test images: {', '.join(f'{a:.2%}' for a in result.accuracies)}")


def study_bundled(
    out: Path | None,
    *,
    data: Path | None,
    first: int,
    seeds: int | None,
    epochs: int | None,
    workers: int | None,
    stop_after: float | None,
    as_json: bool,
) -> None:
    """Run what is missing of the study in ``out``, begin nothing after ``stop_after`` minutes, and show its table."""
    if out is None:
        raise InputError("--study needs --out FOLDER: what is finished stands there, and is not run again")
    from ..workloads.datasets import FASHION_MNIST_FOLDER
    from ..workloads.fashion_study import STUDY_EPOCHS, STUDY_SEEDS, StudySettings, study_fashion
    from .output import note
    from .progress import available_threads
    from .training_tables import deliver_record

    record = study_fashion(
        out,
        seeds=range(first, first + (seeds or STUDY_SEEDS)),
        settings=StudySettings(epochs=epochs or STUDY_EPOCHS),
        data=data or FASHION_MNIST_FOLDER,
        workers=workers or available_threads(),
        stop_after_s=math.inf if stop_after is None else 60.0 * stop_after,
        report=lambda part, done, total: note(f"{done} of {total}: {part}"),
    )
    deliver_record(record, out, as_json=as_json)


def train_digits(*, first: int, seeds: int | None, quick: bool, out: Path | None, json: bool) -> None:
    """Run the comparison on digits and show its tables."""
    if quick and seeds is not None:
        raise InputError("--quick is one seed; give --quick or --seeds, not both")
    from ..workloads.digits_training import FULL_SEEDS, KEPT, RUNS_PER_SEED, compare_on_digits
    from .output import progress_bars
    from .training_tables import deliver_record

    count = 1 if quick else seeds or FULL_SEEDS
    done = 0
    with progress_bars() as progress:

        def report(seed: int, what: str) -> None:
            nonlocal done
            done += RUNS_PER_SEED if what == KEPT else 1
            progress("training runs", done, count * RUNS_PER_SEED)

        record = compare_on_digits(range(first, first + count), folder=out, report=report)
    deliver_record(record, out, as_json=json)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(train)
