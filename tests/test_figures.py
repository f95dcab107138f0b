"""Figures: equal in every run, safe text, lanes that agree with the cycle split, fronts and intervals against oracles."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.energy import COMPONENTS
from nestling.analysis.detail_figures import ONE_COPY_FORMATS, storage_figure
from nestling.analysis.figure_style import COMPONENT_COLOURS, LANE_COLOURS, SPLIT_COLOURS, Picture, ink_on, style
from nestling.analysis.figures import draw_all, energy_figure, pareto_front, utilisation_figure, wilson_interval
from nestling.analysis.lanes import LANES, lanes_of, steady_window
from nestling.analysis.study import Study
from nestling.analysis.tables import SPLIT_PARTS
from nestling.analysis.units import si_scale
from nestling.sim.pipeline import flat_timing
from nestling.traces.formats import FORMATS
from scipy.stats import binomtest

from .study_cases import layers, study

ALL = ["energy", "latency", "tradeoff", "utilisation", "timeline", "storage", "measured"]


@pytest.fixture(scope="module")
def case() -> Study:
    return study()


@pytest.fixture(scope="module")
def pictures(case: Study) -> list[Picture]:
    return draw_all(case)


def words(picture: Picture) -> list[str]:
    return [
        text for x in ET.fromstring(picture.svg).iter() if x.tag.endswith("text") and (text := "".join(x.itertext()))
    ]


def test_every_figure_is_drawn(pictures: list[Picture]) -> None:
    assert [picture.name for picture in pictures] == ALL
    assert all(picture.title and picture.help.endswith(".") for picture in pictures)


def test_two_runs_draw_equal_bytes(case: Study, pictures: list[Picture]) -> None:
    assert draw_all(case) == pictures
    assert draw_all(study()) == pictures


def test_drawing_leaves_no_setting_behind(case: Study) -> None:
    before = dict(mpl.rcParams)
    draw_all(case)
    assert dict(mpl.rcParams) == before


def test_ids_are_unique_on_the_page(pictures: list[Picture]) -> None:
    ids = re.findall(r'\bid="([^"]*)"', "".join(picture.svg for picture in pictures))
    assert ids
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"#([A-Za-z0-9]+)[\")]", "".join(picture.svg for picture in pictures)))
    assert used - {x for x in used if re.fullmatch(r"[0-9a-f]{6}", x)} <= set(ids)


def test_text_follows_the_page_and_nothing_is_dated(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert "currentColor" in picture.svg
        assert "#010203" not in picture.svg
        assert "<metadata" not in picture.svg
        assert not re.search(r'<svg [^>]*\b(width|height)="\d', picture.svg)


def test_axes_carry_units_and_bars_their_totals(case: Study) -> None:
    with style():
        shown = words(energy_figure(case))
    energies = [level.energy_j for result in case.results for level in result.levels]
    scale = si_scale(energies, "J")
    assert f"energy per inference ({scale.unit})" in shown
    assert {scale.text(joules) for joules in energies} <= set(shown)


def test_names_that_look_like_markup_or_mathematics_stay_text(case: Study) -> None:
    evil = study(network_layers=layers(name="<script>alert({})</script> & $x_1$")[:2])
    shown = {picture.name: picture for picture in draw_all(evil)}
    for name in ("utilisation", "timeline"):
        assert "<script" not in shown[name].svg
        assert any(re.search(r"<script>alert\(\d\)</script> & \$x_1\$", text) for text in words(shown[name]))


def test_without_measurements_the_title_says_so(case: Study) -> None:
    shown = {picture.name: picture for picture in draw_all(replace(case, executions=()))}
    assert "measured" not in shown
    assert "not measured" in shown["tradeoff"].title
    assert "weights kept" in words(shown["tradeoff"])


def test_what_a_study_lacks_is_left_out(case: Study) -> None:
    bare = replace(case, storage={}, executions=(), results=[replace(r, timeline=None) for r in case.results])
    assert [picture.name for picture in draw_all(bare)] == ["energy", "latency", "tradeoff", "utilisation"]


@pytest.mark.parametrize("count", [2, 54, 131])
def test_utilisation_has_readable_names_for_any_depth(count: int) -> None:
    with style():
        picture = utilisation_figure(
            study(network_layers=layers(count), designs=["systolic-16x16"], densities=(1.0, 0.5))
        )
    assert picture is not None
    names = [text for text in words(picture) if text.startswith(("conv", "classifier"))]
    assert 2 <= len(names) <= 54
    assert names[0] == "conv0"


def test_one_level_one_design() -> None:
    assert [x.name for x in draw_all(study(designs=["systolic-16x16"], densities=(0.5,)))] == ALL


def test_colours_name_every_part() -> None:
    assert tuple(COMPONENT_COLOURS) == COMPONENTS
    assert tuple(SPLIT_COLOURS) == SPLIT_PARTS
    assert tuple(LANE_COLOURS) == LANES
    assert len(set(COMPONENT_COLOURS.values())) == len(COMPONENTS)
    assert (ink_on("#ffffff"), ink_on("#000000"), ink_on("#F0E442"), ink_on("#0072B2")) == (
        "#000000", "#ffffff", "#000000", "#ffffff",
    )  # fmt: skip


def test_storage_counts_one_copy_only_for_formats_that_have_one(case: Study) -> None:
    assert set(FORMATS) >= ONE_COPY_FORMATS
    with style():
        picture = storage_figure(
            replace(case, storage={"level_ordered": [3000, 2000, 1000], "csr": [3000, 2000, 1000]})
        )
    assert picture is not None
    assert {"2.93", "5.86"} <= set(words(picture))  # KiB: 3000 bytes once; 6000 bytes in three streams


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    expected = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
    front = pareto_front([(float(x), float(y)) for x, y in points])
    assert set(front) == {(float(x), float(y)) for x, y in expected}
    assert front == sorted(front)


@given(st.integers(0, 500), st.integers(1, 500))
def test_interval_equals_scipy(hits: int, images: int) -> None:
    hits = min(hits, images)
    expected = binomtest(hits, images).proportion_ci(method="wilson")
    assert wilson_interval(hits / images, images) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("index", [0, 1])
def test_lanes_agree_with_events_and_split(case: Study, index: int) -> None:
    result = case.results[index]
    timeline: Any = result.timeline
    lanes = lanes_of(result, timeline)
    tiles, events = timeline.plan.tiles, timeline.events
    for lane in lanes.values():
        assert (lane.end > lane.begin).all()
        assert (lane.begin[1:] >= lane.end[:-1]).all()  # a stage holds one tile at a time
    dram = flat_timing(result.design.dram, result.point.clock_hz)
    busy = np.concatenate([lanes["fetch"].end - lanes["fetch"].begin, lanes["store"].end - lanes["store"].begin])
    moved = (
        dram.transfer_cycles(tiles.weight_bytes + tiles.input_bytes).sum()
        + dram.transfer_cycles(tiles.store_bytes).sum()
    )
    assert busy.sum() == moved
    layer = next(x for x in result.levels[0].layers if x.layer == timeline.layer)
    assert lanes["compute"].waiting.sum() == layer.split.output_stall
    assert lanes["compute"].end.max() == events.last[-1] + 1
    channel = sorted(
        span for name in ("fetch", "store") for span in zip(lanes[name].begin, lanes[name].end, strict=True)
    )
    assert all(before[1] <= after[0] for before, after in pairwise(channel))  # one transfer at a time


@pytest.mark.parametrize("tiles", [1, 4, 16, 10**6])
def test_window_lies_inside_the_layer(case: Study, tiles: int) -> None:
    result = case.results[0]
    timeline: Any = result.timeline
    window = steady_window(result, timeline, tiles=tiles)
    assert window is not None
    count = len(timeline.plan.tiles)
    assert window.last_tile - window.first_tile + 1 == min(tiles, count)
    assert 0 <= window.first_tile <= window.last_tile < count
    assert 0 <= window.begin < window.end <= timeline.events.end
    for lane in window.lanes.values():
        assert ((lane.end > window.begin) & (lane.begin < window.end)).all()
    assert set(range(window.first_tile, window.last_tile + 1)) <= set(window.lanes["compute"].tile.tolist())
