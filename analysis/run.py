"""The main job: lower, simulate, execute, and put it all into one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from ..accel.design import Design
from ..sim.memory import Engine
from ..sim.results import Result
from ..sim.simulate import ConservationError, simulate
from ..traces.density import with_density_model
from ..traces.lowering import lower
from ..traces.trace import Activations, Trace
from ..workloads.errors import InputError
from .progress import Progress, counted, silent
from .reduced_formats import refuse_unexecuted
from .sources import Workload
from .study import Execution, LevelExecution, Study


@dataclass(frozen=True)
class RunOptions:
    """How a study is made. ``levels``: level numbers to run (all by default); ``repeats``: CPU latency repeats; ``threads``:
    for execution and simulation, no count depends on it; ``skip_unable``: leave out designs that cannot run the network
    instead of failing; ``prefer_point``: operating point of designs that have it, where ``point`` is not given; ``allow``:
    reduced number formats that the CPU may compute in."""

    point: str | None = None
    levels: Sequence[int] | None = None
    layer: str | None = None
    engine: Engine = "recurrence"
    execute: bool = True
    repeats: int = 50
    threads: int = 1
    density: str = "actual"
    seed: int = 0
    skip_unable: bool = False
    prefer_point: str | None = None
    allow: Sequence[str] = ()


def make_study(
    workload: Workload,
    designs: Sequence[Design],
    *,
    options: RunOptions | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Study:
    """Simulate ``workload`` on every design and, if it has values and images, run it on the CPU at every level.

    Raises
    ------
    InputError
        for levels, points or layers that do not exist.
    ConservationError
        if the executor's MAC count differs from the trace's.
    """
    options = options or RunOptions()
    workload, activations, execution = _executed(workload, options, progress)
    studies = []
    for bits, group in _by_operand_bits(designs).items():
        trace = _lowered(workload, activations, bits, options=options, progress=progress)
        _check_macs(execution.levels, trace)
        studies.append(study_of_trace(trace, group, options=options, command=command, progress=progress))
    results = {id(result.design): result for study in studies for result in study.results}
    skipped = {name: reason for study in studies for name, reason in study.skipped.items()}
    if not results:
        raise InputError([f"design '{name}' cannot run this network: {reason}" for name, reason in skipped.items()])
    return replace(
        studies[0],
        results=[results[id(design)] for design in designs if id(design) in results],
        params=workload.network.params,
        executions=execution.levels,
        execution_notes=execution.notes,
        host=execution.host,
        skipped=skipped,
    )


def _executed(
    workload: Workload, options: RunOptions, progress: Progress
) -> tuple[Workload, dict[str, Activations], Execution]:
    """Run the network on the CPU where that is asked for; the workload says what its calibration found."""
    activations: dict[str, Activations] = dict(workload.activations)
    execution = Execution()
    refuse_unexecuted(options.allow, executed=workload.executable and options.execute)
    if workload.executable and options.execute:
        from .execution import execute_levels

        activations, execution = execute_levels(
            workload, options.levels, threads=options.threads, repeats=options.repeats, progress=progress,
            allow=options.allow,
        )  # fmt: skip
    elif workload.calibration is not None:
        from .execution import calibrated_activations

        activations = calibrated_activations(workload, threads=options.threads)
    if workload.calibration is not None:
        from .calibration import calibration_note

        workload = workload.noting(calibration_note(activations))
    return workload, activations, execution


def _by_operand_bits(designs: Sequence[Design]) -> dict[tuple[int, int], list[Design]]:
    """Designs gathered by (weight bits, activation bits): each width needs a trace of its own."""
    groups: dict[tuple[int, int], list[Design]] = {}
    for design in designs:
        groups.setdefault((design.array.weight_bits, design.array.activation_bits), []).append(design)
    return groups


def _lowered(
    workload: Workload,
    activations: Mapping[str, Activations],
    bits: tuple[int, int],
    *,
    options: RunOptions,
    progress: Progress,
) -> Trace:
    step = counted(progress, f"lower to {bits[0]} bits", len(workload.network.layers))
    trace = lower(
        workload.network, weight_bits=bits[0], activation_bits=bits[1], activations=activations, bases=workload.bases,
        progress=step,
    )  # fmt: skip
    return with_density_model(trace, options.density, seed=options.seed)


def _check_macs(executions: Sequence[LevelExecution], trace: Trace) -> None:
    for execution in executions:
        if execution.macs != trace.macs(execution.level):
            raise ConservationError(
                f"level {execution.level}: executor counts {execution.macs} MACs, trace {trace.macs(execution.level)}"
            )


def study_of_trace(
    trace: Trace,
    designs: Sequence[Design],
    *,
    options: RunOptions,
    command: str = "",
    progress: Progress = silent,
) -> Study:
    """Simulate a trace on every design; nothing is executed. Parameters as stored weights and biases of the trace."""
    results, skipped = [], {}
    for design in designs:
        try:
            results.append(_simulated(trace, design, options=options, progress=progress))
        except InputError as error:
            if not options.skip_unable:
                raise
            skipped[design.name] = error.problems[0]
    return Study(
        network=trace.network,
        source=trace.source,
        params=sum(layer.weights for layer in trace.facts if layer.layer.has_weights),
        results=results,
        executions=(),
        storage=storage_table(trace),
        trace=trace,
        command=command,
        version=version("nestling"),
        seed=options.seed,
        skipped=skipped,
    )


def _simulated(trace: Trace, design: Design, *, options: RunOptions, progress: Progress) -> Result:
    return simulate(
        trace,
        design,
        point=options.point or _default_point(design, options),
        levels=options.levels,
        engine=options.engine,
        timeline_layer=options.layer,
        workers=options.threads,
        progress=counted(progress, f"simulate {design.name}", len(trace.facts)),
    )


def _default_point(design: Design, options: RunOptions) -> str | None:
    """The preferred operating point where the design has it; None = the fastest."""
    return options.prefer_point if options.prefer_point in {p.name for p in design.operating_points} else None


def storage_table(trace: Trace) -> dict[str, list[int]]:
    """Bytes of all weights and biases per format and level."""
    formats = trace.facts[0].storage if trace.facts else {}
    return {name: [trace.weight_bytes(name, level) for level in range(trace.levels)] for name in formats}
