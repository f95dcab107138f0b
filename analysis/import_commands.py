"""Commands around a user's own network: the PyTorch exporter, layer tables, nested level files."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as opt


def exporter() -> None:
    """Print the PyTorch exporter: one file to copy beside your own code; it needs torch and safetensors only.

    `nestling exporter > nestling_export.py`, then `export(model, (example,), "my_model")` there and `nestling run
    my_model.json` here.
    """
    from ..workloads.torch_single_file import exporter_source

    typer.echo(exporter_source(), nl=False)


def table(
    model: opt.Model = "fashion",
    settings: opt.Settings = None,
    shape: opt.Shapes = None,
    padding: opt.PaddingChoice = None,
    groups: opt.Groups = None,
) -> None:
    """Print a network's layers as a layer table (CSV), a template for your own: `nestling table > my.csv`.

    One row per layer at batch 1. `op` is the operator, `src` its producers (`a+b` sum, `a|b` concatenation, `input`), C,H,W
    and K,P,Q the sizes of input and output, R,S,stride,pad,dil,groups the window, `repeat` runs one after the other, gemm_*
    the row as b products of (m x k) by (k x n), *_params and macs totals, which are checked on reading.
    """
    from ..workloads.table_writer import layer_table

    files = opt.file_options(padding, groups, None)
    workload = opt.chosen_workload(model, settings, levels=None, seed=0, draw=False, shapes=shape, files=files)
    typer.echo(layer_table(workload.network), nl=False)


def check_levels(
    files: Annotated[list[Path], typer.Argument(help="One .safetensors file per level, the densest first.")],
    json: opt.Json = False,
) -> None:
    """Check that weight files are levels of one nested network: exit 1 and the first weight that breaks it, if not.

    Every weight (floating point, two dimensions or more) of a level must be its denser neighbour's or zero.
    """
    from ..workloads.level_check import check_nested

    report = check_nested(files)
    if json:
        levels = [
            {"level": level, "file": str(file), "density": density}
            for level, (file, density) in enumerate(zip(files, report.densities, strict=True))
        ]
        found = None if report.problem is None else str(report.problem)
        typer.echo(
            json_format.dumps({"nested": report.nested, "weights": report.weights, "levels": levels, "problem": found})
        )
    else:
        for level, (file, density) in enumerate(zip(files, report.densities, strict=True)):
            typer.echo(f"level {level}: {density:.2%} of {report.weights:,} weights, {file}")
        typer.echo(str(report.problem or "nested"))
    raise typer.Exit(0 if report.nested else 1)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(exporter)
    app.command()(table)
    app.command(name="check-levels")(check_levels)
