"""`nestling compare`; with `--equalise` or `--ablate` in SmartDeal form, on the SmartDeal accelerator and its rivals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..accel.design import Design
from ..workloads.errors import InputError
from ..workloads.network import Network
from ..workloads.smartdeal.nested import SmartDealOptions, decompose_network
from ..workloads.smartdeal.synthetic import synthetic_smartdeal
from .normalised import QUOTED, terminal_normalised, write_normalised
from .output import console, deliver_comparison, note, print_json, print_notices, progress_bars
from .run import RunOptions, make_study
from .sources import Workload
from .study import Study

EQUAL = (
    "equal resources (of SmartDeal, mostly recalled): 1024 8-bit or 8192 serial multipliers; the same total of on-chip SRAM, "
    "divided as each design divides its own; unit energies, clock, DRAM. All designs see the same zeros; the rivals store "
    "8-bit weights, each in its own format"
)
#: SCNN's PEs have no datapath for the channel-wise products of squeeze-and-excitation (recalled from the SmartExchange paper,
#: which leaves it out on EfficientNet-B0).
_NO_SCALING = {"scnn-equal": "squeeze-and-excitation: it has no datapath for channel-wise scaling"}


def compare_designs(
    workload: Workload,
    designs: list[Design],
    *,
    options: RunOptions,
    command: str,
    out: Path | None,
    json: bool,
    smartdeal: bool = False,
    quoted: bool = False,
) -> None:
    """Simulate the network on the designs and deliver the comparison.

    ``smartdeal``: put the network into SmartDeal form and take the first design as the unit; ``quoted``: the designs are the
    equalised ones, and the published ranges are shown beside.

    Raises
    ------
    InputError
        if the network has no values to decompose, or the unit of the comparison cannot run it.
    """
    chosen, unable = able_designs(workload.network, designs)
    if smartdeal:
        workload = in_smartdeal_form(workload, options.seed)
    with progress_bars() as progress:
        study = make_study(workload, chosen, options=options, command=command, progress=progress)
    study = replace(study, skipped={**study.skipped, **unable})
    if not smartdeal:
        deliver_comparison(study, out, as_json=json)
        return
    if study.results[0].design is not designs[0]:
        name = designs[0].name
        raise InputError(f"design '{name}', the unit of the comparison, cannot run this network: {study.skipped[name]}")
    deliver_normalised(study, out, json=json, quoted=quoted)


def in_smartdeal_form(workload: Workload, seed: int) -> Workload:
    """The workload with coefficients and bases: decomposed if it has values, else with drawn coefficient rows.

    Decomposed networks keep, at each level, the share of coefficient rows that the level keeps of the weights.
    """
    network = workload.network
    if workload.pattern is not None:
        made = synthetic_smartdeal(network, workload.pattern.level_densities, seed=seed)
    else:
        densities = [float(density) for density in network.densities]
        made = decompose_network(network, densities, options=SmartDealOptions(unit="row"))
    plain = f"stored plain, because coefficients and bases would take more: {', '.join(made.plain)}"
    notes = (*made.network.notes, *((plain,) if made.plain else ()))
    return replace(workload, network=replace(made.network, notes=notes), pattern=None, bases=made.bases)


def able_designs(network: Network, designs: list[Design]) -> tuple[list[Design], dict[str, str]]:
    """The designs that can run ``network`` as far as its operators tell, and why the others cannot."""
    scales = any(layer.op == "mul" for layer in network.layers)
    unable = {design.name: _NO_SCALING[design.name] for design in designs if scales and design.name in _NO_SCALING}
    return [design for design in designs if design.name not in unable], unable


def deliver_normalised(study: Study, out: Path | None, *, json: bool, quoted: bool) -> None:
    """Files if a folder is given, and JSON or the table with every warning."""
    if out is not None:
        write_normalised(study, out, quoted=quoted)
    if json:
        print_json(study)
        return
    screen = console()
    screen.print(terminal_normalised(study))
    if quoted:
        screen.print(EQUAL, highlight=False)
        screen.print(QUOTED, highlight=False)
    print_notices(screen, study)
    if out is not None:
        note(f"report: {out / 'report.html'}   figure: {out / 'normalised.svg'}   table: {out / 'normalised.csv'}")
