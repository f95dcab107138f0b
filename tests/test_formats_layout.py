"""Every encoder against its documented layout, written weight by weight as plain Python strings of '0' and '1'."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.traces.formats import FORMATS, GroupedSlots

ALL = {**FORMATS, "nm3": GroupedSlots(3)}


def ceil_log2(choices: int) -> int:
    width = 0
    while 2**width < choices:
        width += 1
    return width


def unsigned(number: int, width: int) -> str:
    return "".join("1" if number // 2**i % 2 else "0" for i in reversed(range(width)))


def signed(code: int, width: int) -> str:
    return unsigned(code if code >= 0 else code + 2**width, width)


Case = tuple[list[list[int]], list[list[int]], int, int, int]  # values, keep, level, levels, value_bits


def kept(case: Case) -> list[tuple[int, int, int]]:
    values, keep, level, _, _ = case
    return [(r, c, values[r][c]) for r, row in enumerate(keep) for c, k in enumerate(row) if k > level]


def rows_oracle(entries: list[tuple[int, int, str]], rows: int, columns: int) -> str:
    text = unsigned(len(entries), ceil_log2(rows * columns + 1))
    for row in range(rows):
        text += unsigned(sum(r <= row for r, _, _ in entries), ceil_log2(len(entries) + 1))
    return text + "".join(unsigned(c, ceil_log2(columns)) + payload for _, c, payload in entries)


def dense_oracle(case: Case) -> str:
    values, keep, level, _, bits = case
    return "".join(
        signed(v if k > level else 0, bits)
        for row, keep_row in zip(values, keep, strict=True)
        for v, k in zip(row, keep_row, strict=True)
    )


def bitmap_oracle(case: Case) -> str:
    pattern = "".join("1" if k > case[2] else "0" for row in case[1] for k in row)
    return pattern + "".join(signed(v, case[4]) for _, _, v in kept(case))


def csr_oracle(case: Case) -> str:
    return rows_oracle([(r, c, signed(v, case[4])) for r, c, v in kept(case)], len(case[1]), len(case[1][0]))


def coo_oracle(case: Case) -> str:
    columns = len(case[1][0])
    n = len(case[1]) * columns
    text = unsigned(len(kept(case)), ceil_log2(n + 1))
    return text + "".join(unsigned(r * columns + c, ceil_log2(n)) + signed(v, case[4]) for r, c, v in kept(case))


def run_length_oracle(case: Case) -> str:
    values, keep, level, _, bits = case
    flat = [
        v if k > level else None for row, ks in zip(values, keep, strict=True) for v, k in zip(row, ks, strict=True)
    ]
    best = None
    for k in range(16):
        body, run, entries = "", 0, 0
        for item in flat:
            if item is not None:
                body, run, entries = body + unsigned(run, k) + signed(item, bits), 0, entries + 1
                stored = (body, entries)
            elif run == 2**k - 1:
                body, run, entries = body + unsigned(run, k) + signed(0, bits), 0, entries + 1
            else:
                run += 1
        # Padding behind the last retained weight is not stored.
        body, entries = stored if any(item is not None for item in flat) else ("", 0)
        if best is None or len(body) < len(best[0]):
            best = (body, entries, k)
    assert best is not None
    return unsigned(best[2], 4) + unsigned(best[1], ceil_log2(len(flat) + 1)) + best[0]


def slots_of(case: Case, group: int) -> tuple[int, list[list[tuple[int, int]]]]:
    values, keep, level, _, _ = case
    groups = []
    for row, ks in zip(values, keep, strict=True):
        for start in range(0, len(row), group):
            here = range(start, min(start + group, len(row)))
            groups.append({c - start: row[c] for c in here if ks[c] > level})
    slots = max(len(g) for g in groups)
    filled = []
    for g in groups:
        free = [p for p in range(group) if p not in g][: slots - len(g)]
        filled.append(sorted([*g.items(), *((p, 0) for p in free)]))
    return slots, filled


def nm_oracle(group: int) -> Callable[[Case], str]:
    def oracle(case: Case) -> str:
        slots, groups = slots_of(case, group)
        text = unsigned(slots, ceil_log2(group + 1))
        return text + "".join(unsigned(p, ceil_log2(group)) + signed(v, case[4]) for g in groups for p, v in g)

    return oracle


def packed_oracle(group: int) -> Callable[[Case], str]:
    def oracle(case: Case) -> str:
        slots, groups = slots_of(case, group)
        # The combinatorial number system orders patterns by their largest position first.
        patterns = sorted(combinations(range(group), slots), key=lambda pattern: pattern[::-1])
        text = unsigned(slots, ceil_log2(group + 1))
        width = ceil_log2(len(patterns))
        text += "".join(unsigned(patterns.index(tuple(p for p, _ in g)), width) for g in groups)
        return text + "".join(signed(v, case[4]) for g in groups for _, v in g)

    return oracle


def runs_oracle(filled: list[bool]) -> str:
    """Positions as zero runs: the shortest of the sixteen widths, the smallest of equals."""
    texts = []
    for k in range(16):
        unary, fields, run = "", "", 0
        for is_filled in filled:
            if is_filled:
                unary, fields, run = unary + "0" * (run // 2**k) + "1", fields + unsigned(run % 2**k, k), 0
            else:
                run += 1
        texts.append(unsigned(k, 4) + unsigned(len(unary), ceil_log2(len(filled) + 1)) + unary + fields)
    return min(texts, key=len)


def stream_oracles(case: Case, count: int) -> dict[int, str]:
    """Mode -> the stream of the weights with ``keep == count``, not padded, in every mode that can describe it."""
    values, keep, _, _, bits = case
    cells = [(r, c) for r, row in enumerate(keep) for c, k in enumerate(row) if k <= count]
    filled = [keep[r][c] == count for r, c in cells]
    stream = [cell for cell, is_filled in zip(cells, filled, strict=True) if is_filled]
    positions = {
        1: "".join("1" if is_filled else "0" for is_filled in filled),
        2: rows_oracle([(r, c, "") for r, c in stream], len(keep), len(keep[0])),
        3: runs_oracle(filled),
    }
    if all(filled):
        positions[0] = ""
    payload = "".join(signed(values[r][c], bits) for r, c in stream)
    return {mode: unsigned(mode, 2) + positions[mode] + payload for mode in sorted(positions)}


def level_ordered_oracle(case: Case) -> str:
    text = ""
    for count in range(case[3], case[2], -1):
        streams = stream_oracles(case, count)
        text += streams[min(streams, key=lambda mode: len(streams[mode]))]  # the first, lowest mode of equals
        text += "0" * (-len(text) % 8)
    return text


def level_tag_oracle(case: Case) -> str:
    values, keep, _, levels, bits = case
    width = ceil_log2(levels)
    entries = [
        (r, c, unsigned(keep[r][c] - 1, width) + signed(v, bits)) for r, c, v in kept((values, keep, 0, levels, bits))
    ]
    return rows_oracle(entries, len(keep), len(keep[0]))


ORACLES: dict[str, Callable[[Case], str]] = {
    "dense": dense_oracle,
    "bitmap": bitmap_oracle,
    "csr": csr_oracle,
    "coo": coo_oracle,
    "run_length": run_length_oracle,
    "nm4": nm_oracle(4),
    "nm8": nm_oracle(8),
    "nm16": nm_oracle(16),
    "nm3": nm_oracle(3),
    "nm4_packed": packed_oracle(4),
    "nm8_packed": packed_oracle(8),
    "nm16_packed": packed_oracle(16),
    "level_ordered": level_ordered_oracle,
    "level_tag": level_tag_oracle,
}


def to_bits(data: bytes) -> str:
    return "".join(unsigned(byte, 8) for byte in data)


def test_every_format_has_an_oracle() -> None:
    assert set(ORACLES) == set(ALL)


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 14),
    levels=st.sampled_from([1, 2, 3, 8]),
    value_bits=st.integers(1, 16),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_stream_equals_documented_layout(
    name: str, rows: int, columns: int, levels: int, value_bits: int, density: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keep = (rng.integers(0, levels + 1, (rows, columns)) * (rng.random((rows, columns)) < density)).astype(np.uint8)
    values = rng.integers(-(2 ** (value_bits - 1)), 2 ** (value_bits - 1), keep.shape)
    level = seed % levels
    data = ALL[name].encode(values, keep, level=level, levels=levels, value_bits=value_bits)
    text = ORACLES[name]((values.tolist(), keep.tolist(), level, levels, value_bits))
    assert to_bits(data) == text + "0" * (-len(text) % 8)
    assert ALL[name].bits(keep, level, levels=levels, value_bits=value_bits) == len(text)
