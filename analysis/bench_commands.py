"""The command `nestling bench`: this program's own speed, and its kernels beside what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as opt


def bench(
    suites: Annotated[
        list[str] | None,
        typer.Argument(
            help="command-line, resnet50, designs, engines, scale-sim, dram, trace, smartdeal; all of these by default. "
            "Alone: executor, with its tables after it: products, network, two-threads, rows, nested, start-up; all by "
            "default."
        ),
    ] = None,
    large: Annotated[
        bool, typer.Option("--large", help="With the decoder of 7 billion weights (`trace`): many minutes.")
    ] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="`executor`: beside torch, MKL, SciPy and ONNX Runtime, where installed.")
    ] = False,
    tune: Annotated[
        str | None,
        typer.Option("--tune", help="`executor`: measure the kernels for this model, keep the choices, show the plan."),
    ] = None,
    allow: opt.Allow = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="`executor`: the tables as markdown.")] = False,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Put the tables between the marks of this file.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Measure nestling's own speed on this machine (CPU seconds; medians).

    Example: `nestling bench trace --large` · `nestling bench executor --peers` ·
    `nestling bench executor rows nested` · `nestling bench executor --tune resnet50`
    """
    from ..workloads.errors import InputError
    from .bench import run_benchmarks
    from .output import print_bench, progress_bars
    from .readme_tables import bench_markdown, check_block, write_block
    from .reduced_formats import check_allow

    if allow and tune is None:
        raise InputError("--allow belongs to --tune MODEL: the benchmarks run in float32")
    if tune is not None:
        _tune(tune, allow=check_allow(allow), json=json)
    elif suites and suites[0] == "executor":
        _executor(suites[1:], peers=peers, markdown=markdown, readme=readme, json=json)
    else:
        check_block(readme, "nestling bench", suites or ())
        with progress_bars() as progress:
            rows = run_benchmarks(progress, suites or (), large=large)
        if readme is not None:
            write_block(readme, "nestling bench", bench_markdown(rows))
        print_bench(rows, as_json=json)


def _executor(tables: list[str], *, peers: bool, markdown: bool, readme: Path | None, json: bool) -> None:
    from .executor_comparison import markdown as markdown_of
    from .executor_comparison import print_executor_bench, run_executor_bench
    from .output import progress_bars
    from .readme_tables import check_block, write_block

    check_block(readme, "nestling bench executor", tables)
    with progress_bars() as progress:
        found = run_executor_bench(tables, peers=peers, progress=progress)
    if readme is not None:
        write_block(readme, "nestling bench executor", markdown_of(found))
    print_executor_bench(found, as_markdown=markdown, as_json=json)


def _tune(model: str, *, allow: tuple[str, ...], json: bool) -> None:
    """Tune the executor for a model's own levels, or for magnitude-pruned ones where it has no values."""
    from .bench_network import DENSITIES, magnitude_pruned
    from .executor_plan import planned, print_plan
    from .output import progress_bars

    network = opt.chosen_workload(model, None, levels=None, seed=0, draw=False).network
    if any(weights.values is None for weights in network.weights.values()) or not network.weights:
        network = magnitude_pruned(network, DENSITIES)
    with progress_bars() as progress:
        found = planned(network, tune=True, progress=progress, allow=allow)
    print_plan(found, as_json=json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)
