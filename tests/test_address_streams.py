"""Where tensors lie, and which lines each tile reads and writes: conservation, coverage, no line twice without need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.address_streams import Runs, Section, StoredWeights, address_streams, stored_weights
from nestling.accel.arrays import ARRAYS
from nestling.accel.design import DESIGNS
from nestling.traces.formats import streams_per_level
from nestling.traces.lowering import lower

from .spine_cases import SHAPES, design, layer_trace, mixed_network
from .test_pipeline import table

LINE = 64


def covered(runs: Runs) -> set[int]:
    return {
        line
        for address, lines in zip(runs.address.tolist(), runs.lines.tolist(), strict=True)
        for line in range(address // LINE, address // LINE + lines)
    }


def lines_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {line for start, stop in ranges if stop > start for line in range(start // LINE, -(-stop // LINE))}


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    sections=st.lists(st.integers(1, 1000), min_size=1, max_size=4),
)
def test_consecutive_tiles_cover_every_section_and_fetch_no_line_twice(sizes: list[int], sections: list[int]) -> None:
    """Weights of any tile sizes, read from sections that lie apart in proportion to their sizes."""
    total = sum(sizes)
    parts, base, rest = [], 0, total
    for i, size in enumerate(sections):
        own = rest if i == len(sections) - 1 else min(rest, size)
        if own:
            parts.append(Section(base, own))
        base += own + 1000  # a hole between sections
        rest -= own
    ends = np.cumsum(sizes)
    tiles = table(weight_bytes=sizes, weight_address=ends - sizes, steps=np.ones(len(sizes)))
    runs = address_streams(tiles, StoredWeights(tuple(parts), base)).fetches
    assert covered(runs) == lines_of([(p.base, p.base + p.size) for p in parts])
    lines = int(runs.lines.sum())
    assert lines == sum(len(lines_of([(p.base, p.base + p.size)])) for p in parts)  # each section's lines once
    assert lines * LINE >= total
    assert (np.diff(runs.tile()) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_stores_that_follow_each_other_write_each_line_once(sizes: list[int]) -> None:
    ends = np.cumsum(sizes)
    tiles = table(store_bytes=sizes, store_address=ends - sizes, steps=np.ones(len(sizes)))
    runs = address_streams(tiles, StoredWeights((), 0)).stores
    assert covered(runs) == lines_of([(0, int(ends[-1]))])
    assert int(runs.lines.sum()) == len(covered(runs))
    # No tile writes a line before its bytes are there.
    last = (runs.address // LINE + runs.lines - 1) * LINE
    following = ends[runs.tile()]
    assert (last < following).all()


def test_ranges_that_do_not_meet_round_outwards() -> None:
    tiles = table(input_bytes=[10, 10, 10], input_address=[60, 71, 0], steps=[1, 1, 1])
    runs = address_streams(tiles, StoredWeights((), 0)).fetches
    assert (runs.address.tolist(), runs.lines.tolist()) == ([0, 64, 0], [2, 1, 1])
    tiles = table(input_bytes=[10, 10], input_address=[60, 70], steps=[1, 1])
    runs = address_streams(tiles, StoredWeights((), 0)).fetches
    assert runs.ends.tolist() == [1, 1]  # the second tile's line came with the first one's


def test_a_level_reads_its_own_streams_and_biases() -> None:
    trace = next(x for x in lower(mixed_network()).layers if x.layer.name == "head")
    assert trace.keep is not None
    streams = streams_per_level(trace.keep, trace.levels, value_bits=8)
    stored = {level: stored_weights(trace, "level_ordered", level) for level in range(trace.levels)}
    file = int(streams.sum())
    for level, weights in stored.items():
        assert weights.read_bytes == trace.bytes("level_ordered", level)
        assert weights.stored_bytes == file + trace.levels * trace.bias_bytes
        *prefix, bias = weights.sections
        assert [section.size for section in prefix] == streams[level:][::-1].tolist()  # the sparsest first
        assert [section.base for section in prefix] == np.cumsum([0, *streams[level:][::-1][:-1]]).tolist()
        assert (bias.base, bias.size) == (file + level * trace.bias_bytes, trace.bias_bytes)


@pytest.mark.parametrize("name", ["bitmap", "csr", "coo", "run_length", "dense", "nm4", "nm8_packed", "level_tag"])
def test_sections_of_other_formats_lie_behind_each_other(name: str) -> None:
    for shape in ("conv", "linear", "grouped"):
        trace = layer_trace(SHAPES[shape])
        for level in range(trace.levels):
            weights = stored_weights(trace, name, level)
            assert weights.read_bytes == weights.stored_bytes == trace.bytes(name, level)
            ends = [section.base + section.size for section in weights.sections]
            assert [section.base for section in weights.sections[1:]] == ends[:-1]
            assert trace.keep is not None
            if name == "bitmap":
                assert weights.sections[0].size == -(-trace.keep.size // 8)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_reads_and_writes_all_its_bytes(name: str) -> None:
    """Lines of every layer and level: at least the table's bytes, at most two partial lines more per range; weights stay
    in front of inputs, inputs in front of outputs."""
    chosen = design(name)
    trace = lower(mixed_network(), weight_bits=chosen.array.weight_bits, activation_bits=chosen.array.activation_bits)
    for layer in trace.layers:
        for plan in ARRAYS[chosen.array.kind].plans(layer, range(trace.levels), chosen):
            weights = stored_weights(layer, chosen.weight_format, plan.level)
            streams = address_streams(plan.tiles, weights)
            totals = plan.tiles.totals()
            fetches = int(
                (plan.tiles.weight_bytes > 0).sum() * len(weights.sections) + (plan.tiles.input_bytes > 0).sum()
            )
            assert totals["dram_read_bytes"] <= streams.fetches.bytes
            assert streams.fetches.bytes < totals["dram_read_bytes"] + 2 * LINE * fetches
            assert totals["dram_write_bytes"] <= streams.stores.bytes
            assert streams.stores.bytes < totals["dram_write_bytes"] + 2 * LINE * int(
                (plan.tiles.store_bytes > 0).sum()
            )
            weight_lines = lines_of([(s.base, s.base + s.size) for s in weights.sections])
            assert weight_lines <= covered(streams.fetches)
            assert not covered(streams.fetches) & covered(streams.stores)


def test_requests_list_each_tiles_lines_fetch_before_store() -> None:
    tiles = table(
        weight_bytes=[100, 28], weight_address=[0, 100], input_bytes=[64, 0], input_address=[4096, 0],
        store_bytes=[0, 64], store_address=[0, 8192], steps=[1, 1],
    )  # fmt: skip
    requests = address_streams(tiles, StoredWeights((Section(0, 128),), 128)).requests()
    assert requests.addresses.tolist() == [0, 64, 4096, 8192]
    assert requests.is_write.tolist() == [False, False, False, True]


def test_tiles_cannot_read_weights_that_are_not_stored() -> None:
    tiles = table(weight_bytes=[100], steps=[1])
    with pytest.raises(ValueError, match="beyond the 99 stored bytes"):
        address_streams(tiles, StoredWeights((Section(0, 99),), 99))
