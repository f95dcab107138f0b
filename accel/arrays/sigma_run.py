"""STONNE's SIGMA-like run of one sparse product: cycles and counts, simulated result by result.

SIGMA (Qin et al., HPCA 2020) keeps the non-zeros of one operand in its multipliers and streams the other past them. STONNE
(Muñoz-Martínez et al., IISWC 2021; checked against runs of its SIGMA_SPARSE_GEMM controller, suite `sigma`) does so with a
distribution tree per read port, an augmented adder tree and round-robin output lines:

* whole stationary vectors are packed while they fit; one that never fits is folded: as many elements as there are
  multipliers, then one fewer per fold, the first multiplier passing the partial sum on;
* per iteration: one cycle to configure; each port delivers its stationary elements, one per cycle; then every streamed
  vector, the distinct reduction indices its multipliers hold, one per cycle. Zeros of the streamed operand are sent;
* a fold's partial sums go first: port 0 sends them all before the rest;
* products climb the tree one level per cycle, one more over each link between neighbours; each output line takes one
  result per cycle, round robin; an iteration ends when its last result is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from .sigma_kernel import SMALLEST_CLUSTER, run_iterations


@dataclass(frozen=True)
class SigmaRun:
    """Counts of one product; words are elements. ``most_vectors``: clusters of the fullest iteration."""

    cycles: int
    iterations: int
    multiplications: int
    stationary_reads: int
    streamed_reads: int
    psum_reads: int
    psum_writes: int
    most_vectors: int


def check_array(*, multipliers: int, ports: int, lines: int) -> None:
    """InputError unless all three are powers of two, at least four multipliers, no more ports or lines than those."""
    for name, number in (("multipliers", multipliers), ("ports", ports), ("lines", lines)):
        if number < 1 or number & (number - 1):
            raise InputError(f"{name} = {number}: the trees of a SIGMA-like array need powers of two")
    if multipliers < 4 or max(ports, lines) > multipliers:
        raise InputError(
            f"{multipliers} multipliers with {ports} ports and {lines} lines: at least 4 multipliers are needed, and no more "
            "ports or lines than multipliers"
        )


def mapped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask as it is mapped: vectors of fewer than three elements are filled up from their first positions on."""
    filled = mask.copy()
    for index in np.flatnonzero(mask.sum(axis=1) < SMALLEST_CLUSTER):
        missing = SMALLEST_CLUSTER - int(mask[index].sum())
        filled[index, np.flatnonzero(~mask[index])[:missing]] = True
    return filled


def packing_order(sizes: Sequence[int], multipliers: int) -> list[int]:
    """STONNE's reordering of stationary vectors (option ``optimize``): those too large first, then always the largest that
    still fits, beginning a new iteration when none does. Elements change places pairwise, as in the tool."""
    order = list(range(len(sizes)))
    done = 0
    for i in range(len(order)):
        if sizes[order[i]] > multipliers:
            order[i], order[done] = order[done], order[i]
            done += 1
    used = 0
    while done < len(order):
        fitting = [i for i in range(done, len(order)) if sizes[order[i]] + used <= multipliers]
        if not fitting:
            used = 0
            continue
        best = max(fitting, key=lambda i: (sizes[order[i]], -i))
        used += sizes[order[best]]
        order[best], order[done] = order[done], order[best]
        done += 1
    return order


def sigma_run(
    stationary: NDArray[np.bool_],
    streamed: NDArray[np.bool_],
    *,
    multipliers: int,
    ports: int,
    lines: int,
    reorder: bool = False,
) -> SigmaRun:
    """Run the product of two masks, both (vectors, k): stationary vectors in the multipliers, streamed ones past them.

    ``ports``/``lines``: elements that enter and results that leave per cycle. ``reorder``: pack in `packing_order`.

    Raises
    ------
    InputError
        for an empty product or an array that cannot be built.
    """
    check_array(multipliers=multipliers, ports=ports, lines=lines)
    if stationary.ndim != 2 or streamed.ndim != 2 or stationary.shape[1] != streamed.shape[1]:
        raise InputError(f"masks of shape {stationary.shape} and {streamed.shape} have no common reduction")
    if stationary.size == 0 or streamed.size == 0:
        raise InputError("a product needs at least one vector on both sides and one reduction step")
    held = mapped(stationary)
    if reorder:
        held = held[packing_order(held.sum(axis=1).tolist(), multipliers)]
    vectors = streamed.shape[0]
    cycles, iterations = run_iterations(held, streamed=vectors, multipliers=multipliers, ports=ports, lines=lines)
    below = np.concatenate(([0], np.cumsum(mapped(streamed).sum(axis=0))))
    clusters, first, end, folded = iterations.T
    return SigmaRun(
        cycles=cycles,
        iterations=len(iterations),
        multiplications=int(held.sum()) * vectors,
        stationary_reads=int(held.sum()),
        streamed_reads=int((below[end] - below[first]).sum()),
        psum_reads=int(folded.sum()) * vectors,
        psum_writes=int(clusters.sum()) * vectors,
        most_vectors=int(clusters.max()),
    )
