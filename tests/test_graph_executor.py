"""Whole imported graphs: outputs equal onnxruntime's, levels, captures, memory, and messages."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nestling.sim.executor import executor_for
from nestling.sim.executor.executor import Executor
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.traces.lowering import lower
from nestling.workloads.bundled import load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.graph import Node
from nestling.workloads.onnx_import import load_onnx
from onnx import helper

from .graph_cases import imported, model_of, nested_models, relative_error, run_onnxruntime
from .light_models import randomised

#: The requirement is 1e-4 relative to the largest output; measured are 2e-6 and less.
BOUND = 1e-5
FIXTURES = Path(__file__).parent / "data" / "onnx"


def feeds_for(executor: GraphExecutor, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 5, shape).astype(dtype)
        for name, (shape, dtype) in executor.graph.inputs.items()
    }


def assert_equals_onnxruntime(path: Path, **pins: Any) -> GraphExecutor:
    network = load_onnx(path, **pins).network
    executor = GraphExecutor(network)
    feeds = feeds_for(executor)
    found = executor.outputs(feeds, 0)[0]
    for name, expected in zip(executor.graph.outputs, run_onnxruntime(path, feeds), strict=True):
        assert relative_error(found[name], expected) <= BOUND
    assert sum(executor.macs(0).values()) == lower(network, formats=("dense",)).macs(0)
    return executor


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("residual_bn", {}),
        ("residual_dynamo", {}),
        ("residual_external", {}),
        ("mobile", {"height": 32, "width": 24}),
        ("encoder", {"tokens": 9}),
        ("encoder_dynamo", {}),
        ("lstm", {}),
        ("gru", {}),
        ("decoder", {}),
    ],
)
def test_graphs_exported_from_pytorch(name: str, shapes: dict[str, int]) -> None:
    executor = assert_equals_onnxruntime(FIXTURES / f"{name}.onnx", shapes=shapes)
    assert not executor.fallbacks
    assert executor.check(feeds_for(executor), 0).passed


def light(name: str, folder: Path) -> None:
    path = folder / f"{name}.onnx"
    onnx.save(randomised(name), path)
    assert_equals_onnxruntime(path)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_small_light_models(name: str, tmp_path: Path) -> None:
    light(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "vgg19", "zfnet512"]
)
def test_large_light_models(name: str, tmp_path: Path) -> None:
    light(name, tmp_path)


IMAGE = np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)


def small_model() -> onnx.ModelProto:
    """Convolution, sum of two branches, pooling, classifier."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="deep", pads=[0, 1, 2, 1], strides=[2, 1]),
        helper.make_node("Sigmoid", ["d"], ["gate"], name="gate"),
        helper.make_node("Mul", ["d", "gate"], ["m"], name="silu"),
        helper.make_node("GlobalAveragePool", ["m"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], name="head", transB=1),
    ]
    constants = {
        "w1": rng.standard_normal((6, 3, 3, 3)), "b1": rng.standard_normal(6), "w2": rng.standard_normal((4, 6, 3, 3)),
        "w3": rng.standard_normal((5, 4)), "b3": rng.standard_normal(5),
    }  # fmt: skip
    typed = {name: value.astype(np.float32) for name, value in constants.items()}
    return model_of(nodes, inputs={"x": IMAGE}, constants=typed)


@pytest.fixture
def nested(tmp_path: Path) -> tuple[GraphExecutor, list[onnx.ModelProto]]:
    network, models = nested_models(small_model(), tmp_path, levels=8)
    return GraphExecutor(network), models


def test_every_level_equals_its_masked_model(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, models = nested
    images = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    macs = []
    for level, model in enumerate(models):
        expected = [run_onnxruntime(model, {"x": image[None]})[0] for image in images]
        assert relative_error(executor.run(images, level), np.concatenate(expected)) <= BOUND
        macs.append(sum(executor.macs(level).values()))
        assert macs[-1] == lower(executor.network).macs(level)
    assert sorted(macs, reverse=True) == macs
    assert len(set(macs)) == len(macs)


def test_one_copy_of_the_weights_serves_all_levels(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    kept = sum(int((w.keep > 0).sum()) for w in executor.network.weights.values())
    assert executor.store.values.size == kept
    read = [executor.bytes_read(level) for level in range(8)]
    assert read == sorted(read, reverse=True)
    assert read[0] <= executor.store.stored_bytes


def test_levels_per_layer(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    mixed = executor.macs([0, 7, 3])
    assert mixed == {
        "stem": executor.macs(0)["stem"],
        "deep": executor.macs(7)["deep"],
        "head": executor.macs(3)["head"],
    }
    with pytest.raises(InputError, match="one for each of 3"):
        executor.run(IMAGE, [0, 1])


def test_threads_and_progress_change_nothing(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    images = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    found = GraphExecutor(executor.network, threads=3).run(images, 2, progress=lambda *at: seen.append(at))
    np.testing.assert_array_equal(found, executor.run(images, 2))
    np.testing.assert_array_equal(found, executor.run({"x": images[:, None]}, 2))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_accuracy_and_latency(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    images = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    labels = executor.run(images, 0).argmax(axis=1)
    labels[0] = (labels[0] + 1) % 5
    assert executor.accuracy(images, labels, 0) == 0.75
    with pytest.raises(InputError, match="one integer for each of the 4"):
        executor.accuracy(images, labels[:2], 0)
    latency = executor.measure(images, 0, repeats=5, warmup=1)
    assert 0 < latency.p10_s <= latency.median_s <= latency.p90_s
    with pytest.raises(InputError, match="repeats = 0"):
        executor.measure(images, 0, repeats=0)


def test_captured_zeros_are_those_of_the_windows(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    images = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    images[:, 1, ::2] = 0
    counts = executor.capture(images, 0)["stem"]
    padded = np.pad(images != 0, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = [
        np.count_nonzero(padded[:, c, r : r + 8, s : s + 8]) for c in range(3) for r in range(3) for s in range(3)
    ]
    assert counts.tap_nonzeros.tolist() == expected
    assert (counts.nonzeros, counts.total) == (np.count_nonzero(images), images.size)
    assert counts.channel_nonzeros.tolist() == np.count_nonzero(images, axis=(0, 2, 3)).tolist()
    relu = executor.capture(images, 0)["deep"]
    assert 0 < relu.density < 1
    np.testing.assert_array_equal(executor.layer_inputs(images, 0)["stem"], images[:1])


def test_check_finds_a_wrong_product(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    assert executor.check(IMAGE, 0).passed
    executor.store.values[3] += 1.0
    assert not executor.check(IMAGE, 0).passed


def test_biases_of_the_network_replace_the_nodes(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    executor, _ = nested
    shift = np.arange(8 * 5, dtype=np.float32).reshape(8, 5)
    own = executor.graph.constants["b3"]
    changed = GraphExecutor(replace(executor.network, biases={"head": shift}))
    expected = executor.run(IMAGE, 4) - own + shift[4]
    np.testing.assert_allclose(changed.run(IMAGE, 4), expected, atol=1e-5)


def test_tensors_are_freed_after_their_last_reader(tmp_path: Path) -> None:
    """A chain of 30 operators holds the tensor that is read and the one that is made, no more."""
    names = ["x", *(f"t{i}" for i in range(30))]
    nodes = [helper.make_node("Conv", ["x", "w"], ["t0"], name="conv")]
    nodes += [helper.make_node("Tanh", [a], [b], name=b) for a, b in pairwise(names[1:])]
    weights = np.ones((3, 3, 1, 1), np.float32)
    executor = GraphExecutor(
        imported(model_of(nodes, inputs={"x": IMAGE}, constants={"w": weights}, outputs=["t29"]), tmp_path)
    )
    assert executor.activation_bytes == 0
    executor.run(IMAGE, 0)
    assert executor.activation_bytes == 2 * IMAGE.nbytes


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["p"], name="fc"),
        helper.make_node("MatMul", ["p", "b"], ["q"], name="scores"),
        helper.make_node("TopK", ["q", "k"], ["top", "place"], name="top"),
    ]
    rng = np.random.default_rng(0)
    feeds = {
        "a": rng.standard_normal((2, 4, 6)).astype(np.float32),
        "b": rng.standard_normal((2, 5, 3)).astype(np.float32),
    }
    constants = {"w": rng.standard_normal((6, 5)).astype(np.float32), "k": np.array([2])}
    model = model_of(nodes, inputs=feeds, constants=constants, outputs=["top", "place", "p"])
    network = imported(model, tmp_path)
    executor = GraphExecutor(network)
    found = executor.outputs(feeds, 0)[0]
    for name, expected in zip(("top", "place", "p"), run_onnxruntime(model, feeds), strict=True):
        assert relative_error(found[name], expected) <= BOUND
    assert executor.fallbacks == {"TopK": 1}
    assert executor.macs(0) == {"fc": 2 * 4 * 6 * 5, "scores": 2 * 4 * 5 * 3}
    assert sum(executor.macs(0).values()) == lower(network).macs(0)
    assert executor.run(feeds, 0).shape == (2, 4 * 2)


def test_the_executor_is_chosen_by_the_network(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    bundled = load_bundled()[0]
    assert isinstance(executor_for(bundled), Executor)
    assert isinstance(executor_for(nested[0].network, threads=2), GraphExecutor)
    with pytest.raises(InputError, match="has no graph"):
        GraphExecutor(bundled)
    with pytest.raises(InputError, match="0 threads"):
        GraphExecutor(nested[0].network, threads=0)


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        (IMAGE[0], "shape (3, 8, 8)"),
        (IMAGE[:, :2], "shape (1, 2, 8, 8)"),
        (IMAGE[:0], "shape (0, 3, 8, 8)"),
        (IMAGE.astype(np.int64), "is int64; needed is float32"),
        (np.where(IMAGE > 1, np.nan, IMAGE), "NaN or infinite"),
        (np.full(IMAGE.shape, 1e300), "values that float32 cannot hold"),
        ({"X": IMAGE}, "unknown graph input 'X'. Allowed: x"),
        ({}, "no values for graph input 'x'"),
        ({"x": [1.0]}, "is a list"),
    ],
)
def test_wrong_inputs(nested: tuple[GraphExecutor, list[onnx.ModelProto]], inputs: Any, part: str) -> None:
    with pytest.raises(InputError) as error:
        nested[0].run(inputs, 0)
    assert part in str(error.value)


def test_operators_that_nobody_knows_are_listed_with_their_counts(
    nested: tuple[GraphExecutor, list[onnx.ModelProto]],
) -> None:
    network = nested[0].network
    assert network.graph is not None
    nodes = list(network.graph.nodes)
    unknown = [Node(name=f"u{i}", op="Bernoulli", inputs=("x",), outputs=(f"u{i}",)) for i in range(2)]
    unknown.append(Node(name="g", op="FusedGelu", inputs=("x",), outputs=("g",), domain="com.microsoft"))
    broken = replace(network, graph=replace(network.graph, nodes=tuple(unknown + nodes)))
    with pytest.raises(InputError, match=r"Bernoulli \(2\), com.microsoft.FusedGelu \(1\)"):
        GraphExecutor(broken)


def test_unfit_graphs_are_refused(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    network = nested[0].network
    graph = network.graph
    assert graph is not None
    without_head = replace(graph, nodes=graph.nodes[:-1], outputs=("f",))
    with pytest.raises(InputError, match="layer 'head' has weights, but no node"):
        GraphExecutor(replace(network, graph=without_head))
    with pytest.raises(InputError, match="no values for b1"):
        GraphExecutor(replace(network, graph=replace(graph, absent=frozenset({"b1"}))))
    shapes = {name: shape for name, shape in graph.shapes.items() if name != "r"}
    with pytest.raises(InputError, match="shape of its operand 'r' is not known"):
        GraphExecutor(replace(network, graph=replace(graph, shapes=shapes)))
    with pytest.raises(InputError, match=r"node 'deep' \(Conv\): layer 'deep' has weights of"):
        GraphExecutor(replace(network, graph=replace(graph, shapes={**graph.shapes, "r": (1, 5, 8, 8)})))


def test_a_node_that_fails_is_named(nested: tuple[GraphExecutor, list[onnx.ModelProto]]) -> None:
    network = nested[0].network
    graph = network.graph
    assert graph is not None
    nodes = [
        replace(node, op="Transpose", attributes={"perm": (0, 9, 1, 2)}) if node.name == "relu" else node
        for node in graph.nodes
    ]
    executor = GraphExecutor(replace(network, graph=replace(graph, nodes=tuple(nodes))))
    with pytest.raises(InputError, match=r"node 'relu' \(Transpose\) cannot be computed on float32\(1, 6, 8, 8\)"):
        executor.run(IMAGE, 0)
