"""Networks written by the PyTorch exporter, read without torch: a stored pair, its outputs, and damaged pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nestling.sim.executor.executor import Executor
from nestling.workloads.errors import InputError
from nestling.workloads.exported import load_exported
from nestling.workloads.torch_single_file import exporter_source
from safetensors.numpy import load, save

PAIR = Path(__file__).parent / "data" / "exported" / "plain"


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A copy of the stored pair; its JSON."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(PAIR.with_suffix(suffix), tmp_path)
    return tmp_path / "plain.json"


def test_the_stored_pair_is_the_model_that_wrote_it() -> None:
    found = load_exported(PAIR.with_suffix(".json"))
    network = found.network
    assert [(x.name, x.op, x.activation) for x in network.layers] == [
        ("conv1", "conv", "relu"),
        ("max_pool2d", "maxpool", "none"),
        ("conv2", "conv", "relu"),
        ("fc", "linear", "none"),
    ]
    assert network.macs == 10 * 10 * 4 * 9 + 2 * 2 * 6 * 4 * 9 + 24 * 3
    assert network.params == 4 * 9 + 4 + 8 + 6 * 4 * 9 + 24 * 3 + 3
    expected = [sum(round(density * size) for size in (36, 216, 72)) for density in (0.75, 0.5, 0.25)]
    assert (network.densities * 324).round().astype(int).tolist() == expected
    assert found.unmodelled == ()


def test_the_executor_computes_what_torch_computed_at_every_level() -> None:
    found = load_exported(PAIR.with_suffix(".json"))
    assert found.images is not None
    assert found.labels is not None
    assert found.outputs is not None
    executor = Executor(found.network)
    for level, expected in enumerate(found.outputs):
        outputs = executor.run(found.images, level)
        np.testing.assert_allclose(outputs[: len(expected)], expected, rtol=1e-4, atol=1e-5)
    assert executor.accuracy(found.images, found.labels, 0) == 1.0


def test_zeros_counted_in_torch_are_those_that_the_executor_counts() -> None:
    found = load_exported(PAIR.with_suffix(".json"))
    assert found.images is not None
    counted = Executor(found.network).capture(found.images, 0)
    assert set(found.activations) == set(counted) == {"conv1", "conv2", "fc"}
    for name, zeros in found.activations.items():
        assert zeros.images == len(found.images)
        assert zeros.density == pytest.approx(counted[name].density, abs=1e-12)
        np.testing.assert_array_equal(zeros.tap_nonzeros, counted[name].tap_nonzeros)


# --- damaged pairs ---------------------------------------------------------------------------------------------------


def change_json(path: Path, key: str, value: Any) -> None:
    document = json.loads(path.read_text())
    document[key] = value
    path.write_text(json.dumps(document))


def change_tensor(path: Path, name: str, value: np.ndarray | None) -> None:
    tensors = load(path.with_suffix(".safetensors").read_bytes())
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    path.with_suffix(".safetensors").write_bytes(save(tensors))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 2, "schema 2; this version reads"),
        ("format", "onnx", "format 'onnx'"),
        ("levels", 0, "0 levels; allowed are 1 to 255"),
        ("levels", True, "True levels"),
        ("levels", 2, "keep reaches 3, but there are 2 levels"),
        ("layers", {}, "'layers' is dict, must be a list"),
        ("layers", [], "it has no layers"),
        ("layers", [{"name": "x"}], "layer 'x' lacks or garbles op"),
        ("layers", [{"name": "x", "op": "linear", "gemm": [1, 1 << 40, 1 << 40, 1]}], "exceed what 64-bit counts hold"),
        (
            "layers",
            [{"name": "x", "op": "linear", "gemm": [1, 1, 9, 9]}],
            "layer 'x' has no weights; the file has conv1",
        ),
        ("activations", {"nobody": {}}, "keys are layers"),
        ("activations", {"fc": {"images": 0, "density": 0.5}}, "images = 0"),
        ("activations", {"fc": {"images": 6, "density": float("nan")}}, "density = nan"),
        ("activations", {"fc": {"images": 1, "density": 0.5}}, "int64 counts of 0 to 1"),
        ("unmodelled", [{"name": "x", "bytes": 1, "share": 7}], "unmodelled operator 'x'"),
    ],
)
def test_descriptions_that_do_not_fit(pair: Path, key: str, value: object, message: str) -> None:
    change_json(pair, key, value)
    with pytest.raises(InputError, match=message) as caught:
        load_exported(pair)
    assert all(problem.startswith(str(pair)) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fc.weight", None, "layer 'fc' has no weights"),
        ("fc.weight", np.zeros((2, 2), np.float32), r"the layer needs floats of \(3, 24\)"),
        ("fc.weight", np.zeros((3, 24), np.int32), "int32"),
        ("fc.weight", np.full((3, 24), np.nan, np.float32), "NaN"),
        ("fc.weight.keep", np.zeros((3, 24), np.int64), "keep has dtype int64"),
        ("fc.weight.keep", np.zeros((1, 1), np.uint8), r"keep has \(1, 1\)"),
        ("fc.bias", np.zeros((3, 4), np.float32), r"'fc.bias' is float32 \(3, 4\)"),
        ("fc.taps", np.full(24, -1), "int64 counts of 0 to 6"),
        ("labels", np.zeros(2, np.int64), "images are float32"),
        ("outputs", np.zeros((1, 1, 1), np.float32), "outputs are float32"),
    ],
)
def test_tensors_that_do_not_fit(pair: Path, name: str, value: np.ndarray | None, message: str) -> None:
    change_tensor(pair, name, value)
    with pytest.raises(InputError, match=message):
        load_exported(pair)


def test_files_that_are_missing_or_no_json(pair: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_exported(pair.with_name("other.json"))
    for content, message in ((b"[" * 100_000, "not JSON"), (b"[]", "one JSON object"), (b"\xff\xfe", "not JSON")):
        pair.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_exported(pair)
    shutil.copy(PAIR.with_suffix(".json"), pair)
    pair.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match=r"plain\.safetensors: no such file"):
        load_exported(pair)


def test_the_printed_exporter_stands_alone() -> None:
    source = exporter_source()
    compile(source, "nestling_export.py", "exec")
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    roots = {line.split()[1].split(".")[0] for line in imports}
    assert roots <= {
        "__future__",
        "collections",
        "itertools",
        "json",
        "math",
        "operator",
        "pathlib",
        "typing",
        "copy",
        "torch",
    }
    definitions = [line.split("(")[0] for line in source.splitlines() if line.startswith(("def ", "class "))]
    assert len(definitions) == len(set(definitions)) > 40
