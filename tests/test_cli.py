"""The command line as a person or a script meets it: exit status, one line per mistake, machine-readable contracts."""

import json
import sys

import pytest
from nestling.analysis import cli


def call(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of one call."""
    monkeypatch.setattr(sys, "argv", ["nestling", *map(str, arguments)])
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_run_without_arguments_is_the_bundled_network(run):
    status, out, _ = run("run", "--json", "--repeats", 2)
    data = json.loads(out)
    assert status == 0
    assert data["network"] == "fashion"
    assert [level["level"] for level in data["levels"]] == [0, 1, 2, 3]
    keys = {"level", "density", "weight_bytes", "macs", "accuracy", "cycles", "latency_s", "energy_j",
            "energy_by_component_j", "cpu_latency_s"}  # fmt: skip
    for level in data["levels"]:
        assert keys <= set(level)
        assert level["energy_j"] == pytest.approx(sum(level["energy_by_component_j"].values()), rel=1e-12)
    assert [level["accuracy"] for level in data["levels"]] == [0.9315, 0.9315, 0.928, 0.8845]
    assert data["levels"][0]["macs"] == 7_846_912


def test_run_writes_everything_at_once(run, tmp_path):
    status, out, _ = run("run", "resnet18", "--levels", "0.3,0.1", "-a", "systolic-16x16", "--out", tmp_path / "o")
    assert status == 0
    assert "not measured" in out
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "layers.parquet", "report.html", "result.json", "trace.parquet",
    ]  # fmt: skip
    first = (tmp_path / "o" / "result.json").read_bytes()
    run("run", "resnet18", "--levels", "0.3,0.1", "-a", "systolic-16x16", "--out", tmp_path / "p")
    assert (tmp_path / "p" / "result.json").read_bytes() == first
    status, out, _ = run("simulate", tmp_path / "o" / "trace.parquet", "-a", "systolic-16x16", "--json")
    assert status == 0
    assert json.loads(out)["levels"] == [level | {"accuracy": None} for level in json.loads(first)["levels"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "resnet5O"), ("unknown model 'resnet5O'", "did you mean 'resnet50'?")),
        (("run", "resnet18", "--levels", "0.1,0.5"), ("level 1", "denser than level 0")),
        (("run", "resnet18", "--levels", "0.5,many"), ("--levels: 'many' is not a number",)),
        (("run", "fashion", "--levels", "0.5"), ("'fashion' has its own trained levels",)),
        (("run", "--level", "4"), ("level 4 does not exist",)),
        (("run", "-a", "sistolic-16x16"), ("did you mean 'systolic-16x16'?",)),
        (("run", "-a", "none.yaml"), ("none.yaml: no such file",)),
        (("run", "--point", "hihg", "--no-execute"), ("did you mean 'high'?",)),
        (("run", "--layer", "conv7", "--no-execute"), ("conv7", "did you mean 'conv")),
        (("compare", "fashion", "--ablate", "diannao"), ("arrays of kind 'diannao' have no switches",)),
        (("compare", "fashion", "--ablate", "smartdeal", "--equalise"), ("give one of them",)),
        (("simulate", "none.parquet"), ("none.parquet: no such file",)),
        (("execute", "resnet18"), ("cannot be executed",)),
        (("explain", "convv1"), ("did you mean 'conv1'?",)),
        (("validate", "systolc"), ("did you mean 'systolic'?",)),
        (("validate", "scnn", "--reference", "nowhere"), ("--reference nowhere: no such folder",)),
        (("accels", "scn"), ("did you mean 'scnn'?",)),
        (("train", "cifar", "--out", "x"), ("unknown trainable network 'cifar'",)),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_design_lists_every_mistake(run, tmp_path):
    from nestling.accel.design import DESIGN_FOLDER

    text = (DESIGN_FOLDER / "systolic-16x16.yaml").read_text()
    text = text.replace("rows: 16", "rows: -3").replace("verified: true", "verified: maybe", 1)
    text = text.replace("output_stationary ", "output_stationery ")
    (tmp_path / "bad.yaml").write_text(text)
    status, _, err = run("run", "-a", tmp_path / "bad.yaml", "--no-execute")
    assert status == 2
    lines = err.strip().splitlines()
    assert len(lines) == 3
    assert all("bad.yaml:" in line for line in lines)
    assert "output_stationary" in err


def test_listings(run):
    status, out, _ = run("models", "--json")
    models = {m["name"]: m for m in json.loads(out)["models"]}
    assert status == 0
    assert len(models) == 29  # 25 with reference tables, the two bundled ones, VGG-11, the decoder of any size
    assert models["resnet50"]["macs"] == 4_089_184_256
    status, out, _ = run("accels", "nm-lanes-16x8")
    assert status == 0
    assert "kind: nm_lanes" in out
    status, out, _ = run("doctor")
    assert status == 0


def test_validate_speaks_json(run):
    status, out, _ = run("validate", "nm-pipeline", "stonne-os", "--json")
    suites = json.loads(out)["suites"]
    assert status == 0
    assert [s["suite"] for s in suites] == ["nm-pipeline", "stonne-os"]
    for suite in suites:
        assert {"suite", "rows", "exact", "mean_error", "p95_error", "max_error", "bar", "passed"} <= set(suite)
        assert suite["passed"]
        assert suite["exact"] == suite["rows"] > 0


def test_compare_and_explain(run, tmp_path):
    status, out, _ = run("compare", "fashion", "-a", "scnn", "-a", "sigma", "--out", tmp_path)
    assert status == 0
    assert "scnn" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["comparison.csv", "comparison.svg", "report.html"]
    status, out, _ = run("explain", "conv3", "-a", "nm-lanes-16x8", "--json")
    levels = json.loads(out)["explanations"][0]["levels"]
    assert status == 0
    for level in levels:
        actual = next(m for m in level["density_models"] if m["model"] == "actual")
        assert actual["cycles"] == level["cycles"]
        counts = level["counts"]
        assert counts["mac_computed"] + counts["mac_gated"] + counts["mac_skipped"] == counts["mac_dense"]


def test_objective_reaches_the_search(run):
    reads = {}
    for objective in ("energy", "latency"):
        status, out, _ = run("run", "resnet18", "-l", "0.5", "-a", "tpu-like-16x16", "--objective", objective, "--json")
        assert status == 0
        reads[objective] = json.loads(out)["levels"][0]["energy_by_component_j"]["dram"]
    assert reads["energy"] <= reads["latency"]


def test_designs_of_one_name_keep_their_own_results(run, tmp_path):
    from nestling.accel.design import DESIGN_FOLDER

    text = (DESIGN_FOLDER / "systolic-16x16.yaml").read_text()
    (tmp_path / "half.yaml").write_text(text.replace("  rows: 16", "  rows: 8"))
    status, out, _ = run("run", "-a", "systolic-16x16", "-a", tmp_path / "half.yaml", "--no-execute", "--json")
    data = json.loads(out)
    assert status == 0
    full, half = (design["levels"][0]["cycles"] for design in data["designs"])
    assert half > full


def test_comparison_names_what_cannot_run(run, tmp_path):
    from nestling.accel.design import DESIGN_FOLDER

    text = (DESIGN_FOLDER / "systolic-16x16.yaml").read_text().replace("name: systolic-16x16", "name: tiny")
    (tmp_path / "tiny.yaml").write_text(text.replace("bytes: 32768", "bytes: 512"))
    status, out, _ = run("compare", "-a", tmp_path / "tiny.yaml", "-a", "diannao", "--json")
    assert status == 0
    assert "too large for any tiling" in json.loads(out)["skipped"]["tiny"]
    status, _, err = run("compare", "-a", tmp_path / "tiny.yaml")
    assert status == 2
    assert "design 'tiny' cannot run this network" in err


def test_an_unknown_array_kind_is_named_with_the_nearest(run, tmp_path):
    from nestling.accel.design import DESIGN_FOLDER

    text = (DESIGN_FOLDER / "systolic-16x16.yaml").read_text()
    (tmp_path / "odd.yaml").write_text(text.replace("kind: systolic", "kind: sistolic"))
    status, _, err = run("run", "-a", tmp_path / "odd.yaml", "--no-execute")
    assert status == 2
    assert "kind 'sistolic' is unknown" in err
    assert "systolic" in err.split("unknown", 1)[1]
    (tmp_path / "none.yaml").write_text(text.replace("  kind: systolic\n", ""))
    status, _, err = run("run", "-a", tmp_path / "none.yaml", "--no-execute")
    assert status == 2
    assert "missing key 'kind'" in err
