"""An ONNX file on the command line: lowered, simulated, and every assumption told to the user."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from nestling.analysis import cli

from .onnx_cases import DATA, floats, model, node, saved


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """Exit status of one call."""
    monkeypatch.setattr(sys, "argv", ["nestling", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_lower_and_simulate_tell_what_was_assumed_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nodes = [node("Conv", "x w", "a"), node("ReduceMean", "a", "m", axes=[2, 3, 4], keepdims=0), node("MatMul", "m v")]
    case = model(nodes, {"x": ["batch", 2, 5, 5, 5]}, {"w": floats(4, 2, 3, 3, 3), "v": floats(4, 10)})
    trace = tmp_path / "t.parquet"
    assert not call(monkeypatch, "lower", saved(tmp_path, case), "-o", trace)
    told = capsys.readouterr().err
    assert "batch dimension 'batch' of input 'x' is taken as 1" in told
    assert "unsupported operator Conv (1 times): 99.32% of the MACs" in told
    assert not call(monkeypatch, "simulate", trace, "-a", "nm-lanes-16x8", "--json")
    assert any("99.32% of the MACs" in text for text in json.loads(capsys.readouterr().out)["warnings"])


def test_levels_and_shapes_are_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["run", DATA / "mobile.onnx", "-a", "nm-lanes-16x8", "--json"]
    assert call(monkeypatch, *command) == 2
    assert "--shape height=N" in capsys.readouterr().err
    given = ["--shape", "height=16", "--shape", "width=16", "-l", "0.5,0.25", "--no-execute"]
    assert not call(monkeypatch, *command, *given)
    levels = json.loads(capsys.readouterr().out)["levels"]
    assert [round(level["density"], 2) for level in levels] == [0.5, 0.25]


def test_the_fixtures_name_no_machine() -> None:
    for path in DATA.glob("*.onnx*"):
        content = path.read_bytes()
        assert not any(text in content for text in (b"/home", b"/tmp", b"/work", b"site-packages", b"stack_trace"))
