"""Several ways to make the levels, side by side: accuracy, bytes, MACs, energy and latency of every method and level."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..accel.design import Design
from ..sim.executor import executor_for
from ..sim.executor.graph_executor import GraphExecutor
from ..traces.trace import Activations
from ..workloads.errors import InputError, unknown_name
from ..workloads.network import Network
from ..workloads.smartdeal.nested import SmartDealOptions, decompose_network
from ..workloads.sparsify import METHODS, OBC, Sparsifier, sparsify_with_report
from ..workloads.sparsify.calibration import Calibration
from .efficiency import level_efficiencies
from .execution import captured_activations, execute_levels
from .progress import Progress, silent
from .run import RunOptions, make_study
from .sources import Workload
from .study import LevelExecution, Study, execution_at, labelled
from .tables import ordered_levels

#: The levels as they were trained, for comparison.
OWN = "trained"
#: Post-hoc SmartDeal decomposition: method name -> what a level drops.
SMARTDEAL: Mapping[str, SmartDealOptions] = {
    "smartdeal": SmartDealOptions(unit="coefficient"),
    "smartdeal_row": SmartDealOptions(unit="row"),
}
#: Methods of the registry with other parameters than its defaults.
VARIED: Mapping[str, Sparsifier] = {"obc_per_level": OBC(values="per_level")}
_POST_TRAINING: Mapping[str, Sparsifier] = {**METHODS, **VARIED}
#: Everything ``--sparsify`` takes.
CHOICES = (OWN, *_POST_TRAINING, *SMARTDEAL)
#: Images that calibrate methods which need it; the last ones, and not measured on.
CALIBRATION_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Variant:
    """One method's levels. ``at_level``: the network of one level where its values differ from the densest one's, else
    None. ``storage``: formats the trace does not know, name -> bytes per level. ``notes``: what the user must know."""

    name: str
    network: Network
    at_level: Callable[[int], Network] | None = None
    storage: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class MethodStudy:
    """A study per method, all on the same designs and images, and the images' number."""

    network: str
    studies: Mapping[str, Study]
    variants: Mapping[str, Variant]
    images: int


def compare_methods(
    workload: Workload,
    methods: Sequence[str],
    designs: Sequence[Design],
    *,
    densities: Sequence[float] | None = None,
    calibration: NDArray[np.float32] | None = None,
    options: RunOptions | None = None,
    command: str = "",
    progress: Progress = silent,
) -> MethodStudy:
    """Run every method of ``methods`` on the workload's densest weights and study the levels it makes.

    ``densities``: of the levels, densest first; None: those of the workload's own levels. ``calibration``: inputs, float32
    (N, C, H, W), for methods that need some; None: the workload's own (``--calibrate``), or its last images, which are then
    not measured on.

    Raises
    ------
    InputError
        for an unknown method, a network without values, or calibration that a method needs and nobody has.
    """
    for name in methods:
        if name not in CHOICES:
            raise unknown_name("method of --sparsify", name, CHOICES)
    if not workload.network.has_values:
        raise InputError(f"'{workload.network.name}' has no weight values, so no level can be made from them")
    if densities is None:
        densities = [float(round(d, 4)) for d in workload.network.densities]
    hessians: Calibration | None = None
    if any(name in _POST_TRAINING and _POST_TRAINING[name].calibrated for name in methods):
        workload, hessians = _calibrate(workload, calibration, progress)
    options = options or RunOptions()
    variants = {name: make_variant(workload.network, name, densities, hessians) for name in dict.fromkeys(methods)}
    studies = {
        name: study_of_variant(variant, workload, designs, options=options, command=command, progress=progress)
        for name, variant in variants.items()
    }
    images = 0 if workload.images is None else len(workload.images)
    return MethodStudy(workload.network.name, studies, variants, images)


def make_variant(network: Network, method: str, densities: Sequence[float], hessians: Calibration | None) -> Variant:
    """The levels that one method makes of ``network``; what it warns of becomes a note."""
    if method == OWN:
        return Variant(method, network)
    if method in SMARTDEAL:
        return _smartdeal(network, method, densities)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = sparsify_with_report(network, _POST_TRAINING[method], densities=densities, calibration=hessians)
    own_values = any(result.level_values for result in done.layers.values())
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    if own_values:
        notes += (
            f"levels have values of their own: {done.extra_values:,} beyond the densest level's, not in the bytes",
        )
    return Variant(method, done.network, done.level_network if own_values else None, {}, notes)


def _smartdeal(network: Network, method: str, densities: Sequence[float]) -> Variant:
    from ..traces.formats.coefficients import coefficient_bytes

    own = [float(round(d, 4)) for d in network.densities] == list(densities)
    done = decompose_network(network, None if own else densities, options=SMARTDEAL[method])
    per_layer = [coefficient_bytes(basis) for basis in done.bases.values()]
    shared = set.intersection(*(set(sizes) for sizes in per_layer)) if per_layer else set()
    plain = np.sum([done.network.weights[name].nonzeros for name in done.plain], axis=0) if done.plain else 0
    storage = {
        name: [int(x) for x in np.sum([sizes[name] for sizes in per_layer], axis=0) + plain] for name in sorted(shared)
    }
    notes = [f"'{name}' stays plain: {reason}" for name, reason in done.plain.items()]
    notes.append(
        "levels share coefficients and bases, but their weights differ: each level is executed with its own, and the "
        "hardware's counts are those of weights with a kept coefficient"
    )
    return Variant(method, done.network, done.at_level, storage, tuple(notes))


def _calibrate(
    workload: Workload, images: NDArray[np.float32] | None, progress: Progress
) -> tuple[Workload, Calibration]:
    """The workload that is measured, and the Hessians of its layers."""
    from ..sim.executor.layer_inputs import graph_hessians, input_hessians

    found = workload.calibration if images is None else images
    if found is None:
        measured = workload.images
        if not isinstance(measured, np.ndarray) or workload.labels is None or len(measured) < 2 * CALIBRATION_IMAGES:
            raise InputError("this method calibrates on real inputs: give --calibrate FILE.npz with images")
        found = measured[-CALIBRATION_IMAGES:]
        workload = replace(
            workload, images=measured[:-CALIBRATION_IMAGES], labels=workload.labels[:-CALIBRATION_IMAGES]
        )
    executor = executor_for(workload.network)
    if isinstance(executor, GraphExecutor):
        return workload, graph_hessians(executor, found)
    assert isinstance(found, np.ndarray)  # only imported graphs have inputs by name
    return workload, input_hessians(workload.network, found.astype(np.float32, copy=False), progress=progress)


def study_of_variant(
    variant: Variant,
    workload: Workload,
    designs: Sequence[Design],
    *,
    options: RunOptions,
    command: str = "",
    progress: Progress = silent,
) -> Study:
    """Simulate a variant's levels, and execute each with the values it really has."""
    varied = replace(workload, network=variant.network)
    if variant.at_level is None or not varied.executable or not options.execute:
        return make_study(varied, designs, options=options, command=command, progress=progress)
    captured = varied if workload.activations else replace(varied, activations=_activations(varied, options))
    study = make_study(
        captured, designs, options=replace(options, execute=False, allow=()), command=command, progress=progress
    )
    executions: list[LevelExecution] = []
    notes: dict[str, None] = {}
    host = None
    for level in range(variant.network.levels) if options.levels is None else options.levels:
        one = replace(workload, network=variant.at_level(level))
        _, found = execute_levels(
            one, [0], threads=options.threads, repeats=options.repeats, progress=progress, allow=options.allow
        )
        executions += [replace(execution, level=level) for execution in found.levels]
        notes |= dict.fromkeys(found.notes)
        host = found.host
    return replace(study, executions=executions, execution_notes=tuple(notes), host=host)


def _activations(workload: Workload, options: RunOptions) -> dict[str, Activations]:
    """What the layers' inputs hold at the densest level, as a network whose levels share their values would capture it."""
    inputs = workload.images if workload.calibration is None else workload.calibration
    return captured_activations(executor_for(workload.network, threads=options.threads), workload.network, inputs)


def method_table(comparison: MethodStudy) -> pd.DataFrame:
    """One row per method, level and design: density, retained weights, accuracy, weight bytes, MACs, energy, latency, and
    accuracy per weight (PE, HPE and Pareto slope as :mod:`.efficiency` defines them; empty where it was not measured)."""
    rows = []
    for name, study in comparison.studies.items():
        efficiency = _efficiency(study)
        for label, result in labelled(study):
            for level in ordered_levels(result):
                execution = execution_at(study, level.level)
                rows.append(
                    {
                        "method": name,
                        "design": label,
                        "level": level.level,
                        "density": level.density,
                        "accuracy": None if execution is None else execution.accuracy,
                        "weight_bytes": level.weight_bytes,
                        "macs": level.macs,
                        "energy_j": level.energy_j,
                        "latency_s": level.latency_s,
                        "cpu_latency_s": None if execution is None else execution.latency_median_s,
                        "nonzeros": retained_weights(study, level.level),
                        **efficiency.get(level.level, {}),
                    }
                )
    return pd.DataFrame(rows)


def retained_weights(study: Study, level: int) -> int:
    """Non-zero weights of the whole network at ``level``."""
    return sum(int(facts.nonzeros[level]) for facts in study.trace.facts if facts.layer.has_weights)


def _efficiency(study: Study) -> dict[int, dict[str, float | None]]:
    """Level -> the metrics of accuracy per weight; empty unless every executed level has an accuracy."""
    measured = sorted((x.level, x.accuracy) for x in study.executions if x.accuracy is not None)
    found = level_efficiencies([a for _, a in measured], [retained_weights(study, level) for level, _ in measured])
    return {
        level: {"pe": one.pe, "hpe": one.hpe, "pareto_slope": one.pareto_slope}
        for (level, _), one in zip(measured, found, strict=True)
    }
