"""The command line. Progress and logs go to stderr, results to stdout; exit 0 ok, 1 check missed, 2 bad input."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..accel.design import Design
    from .sources import Workload

app = typer.Typer(
    name="nestling",
    help="Joules, milliseconds and measured accuracy of nested sparse neural networks, per sparsity level.\n\n"
    "Start with `nestling run`: the bundled trained network on two accelerators, executed on its test images.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[
    str,
    typer.Argument(
        help="`fashion` (bundled, trained), a built-in network such as `resnet50`, a .csv or .safetensors file."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Parameter of a built-in network, such as image=160; repeat for several."),
]
Accelerators = Annotated[
    list[str] | None,
    typer.Option("--accel", "-a", help="Design name, .yaml file or `all`; repeat for several."),
]
Densities = Annotated[
    str | None,
    typer.Option("--levels", "-l", help="Densities of synthetic levels, densest first, such as 0.5,0.25,0.13."),
]
Dram = Annotated[
    str | None,
    typer.Option(
        "--dram", help="DRAM device (name or .yaml file) in place of every design's own; `nestling dram --list`."
    ),
]
Only = Annotated[
    list[int] | None, typer.Option("--level", help="Run only this level (0 = densest); repeat for several.")
]
Point = Annotated[str | None, typer.Option("--point", help="Operating point of the design; default: the fastest.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.html, result.json and tables.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of synthetic patterns.", min=0)]
Engines = Literal["recurrence", "simpy"]
Density = Literal["actual", "uniform", "structured"]
Objective = Annotated[
    Literal["energy", "latency", "edp"] | None,
    typer.Option("--objective", help="What the tiling search minimises; default: the design file's, else energy."),
]
Images = Annotated[Path | None, typer.Option("--images", help=".npz with `images` (uint8) and `labels` (uint8).")]


@app.command()
def run(
    model: Model = "fashion",
    settings: Settings = None,
    accel: Accelerators = None,
    dram: Dram = None,
    levels: Densities = None,
    level: Only = None,
    point: Point = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer whose timeline is drawn.")] = None,
    images: Images = None,
    out: Out = None,
    objective: Objective = None,
    engine: Annotated[Engines, typer.Option("--engine", help="Compiled recurrence or SimPy processes.")] = "recurrence",
    repeats: Annotated[int, typer.Option("--repeats", help="Repeats of the CPU latency measurement.", min=1)] = 50,
    execute: Annotated[bool, typer.Option("--execute/--no-execute", help="Run the network on the CPU.")] = True,
    density: Annotated[
        Density, typer.Option("--density", help="Masks as they are, or as a density model has them.")
    ] = "actual",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Lower, simulate, execute and report: the main job.

    Examples: `nestling run` · `nestling run resnet50 --levels 0.5,0.25,0.13` · `nestling run my.safetensors --images
    test.npz -a my.yaml -o results`
    """
    from .output import deliver_study, progress_bars
    from .run import RunOptions, available_threads, make_study

    designs = _designs(accel, dram, objective)
    workload = _workload(model, settings, levels=levels, images=images, seed=seed)
    options = RunOptions(
        point=point, levels=level, layer=layer, engine=engine, execute=execute, repeats=repeats,
        threads=available_threads(), density=density, seed=seed,
    )  # fmt: skip
    with progress_bars() as progress:
        study = make_study(workload, designs, options=options, command=_command(), progress=progress)
    deliver_study(study, out, as_json=json)


@app.command()
def lower(
    model: Model = "fashion",
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace file to write.")] = Path("trace.parquet"),
    settings: Settings = None,
    levels: Densities = None,
    seed: Seed = 0,
    weight_bits: Annotated[int, typer.Option(help="Bits of a stored weight.", min=1, max=16)] = 8,
    activation_bits: Annotated[int, typer.Option(help="Bits of a stored activation.", min=1, max=16)] = 8,
    requests: Annotated[
        Path | None, typer.Option("--requests", help="Folder for one layer's DRAM requests (with --layer).")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer whose requests are written.")] = None,
    level: Annotated[int, typer.Option("--level", help="Level whose requests are written.")] = 0,
    accel: Annotated[str, typer.Option("--accel", "-a", help="Design that asks for them.")] = "nm-lanes-16x8",
) -> None:
    """Lower a network to a trace file: per layer dimensions, masks of all levels and exact bytes per storage format.

    The file is Parquet: `pandas.read_parquet("trace.parquet")` opens it. With `--requests DIR --layer NAME --level L -a
    DESIGN` the layer's DRAM requests are written, too, as DRAMsim3 and Ramulator traces.
    """
    if (requests is None) != (layer is None):
        raise typer.BadParameter("--requests DIR and --layer NAME belong together")
    from ..traces.lowering import lower as lower_network
    from ..traces.trace_file import write_trace
    from .output import note, progress_bars
    from .run import counted

    workload = _workload(model, settings, levels=levels, seed=seed)
    with progress_bars() as progress:
        step = counted(progress, "lower", len(workload.network.layers))
        trace = lower_network(workload.network, weight_bits=weight_bits, activation_bits=activation_bits, progress=step)
    write_trace(out, trace)
    note(f"{out}: {len(trace.layers)} layers, {trace.levels} levels, {out.stat().st_size / 1024:.0f} KiB")
    if requests is not None and layer is not None:
        from .dram_command import export_requests

        for path in export_requests(trace, _designs([accel])[0], layer, level=level, folder=requests):
            note(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


@app.command()
def simulate(
    trace: Annotated[Path, typer.Argument(help="Trace file written by `nestling lower`.")],
    accel: Accelerators = None,
    dram: Dram = None,
    level: Only = None,
    point: Point = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Simulate a trace file on accelerators, without executing anything."""
    from ..traces.trace_file import read_trace
    from .output import deliver_study, progress_bars
    from .run import RunOptions, study_of_trace

    loaded = read_trace(trace)
    with progress_bars() as progress:
        options = RunOptions(point=point, levels=level)
        study = study_of_trace(loaded, _designs(accel, dram), options=options, command=_command(), progress=progress)
    deliver_study(study, out, as_json=json)


@app.command()
def compare(
    model: Model = "fashion",
    settings: Settings = None,
    accel: Accelerators = None,
    dram: Dram = None,
    levels: Densities = None,
    level: Only = None,
    point: Point = None,
    images: Images = None,
    out: Out = None,
    execute: Annotated[bool, typer.Option("--execute/--no-execute", help="Run the network on the CPU.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Put designs side by side: one table, one figure (latency, energy, utilisation per level and design).

    Example: `nestling compare resnet50 --accel all --levels 0.5,0.25,0.13 --out results/compare`
    """
    from .output import deliver_comparison, progress_bars
    from .run import RunOptions, available_threads, make_study

    workload = _workload(model, settings, levels=levels, images=images, seed=seed)
    options = RunOptions(
        point=point,
        levels=level,
        execute=execute,
        threads=available_threads(),
        seed=seed,
        skip_unable=True,
        prefer_point="nominal",
    )
    with progress_bars() as progress:
        designs = _designs(accel or ["all"], dram)
        study = make_study(workload, designs, options=options, command=_command(), progress=progress)
    deliver_comparison(study, out, as_json=json)


@app.command()
def explain(
    layer: Annotated[str, typer.Argument(help="Layer to look at, such as layer3.0.conv2.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Network the layer belongs to.")] = "fashion",
    settings: Settings = None,
    accel: Accelerators = None,
    levels: Densities = None,
    level: Only = None,
    point: Point = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """One layer under the microscope: work, traffic, stalls, and the error of statistical density models.

    Example: `nestling explain layer3.0.conv2 --model resnet50 --levels 0.5,0.13`
    """
    from ..traces.lowering import lower as lower_network
    from .explain import explain as explain_layer
    from .output import print_explanations

    workload = _workload(model, settings, levels=levels, seed=seed)
    trace = lower_network(workload.network)
    found = [explain_layer(trace, design, layer, point=point, levels=level, seed=seed) for design in _designs(accel)]
    print_explanations(found, as_json=json)


@app.command()
def execute(
    model: Model = "fashion",
    level: Only = None,
    images: Images = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Repeats of the latency measurement.", min=1)] = 50,
    json: Json = False,
) -> None:
    """Run a trained network on the CPU at every level: accuracy, latency, exact MAC counts."""
    from .output import print_executions, progress_bars
    from .run import RunOptions, available_threads, execute_workload
    from .sources import load_workload

    workload = load_workload(model, images=images)
    options = RunOptions(levels=level, repeats=repeats, threads=available_threads())
    with progress_bars() as progress:
        executions = execute_workload(workload, options, progress)[1]
    print_executions(workload.network, executions, as_json=json)


@app.command()
def models(json: Json = False) -> None:
    """List the built-in networks: totals, source, and what `--set` may change (`--json`: with allowed ranges)."""
    from .output import print_models

    print_models(as_json=json)


@app.command()
def accels(
    name: Annotated[str | None, typer.Argument(help="Print this design file, to copy and edit.")] = None,
    json: Json = False,
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
        str | None, typer.Option("--mapping", help="Address mapping: a name, or fields from the lowest bit on.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the devices.")] = False,
    json: Json = False,
) -> None:
    """Run a memory request trace (DRAMsim3 or Ramulator form) on a DRAM device, command by command.

    Example: `nestling dram requests.trace --device ddr4_2400_x8` · `nestling dram --list`
    """
    from .dram_command import print_devices, print_run, run_trace

    if listing:
        print_devices(as_json=json)
        return
    if trace is None or device is None:
        raise typer.BadParameter("a TRACE and --device NAME are needed; --list shows the devices")
    print_run(run_trace(trace, device, mapping=mapping), as_json=json)


@app.command()
def bench(json: Json = False) -> None:
    """Measure nestling's own speed on this machine (CPU seconds; medians)."""
    from .bench import run_benchmarks
    from .output import print_bench, progress_bars

    with progress_bars() as progress:
        rows = run_benchmarks(progress)
    print_bench(rows, as_json=json)


@app.command()
def validate(
    suites: Annotated[list[str] | None, typer.Argument(help="Suites to run; all by default.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Folder laid out like the bundled reference data.")
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="Statistics per group and quantity.")] = False,
    json: Json = False,
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
    print_outcomes(outcomes, as_json=json, details=details)
    raise typer.Exit(0 if all(outcome.passed for outcome in outcomes) else 1)


@app.command()
def train(
    network: Annotated[str, typer.Argument(help="Network to train: `fashion`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights and the training record.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the four Fashion-MNIST .gz files.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also train one separate model per density.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and augmentation.", min=0)] = 0,
) -> None:
    """Train the bundled nested network again on Fashion-MNIST (needs the extra: pip install 'nestling[train]')."""
    from .train_command import train_bundled

    train_bundled(network, out=out, data=data, baselines=baselines, seed=seed)


@app.command()
def doctor() -> None:
    """Check this installation: versions, processor, threads, compiled-kernel cache, bundled data."""
    from .doctor import print_doctor

    raise typer.Exit(0 if print_doctor() else 1)


def _designs(names: list[str] | None, dram: str | None = None, objective: str | None = None) -> list[Design]:
    from ..accel.design import DESIGNS, load_design
    from .sources import DEFAULT_DESIGNS

    chosen = list(names or DEFAULT_DESIGNS)
    designs = [load_design(name) for entry in chosen for name in (DESIGNS if entry == "all" else (entry,))]
    if dram is not None:
        designs = [design.with_dram(dram) for design in designs]
    return designs if objective is None else [design.with_objective(objective) for design in designs]


def _workload(
    model: str, settings: list[str] | None, *, levels: str | None, images: Path | None = None, seed: int
) -> Workload:
    from .run import parse_densities
    from .sources import load_workload, parse_parameters

    densities = None if levels is None else parse_densities(levels)
    return load_workload(
        model, parameters=parse_parameters(settings or []), densities=densities, images=images, seed=seed
    )


def _command() -> str:
    return " ".join(["nestling", *sys.argv[1:]])


def main() -> None:
    """Entry point: a user's mistake becomes one line per problem and exit status 2."""
    from ..workloads.errors import InputError

    if hasattr(signal, "SIGPIPE"):  # a reader that stops early (`| head`) ends us quietly, as other filters
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        app()
    except InputError as error:
        for problem in error.problems:
            typer.echo(f"nestling: {problem}", err=True)
        raise SystemExit(2) from None
