"""A user's own network on the command line: exports, weights by name, topologies, level files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nestling.accel.design import load_design
from nestling.analysis.cli_options import file_options
from nestling.analysis.file_sources import FileOptions
from nestling.analysis.run import RunOptions, make_study
from nestling.analysis.sources import load_workload
from nestling.traces.trace_file import read_trace
from nestling.workloads.errors import InputError
from nestling.workloads.network import Network
from nestling.workloads.table_writer import layer_table
from nestling.workloads.weights_file import save_network
from nestling.workloads.zoo import build
from safetensors.numpy import load_file, save_file

from .spine_cases import mixed_network
from .test_cli import call
from .test_keep_tensors import by_name
from .test_scale_sim_table import unpadded_rows

EXPORTED = Path(__file__).parent / "data" / "exported" / "plain.json"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_an_export_runs_with_its_images(run: Run) -> None:
    status, out, _ = run("run", EXPORTED, "--json", "--repeats", 1, "-a", "systolic-16x16")
    data = json.loads(out)
    assert status == 0
    assert data["network"] == "plain"
    assert [level["accuracy"] for level in data["levels"]] == [1.0, 1.0, 0.0]
    assert [level["macs"] for level in data["levels"]] == [3402, 2268, 1134]


def test_an_export_without_images_brings_its_zeros(tmp_path: Path) -> None:
    shutil.copy(EXPORTED, tmp_path)
    tensors = load_file(EXPORTED.with_suffix(".safetensors"))
    kept = {name: array for name, array in tensors.items() if name not in ("images", "labels", "outputs")}
    save_file(kept, tmp_path / "plain.safetensors")
    workload = load_workload(str(tmp_path / "plain.json"))
    assert not workload.executable
    assert "counted in PyTorch on 6 real inputs" in workload.network.notes[0]
    study = make_study(workload, [load_design("systolic-16x16")], options=RunOptions())
    assert study.trace is not None
    for layer in study.trace.layers:
        np.testing.assert_array_equal(layer.activations.tap_nonzeros, tensors[f"{layer.layer.name}.taps"])


def test_an_export_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    document = json.loads(EXPORTED.read_text())
    document["layers"].append({"name": "odd", "op": "softmax", "C": 3, "K": 3, "sources": ["fc"]})
    document["unmodelled"] = [{"name": "odd", "operator": "my::op", "bytes": 24, "share": 0.125}]
    (tmp_path / "plain.json").write_text(json.dumps(document))
    shutil.copy(EXPORTED.with_suffix(".safetensors"), tmp_path)
    workload = load_workload(str(tmp_path / "plain.json"))
    assert not workload.executable
    unmodelled, refused, counted = workload.network.notes
    assert unmodelled == "operator 'my::op' is not modelled: 12.5% of the bytes moved; its products are not counted"
    assert "operator 'softmax' is not supported" in refused
    assert "counted in PyTorch" in counted


def test_levels_of_an_export(run: Run, tmp_path: Path) -> None:
    status, _, err = run("run", EXPORTED, "--levels", "0.5")
    assert (status, "has its own 3 levels" in err) == (2, True)
    document = json.loads(EXPORTED.read_text())
    tensors = load_file(EXPORTED.with_suffix(".safetensors"))
    for name, array in tensors.items():
        if name.endswith(".keep"):
            tensors[name] = np.minimum(array, 1)
        elif name.endswith(".bias") or name == "outputs":
            tensors[name] = np.ascontiguousarray(array[:1])
    save_file(tensors, tmp_path / "plain.safetensors")
    (tmp_path / "plain.json").write_text(json.dumps(document | {"levels": 1}))
    network = load_workload(str(tmp_path / "plain.json"), densities=(0.5, 0.1)).network
    np.testing.assert_allclose(network.densities, (0.5, 0.1), atol=1 / 324)


def test_weights_by_name_with_a_table(run: Run, tmp_path: Path) -> None:
    network = mixed_network()
    save_file(by_name(network), tmp_path / "net.safetensors")
    (tmp_path / "net.csv").write_text(layer_table(network))
    status, _, err = run("run", tmp_path / "net.safetensors", "--no-execute")
    assert (status, "--table FILE.csv" in err) == (2, True)
    found = load_workload(str(tmp_path / "net.safetensors"), options=FileOptions(table=tmp_path / "net.csv")).network
    assert (found.macs, found.levels) == (network.macs, network.levels)
    save_network(tmp_path / "own.safetensors", network)
    assert load_workload(str(tmp_path / "own.safetensors")).network.layers == network.layers


def test_a_topology_asks_and_is_written_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_text(unpadded_rows("resnet18"))
    status, _, err = run("lower", path, "-o", tmp_path / "t.parquet", "--levels", "0.5")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "--padding same: 1,814,073,344 MACs" in err
    status, _, err = run(
        "lower",
        path,
        "-o",
        tmp_path / "t.parquet",
        "--levels",
        "1",
        "--padding",
        "same",
        "--scale-sim",
        tmp_path / "s.csv",
    )
    assert status == 0
    assert "21 rows" in err
    assert read_trace(tmp_path / "t.parquet").macs(0) == 1_814_073_344
    again = load_workload(str(tmp_path / "s.csv"), densities=[1.0], options=FileOptions(padding="file")).network
    assert again.macs == 1_814_073_344
    status, _, err = run("lower", path, "-o", tmp_path / "u.parquet", "--levels", "1", "--padding", "valid")
    assert (status, "-20.7%" in err) == (0, True)


def test_patterns_of_a_topology_are_its_levels(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_text("Layer, M, N, K, Sparsity,\nx,4,8,16,2:4,\n")
    workload = load_workload(str(path))
    assert workload.network.densities.tolist() == [0.5]
    with pytest.raises(InputError, match="its own N:M patterns"):
        load_workload(str(path), densities=[0.5])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet18", {"padding": "same"}, "are for SCALE-Sim topologies"),
        ("resnet18", {"table": Path("x.csv")}, "--table gives the layers of a .safetensors file"),
        ("own.csv", {"groups": ["none"]}, "is a layer table and states its padding and groups"),
    ],
)
def test_options_that_do_not_belong(
    model: str, options: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.csv").write_text(layer_table(Network("n", build("alexnet").layers)))
    with pytest.raises(InputError, match=message):
        load_workload(model, options=FileOptions(**options))  # type: ignore[arg-type]
    assert file_options(None, None, None) == FileOptions()


def test_the_exporter_and_a_template_are_printed(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("exporter")
    assert status == 0
    compile(out, "nestling_export.py", "exec")
    status, out, _ = run("table", "resnet50", "--set", "image=64")
    assert status == 0
    (tmp_path / "net.csv").write_text(out)
    expected = build("resnet50", image=64).macs
    assert load_workload(str(tmp_path / "net.csv"), densities=[0.5]).network.macs == expected


def test_level_files_are_compared(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    dense = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    save_file({"w": dense}, files[0])
    save_file({"w": dense * (dense > 6)}, files[1])
    status, out, _ = run("check-levels", *files)
    assert (status, out.splitlines()[-1]) == (0, "nested")
    status, out, _ = run("check-levels", *files[::-1], "--json")
    found = json.loads(out)
    assert (status, found["nested"]) == (1, False)
    assert found["problem"] == "not nested: 'w' (0, 0) is 1 at level 1, but 0 at level 0"
    assert [level["density"] for level in found["levels"]] == [0.5, 1.0]
    status, _, err = run("check-levels", files[0])
    assert (status, err) == (2, "nestling: 1 level given; nesting needs at least two, the densest first\n")


def test_every_command_takes_what_a_topology_leaves_open(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_text("\n".join(unpadded_rows("resnet18").splitlines()[:3]))
    design = ("-a", "systolic-16x16", "--levels", "1,0.5", "--json")
    for command in (["compare", path, *design], ["explain", "conv1", "--model", path, *design], ["table", path]):
        status, _, err = run(*command)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "--padding same" in err
        assert run(*command, "--padding", "same")[0] == 0
