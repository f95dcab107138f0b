"""The command line. Progress and logs go to stderr, results to stdout; exit 0 ok, 1 check missed, 2 bad input."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import bench_commands, import_commands, train_command
from . import cli_options as opt

app = typer.Typer(
    name="nestling",
    help="Joules, milliseconds and measured accuracy of nested sparse neural networks, per sparsity level.\n\n"
    "Start with `nestling run`: the bundled trained network on two accelerators, executed on its test images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def run(
    model: opt.Model = "fashion",
    settings: opt.Settings = None,
    shape: opt.Shapes = None,
    accel: opt.Accelerators = None,
    dram: opt.Dram = None,
    node: opt.Node = None,
    objective: opt.Objective = None,
    levels: opt.Densities = None,
    sparsify: opt.Sparsify = None,
    level: opt.Only = None,
    point: opt.Point = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer whose timeline is drawn.")] = None,
    images: opt.Images = None,
    calibrate: opt.Calibrate = None,
    padding: opt.PaddingChoice = None,
    groups: opt.Groups = None,
    table: opt.LayerTable = None,
    out: opt.Out = None,
    engine: opt.Engine = "recurrence",
    repeats: opt.Repeats = 50,
    execute: opt.Execute = True,
    allow: opt.Allow = None,
    density: opt.Density = "actual",
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Lower, simulate, execute and report: the main job.

    Examples: `nestling run` · `nestling run resnet50 --levels 0.5,0.25,0.13` · `nestling run my.safetensors --images
    test.npz -a my.yaml -o results` · `nestling run --sparsify trained --sparsify magnitude --sparsify obc -o results`
    """
    from .output import deliver_study, progress_bars
    from .progress import available_threads
    from .reduced_formats import check_allow
    from .run import RunOptions, make_study

    formats = check_allow(allow)
    designs = opt.chosen_designs(accel, dram=dram, objective=objective, node=node)
    workload = opt.chosen_workload(
        model, settings, levels=None if sparsify else levels, images=images, seed=seed, shapes=shape, calibrate=calibrate,
        files=opt.file_options(padding, groups, table),
    )  # fmt: skip
    options = RunOptions(
        point=point, levels=level, layer=layer, engine=engine, execute=execute, repeats=repeats,
        threads=available_threads(), density=density, seed=seed, allow=formats,
    )  # fmt: skip
    if sparsify:
        from .methods_output import run_methods

        run_methods(workload, sparsify, designs, levels=levels, options=options, command=_command(), out=out, json=json)
        return
    with progress_bars() as progress:
        study = make_study(workload, designs, options=options, command=_command(), progress=progress)
    deliver_study(study, out, as_json=json)


@app.command()
def lower(
    model: opt.Model = "fashion",
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace file to write.")] = Path("trace.parquet"),
    settings: opt.Settings = None,
    shape: opt.Shapes = None,
    levels: opt.Densities = None,
    calibrate: opt.Calibrate = None,
    padding: opt.PaddingChoice = None,
    groups: opt.Groups = None,
    table: opt.LayerTable = None,
    scale_sim: Annotated[Path | None, typer.Option("--scale-sim", help="SCALE-Sim topology to write, too.")] = None,
    seed: opt.Seed = 0,
    weight_bits: Annotated[int, typer.Option(help="Bits of a stored weight.", min=1, max=16)] = 8,
    activation_bits: Annotated[int, typer.Option(help="Bits of a stored activation.", min=1, max=16)] = 8,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="Folder for one layer's DRAM requests (with --layer).")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer whose requests are written.")] = None,
    level: Annotated[int, typer.Option("--level", help="Level whose requests are written.")] = 0,
    accel: Annotated[str, typer.Option("--accel", "-a", help="Design that asks for them.")] = "nm-lanes-16x8",
    workers: opt.Workers = None,
) -> None:
    """Lower a network to a trace file: per layer dimensions, masks of all levels and exact bytes per storage format.

    Layers are lowered one by one; a run that was interrupted goes on where it stopped. The file is Parquet:
    `pandas.read_parquet("trace.parquet")` opens it. With `--requests DIR --layer NAME --level L -a DESIGN` the layer's DRAM
    requests are written, too, as DRAMsim3 and Ramulator traces, with the cycles in which the tile pipeline asks for them.
    """
    if (requests is None) != (layer is None):
        raise typer.BadParameter("--requests DIR and --layer NAME belong together")
    from .lower_command import check_request, lower_workload, write_layer_requests, write_topology

    workload = opt.chosen_workload(
        model, settings, levels=levels, seed=seed, draw=False, shapes=shape, calibrate=calibrate,
        files=opt.file_options(padding, groups, table),
    )  # fmt: skip
    design = opt.chosen_designs([accel])[0]
    if layer is not None:
        check_request(workload, layer, level)
    if scale_sim is not None:
        write_topology(workload, scale_sim)
    lower_workload(workload, out, weight_bits=weight_bits, activation_bits=activation_bits, workers=workers)
    if requests is not None and layer is not None:
        write_layer_requests(out, design, layer, level=level, folder=requests)


@app.command()
def simulate(
    trace: Annotated[Path, typer.Argument(help="Trace file written by `nestling lower`.")],
    accel: opt.Accelerators = None,
    dram: opt.Dram = None,
    node: opt.Node = None,
    objective: opt.Objective = None,
    level: opt.Only = None,
    point: opt.Point = None,
    out: opt.Out = None,
    json: opt.Json = False,
    workers: opt.Workers = None,
) -> None:
    """Simulate a trace file on accelerators, layer by layer, without executing anything."""
    from ..traces.trace_file import read_trace
    from .output import deliver_study, progress_bars
    from .progress import available_threads
    from .run import RunOptions, study_of_trace

    loaded = read_trace(trace)
    with progress_bars() as progress:
        options = RunOptions(point=point, levels=level, threads=workers or available_threads())
        designs = opt.chosen_designs(accel, dram=dram, objective=objective, node=node)
        study = study_of_trace(loaded, designs, options=options, command=_command(), progress=progress)
    deliver_study(study, out, as_json=json)


@app.command()
def compare(
    model: opt.Model = "fashion",
    settings: opt.Settings = None,
    shape: opt.Shapes = None,
    accel: opt.Accelerators = None,
    dram: opt.Dram = None,
    node: opt.Node = None,
    objective: opt.Objective = None,
    levels: opt.Densities = None,
    level: opt.Only = None,
    point: opt.Point = None,
    images: opt.Images = None,
    padding: opt.PaddingChoice = None,
    groups: opt.Groups = None,
    table: opt.LayerTable = None,
    out: opt.Out = None,
    execute: opt.Execute = False,
    ablate: opt.Ablate = None,
    equalise: opt.Equalise = False,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """Put designs side by side: one table, one figure (latency, energy, utilisation per level and design).

    Examples: `nestling compare resnet50 --accel all --levels 0.5,0.25,0.13 --out results/compare` ·
    `nestling compare resnet50 --equalise` · `nestling compare resnet50 --ablate smartdeal`
    """
    from .compare_command import compare_designs
    from .progress import available_threads
    from .run import RunOptions

    special = ablate is not None or equalise
    draw = not special
    workload = opt.chosen_workload(
        model, settings, levels=levels, images=images, seed=seed, shapes=shape, draw=draw,
        files=opt.file_options(padding, groups, table),
    )  # fmt: skip
    options = RunOptions(
        point=point, levels=level, execute=execute, threads=available_threads(), seed=seed, skip_unable=True,
        prefer_point="nominal",
    )  # fmt: skip
    designs = opt.compared_designs(accel, ablate, equalise=equalise, dram=dram, objective=objective, node=node)
    compare_designs(
        workload, designs, options=options, command=_command(), out=out, json=json, smartdeal=special, quoted=equalise
    )


@app.command()
def explain(
    layer: Annotated[str, typer.Argument(help="Layer to look at, such as layer3.0.conv2.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Network the layer belongs to.")] = "fashion",
    settings: opt.Settings = None,
    shape: opt.Shapes = None,
    accel: opt.Accelerators = None,
    levels: opt.Densities = None,
    level: opt.Only = None,
    point: opt.Point = None,
    padding: opt.PaddingChoice = None,
    groups: opt.Groups = None,
    table: opt.LayerTable = None,
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """One layer under the microscope: work, traffic, stalls, and the error of statistical density models.

    Example: `nestling explain layer3.0.conv2 --model resnet50 --levels 0.5,0.13`
    """
    from ..traces.lowering import lower as lower_network
    from .explain import explain as explain_layer
    from .output import print_explanations

    files = opt.file_options(padding, groups, table)
    workload = opt.chosen_workload(model, settings, levels=levels, seed=seed, shapes=shape, files=files)
    trace = lower_network(workload.network)
    found = [
        explain_layer(trace, design, layer, point=point, levels=level, seed=seed)
        for design in opt.chosen_designs(accel)
    ]
    print_explanations(found, as_json=json)


@app.command()
def execute(
    model: opt.Model = "fashion",
    shape: opt.Shapes = None,
    levels: opt.Densities = None,
    level: opt.Only = None,
    images: opt.Images = None,
    calibrate: opt.Calibrate = None,
    table: opt.LayerTable = None,
    repeats: opt.Repeats = 50,
    json: opt.Json = False,
) -> None:
    """Run a trained network on the CPU at every level: accuracy, latency, exact MAC counts."""
    from .execution import execute_levels
    from .output import note, print_executions, progress_bars
    from .progress import available_threads

    workload = opt.chosen_workload(
        model, None, levels=levels, images=images, seed=0, shapes=shape, calibrate=calibrate,
        files=opt.file_options(None, None, table),
    )  # fmt: skip
    with progress_bars() as progress:
        found = execute_levels(workload, level, threads=available_threads(), repeats=repeats, progress=progress)[1]
    print_executions(workload.network, found, as_json=json)
    for text in workload.network.notes:
        note(f"! {text}")


@app.command()
def models(json: opt.Json = False) -> None:
    """List the built-in networks: totals, source, and what `--set` may change (`--json`: with allowed ranges)."""
    from .output import print_models

    print_models(as_json=json)


@app.command()
def accels(
    name: Annotated[str | None, typer.Argument(help="Print this design file, to copy and edit.")] = None,
    json: opt.Json = False,
) -> None:
    """List the built-in accelerator designs, or print one."""
    from .output import print_accels, print_design_file

    if name is None:
        print_accels(as_json=json)
    else:
        print_design_file(name)


@app.command()
def dram(
    trace: Annotated[
        Path | None, typer.Argument(help="Request trace: `addr READ|WRITE cycle` or `LD|ST addr`.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Device name or .yaml file.")] = None,
    mapping: Annotated[
        str | None,
        typer.Option(
            "--mapping", help="Address mapping: a name, or fields from the lowest bit on: `co7 bg2 ba2 ro16`."
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the devices, or the one of --device.")] = False,
    json: opt.Json = False,
) -> None:
    """Run a memory request trace (DRAMsim3 or Ramulator form) on a DRAM device, command by command.

    Example: `nestling dram requests.trace --device ddr4_2400_x8` · `nestling dram --list`
    """
    from .dram_command import print_devices, print_run, run_trace

    if listing:
        print_devices(device, as_json=json)
        return
    if trace is None or device is None:
        raise typer.BadParameter("a TRACE and --device NAME are needed; --list shows the devices")
    print_run(run_trace(trace, device, mapping=mapping), as_json=json)


@app.command()
def replay(
    accelerator: Annotated[Path, typer.Argument(help="ZigZag's accelerator file (.yaml), whose costs are used.")],
    results: Annotated[
        list[Path], typer.Argument(help="What ZigZag wrote per layer (_complete.json), or a .csv of access counts.")
    ],
    json: opt.Json = False,
) -> None:
    """Replay ZigZag's mappings: their access counts, priced by an accelerator file, beside the energy ZigZag states.

    Example: `nestling replay simple16.yaml outputs/*_complete.json`; change `r_cost` in the file to ask what if.
    """
    from .replay_command import print_replay, replay_files

    print_replay(replay_files(accelerator, results), as_json=json)


@app.command()
def validate(
    suites: Annotated[list[str] | None, typer.Argument(help="Suites to run; all by default.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Folder laid out like the bundled reference data.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Statistics per group and quantity; always shown for a single suite.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Recompute other tools' and chips' numbers row by row; exit 1 if a bar is missed."""
    from .output import print_outcomes, progress_bars
    from .validate import REFERENCE, SUITES, load_suite, run_suite

    names = suites or list(SUITES)
    for name in names:
        load_suite(name)
    outcomes = []
    with progress_bars() as progress:
        for done, name in enumerate(names, start=1):
            outcomes.append(run_suite(name, reference or REFERENCE))
            progress("validate", done, len(names))
    print_outcomes(outcomes, as_json=json, details=details or len(outcomes) == 1)
    raise typer.Exit(0 if all(outcome.passed for outcome in outcomes) else 1)


@app.command()
def doctor() -> None:
    """Check this installation: versions, processor, threads, compiled-kernel cache, bundled data."""
    from .doctor import print_doctor

    raise typer.Exit(0 if print_doctor() else 1)


import_commands.register(app)
train_command.register(app)
bench_commands.register(app)


def _command() -> str:
    return " ".join(["nestling", *sys.argv[1:]])


def main() -> None:
    """Entry point: a user's mistake becomes one line per problem and exit status 2."""
    from ..workloads.errors import InputError
    from .compiled_cache import ensure_kernel_cache

    if hasattr(signal, "SIGPIPE"):  # a reader that stops early (`| head`) ends us quietly, as other filters
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    problem = ensure_kernel_cache()
    if problem:
        typer.echo(f"nestling: {problem}", err=True)
    try:
        app()
    except InputError as error:
        for problem in error.problems:
            typer.echo(f"nestling: {problem}", err=True)
        raise SystemExit(2) from None
