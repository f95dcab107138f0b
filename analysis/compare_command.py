"""`nestling compare`; with `--equalise` or `--ablate` in SmartDeal form, on the SmartDeal accelerator and its rivals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..accel.ablation import ablations
from ..accel.design import Design, load_design
from ..accel.equalised import equalised
from ..workloads.errors import InputError
from ..workloads.network import Network
from ..workloads.smartdeal.nested import SmartDealOptions, decompose_network
from ..workloads.smartdeal.synthetic import synthetic_smartdeal
from .normalised import QUOTED, terminal_normalised, write_normalised
from .output import console, deliver_comparison, note, print_json, print_notices, progress_bars
from .run import RunOptions, make_study
from .sources import Workload
from .study import Study

#: SCNN's PEs have no datapath for the channel-wise products of squeeze-and-excitation (recalled from the SmartExchange paper,
#: which leaves it out on EfficientNet-B0).
_NO_SCALING = {"scnn-equal": "squeeze-and-excitation: it has no datapath for channel-wise scaling"}


def compare_designs(
    workload: Workload, designs: list[Design], *, options: RunOptions, command: str, out: Path | None, json: bool
) -> None:
    """Simulate the network as it is on the designs and deliver the comparison."""
    with progress_bars() as progress:
        study = make_study(workload, designs, options=options, command=command, progress=progress)
    deliver_comparison(study, out, as_json=json)


def compare_smartdeal(
    workload: Workload,
    ablate: str | None,
    *,
    equalise: bool,
    options: RunOptions,
    command: str,
    out: Path | None,
    json: bool,
) -> None:
    """Simulate the network in SmartDeal form on the chosen designs and deliver the comparison, the first design as its unit.

    Raises
    ------
    InputError
        if both options are given, the design has no switches, or the network has no values to decompose.
    """
    if ablate is not None and equalise:
        raise InputError("--ablate and --equalise are two comparisons; give one of them")
    designs, unable = equal_designs(workload.network) if ablate is None else (ablations(load_design(ablate)), {})
    with progress_bars() as progress:
        study = make_study(
            in_smartdeal_form(workload, options.seed), designs, options=options, command=command, progress=progress
        )
    deliver(replace(study, skipped={**study.skipped, **unable}), out, json=json, quoted=equalise)


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


def equal_designs(network: Network) -> tuple[list[Design], dict[str, str]]:
    """The equalised designs that can run ``network``, the SmartDeal design first, and why the others cannot."""
    scales = any(layer.op == "mul" for layer in network.layers)
    unable = _NO_SCALING if scales else {}
    return [design for design in equalised() if design.name not in unable], unable


def deliver(study: Study, out: Path | None, *, json: bool, quoted: bool) -> None:
    """Files if a folder is given, and JSON or the table with every warning."""
    if out is not None:
        write_normalised(study, out, quoted=quoted)
    if json:
        print_json(study)
        return
    screen = console()
    screen.print(terminal_normalised(study))
    if quoted:
        screen.print(QUOTED, highlight=False)
    print_notices(screen, study)
    if out is not None:
        note(f"figure: {out / 'normalised.svg'}   table: {out / 'normalised.csv'}")
