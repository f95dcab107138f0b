"""Parameters of the zoo's builders: every allowed value works, every other is one clear message, also from the terminal."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.analysis import cli
from nestling.analysis.sources import load_workload, parse_parameters
from nestling.workloads.errors import InputError
from nestling.workloads.zoo import MODELS, NETWORKS, build

TABLES = Path(__file__).parent / "data" / "layer_tables"
TOTALS = {row["model"]: row for row in csv.DictReader((TABLES / "TOTALS.csv").open(encoding="utf-8"))}


@st.composite
def some_network(draw: st.DrawFn) -> tuple[str, dict[str, int | float]]:
    name = draw(st.sampled_from(sorted(MODELS)))
    values: dict[str, int | float] = {}
    for key, p in MODELS[name].parameters.items():
        if isinstance(p.default, float):
            values[key] = draw(st.floats(p.lowest, p.highest))
        else:
            values[key] = p.multiple * draw(st.integers(-(-int(p.lowest) // p.multiple), int(p.highest) // p.multiple))
    return name, values


@given(some_network())
@settings(max_examples=120, deadline=None)
def test_every_allowed_value_gives_a_sound_network(case: tuple[str, dict[str, int | float]]) -> None:
    """Layer and Network check shapes, sources and edges themselves; building is the test."""
    name, values = case
    network, default = build(name, **values), build(name)
    assert [x.name for x in network.layers if x.op != "add"] == [x.name for x in default.layers if x.op != "add"]
    for x in network.layers:
        if x.gemm is not None:
            assert x.macs == x.repeat * x.gemm.b * x.gemm.m * x.gemm.n * x.gemm.k > 0
        if x.has_weights and x.weight_params:
            size = 1
            for extent in x.weight_shape:
                size *= extent
            assert x.weight_params == size
    changed = {k for k, v in values.items() if v != MODELS[name].parameters[k].default}
    assert all(f"{key}={values[key]}" in network.source for key in changed)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_ends_of_every_range(name: str) -> None:
    parameters = MODELS[name].parameters
    for key, p in parameters.items():
        for value in (p.lowest, p.highest):
            assert p.checked(value) == value
            assert build(name, **{key: value}).macs > 0
        step = p.multiple if isinstance(p.default, int) else 1e-9
        for value in (p.lowest - step, p.highest + step * (1 if isinstance(p.default, int) else 100)):
            with pytest.raises(
                InputError, match=f"{name}: {key} = .* must be a .*number from {p.lowest} to {p.highest}"
            ):
                build(name, **{key: value})


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "messages"),
    [
        ("resnet51", {}, ["unknown model 'resnet51'; did you mean 'resnet50'?"]),
        ("", {}, ["unknown model ''"]),
        ("../resnet50", {}, ["unknown model '../resnet50'; did you mean 'resnet50'?"]),
        ("TOTALS", {}, ["unknown model 'TOTALS'"]),
        ("resnet50", {"imge": 64}, ["unknown parameter of model 'resnet50' 'imge'; did you mean 'image'?"]),
        ("resnet50", {"name": 1}, ["unknown parameter of model 'resnet50' 'name'"]),
        ("resnet50", {"image": 31}, ["resnet50: image = 31 (height and width of the input image, pixels) must be a whole "
                                     "number from 32 to 1024"]),
        ("resnet50", {"image": 100.5}, ["image = 100.5"]),
        ("resnet50", {"image": "large"}, ["image = large"]),
        ("resnet50", {"image": True}, ["image = True"]),
        ("resnet50", {"image": None}, ["image = None"]),
        ("resnet50", {"image": 10**400}, ["must be a whole number from 32 to 1024"]),
        ("mobilenet_v1", {"width": float("nan")}, ["width = nan"]),
        ("mobilenet_v1", {"width": float("inf")}, ["width = inf"]),
        ("vit_b_16", {"image": 200}, ["must be a whole number from 32 to 1024, divisible by 16"]),
        ("bert_base", {"tokens": 513}, ["bert_base: tokens = 513 (length of the sequence) must be a whole number from 1 to "
                                        "512"]),
        ("gnmt_v2", {"source_tokens": 0, "hiden": 1}, ["source_tokens = 0", "did you mean 'hidden'?"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_each(name: str, parameters: dict[str, object], messages: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(name, **parameters)
    assert len(caught.value.problems) == len(messages)
    for problem, message in zip(caught.value.problems, messages, strict=True):
        assert message in problem


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert build("resnet18", image=64.0).layers == build("resnet18", image=64).layers


def test_parameters_from_the_command_line() -> None:
    assert parse_parameters(["image=160", " width = 0.5 "]) == {"image": 160, "width": 0.5}
    assert parse_parameters([]) == {}
    with pytest.raises(InputError) as caught:
        parse_parameters(["image", "=3", "a=", "b=x", "c=1", "c=2", "d=--1", "e=²"])
    assert caught.value.problems == (
        "--set 'image': must be NAME=VALUE, such as image=160",
        "--set '=3': must be NAME=VALUE, such as image=160",
        "--set 'a=': must be NAME=VALUE, such as image=160",
        "--set b: 'x' is not a number",
        "--set c: given twice",
        "--set d: '--1' is not a number",
        "--set e: '²' is not a number",
    )


def test_workloads_take_parameters(tmp_path: Path) -> None:
    network = load_workload("resnet18", parameters={"image": 64}, densities=[0.2]).network
    assert (network.layers[0].name, network.layers[0].H) == ("conv1", 64)
    assert "image=64; synthetic levels 0.2" in network.source
    table = tmp_path / "mine.csv"
    table.write_bytes((TABLES / "resnet18.csv").read_bytes())
    assert load_workload(str(table), densities=[0.2]).network.macs == int(TOTALS["resnet18"]["macs"])
    for model in ("fashion", str(table), "other.safetensors"):
        with pytest.raises(InputError, match=r"has no parameters; --set is for"):
            load_workload(model, parameters={"image": 64})
    with pytest.raises(InputError, match="unknown model 'resnet19'; did you mean 'resnet18'"):
        load_workload("resnet19", parameters={"image": 64})


@pytest.mark.parametrize(
    ("arguments", "case"),
    [
        (("run", "mobilenet_v1", "--set", "image=64", "--set", "width=0.25"), ("mobilenet_v1", {"image": 64, "width": 0.25})),
        (("compare", "gru_wikitext103", "--set", "tokens=8"), ("gru_wikitext103", {"tokens": 8})),
    ],
)  # fmt: skip
def test_the_option_reaches_the_simulated_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...],
    case: tuple[str, dict[str, int | float]],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["nestling", *arguments, "--levels", "1.0", "-a", "systolic-16x16", "--json"])
    cli.app(standalone_mode=False)
    data = json.loads(capsys.readouterr().out)
    results = data.get("designs", [data])
    name, parameters = case
    assert [level["macs"] for result in results for level in result["levels"]] == [build(name, **parameters).macs]


def test_models_lists_parameters_with_ranges(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nestling", "models", "--json"])
    cli.app(standalone_mode=False)
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert set(listed) == {"fashion", "digits", *NETWORKS}
    assert listed["fashion"]["parameters"] == {}
    assert listed["vit_b_16"]["parameters"]["image"] == {
        "default": 224, "lowest": 32, "highest": 1024, "multiple": 16,
        "meaning": "height and width of the input image, pixels",
    }  # fmt: skip
    assert all(listed[name]["source"] and listed[name]["params"] == int(TOTALS[name]["params"]) for name in MODELS)
