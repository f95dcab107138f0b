"""Optimal brain compression: pruning after training, from calibration inputs, that repairs the weights it keeps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from ..nesting import NestedWeights
from .hessian import CalibrationReport, Factored, Hessian, factor
from .obc_rows import (
    Doubles,
    Trace,
    best_values,
    block_units,
    shared_steps,
    slot_units,
    squared_errors,
    trace_pruning,
)
from .sparsifier import (
    Floats,
    LayerResult,
    Sparsifier,
    SparsifyWarning,
    check_layer,
    empty_layer,
    kernel_shape,
    parse_patterns,
    slots_per_group,
)

GRANULARITIES = ("weight", "nm", "block")
VALUES = ("densest", "per_level")


@dataclass(frozen=True, kw_only=True)
class OBC(Sparsifier):
    """Exact OBS per output row (Frantar and Alistarh, NeurIPS 2022, arXiv 2208.11580, algorithm 1 and section 4).

    The trace of removals is greedy, so its masks are nested; each level's *values* differ, because the retained weights
    are corrected for what is gone. Which values are stored is an explicit choice.

    Parameters
    ----------
    granularity : "weight": rows compete for the layer's budget step by step; "nm": N of M input channels in every
        row, stage by stage, so that 1:8 lies inside 2:8; "block": units of ``block`` consecutive input channels.
    m, block : group size of "nm" (last group as in the method ``nm``); unit size of "block" (what is left at the end).
    values : "densest": the values corrected for the densest level serve all levels. "per_level": each level has
        its own corrected values; ``LayerResult.extra_values`` counts what they cost in storage.
    damping : multiple of the Hessian's mean diagonal added to it. 0 for none, as long as the samples determine all
        weights; otherwise FALLBACK_DAMPING is used, with a warning.
    threads : threads over rows; the result does not depend on it. Memory d * (d + 128) doubles each.
    """

    calibrated: ClassVar[bool] = True

    granularity: Literal["weight", "nm", "block"] = "weight"
    m: int = 4
    block: int = 4
    values: Literal["densest", "per_level"] = "densest"
    damping: float = 0.01
    threads: int = 1

    def __post_init__(self) -> None:
        problems = [
            str(unknown_name(f"{kind} of obc", found, allowed))
            for kind, found, allowed in (
                ("granularity", self.granularity, GRANULARITIES),
                ("values", self.values, VALUES),
            )
            if found not in allowed
        ]
        if self.m < 2 or self.block < 1:
            problems.append(f"obc: m = {self.m} must be at least 2, block = {self.block} at least 1")
        if not self.damping >= 0.0:
            problems.append(f"obc: damping = {self.damping}, must not be negative")
        if problems:
            raise InputError(problems)

    def with_patterns(self, patterns: Sequence[str]) -> tuple[Sparsifier, tuple[float, ...]]:
        if self.granularity != "nm":
            return super().with_patterns(patterns)
        m, densities = parse_patterns(patterns)
        return replace(self, m=m), densities

    def sparsify_layer(
        self, values: Floats, densities: Sequence[float], *, hessian: Hessian | None = None, name: str = "weights"
    ) -> LayerResult:
        check_layer(values, densities, name=name)
        if self.granularity == "nm":
            slots_per_group(densities, self.m)
        if not values.size:
            return LayerResult(empty_layer(values, len(densities), name=name))
        hessian = check_hessian(values, hessian, name=name)
        factors = factor_groups(hessian, damping=self.damping, name=name)
        rows = values.astype(np.float64).reshape(hessian.groups, -1, hessian.inputs)
        traces = [self._trace(rows[g], factors[g], values.shape, densities, name) for g in range(hessian.groups)]
        steps = self._steps(_joined(traces), densities, name=name).reshape(len(densities), hessian.groups, -1)
        removed_at = np.stack([trace.step_of_column() for trace in traces])
        masks = removed_at[None] >= steps[..., None]
        solved = self._solve(rows, masks, factors)
        report = _report(hessian, factors, traces, rows=rows, solved=solved, masks=masks, steps=steps)
        return self._result(values.shape, solved, masks, report, name=name)

    def _trace(
        self, rows: Doubles, factored: Factored, shape: tuple[int, ...], densities: Sequence[float], name: str
    ) -> Trace:
        if self.granularity == "nm":
            units = slot_units(shape, m=self.m, slots=slots_per_group(densities, self.m))
        else:
            units = block_units(shape, self.block if self.granularity == "block" else 1)
        return trace_pruning(rows, factored, units, threads=self.threads, name=name)

    def _steps(self, trace: Trace, densities: Sequence[float], *, name: str) -> NDArray[np.int64]:
        """Steps taken per level and row, (levels, rows of all groups)."""
        if self.granularity == "nm":
            per_row = trace.units.capacity.sum(axis=1)
            return np.broadcast_to(per_row[:, None], (len(per_row), len(trace.order))).copy()
        return shared_steps(trace, densities, name=name)

    def _solve(self, rows: Doubles, masks: NDArray[np.bool_], factors: Sequence[Factored]) -> list[Doubles]:
        """Corrected values per level (one entry if the densest level's serve all), each (groups, rows, d)."""
        own = masks if self.values == "per_level" else masks[:1]
        return [
            np.stack([best_values(rows[g], mask[g], factors[g], threads=self.threads) for g in range(len(factors))])
            for mask in own
        ]

    def _result(
        self,
        shape: tuple[int, ...],
        solved: Sequence[Doubles],
        masks: NDArray[np.bool_],
        report: CalibrationReport,
        *,
        name: str,
    ) -> LayerResult:
        keep = masks.sum(axis=0, dtype=np.uint8).reshape(shape)
        stored = solved[0].astype(np.float32).reshape(shape)
        weights = NestedWeights(values=stored, keep=keep, levels=len(masks), name=name)
        if self.values == "densest":
            return LayerResult(weights, report=report)
        own = tuple(x.astype(np.float32)[mask] for x, mask in zip(solved, masks, strict=True))
        return LayerResult(weights, level_values=own, report=report)


def check_hessian(values: Floats, hessian: Hessian | None, *, name: str) -> Hessian:
    """The Hessian, if it fits the weights; InputError otherwise."""
    if hessian is None:
        raise InputError(f"{name}: this method needs calibration inputs of the layer")
    outputs, (_, C, R, S) = values.shape[0], kernel_shape(values.shape)
    if hessian.inputs != C * R * S or outputs % hessian.groups:
        raise InputError(
            f"{name}: calibration has {hessian.groups} groups of {hessian.inputs} inputs; the weights have {outputs} "
            f"outputs of {C * R * S} inputs"
        )
    if not hessian.samples:
        raise InputError(f"{name}: no calibration samples")
    return hessian


def factor_groups(hessian: Hessian, *, damping: float, name: str) -> list[Factored]:
    """Damped inverses of all groups, with a warning where the samples do not determine the weights."""
    factors = [factor(matrix, samples=hessian.samples, damping=damping, name=name) for matrix in hessian.matrix]
    deficient = sum(one.rank_deficient for one in factors)
    if deficient:
        used = max(one.damping for one in factors)
        rule = f"damped by {used:g}" + ("" if damping else ", although no damping was asked for")
        warnings.warn(
            f"{name}: {hessian.samples} calibration samples do not determine {hessian.inputs} inputs "
            f"({deficient} of {hessian.groups} Hessians are rank-deficient); {rule}",
            SparsifyWarning,
            stacklevel=2,
        )
    return factors


def _joined(traces: Sequence[Trace]) -> Trace:
    """The rows of all groups as one trace; their units are the same."""
    return Trace(
        traces[0].units,
        np.concatenate([trace.order for trace in traces]),
        np.concatenate([trace.losses for trace in traces]),
    )


def _report(
    hessian: Hessian,
    factors: Sequence[Factored],
    traces: Sequence[Trace],
    *,
    rows: Doubles,
    solved: Sequence[Doubles],
    masks: NDArray[np.bool_],
    steps: NDArray[np.int64],
) -> CalibrationReport:
    losses, recorded = np.zeros(len(masks)), np.zeros(len(masks))
    for level, mask in enumerate(masks):
        now = solved[min(level, len(solved) - 1)]
        for g, trace in enumerate(traces):
            moves = np.where(mask[g], now[g], 0.0) - rows[g]
            losses[level] += squared_errors(moves, hessian.matrix[g]).sum()
            taken = np.arange(trace.losses.shape[1]) < steps[level, g][:, None]
            recorded[level] += trace.losses[taken].sum()
    return CalibrationReport(
        samples=hessian.samples,
        dead_inputs=sum(one.dead_inputs for one in factors),
        damping=max(one.damping for one in factors),
        rank_deficient=any(one.rank_deficient for one in factors),
        losses=losses,
        recorded_losses=recorded,
    )
