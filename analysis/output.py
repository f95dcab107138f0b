"""What the command line prints and writes. Results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..workloads.network import Network
from .drafts import draft_of
from .progress import Progress as ProgressCallback

if TYPE_CHECKING:
    from .bench import BenchRow
    from .explain import Explanation
    from .study import Execution, Study
    from .validate import Outcome

_errors = Console(stderr=True)


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """A callback that draws one bar per stage on stderr; silent where stderr is not a terminal."""
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done)

        yield report


def note(text: str) -> None:
    """A line for the person at the terminal."""
    _errors.print(text, highlight=False, soft_wrap=True)


def deliver_study(study: Study, folder: Path | None, *, as_json: bool) -> None:
    """Write the report to ``folder`` if there is one, and print JSON or tables."""
    if folder is not None:
        write_study(study, folder)
    if as_json:
        print_json(study)
    else:
        show_study(study, folder)


def deliver_comparison(study: Study, folder: Path | None, *, as_json: bool) -> None:
    """Write the comparison to ``folder`` if there is one, and print JSON or the table."""
    if folder is not None:
        from .compare import write_comparison

        write_comparison(study, folder)
    if as_json:
        print_json(study)
    else:
        show_comparison(study, folder)


def show_study(study: Study, folder: Path | None) -> None:
    """Tables per design, every warning, and where the report lies."""
    from .tables import terminal_table

    screen = console()
    for table in terminal_table(study):
        screen.print(table)
    _print_warnings(screen, study)
    if folder is not None:
        note(f"report: {folder / 'report.html'}   data: {folder / 'result.json'}, layers.parquet, trace.parquet")
    else:
        note("add --out FOLDER for the HTML report, JSON and Parquet")


def console() -> Console:
    """Results: as wide as the terminal, or 100 columns where there is none (a pipe, a file)."""
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=100, emoji=False)


def _shared_warnings(study: Study) -> dict[str, list[str]]:
    """Each warning once, with the designs it concerns."""
    found: dict[str, list[str]] = {}
    for result in study.results:
        for warning in result.warnings:
            found.setdefault(warning, []).append(result.design.name)
    return found


def show_comparison(study: Study, folder: Path | None) -> None:
    """One table over designs and levels, and every warning."""
    from .compare import terminal_comparison

    screen = console()
    screen.print(terminal_comparison(study))
    print_notices(screen, study)
    if folder is not None:
        note(
            f"report: {folder / 'report.html'}   figure: {folder / 'comparison.svg'}   table: {folder / 'comparison.csv'}"
        )


def print_notices(console: Console, study: Study) -> None:
    """Designs that were left out, with the reason, and every warning."""
    for name, reason in study.skipped.items():
        console.print(f"[red]not run[/red] {name}: {reason}", highlight=False)
    _print_warnings(console, study)


def _print_warnings(console: Console, study: Study) -> None:
    for warning, designs in _shared_warnings(study).items():
        where = "" if len(designs) == len(study.results) else f"{', '.join(designs)}: "
        console.print(f"[yellow]![/yellow] {where}{warning}", highlight=False)


def write_study(study: Study, folder: Path) -> None:
    """Write report.html, result.json, layers.parquet and trace.parquet; all or nothing appears under its final name."""
    from ..traces.trace_file import write_trace
    from .report import write_report
    from .tables import tidy, to_json

    with draft_of(folder) as draft:
        write_report(study, draft / "report.html")
        (draft / "result.json").write_text(_dump(to_json(study)) + "\n", encoding="utf-8")
        tidy(study).to_parquet(draft / "layers.parquet", index=False)
        write_trace(draft / "trace.parquet", study.trace)


def _dump(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True, allow_nan=False)


def print_json(study: Study) -> None:
    from .tables import to_json

    print_object(to_json(study))


def print_object(data: Any) -> None:
    Console(soft_wrap=True, markup=False, highlight=False).print(_dump(data))


def print_executions(network: Network, execution: Execution, *, as_json: bool) -> None:
    """Accuracy, latency and MACs of every executed level; measured CPU time beside the predicted one."""
    from .host_prediction import NOTE, execution_table, measured_json

    if as_json:
        print_object({"network": network.name} | measured_json(execution))
        return
    screen = console()
    screen.print(execution_table(network, execution))
    if any(level.cpu_predicted_s is not None for level in execution.levels):
        screen.print(NOTE, style="dim", highlight=False)


def print_models(*, as_json: bool) -> None:
    """Every built-in network with its totals, its source, and what `--set` may change."""
    from ..workloads.bundled import FASHION_NAME, fashion_layers
    from ..workloads.digits import DIGITS_NAME, digits_layers
    from ..workloads.zoo import NETWORKS, Parameter, build

    trained = "bundled, trained at four nested levels on"
    bundled = [
        Network(FASHION_NAME, fashion_layers(), source=f"{trained} Fashion-MNIST"),
        Network(DIGITS_NAME, digits_layers(), source=f"{trained} handwritten digits of 8 x 8 pixels"),
    ]
    parameters: dict[str, Mapping[str, Parameter]] = {n.name: {} for n in bundled}
    parameters |= {name: model.parameters for name, model in NETWORKS.items()}
    networks = [*bundled, *(build(name) for name in sorted(NETWORKS))]
    if as_json:
        rows = [
            {
                "name": n.name, "params": n.params, "macs": n.macs, "source": n.source,
                "parameters": {key: asdict(parameter) for key, parameter in parameters[n.name].items()},
            }
            for n in networks
        ]  # fmt: skip
        print_object({"models": rows})
        return
    table = Table(title="built-in networks (batch 1)")
    table.add_column("name", no_wrap=True)
    table.add_column("params", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("--set (defaults)")
    table.add_column("source")
    for n in networks:
        settable = " ".join(f"{key}={parameter.default}" for key, parameter in parameters[n.name].items())
        table.add_row(n.name, f"{n.params:,}", f"{n.macs:,}", settable or "-", n.source)
    console().print(table)


def print_accels(*, as_json: bool) -> None:
    """Every built-in design with its size and operating points."""
    from ..accel.design import DESIGNS, load_design

    designs = [load_design(name) for name in DESIGNS]
    if as_json:
        print_object({"accels": [design.model_dump(mode="json") for design in designs]})
        return
    table = Table(title="built-in designs; `nestling accels NAME` prints the file")
    for heading in ("name", "description", "operating points", "unverified"):
        table.add_column(heading)
    for design in designs:
        points = ", ".join(f"{p.name} {p.clock_hz / 1e6:g} MHz {p.voltage_v:g} V" for p in design.operating_points)
        table.add_row(design.name, design.description, points, str(len(design.unverified())))
    console().print(table)


def print_design_file(name: str) -> None:
    """The text of a built-in design file."""
    from ..accel.design import DESIGN_FOLDER, DESIGNS
    from ..workloads.errors import unknown_name

    if name not in DESIGNS:
        raise unknown_name("accelerator", name, DESIGNS)
    text = (DESIGN_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    Console(soft_wrap=True, markup=False, highlight=False).print(text, end="")


def print_bench(rows: Sequence[BenchRow], *, as_json: bool) -> None:
    """Benchmark rows: ours, the peer or bar, their ratio."""
    if as_json:
        print_object({"rows": [vars(row) for row in rows]})
        return
    table = Table(title="nestling bench: CPU seconds, medians; ratio = ours / peer")
    table.add_column("name")
    for heading in ("ours", "peer", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for row in rows:
        peer, ratio = ("-", "-") if row.peer is None else (f"{row.peer:,.3g}", f"{row.ratio:.2f}")
        table.add_row(row.name, f"{row.ours:,.3g}", peer, ratio, row.unit)
    console().print(table)


def print_outcomes(outcomes: Sequence[Outcome], *, as_json: bool, details: bool) -> None:
    """One line per validation suite: rows, exact rows, errors, bar, pass or fail."""
    if as_json:
        print_object({"suites": [outcome.to_json() for outcome in outcomes]})
        return
    table = Table(title="nestling validate: our numbers against the reference's")
    table.add_column("suite", no_wrap=True)
    for heading in ("rows", "exact", "mean", "p95", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bar", overflow="fold")
    table.add_column("", no_wrap=True)
    for outcome in outcomes:
        s = outcome.summary
        verdict = "[green]pass[/green]" if outcome.passed else "[red]FAIL[/red]"
        errors = (_error(s.mean_error), _error(s.p95_error), _error(s.max_error))
        table.add_row(outcome.suite.name, str(s.rows), str(s.exact), *errors, outcome.demands, verdict)
    screen = console()
    screen.print(table)
    for outcome in outcomes:
        for text in outcome.missed:
            screen.print(f"[red]missed[/red] {outcome.suite.name}: {text}", highlight=False)
        if details:
            screen.print(_groups_table(outcome))


def _groups_table(outcome: Outcome) -> Table:
    table = Table(title=f"{outcome.suite.name}: {outcome.suite.title}")
    table.add_column("group", overflow="fold")
    table.add_column("quantity", overflow="fold")
    for heading in ("rows", "exact", "mean", "p95", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (group, quantity), s in outcome.by_group().items():
        errors = (_error(s.mean_error), _error(s.p95_error), _error(s.max_error))
        table.add_row(group, quantity, str(s.rows), str(s.exact), *errors)
    return table


def _error(fraction: float) -> str:
    return "0" if fraction == 0 else f"{fraction:.2%}" if fraction >= 1e-4 else f"{fraction:.0e}"


def print_explanations(explanations: Sequence[Explanation], *, as_json: bool) -> None:
    """Per design: where a layer's work, bytes and cycles went, and what density models make of it."""
    if as_json:
        print_object({"explanations": [explanation.to_json() for explanation in explanations]})
        return
    from .explain import terminal_explanation

    screen = console()
    for explanation in explanations:
        for part in terminal_explanation(explanation):
            screen.print(part)
