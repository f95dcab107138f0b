"""Numba kernels of the SIGMA-like array: where clusters end in the adder tree, and cycles of one stationary iteration.

Time inside an iteration counts from the cycle in which the stationary operand starts to be distributed; two cycles are
added for configuring and for counting from one. ``ports``: read ports, each of which serves ``multipliers / ports``
consecutive multipliers with one element per cycle. ``lines``: output lines, one result per cycle each.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FAR = 1 << 60
#: The adder tree joins neighbours without a common parent only for clusters of at least three inputs.
SMALLEST_CLUSTER = 3
#: Columns of the cost table of `tile_costs`.
COSTS = ("nonzeros", "iterations", "fixed_cycles", "cycles_per_position", "words", "packets", "psums", "results")


@njit(cache=True)
def _levels(multipliers):
    levels = 0
    while (1 << levels) < multipliers:
        levels += 1
    return levels


@njit(cache=True)
def _end_of_cluster(first, last, levels, node, delay):
    """Adder that finishes the cluster on multipliers first..last: (level, index, longest way).

    The tree adds level by level. Neighbours without a common parent, (1, 2), (3, 4) ..., are joined by a link: the outermost
    adder of a cluster hands its sum over it, one cycle later, when the neighbour lies inside the cluster too; between only
    two adders the one with fewer inputs hands over, to the left if equal. ``node``/``delay`` (multipliers,) are filled with
    the adder each multiplier's product has reached and the cycles that took; ``node`` may be empty.
    """
    follow = node.size > 0
    if follow:
        for i in range(first, last + 1):
            node[i], delay[i] = i, 0
    low, high, longest = first, last, 0
    for level in range(levels - 1, -1, -1):
        left, right = low // 2, high // 2
        low_moves, high_moves = False, False
        if right > left:
            low_moves = left % 2 == 1
            high_moves = right % 2 == 0
            if low_moves and high_moves and right == left + 1:
                low_moves = 2 * left + 2 - low < high - 2 * left - 1
                high_moves = not low_moves
        if follow:
            for i in range(first, last + 1):
                at = node[i] // 2
                delay[i] += 1
                if low_moves and at == left:
                    at, delay[i] = at + 1, delay[i] + 1
                elif high_moves and at == right:
                    at, delay[i] = at - 1, delay[i] + 1
                node[i] = at
        longest += 2 if low_moves or high_moves else 1
        low, high = left + int(low_moves), right - int(high_moves)
        if low == high:
            return level, low, longest
    return 0, 0, longest


@njit(cache=True)
def _output_lines(multipliers, lines):
    """Output line and its input of every adder, both (levels, multipliers): linked pairs first, level by level from the
    root, dealt round robin; then the adders at the sides of the tree."""
    levels = _levels(multipliers)
    line = np.zeros((levels, multipliers), np.int64)
    entry = np.zeros((levels, multipliers), np.int64)
    linked = 0
    for level in range(2, levels):
        linked += (1 << level) - 2
    pair, single = 0, 0
    for level in range(levels):
        adders = 1 << level
        for index in range(adders):
            if index > 0 and index % 2 == 0:
                for side in range(2):
                    line[level, index - 1 + side] = pair % lines
                    entry[level, index - 1 + side] = 2 * (pair // lines) + side
                pair += 1
            elif index in (0, adders - 1):
                line[level, index] = (single + linked) % lines
                entry[level, index] = linked // lines + 1 + single // lines
                single += 1
    return line, entry


@njit(cache=True)
def _ready_times(elements, sizes, streamed, multipliers, ports, delay):
    """Cycle in which each cluster's adder sends each result, (clusters, streamed). ``elements``: reduction index held by each
    multiplier, -1 = it passes a partial sum on. Partial sums go first: their port sends them all before anything else."""
    share = multipliers // ports
    depth = elements.max() + 1
    ready = np.zeros((sizes.size, streamed), np.int64)
    rank = np.zeros(elements.size, np.int64)
    loads = np.zeros(ports, np.int64)
    distinct = np.zeros(ports, np.int64)
    order = np.zeros(depth, np.int64)
    folded = elements[0] < 0
    for port in range((elements.size + share - 1) // share):
        held = elements[port * share : (port + 1) * share]
        order[:] = 0
        for k in held:
            if k >= 0:
                loads[port] += 1
                order[k] = 1
        for k in range(depth):
            if order[k]:
                order[k] = distinct[port]
                distinct[port] += 1
        for i in range(held.size):
            if held[i] >= 0:
                rank[port * share + i] = order[held[i]]
    # A port in front of several multipliers is a tree that takes a cycle.
    way = 1 if share > 1 else 0
    first = 0
    for cluster in range(sizes.size):
        for i in range(first, first + sizes[cluster]):
            port = i // share
            start, step = loads[port] + rank[i], distinct[port]
            if elements[i] < 0:
                start, step = 1, 1
            elif folded and port == 0:
                start += streamed
            for n in range(streamed):
                ready[cluster, n] = max(ready[cluster, n], start + n * step + way + delay[i])
        first += sizes[cluster]
    return ready


@njit(cache=True)
def _collect(ready, line, entry, pointer, inputs, arrivals):
    """Send all results over their lines, one per line and cycle, round robin over the line's inputs from ``pointer`` on;
    counts in ``arrivals`` how many reach the buffer in each cycle."""
    clusters, streamed = ready.shape
    handled = np.zeros(clusters, np.bool_)
    members = np.zeros(clusters, np.int64)
    sent = np.zeros(clusters, np.int64)
    for first in range(clusters):
        if handled[first]:
            continue
        bus, count = line[first], 0
        for cluster in range(first, clusters):
            if line[cluster] == bus:
                members[count], handled[cluster] = cluster, True
                count += 1
        cycle = 0
        for _ in range(count * streamed):
            soonest = _FAR
            for x in members[:count]:
                if sent[x] < streamed:
                    soonest = min(soonest, ready[x, sent[x]] + 1)
            cycle = max(cycle, soonest)
            chosen, best, age = -1, _FAR, _FAR
            for x in members[:count]:
                if sent[x] < streamed and ready[x, sent[x]] < cycle:
                    turn = (entry[x] - pointer[bus]) % inputs
                    if turn < best or (turn == best and ready[x, sent[x]] < age):
                        chosen, best, age = x, turn, ready[x, sent[x]]
            sent[chosen] += 1
            pointer[bus] = (entry[chosen] + 1) % inputs
            cycle += 1
            arrivals[cycle] += 1


@njit(cache=True)
def _last_write(arrivals, results):
    """Cycle in which the last result is in the buffer: of those that wait, half (rounded up) are written per cycle."""
    waiting, cycle = 0, 0
    while True:
        waiting += arrivals[cycle]
        written = (waiting + 1) // 2
        waiting -= written
        results -= written
        if results == 0:
            return cycle
        cycle += 1


@njit(cache=True)
def _iteration(elements, sizes, streamed, multipliers, ports, lines, table, pointer):
    levels, clusters = _levels(multipliers), sizes.size
    node, delay = np.zeros(multipliers, np.int64), np.zeros(multipliers, np.int64)
    line, entry = np.zeros(clusters, np.int64), np.zeros(clusters, np.int64)
    first = 0
    for cluster in range(clusters):
        level, index, _ = _end_of_cluster(first, first + sizes[cluster] - 1, levels, node, delay)
        line[cluster], entry[cluster] = table[0, level, index], table[1, level, index]
        first += sizes[cluster]
    ready = _ready_times(elements, sizes, streamed, multipliers, ports, delay)
    arrivals = np.zeros(ready.max() + clusters * streamed + 8, np.int64)
    _collect(ready, line, entry, pointer, multipliers // lines + 1, arrivals)
    return _last_write(arrivals, clusters * streamed) + 2


@njit(cache=True)
def _pack(mask, vector, k, passes_sums, elements, sizes):
    """Next iteration's clusters, from element ``k`` of ``vector`` on: whole vectors while they fit, or a part of one that
    never does. With ``passes_sums`` (and always within a folded vector) a cluster starts with a multiplier that passes the
    sum so far on. Returns (vector, k) to go on from, multipliers used and clusters."""
    vectors, depth = mask.shape
    used, clusters = 0, 0
    while k == 0 and vector < vectors:
        size = np.count_nonzero(mask[vector]) + int(passes_sums)
        if used + size > elements.size:
            break
        sizes[clusters] = size
        clusters += 1
        if passes_sums:
            elements[used] = -1
            used += 1
        for j in range(depth):
            if mask[vector, j]:
                elements[used] = j
                used += 1
        vector += 1
    if clusters:
        return vector, 0, used, clusters
    if k > 0 or passes_sums:
        elements[0] = -1
        used = 1
    while used < elements.size and k < depth:
        if mask[vector, k]:
            elements[used] = k
            used += 1
        k += 1
    sizes[0] = used
    if not mask[vector, k:].any():
        vector, k = vector + 1, 0
    return vector, k, used, 1


@njit(cache=True)
def _run(mask, streamed, multipliers, ports, lines, per_iteration):
    """Cycles and number of iterations; fills ``per_iteration`` with clusters, first element, end of elements, folded."""
    table = np.zeros((2, _levels(multipliers), multipliers), np.int64)
    table[0], table[1] = _output_lines(multipliers, lines)
    pointer, elements = np.zeros(lines, np.int64), np.zeros(multipliers, np.int64)
    sizes = np.zeros(max(multipliers, 1), np.int64)
    vector, k, cycles, iterations = 0, 0, 0, 0
    while vector < mask.shape[0]:
        first = k
        vector, k, used, clusters = _pack(mask, vector, k, False, elements, sizes)
        cycles += _iteration(elements[:used], sizes[:clusters], streamed, multipliers, ports, lines, table, pointer)
        per_iteration[iterations] = clusters, first, k if k > 0 else mask.shape[1], int(first > 0)
        iterations += 1
    return cycles, iterations


@njit(cache=True)
def _price(elements, sizes, multipliers, ports, table, marks, loads, cost):
    """Add one iteration to a tile's costs (columns of COSTS from the second on)."""
    share, levels, nothing = multipliers // ports, _levels(multipliers), np.zeros(0, np.int64)
    most, rate = 0, 0
    for port in range((elements.size + share - 1) // share):
        distinct, sums = 0, 0
        for k in elements[port * share : (port + 1) * share]:
            if k < 0:
                sums += 1
            elif marks[0, k] != port + 1:
                marks[0, k] = port + 1
                distinct += 1
                if marks[1, k] == 0:
                    marks[1, k] = 1
                    cost[4] += 1
        most, rate = max(most, distinct), max(rate, distinct + sums)
        cost[5] += distinct
        cost[6] += sums
    for k in elements:
        if k >= 0:
            marks[0, k] = marks[1, k] = 0
    first, longest, conflicts = 0, 0, 1
    for size in sizes:
        level, index, way = _end_of_cluster(first, first + size - 1, levels, nothing, nothing)
        line = table[0, level, index]
        loads[line] += 1
        longest, conflicts = max(longest, way), max(conflicts, loads[line])
        first += size
    loads[:] = 0
    rate = max(rate, conflicts)
    drain, waiting = 0, sizes.size
    while waiting > 1:
        waiting //= 2
        drain += 1
    cost[1] += 1
    cost[2] += min(share, elements.size) + most - 1 + longest + (1 if share > 1 else 0) + conflicts + 3 + drain - rate
    cost[3] += rate
    cost[7] += sizes.size


@njit(cache=True)
def _tile_costs(keep, level, block_n, block_k, multipliers, ports, lines, costs):
    table = np.zeros((2, _levels(multipliers), multipliers), np.int64)
    table[0], table[1] = _output_lines(multipliers, lines)
    loads, elements = np.zeros(lines, np.int64), np.zeros(multipliers, np.int64)
    groups, rows, depth = keep.shape
    sizes, marks = np.zeros(multipliers, np.int64), np.zeros((2, block_k), np.int64)
    for group in range(groups):
        for block in range(costs.shape[1]):
            for tile in range(costs.shape[2]):
                cost, low, high = costs[group, block, tile], tile * block_k, min(depth, (tile + 1) * block_k)
                mask = np.zeros((block_n, high - low), np.bool_)
                filled = 0
                for row in range(block * block_n, min(rows, (block + 1) * block_n)):
                    count = 0
                    for k in range(low, high):
                        kept = keep[group, row, k] > level
                        mask[filled, k - low] = kept
                        count += int(kept)
                    cost[0] += count
                    filled += int(count > 0)
                    for k in range(min(SMALLEST_CLUSTER, high - low) if 0 < count < SMALLEST_CLUSTER else 0):
                        if count < SMALLEST_CLUSTER and not mask[filled - 1, k]:
                            mask[filled - 1, k] = True
                            count += 1
                vector, k = 0, 0
                while vector < filled:
                    vector, k, used, clusters = _pack(mask[:filled], vector, k, tile > 0, elements, sizes)
                    _price(elements[:used], sizes[:clusters], multipliers, ports, table, marks, loads, cost)


def run_iterations(
    mask: NDArray[np.bool_], *, streamed: int, multipliers: int, ports: int, lines: int
) -> tuple[int, NDArray[np.int64]]:
    """Cycles of a stationary operand, simulated result by result, and its iterations.

    ``mask`` (vectors, k): where the stationary operand is mapped; each vector must have at least one element. Returns the
    cycles and an int64 table (iterations, 4): clusters, first reduction index, end of reduction indices, 1 if folded.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.any(axis=1).all():
        raise ValueError("the mask must be a bool matrix without empty rows")
    most = int(mask.shape[0] + (mask.sum() // max(1, multipliers - 1)) + 1)
    per_iteration = np.zeros((most, 4), dtype=np.int64)
    cycles, iterations = _run(np.ascontiguousarray(mask), streamed, multipliers, ports, lines, per_iteration)
    return int(cycles), per_iteration[:iterations]


def tile_costs(
    keep: NDArray[np.uint8], *, level: int, block_n: int, block_k: int, multipliers: int, ports: int, lines: int
) -> NDArray[np.int64]:
    """What each tile of a weight-stationary run costs, in closed form; int64 (groups, row blocks, k tiles, len(COSTS)).

    ``keep``: uint8 (groups, n, k). A tile packs the filters of its row block, cut to its reduction indices; filters without
    weights there are not mapped. Streaming ``positions`` through all its iterations takes ``fixed_cycles`` + positions *
    ``cycles_per_position``; per position, ``words`` input words are read, ``packets`` delivered to ports, ``psums`` partial
    sums sent back in and ``results`` written.
    """
    if keep.dtype != np.uint8 or keep.ndim != 3:
        raise ValueError(f"keep map must be uint8 with 3 dimensions, found {keep.dtype} with {keep.ndim}")
    blocks = (-(-keep.shape[1] // block_n), -(-keep.shape[2] // block_k))
    costs = np.zeros((keep.shape[0], *blocks, len(COSTS)), dtype=np.int64)
    _tile_costs(np.ascontiguousarray(keep), level, block_n, block_k, multipliers, ports, lines, costs)
    return costs
