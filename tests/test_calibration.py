"""Real inputs: reading them safely, and the statistics that reach the trace and the report."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.accel.arrays.operands import conv_view, input_codes, tap_nonzeros
from nestling.analysis.calibration import MAX_BYTES, bit_statistics, calibrated, calibration_note, load_calibration
from nestling.analysis.cli import app
from nestling.analysis.execution import calibrated_activations, execute_levels
from nestling.analysis.progress import silent
from nestling.analysis.pruned import pruned
from nestling.analysis.sources import Workload, load_workload
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.traces.trace_file import read_trace
from nestling.workloads.bundled import load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.network import Network
from nestling.workloads.onnx_import import load_onnx
from nestling.workloads.zoo import build
from onnx import helper
from typer.testing import CliRunner

from .graph_cases import imported, model_of

FIXTURES = Path(__file__).parent / "data" / "onnx"
RESIDUAL = FIXTURES / "residual_bn.onnx"


def residual() -> Network:
    return load_onnx(RESIDUAL).network


def images(count: int = 3, *, seed: int = 0) -> np.ndarray:
    """Half of the values are zero."""
    normal = np.random.default_rng(seed).standard_normal((count, 3, 16, 16))
    return np.maximum(normal, 0).astype(np.float32)


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "inputs.npz"
    np.savez(path, **arrays)
    return path


def test_one_file_of_images_and_labels(tmp_path: Path) -> None:
    found = load_calibration(saved(tmp_path, images=images(), labels=np.array([1, 2, 3])), residual())
    assert isinstance(found.inputs, Mapping)
    np.testing.assert_array_equal(found.inputs["x"], images())
    assert found.labels is not None
    assert found.labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize("order", ["C", "F"])
def test_single_arrays_and_folders(tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "b.npy", np.asarray(images(2, seed=1), order=order))
    np.savez_compressed(tmp_path / "a.npz", x=images(1))
    (tmp_path / "notes.txt").write_text("left alone")
    one = load_calibration(tmp_path / "b.npy", residual()).inputs
    assert isinstance(one, Mapping)
    np.testing.assert_array_equal(one["x"], images(2, seed=1))
    (tmp_path / "a.npz").unlink()
    np.save(tmp_path / "a.npy", images(1))
    both = load_calibration(tmp_path, residual()).inputs
    assert isinstance(both, Mapping)
    np.testing.assert_array_equal(both["x"], np.concatenate([images(1), images(2, seed=1)]))


def test_networks_without_a_graph_read_images(tmp_path: Path) -> None:
    network, pixels, _ = load_bundled()
    path = saved(tmp_path, images=(pixels[:4, None] / 255.0))
    found = load_calibration(path, network).inputs
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    workload = calibrated(Workload(network), path)
    activations = calibrated_activations(workload, threads=1)
    assert all(x.measured and x.images == 4 for x in activations.values())
    with pytest.raises(InputError, match="reads 'images'"):
        load_calibration(saved(tmp_path, x=images()), network)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"pixels": images()}, "unknown graph input 'pixels'"),
        ({"labels": np.array([1])}, "no values for graph input 'x'"),
        ({"images": images()[:, :2]}, "shape (3, 2, 16, 16)"),
        ({"images": images().astype(np.uint8)}, "is uint8; needed is float32"),
        ({"images": np.full((1, 3, 16, 16), np.nan, np.float32)}, "NaN or infinite"),
        ({"images": images(), "labels": np.array([0.5, 1, 2])}, "labels are float64"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, np.ndarray], part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_calibration(saved(tmp_path, **arrays), residual())
    assert part in str(error.value)


class Bomb:
    """Unpickling this would call ``open``; the test sees whether it did."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_pickles_are_never_read(tmp_path: Path) -> None:
    target = tmp_path / "opened"
    np.savez(tmp_path / "objects.npz", images=np.array([Bomb(str(target))], dtype=object))
    with pytest.raises(InputError, match="pickled objects"):
        load_calibration(tmp_path / "objects.npz", residual())
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Bomb(str(target))))
    with pytest.raises(InputError, match="not an array"):
        load_calibration(tmp_path / "plain.npy", residual())
    assert not target.exists()


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.npz", b"not a zip file", "not an .npz file"),
        ("a.npy", b"\x93NUMPY\x09\x00", "not an array"),
        ("a.npy", b"", "not an array"),
        ("a.npy", npy_header((1 << 40,)), f"at most {MAX_BYTES:,} are read"),
        ("a.npy", npy_header((-1, 3)), "shape (-1, 3)"),
        ("a.npy", npy_header((1, 3, 16, 16)) + b"\0" * 100, "ends after 100 of 3,072 bytes"),
        ("a.txt", b"", "must be an .npz or .npy file"),
    ],
)
def test_broken_files(name: str, content: bytes, part: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        load_calibration(tmp_path / name, residual())
    assert part in str(error.value)


def test_compressed_bombs_are_judged_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy_header((1 << 31, 4)) + b"\0" * (1 << 20))
    with pytest.raises(InputError, match="are read in all"):
        load_calibration(path, residual())


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_calibration(tmp_path / "nowhere", residual())
    with pytest.raises(InputError, match="holds no"):
        load_calibration(tmp_path, residual())


@pytest.mark.parametrize("seed", range(30))
def test_mutated_files_give_one_readable_error(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    write = np.savez_compressed if seed % 2 else np.savez
    write(tmp_path / "inputs.npz", images=images(1))
    content = bytearray((tmp_path / "inputs.npz").read_bytes())
    for _ in range(int(rng.integers(1, 6))):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    path = tmp_path / "mutated.npz"
    path.write_bytes(content[: int(rng.integers(len(content) // 2, len(content)))])
    with pytest.raises(InputError) as error:
        load_calibration(path, residual())
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "pins"),
    [("residual_bn", {}), ("decoder", {}), ("mobile", {"height": 32, "width": 24}), ("encoder", {"tokens": 9})],
)
def test_samples_and_counts_agree(name: str, pins: dict[str, int]) -> None:
    """The array models count taps of the sampled codes themselves: for one input both counts are the same."""
    network = load_onnx(FIXTURES / f"{name}.onnx", shapes=pins).network
    assert network.graph is not None
    rng = np.random.default_rng(0)
    inputs = {
        key: np.maximum(rng.standard_normal(shape), 0).astype(dtype) if dtype.kind == "f" else rng.integers(0, 5, shape)
        for key, (shape, dtype) in network.graph.inputs.items()
    }
    activations = calibrated_activations(Workload(network, calibration=inputs), threads=1)
    trace = lower(network, activations=activations, formats=("dense",))
    assert all(x.activations.measured for x in trace.layers)
    for layer in trace.layers:
        if layer.activations.measured:
            found = tap_nonzeros(input_codes(layer) != 0, conv_view(layer.layer))
            np.testing.assert_array_equal(found, layer.activations.tap_nonzeros)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_states_count_per_time_step(name: str) -> None:
    network = load_onnx(FIXTURES / f"{name}.onnx").network
    assert network.graph is not None
    shape = next(iter(network.graph.inputs.values()))[0]
    inputs = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    activations = calibrated_activations(Workload(network, calibration=inputs), threads=1)
    state = next(x for key, x in activations.items() if key.endswith(".hh"))
    steps = shape[0]
    assert state.images == 2 * steps
    assert state.tap_nonzeros is not None
    # The state is zero before the first step only.
    assert state.tap_nonzeros.tolist() == [2 * (steps - 1)] * state.tap_nonzeros.size
    lower(network, activations=activations, formats=("dense",))


def test_bit_statistics() -> None:
    """Codes 0, 7, -3 and 127: 0, 3, 2 and 7 set bits; in radix-4 Booth form 0, 2 (8-1), 2 (4-1) and 2 (128-1) digits."""
    sample = np.array([0, 7, -3, 127], np.int16).reshape(1, 1, 2, 2)
    assert bit_statistics([Activations(density=0.5, sample=sample), Activations(density=1.0)]) == (3.0, 1.5)
    assert bit_statistics([]) == (0.0, 0.0)


def test_executing_without_labels_measures_no_accuracy() -> None:
    workload = Workload(residual(), images={"x": images(2)})
    activations, executions = execute_levels(workload, None, threads=1, repeats=1, progress=silent)
    assert [x.accuracy for x in executions.levels] == [None]
    assert executions.levels[0].macs == lower(workload.network, formats=("dense",)).macs(0)
    assert "calibrated on 2 real inputs" in calibration_note(activations)
    with pytest.raises(InputError, match="needs weight values and inputs"):
        execute_levels(replace(workload, images=None), None, threads=1, repeats=1, progress=silent)


def test_reference_operators_are_noted(tmp_path: Path) -> None:
    x, w = np.ones((2, 6), np.float32), np.ones((6, 4), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("CumSum", ["p", "axis"], ["y"])]
    network = imported(model_of(nodes, inputs={"x": x}, constants={"w": w, "axis": np.array(1)}), tmp_path)
    notes = calibrated(Workload(network), saved(tmp_path, x=x)).network.notes
    assert notes[-1].endswith("onnx package, which are slow: CumSum (1)")


def test_networks_without_values_cannot_be_calibrated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no weight values"):
        calibrated(Workload(build("alexnet")), saved(tmp_path, images=images()))


def test_command_line(tmp_path: Path) -> None:
    path, out = saved(tmp_path, images=images()), tmp_path / "trace.parquet"
    runner = CliRunner()
    result = runner.invoke(app, ["lower", str(RESIDUAL), "--calibrate", str(path), "-o", str(out)])
    assert result.exit_code == 0
    assert all(layer.activations.measured for layer in read_trace(out).layers)
    assert any("calibrated on 3 real inputs" in note for note in read_trace(out).notes)
    result = runner.invoke(app, ["execute", str(RESIDUAL), "--calibrate", str(path), "--repeats", "1", "--json"])
    assert result.exit_code == 0
    assert '"accuracy": null' in result.output


def test_accuracy_of_an_onnx_file_on_labelled_images(tmp_path: Path) -> None:
    inputs = np.random.default_rng(2).standard_normal((6, 3, 16, 16)).astype(np.float32)
    winners = GraphExecutor(residual()).run(inputs, 0).argmax(axis=1)
    labels = np.where(np.arange(6) < 4, winners, winners + 1)  # the last two are wrong on purpose
    path = saved(tmp_path, images=inputs, labels=labels)
    workload = load_workload(str(RESIDUAL), images=path)
    _, found = execute_levels(workload, None, threads=1, repeats=1, progress=silent)
    assert [(level.accuracy, level.images) for level in found.levels] == [(4 / 6, 6)]


def test_images_need_labels_and_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, images=images())
    with pytest.raises(InputError, match="no array named labels"):
        load_workload(str(RESIDUAL), images=path)
    with pytest.raises(InputError, match="'alexnet' takes no images"):
        load_workload("alexnet", images=path)


def test_what_pruning_changes_is_a_note_and_no_python_warning(recwarn: pytest.WarningsRecorder) -> None:
    network = residual()
    first = network.layers[0].name
    tiny = replace(network.weights[first], values=network.weights[first].values * np.float32(1e-9))
    found = pruned(replace(network, weights={**network.weights, first: tiny}, notes=("kept",)), [1.0, 0.2])
    assert found.notes[0] == "kept"
    assert found.notes[1].startswith("level 1: the global threshold would leave 1 layer empty")
    assert not recwarn.list
