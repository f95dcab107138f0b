"""STONNE's SIGMA-like array cycle by cycle: queues at ports, multipliers, adders and output lines, values as tags.

Written from the simulator's structure, not from nestling's closed times: every unit has queues and moves its heads once per
cycle, the units run in STONNE's order (memory, output lines, adders from the root down, multipliers, distribution).
"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np


def adder_signals(
    first: int, size: int, multipliers: int
) -> tuple[dict[tuple[int, int], tuple[int, int]], tuple[int, int]]:
    """Where each adder of a cluster sends its sum, and the adder that finishes it; by marking bits level by level."""
    bits = [first <= i < first + size for i in range(multipliers)]
    goes: dict[tuple[int, int], tuple[int, int]] = {}
    level = multipliers.bit_length() - 2
    while True:
        adders = 1 << level
        bits += [False] * 6
        up = [bits[2 * a] or bits[2 * a + 1] for a in range(adders)]
        for a in range(1, adders - 1, 2):
            left = run_length(bits, (2 * a + 1) if bits[2 * a + 1] else 2 * a, -1)
            right = run_length(bits, (2 * a + 2) if bits[2 * a + 2] else 2 * a + 3, 1)
            if not left or not right:
                continue
            if left >= right and not (bits[2 * a + 4] or bits[2 * a + 5]):
                goes[level, a + 1], up[a + 1] = (level, a), False
                bits[2 * a + 2 :] = [False] * len(bits[2 * a + 2 :])
            elif left < right and not (bits[2 * a - 1] or bits[2 * a - 2]):
                goes[level, a], up[a] = (level, a + 1), False
                bits[: 2 * a + 2] = [False] * (2 * a + 2)
        if sum(up) == 1:
            return goes, (level, up.index(True))
        bits, level = up, level - 1


def run_length(bits: list[bool], start: int, step: int) -> int:
    count = 0
    while 0 <= start < len(bits) and bits[start]:
        count, start = count + 1, start + step
    return count


def line_entries(multipliers: int, lines: int) -> dict[tuple[int, int], tuple[int, int]]:
    """(level, adder) -> (output line, input of that line)."""
    doubles, singles = [], []
    for level in range(multipliers.bit_length() - 1):
        for a in range(1 << level):
            if level and a and a % 2 == 0:
                doubles += [(level, a - 1), (level, a)]
            elif a in (0, (1 << level) - 1):
                singles.append((level, a))
    found = {}
    for i in range(0, len(doubles), 2):
        for side in range(2):
            found[doubles[i + side]] = ((i // 2) % lines, 2 * ((i // 2) // lines) + side)
    for i, adder in enumerate(singles):
        found[adder] = ((i + len(doubles)) % lines, len(doubles) // lines + 1 + i // lines)
    return found


class Array:
    """One machine; the output lines' round-robin pointers live across iterations."""

    def __init__(self, multipliers: int, ports: int, lines: int) -> None:
        self.multipliers, self.ports, self.lines = multipliers, ports, lines
        self.share = multipliers // ports
        self.entries = line_entries(multipliers, lines)
        self.turn = [0] * lines

    def iteration(self, elements: list[int], sizes: list[int], streamed: int) -> int:
        """Cycles of one iteration, configuration included. ``elements``: reduction index per multiplier, -1 = psum."""
        run = Iteration(self, elements, sizes)
        cycle = 0
        while run.done < len(sizes) * streamed:
            cycle += 1
            # Cycle 1 configures, cycle 2 hands out the stationary operand, then one streamed vector per cycle.
            if cycle == 2:
                run.send_stationary()
            elif 3 <= cycle < 3 + streamed:
                run.send_vector(cycle - 3)
            run.write()
            heads = run.port_heads()
            run.collect()
            run.add()
            # Without a tree in front of them multipliers see a port's element in the same cycle.
            if self.share == 1:
                run.deliver(heads)
            run.multiply()
            if self.share > 1:
                run.deliver(heads)
        return cycle


class Iteration:
    """State of one iteration: what waits where. A partial result is (adder, cluster, vector)."""

    def __init__(self, array: Array, elements: list[int], sizes: list[int]) -> None:
        self.array, self.elements = array, elements
        self.leaf_level = array.multipliers.bit_length() - 2
        self.clusters = np.repeat(np.arange(len(sizes)), sizes).tolist()
        starts = np.concatenate(([0], np.cumsum(sizes))).tolist()
        self.signals = [adder_signals(starts[v], sizes[v], array.multipliers) for v in range(len(sizes))]
        self.queues: list[deque] = [deque() for _ in range(array.ports)]
        self.sums: list[deque] = [deque() for _ in range(array.ports)]
        self.inbox: dict = defaultdict(deque)
        self.loaded = [elements[0] < 0 and i == 0 for i in range(array.multipliers)]
        self.operands: dict = defaultdict(int)
        self.lines: list[dict[int, deque]] = [defaultdict(deque) for _ in range(array.lines)]
        self.climbing: list[tuple] = []
        self.finished: list[tuple] = []
        self.arrived = self.buffer = self.done = 0
        self.needed = self.count_operands()

    def send_stationary(self) -> None:
        for i, k in enumerate(self.elements):
            if k >= 0:
                self.queues[i // self.array.share].append(("load", [i], 0))

    def send_vector(self, vector: int) -> None:
        share = self.array.share
        if self.elements[0] < 0:
            self.sums[0].append(("sum", [0], vector))
        for k in sorted(set(self.elements) - {-1}):
            holders = [i for i, held in enumerate(self.elements) if held == k]
            for p in sorted({i // share for i in holders}):
                self.queues[p].append(("value", [i for i in holders if i // share == p], vector))

    def write(self) -> None:
        self.buffer += self.arrived
        written = -(-self.buffer // 2)
        self.buffer, self.done, self.arrived = self.buffer - written, self.done + written, 0

    def port_heads(self) -> list[tuple]:
        waiting = [self.sums[p] or self.queues[p] for p in range(self.array.ports)]
        return [queue.popleft() for queue in waiting if queue]

    def collect(self) -> None:
        for result in self.finished:
            line, entry = self.array.entries[result[0]]
            self.lines[line][entry].append(result)
        self.finished = []
        width = self.array.multipliers // self.array.lines + 1
        for line, inputs in enumerate(self.lines):
            turns = [(self.array.turn[line] + step) % width for step in range(width)]
            chosen = next((entry for entry in turns if inputs[entry]), None)
            if chosen is not None:
                inputs[chosen].popleft()
                self.arrived += 1
                self.array.turn[line] = (chosen + 1) % width

    def add(self) -> None:
        received, self.climbing = self.climbing, []
        for adder, cluster, vector in received:
            self.operands[adder, cluster, vector] += 1
            if self.operands[adder, cluster, vector] == self.needed[adder, cluster]:
                target = self.target(adder, cluster)
                if target is None:
                    self.finished.append((adder, cluster, vector))
                else:
                    self.climbing.append((target, cluster, vector))

    def target(self, adder: tuple[int, int], cluster: int) -> tuple[int, int] | None:
        goes, last = self.signals[cluster]
        return None if adder == last else goes.get(adder, (adder[0] - 1, adder[1] // 2))

    def deliver(self, heads: list[tuple]) -> None:
        for what, targets, vector in heads:
            for i in targets:
                self.inbox[i].append((what, vector))

    def multiply(self) -> None:
        for i, cluster in enumerate(self.clusters):
            if self.inbox[i]:
                what, vector = self.inbox[i].popleft()
                if what == "load":
                    self.loaded[i] = True
                else:
                    assert self.loaded[i]
                    self.climbing.append(((self.leaf_level, i // 2), cluster, vector))

    def count_operands(self) -> dict:
        """(adder, cluster) -> operands it waits for."""
        needed: dict = defaultdict(int)
        for cluster in range(len(self.signals)):
            members = [i for i, of in enumerate(self.clusters) if of == cluster]
            for i in members:
                needed[(self.leaf_level, i // 2), cluster] += 1
            reached = {(self.leaf_level, i // 2) for i in members}
            while reached:
                targets = [(adder, self.target(adder, cluster)) for adder in reached]
                for _, target in targets:
                    if target is not None:
                        needed[target, cluster] += 1
                # Over a link the sum stays on its level, where the receiver is reached already.
                reached = {target for adder, target in targets if target is not None and target[0] != adder[0]}
        return needed
