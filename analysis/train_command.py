"""The `nestling train` command: the bundled network again, or the tables of training methods on digits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..workloads.errors import InputError, unknown_name
from . import cli_options as opt


def train(
    network: Annotated[str, typer.Argument(help="`fashion` (the bundled network), or `digits` (tables of methods).")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for what is trained and measured.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="fashion: folder with the four Fashion-MNIST .gz files.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="fashion: also train one separate model per density.")] = False,
    smartdeal: Annotated[
        int | None,
        typer.Option(
            "--smartdeal",
            help="fashion: epochs of training that alternates with the projection on SmartDeal form.",
            min=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="(First) seed of initialisation, order and augmentation.", min=0)] = 0,
    seeds: Annotated[int | None, typer.Option(help="digits: number of seeds, 5 by default.", min=1)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="digits: one seed, about a minute.")] = False,
    json: opt.Json = False,
) -> None:
    """Train nested levels and compare methods (needs the extra: pip install 'nestling[train]').

    `nestling train digits` trains a small perceptron on 8 x 8 digits in every way, with baselines: nested levels, N:M, OBC;
    mean and spread over seeds. `nestling train fashion --out DIR` trains the bundled network again; `nestling train fashion
    --smartdeal 3` retrains it in SmartDeal form and measures each level.
    """
    from ..workloads.bundled import FASHION_NAME
    from ..workloads.digits import DIGITS_NAME

    foreign: dict[str, dict[str, object]] = {
        FASHION_NAME: {"--seeds": seeds, "--quick": quick, "--json": json and not smartdeal},
        DIGITS_NAME: {"--data": data, "--baselines": baselines, "--smartdeal": smartdeal},
    }
    if network not in foreign:
        raise unknown_name("trainable network", network, foreign)
    for option, value in foreign[network].items():
        if value:
            raise InputError(f"{option} has no meaning for '{network}'")
    if find_spec("torch") is None:
        raise InputError("training needs PyTorch: pip install 'nestling[train]' (or any CPU build of torch)")
    if network == FASHION_NAME and smartdeal:
        from .retrain_command import retrain_bundled

        retrain_bundled(epochs=smartdeal, data=data, seed=seed, out=out, as_json=json)
    elif network == FASHION_NAME:
        train_bundled(out=out, data=data, baselines=baselines, seed=seed)
    else:
        train_digits(first=seed, seeds=seeds, quick=quick, out=out, json=json)


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


def train_digits(*, first: int, seeds: int | None, quick: bool, out: Path | None, json: bool) -> None:
    """Run the comparison on digits and show its tables."""
    if quick and seeds is not None:
        raise InputError("--quick is one seed; give --quick or --seeds, not both")
    from ..workloads.digits_training import FULL_SEEDS, RUNS_PER_SEED, compare_on_digits
    from .digits_tables import deliver_digits
    from .output import progress_bars

    count = 1 if quick else seeds or FULL_SEEDS
    done = 0
    with progress_bars() as progress:

        def report(seed: int, what: str) -> None:
            nonlocal done
            done += 1
            progress("training runs", done, count * RUNS_PER_SEED)

        record = compare_on_digits(range(first, first + count), report=report)
    deliver_digits(record, out, as_json=json)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(train)
