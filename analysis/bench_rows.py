"""Speed of fully connected layers at batch 1 and in small batches, beside what is installed: paired ratios, one thread.

The matrices are those of a recurrent layer (GNMT's gates, 4096 x 2048). Every candidate runs in turn for a few milliseconds,
so that what fits into the third-level cache comes from there: 33 MB of dense weights do not where it is smaller.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.loading import bound, load_kernels
from ..sim.executor.simd.rows.fully_connected import RowProduct
from ..sim.executor.simd.rows.nm_rows import CodedRows, power_table
from ..sim.executor.simd.rows.row_planner import measured_formats
from ..sim.executor.simd.team import Call
from ..workloads.nesting import NestedWeights, from_ranking
from .bench_executor import ROUNDS, interleaved
from .executor_peers import PEERS, SCIPY_DENSITY
from .progress import Progress

Floats = NDArray[np.float32]
Runs = dict[str, Callable[[], Any]]
SHAPE = (4096, 2048)
BATCHES = (1, 8)
#: Weights kept of how many, in every group of a row (1 of 2 = half, anywhere in the row).
PATTERNS: Mapping[str, float | tuple[int, int]] = {
    "50 %": 0.5, "25 %": 0.25, "13 %": 0.13, "5 %": 0.05, "2:4": (2, 4), "1:4": (1, 4), "1:8": (1, 8),
}  # fmt: skip
CODED = "2:4, 4-bit codes"
_FREE = (np.float32(-np.inf), np.float32(np.inf))


@dataclass(frozen=True)
class RowsComparison:
    """One matrix and batch: our format, median microseconds, bytes per non-zero; per peer the median of paired ratios."""

    pattern: str
    vectors: int
    formats: str
    microseconds: float
    bytes_per_nonzero: float
    speedups: Mapping[str, float]


def rows_bench(
    *,
    shape: tuple[int, int] = SHAPE,
    rounds: int = ROUNDS,
    peers: bool = True,
    batches: Sequence[int] = BATCHES,
    progress: Progress,
) -> tuple[list[RowsComparison], list[str]]:
    """Every pattern at every batch, and the peers that are not installed. CPU time; our results are checked once.

    ``peers``: also those outside NumPy. Our time includes packing the input of a batch, bias and clamp.
    """
    cases = [(pattern, vectors) for vectors in batches for pattern in PATTERNS]
    cases += [(CODED, vectors) for vectors in batches if vectors == 1]
    rows, missing = [], set()
    for done, (pattern, vectors) in enumerate(cases, start=1):
        matrix, mask = _matrix(shape, pattern)
        x = np.random.default_rng(1).standard_normal((shape[1], vectors)).astype(np.float32)
        if pattern == CODED:
            ours, formats, nbytes = _coded(matrix, mask, x[:, 0])
        else:
            ours, formats, nbytes = _stored(matrix, mask, x)
        density = float(mask.mean())
        runs, absent = _peers(matrix, x, density, peers=peers)
        missing |= absent
        seconds = interleaved({"ours": ours, **runs}, rounds)
        rows.append(_row(pattern, vectors, formats, nbytes / mask.sum(), seconds))
        progress("bench rows", done, len(cases))
    return rows, sorted(missing)


def _matrix(shape: tuple[int, int], pattern: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Normal weights, the largest magnitudes kept; powers of two where they are coded."""
    random = np.random.default_rng(0)
    values = random.standard_normal(shape).astype(np.float32)
    kind = (2, 4) if pattern == CODED else PATTERNS[pattern]
    size = np.abs(values)
    if isinstance(kind, tuple):
        kept, group = kind
        ranks = size.reshape(-1, group).argsort(axis=1).argsort(axis=1)
        mask = (ranks >= group - kept).reshape(shape)
    else:
        mask = size > np.quantile(size, 1 - kind)
    if pattern == CODED:
        exponents = np.clip(np.round(np.log2(size)), -3, 4)
        values = np.copysign(np.exp2(exponents), values).astype(np.float32)
    return np.where(mask, values, np.float32(0)), mask


def _stored(matrix: Floats, mask: NDArray[np.bool_], x: Floats) -> tuple[Callable[[], None], str, int]:
    weights = NestedWeights(values=matrix, keep=mask.astype(np.uint8), levels=1)
    vectors = x.shape[1]
    formats = measured_formats(weights) if vectors == 1 else None
    product = RowProduct(weights, vectors=vectors, formats=formats)
    tokens = np.ascontiguousarray(x.T)  # a layer's input has one vector per row

    def pack() -> None:
        product.inputs[:] = tokens.T.reshape(product.inputs.shape)

    run = runner(product.calls(0, np.zeros(len(matrix), np.float32), _FREE), pack)
    _check(run, product.outputs, matrix, x)
    return run, ", ".join(product.formats), product.nbytes


def _coded(matrix: Floats, mask: NDArray[np.bool_], x: Floats) -> tuple[Callable[[], None], str, int]:
    table = power_table(-3)
    order = np.argsort(table)
    codes = order[np.searchsorted(table[order], np.where(mask, matrix, table[0]))].astype(np.uint8)
    product = CodedRows(codes, mask, table=table, scales=np.ones(len(matrix), np.float32))

    def pack() -> None:
        product.inputs[: len(x)] = x

    run = runner([product.call(np.zeros(len(matrix), np.float32), _FREE)], pack)
    _check(run, product.outputs[: len(matrix)], matrix, x[:, None])
    return run, "pattern, 4-bit codes", product.nbytes


def runner(calls: Sequence[Call], before: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Runs calls one after the other in this thread."""
    load_kernels(calls)
    ready = [bound(call) for call in calls]

    def run() -> None:
        before()
        for call in ready:
            call.tasks[0] = 0
            call.run(0)

    return run


def _check(run: Callable[[], None], outputs: Floats, matrix: Floats, x: Floats) -> None:
    run()
    terms = matrix.shape[1] + 20
    bound_on_error = terms * 2.0**-24 * (np.abs(matrix) @ np.abs(x)) + 1e-30
    if not (np.abs(outputs.reshape(len(matrix), -1) - matrix.astype(np.float64) @ x) <= bound_on_error).all():
        raise RuntimeError(f"wrong product of {matrix.shape} by {x.shape}")


def _peers(matrix: Floats, x: Floats, density: float, *, peers: bool) -> tuple[Runs, set[str]]:
    """What a user would run instead, in the form that a linear layer has (vectors in rows) where that is faster."""
    runs: Runs = {}
    absent = set()
    operand = np.ascontiguousarray(x[:, 0]) if x.shape[1] == 1 else x
    for name, peer in {**PEERS, "torch dense": _torch_linear}.items():
        if not (peers or name == "NumPy dense") or (name == "SciPy CSR" and density > SCIPY_DENSITY):
            continue
        try:
            runs[name] = peer(matrix, operand)
        except ImportError:
            absent.add(name)
    return runs, absent


def _torch_linear(w: Floats, x: Floats) -> Callable[[], Any]:
    """torch.nn.functional.linear, which for few vectors takes half the time of the product W @ X."""
    import torch

    torch.set_num_threads(1)
    weights, tokens = torch.from_numpy(w), torch.from_numpy(np.ascontiguousarray(x.T))
    return lambda: torch.nn.functional.linear(tokens, weights)


def _row(
    pattern: str, vectors: int, formats: str, bytes_per_nonzero: float, seconds: Mapping[str, Sequence[float]]
) -> RowsComparison:
    ours = seconds["ours"]
    speedups = {
        name: statistics.median(peer / own for peer, own in zip(times, ours, strict=True))
        for name, times in seconds.items()
        if name != "ours"
    }
    return RowsComparison(pattern, vectors, formats, statistics.median(ours) * 1e6, bytes_per_nonzero, speedups)


def markdown(rows: Sequence[RowsComparison], missing: Sequence[str]) -> str:
    """The README's table of fully connected layers: our speed-up over each peer."""
    peers = [name for name in PEERS if any(name in row.speedups for row in rows)]
    lines = [
        f"| pattern | batch | format | us | bytes per non-zero | {' | '.join(peers)} |",
        "| --- | ---: | --- | ---: | ---: |" + " ---: |" * len(peers),
    ]
    for row in rows:
        cells = [f"{row.speedups[p]:.2f}" if p in row.speedups else "-" for p in peers]
        start = (
            f"| {row.pattern} | {row.vectors} | {row.formats} | {row.microseconds:.0f} | {row.bytes_per_nonzero:.2f} "
        )
        lines.append(start + f"| {' | '.join(cells)} |")
    if missing:
        lines.append(f"\nNot installed, not compared: {', '.join(missing)}.")
    return "\n".join(lines)


def nested_costs(*, shape: tuple[int, int] = SHAPE, rounds: int = ROUNDS) -> dict[str, float]:
    """Time of each level of one store over a store of that level alone: four densities, and 4:8 > 2:8 > 1:8; one vector."""
    random = np.random.default_rng(0)
    values = random.standard_normal(shape).astype(np.float32)
    size = np.abs(values)
    ranks = size.reshape(-1, 8).argsort(axis=1).argsort(axis=1).reshape(shape)
    ladders = {
        "": from_ranking(values, size, (0.5, 0.25, 0.13, 0.05)),
        "N:M ": NestedWeights(values=values, keep=np.digitize(ranks, (4, 6, 7)).astype(np.uint8), levels=3),
    }
    found = {}
    for kind, weights in ladders.items():
        nested = RowProduct(weights, formats=measured_formats(weights))
        for level in range(weights.levels):
            alone = NestedWeights(values=values, keep=weights.mask(level).astype(np.uint8), levels=1)
            own = RowProduct(alone, formats=measured_formats(alone))
            bias = np.zeros(shape[0], np.float32)
            runs = {"own": runner(own.calls(0, bias, _FREE)), "nested": runner(nested.calls(level, bias, _FREE))}
            seconds = interleaved(runs, rounds)
            ratios = [a / b for a, b in zip(seconds["nested"], seconds["own"], strict=True)]
            found[f"{kind}{weights.densities[level]:.1%}"] = statistics.median(ratios)
    return found
