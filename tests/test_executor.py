"""The executor: outputs against the dense reference, levels as prefixes, threads, captures, messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor import reference
from nestling.sim.executor.executor import Executor
from nestling.sim.executor.plan import TILE_ELEMENTS, make_plan
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Gemm, Layer, conv, linear, output_size
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network

Run = Callable[[Executor, np.ndarray, int | list[int]], np.ndarray]
#: What the network supports, planes unless the compiler is switched off; and the portable kernels.
WAYS: tuple[Run, ...] = (Executor.run, Executor.run_portable)


def network_of(*layers: Layer, levels: int = 3, seed: int = 0, integers: bool = False) -> Network:
    """Random nested weights and biases per level; every layer's first row is pruned away at all levels."""
    rng = np.random.default_rng(seed)
    weights, biases = {}, {}
    for layer in layers:
        if layer.has_weights:
            shape = layer.weight_shape
            keep = rng.integers(0, levels + 1, size=shape, dtype=np.uint8)
            keep[0] = 0
            scale = 1.0 / np.sqrt(np.prod(shape[1:]))
            values = rng.integers(-2, 3, size=shape) if integers else rng.standard_normal(shape) * scale
            weights[layer.name] = NestedWeights(values=values.astype(np.float32), keep=keep, levels=levels)
            bias = rng.integers(-3, 4, size=(levels, layer.K)) if integers else rng.standard_normal((levels, layer.K))
            biases[layer.name] = bias.astype(np.float32)
    return Network("n", layers, weights, biases)


def images_for(shape: tuple[int, ...], count: int, *, seed: int = 1, integers: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, size=(count, *shape)) if integers else rng.standard_normal((count, *shape))
    return values.astype(np.float32)


def elementwise(name: str, op: str, sources: Sequence[str], size: int, *, K: int, activation: str = "none") -> Layer:
    return Layer(
        name=name, op=op, C=K, H=size, W=size, K=K, P=size, Q=size, sources=tuple(sources), activation=activation
    )


def pool(name: str, op: str, source: str, *, C: int, H: int, R: int, stride: int = 1, padding: int = 0) -> Layer:
    P = output_size(H, kernel=R, stride=stride, padding=padding)
    return Layer(
        name=name, op=op, C=C, H=H, W=H, K=C, P=P, Q=P, R=R, S=R, stride=stride, padding=padding, sources=(source,)
    )


def branching_layers() -> tuple[Layer, ...]:
    """Residual sum, squeeze-and-excitation, depthwise, concat, both pools, two linear layers."""
    return (
        conv("stem", INPUT, C=2, H=11, K=6, R=3, padding=1, activation="relu6"),
        conv("deep", "stem", C=6, H=11, K=6, R=3, padding=1, groups=6, activation="silu"),
        elementwise("sum", "add", ["deep", "stem"], 11, K=6, activation="relu"),
        pool("squeeze", "avgpool", "sum", C=6, H=11, R=11),
        conv("gate", "squeeze", C=6, H=1, K=6, R=1, activation="sigmoid"),
        elementwise("scale", "mul", ["sum", "gate"], 11, K=6),
        conv("half", "scale", C=6, H=11, K=4, R=3, stride=2, padding=1, activation="gelu"),
        pool("top", "maxpool", "scale", C=6, H=11, R=3, stride=2, padding=1),
        elementwise("both", "concat", ["half", "top"], 6, K=10, activation="tanh"),
        linear("hidden", "both", features_in=360, features_out=9, activation="relu"),
        linear("out", "hidden", features_in=9, features_out=5),
    )


@pytest.fixture(scope="module")
def branching() -> Executor:
    return Executor(network_of(*branching_layers(), levels=4))


@pytest.mark.parametrize("run", WAYS)
@pytest.mark.parametrize("level", [0, 1, 2, 3, [0, 0, 1, 3, 2, 0]])
def test_branching_network_equals_the_reference(branching: Executor, level: int | list[int], run: Run) -> None:
    images = images_for((2, 11, 11), 19)
    found = run(branching, images, level)
    expected = reference.forward(branching.network, images, level)
    assert found.dtype == np.float32
    # Sums have at most 360 products: worst case 362 * 2**-24 = 2.2e-5 of the products' magnitudes; errors cancel.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())
    check = branching.check(images[:3], level)
    assert check.passed
    assert 0 < check.error < check.tolerance == 1e-5
    longest = max(
        int((w.keep > 0).reshape(len(w.keep), -1).sum(axis=1).max()) for w in branching.network.weights.values()
    )
    assert check.worst_case == (longest + 2) * 2.0**-24


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from([(1, 3), (2, 4), (6, 6)]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    extra=st.integers(0, 5),
    levels=st.sampled_from([1, 8]),
    seed=st.integers(0, 9999),
)
def test_integer_networks_are_exact_at_every_level(
    kind: tuple[int, int], kernel: int, stride: int, padding: int, extra: int, levels: int, seed: int
) -> None:
    groups, K = kind
    size = {"stride": stride, "padding": padding}
    H = max(kernel - 2 * padding, 1) + extra
    first = conv("a", INPUT, C=6, H=H, K=K, R=kernel, groups=groups, activation="relu", **size)
    second = linear("b", "a", features_in=first.output_size, features_out=3)
    network = network_of(first, second, levels=levels, seed=seed, integers=True)
    executor = Executor(network)
    images = images_for((6, H, H), 3, seed=seed, integers=True)
    for level in range(levels):
        expected = reference.forward(network, images, level)
        for run in WAYS:
            np.testing.assert_array_equal(run(executor, images, level), expected)


def test_all_zero_level_leaves_the_biases() -> None:
    layer = conv("c", INPUT, C=2, H=5, K=3, R=3, padding=1)
    keep = np.zeros(layer.weight_shape, np.uint8)
    weights = NestedWeights(values=np.ones(keep.shape, np.float32), keep=keep, levels=2)
    bias = np.arange(6, dtype=np.float32).reshape(2, 3)
    executor = Executor(Network("zero", (layer,), {"c": weights}, {"c": bias}))
    for run in WAYS:
        found = run(executor, images_for((2, 5, 5), 1), 1).reshape(3, 25)
        np.testing.assert_array_equal(found, np.repeat(bias[1], 25).reshape(3, 25))
    assert executor.macs(1) == {"c": 0}


def test_planes_larger_than_a_tile() -> None:
    layers = (
        conv("a", INPUT, C=2, H=70, W=45, K=2, R=3, padding=1),
        conv("b", "a", C=2, H=70, W=45, K=2, R=2, stride=2),
    )
    network = network_of(*layers, integers=True)
    executor = Executor(network)
    assert executor.plan.steps[0].tile_rows * 46 <= TILE_ELEMENTS < 70 * 46
    images = images_for((2, 70, 45), 2, integers=True)
    np.testing.assert_array_equal(executor.run_portable(images, 0), reference.forward(network, images, 0))


def test_layers_of_row_vectors_and_products_of_inputs() -> None:
    layers = (
        Layer(name="a", op="linear", C=4, K=4, gemm=Gemm(1, 3, 4, 4), sources=(INPUT,), activation="relu"),
        Layer(name="s", op="add", C=4, K=4, sources=("a", INPUT)),
        Layer(name="b", op="linear", C=4, K=2, gemm=Gemm(1, 3, 2, 4), sources=("s",)),
    )
    network = network_of(*layers, integers=True)
    images = images_for((1, 3, 4), 2, integers=True)
    rows = images.reshape(2, 3, 4)
    expected = reference.forward(network, rows, 1)
    executor = Executor(network)
    for run in WAYS:
        np.testing.assert_array_equal(run(executor, images, 1), expected)
    assert executor.capture(images, 1)["b"].channel_nonzeros.shape == (4,)
    assert executor.check(images, 1).error == 0


def test_a_level_reads_only_its_prefix() -> None:
    network = network_of(*branching_layers(), levels=4)
    executor = Executor(network)
    images = images_for((2, 11, 11), 4)
    for level in (1, 2, 3):
        clean = executor.run_portable(images, level)
        for rows in executor.store.layers.values():
            for r, end in enumerate(rows.row_end[level]):
                rows.values[end : rows.row_end[0, r]] = np.nan
        np.testing.assert_array_equal(executor.run_portable(images, level), clean)
        assert not np.isnan(clean).any()
        executor = Executor(network)
    with_tail = executor.run_portable(images, 0)
    executor.store.values[:] = np.nan
    assert np.isnan(executor.run_portable(images, 0)).any()
    assert not np.isnan(with_tail).any()


@pytest.mark.parametrize("run", WAYS)
def test_threads_and_groups_do_not_change_a_bit(branching: Executor, run: Run) -> None:
    images = images_for((2, 11, 11), 37)
    one = run(branching, images, 1)
    for threads in (2, 3):
        np.testing.assert_array_equal(run(Executor(branching.network, threads=threads), images, 1), one)
    alone = np.concatenate([run(branching, images[i : i + 1], 1) for i in range(37)])
    np.testing.assert_array_equal(alone, one)


def test_threads_count_the_same_activations(branching: Executor) -> None:
    images, parallel = images_for((2, 11, 11), 37), Executor(branching.network, threads=2)
    counts, expected = parallel.capture(images, 1), branching.capture(images, 1)
    for name, count in expected.items():
        np.testing.assert_array_equal(counts[name].channel_nonzeros, count.channel_nonzeros)


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_single_images_on_planes(branching: Executor, threads: int) -> None:
    images, parallel = images_for((2, 11, 11), 21), Executor(branching.network, threads=threads)
    assert branching.planes is not None
    for level in (0, 2, [0, 0, 1, 3, 2, 0]):
        alone = np.stack([branching.planes.run(image, level) for image in images])
        np.testing.assert_array_equal(parallel.run(images, level), alone)
    assert parallel.deviation(images, 0).error == 0  # none where no format is allowed


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
@pytest.mark.parametrize("portable", [False, True])
def test_the_check_sees_both_kinds_of_kernels(portable: bool) -> None:
    executor = Executor(network_of(*branching_layers(), levels=4))
    images = images_for((2, 11, 11), 3)
    assert executor.check(images, 0).passed
    assert executor.planes is not None  # the compiler is on
    values = executor.store.values if portable else executor.planes.products["half"].streams.values
    values *= 1.01
    assert not executor.check(images, 0).passed


def test_live_tensors_never_share_memory() -> None:
    plan = make_plan(network_of(*branching_layers()))
    by_name = {INPUT: plan.input} | {step.layer.name: step.output for step in plan.steps}
    names = list(by_name)
    last = {name: i for i, name in enumerate(names)}
    last |= {source: i for i, step in enumerate(plan.steps, start=1) for source in step.layer.sources}
    for i, name in enumerate(names):
        for j in range(i):
            if last[names[j]] >= i:
                a, b = by_name[name], by_name[names[j]]
                assert a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
    # Places are used again: the arena is smaller than all tensors together.
    assert plan.arena_size < sum(slot.size for slot in by_name.values())


def test_capture_counts_nonzeros_exactly() -> None:
    layers = (
        conv("a", INPUT, C=3, H=6, K=4, R=3, padding=1, activation="relu"),
        conv("b", "a", C=4, H=6, K=2, R=3, activation="relu"),
        linear("c", "b", features_in=32, features_out=3),
    )
    network = network_of(*layers, integers=True)
    images = images_for((3, 6, 6), 23, integers=True)
    counts = Executor(network).capture(images, 1)
    tensors = reference.tensors(network, images, 1)
    for name, source, axes in (("a", INPUT, (0, 2, 3)), ("b", "a", (0, 2, 3)), ("c", "b", (0,))):
        expected = (tensors[source] != 0).sum(axis=axes).ravel()
        np.testing.assert_array_equal(counts[name].channel_nonzeros, expected)
        assert counts[name].channel_nonzeros.dtype == np.int64
        assert counts[name].nonzeros == expected.sum()
        assert counts[name].total == tensors[source].size
        assert counts[name].density == expected.sum() / tensors[source].size


def test_macs_of_mixed_levels(branching: Executor) -> None:
    levels = [0, 0, 1, 3, 2, 0]
    expected = {
        layer.name: int(branching.network.weights[layer.name].mask(level).sum()) * layer.P * layer.Q
        for layer, level in zip([x for x in branching.network.layers if x.has_weights], levels, strict=True)
    }
    assert branching.macs(levels) == expected


def test_accuracy_takes_the_first_largest_output(branching: Executor) -> None:
    images = images_for((2, 11, 11), 20)
    best = reference.forward(branching.network, images, 0).argmax(axis=1)
    labels = best.copy()
    labels[:5] = (labels[:5] + 1) % 5
    assert branching.accuracy(images, best, 0) == 1.0
    assert branching.accuracy(images, labels, 0) == 0.75


def test_measure_orders_its_percentiles(branching: Executor) -> None:
    latency = branching.measure(images_for((2, 11, 11), 2), 0, repeats=15, warmup=2)
    assert 0 < latency.p10_s <= latency.median_s <= latency.p90_s < 1
    assert latency.repeats == 15


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_reaches_the_total_in_order(branching: Executor, threads: int) -> None:
    seen: list[tuple[int, int]] = []
    executor = Executor(branching.network, threads=threads)
    executor.run(images_for((2, 11, 11), 40), 0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    assert seen == sorted(set(seen))
    assert len(seen) == -(-40 // executor.plan.images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 2, 11, 11)), "images are float64; needed is a float32 array"),
        ([[0.0]], "images are list"),
        (np.zeros((2, 11, 11), np.float32), r"shape \(2, 11, 11\); network 'n' needs \(N, \(2, 11, 11\)\)"),
        (np.zeros((1, 2, 11, 12), np.float32), r"shape \(1, 2, 11, 12\)"),
        (np.zeros((0, 2, 11, 11), np.float32), "no images given"),
        (np.full((3, 2, 11, 11), np.nan, np.float32), "726 input values are NaN or infinite, the first in image 0"),
    ],
)
def test_unusable_images(branching: Executor, images: np.ndarray, message: str) -> None:
    for question in (branching.run, branching.capture, branching.check):
        with pytest.raises(InputError, match=message):
            question(images, 0)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (4, "level 4 does not exist"),
        (-1, "level -1 does not exist"),
        ([0, 1], "2 levels given; needed is one, or one"),
        (0.5, "level 0.5 is no whole number; needed is one, or one for each"),
        ("0", "level '0' is no whole number"),
        (None, "level None is no whole number"),
        ([0.5] * 9, "is no whole number"),
    ],
)
def test_unusable_levels(branching: Executor, level: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        branching.run(images_for((2, 11, 11), 1), level)  # type: ignore[arg-type]


def test_unusable_labels_and_counts(branching: Executor) -> None:
    images = images_for((2, 11, 11), 2)
    with pytest.raises(InputError, match="one integer for each of the 2 images"):
        branching.accuracy(images, np.zeros(3, int), 0)
    with pytest.raises(InputError, match="labels from 0 to 5; the network has classes 0 to 4"):
        branching.accuracy(images, np.array([0, 5]), 0)
    with pytest.raises(InputError, match="repeats = 0"):
        branching.measure(images, 0, repeats=0)
    with pytest.raises(InputError, match="0 threads; at least 1"):
        Executor(branching.network, threads=0)


@pytest.mark.parametrize(
    ("layers", "messages"),
    [
        (
            [Layer(name="bn", op="bn", C=2, K=2, sources=("c",)), Layer(name="e", op="add", K=2, P=4, Q=4)],
            ["layer 'bn': operator 'bn' is not supported", "layer 'e': reads no tensor"],
        ),
        ([conv("d", "c", C=2, H=4, K=2, R=1, activation="elu")], ["'d': activation 'elu' is not supported"]),
        ([conv("d", ["c", INPUT], C=2, H=4, K=2, R=1)], ["'d': reads 2 tensors; 'conv' reads one"]),
        (
            [Layer(name="l", op="linear", C=32, K=3, gemm=Gemm(2, 1, 3, 32), repeat=2, sources=("c",))],
            ["'l': repeat = 2", "'l': GEMM view"],
        ),
        ([linear("l", "c", features_in=31, features_out=2)], [r"reads a tensor of shape \(2, 4, 4\), needs 1 row"]),
        ([pool("p", "maxpool", "c", C=2, H=5, R=2)], [r"needs \(C, H, W\) = \(2, 5, 5\)"]),
        ([elementwise("m", "concat", ["c", "c"], 4, K=3)], [r"declares \(K, P, Q\) = \(3, 4, 4\)"]),
        (
            [pool("p", "avgpool", "c", C=2, H=4, R=2), elementwise("m", "mul", ["c", "p"], 4, K=2)],
            ["cannot join tensors of shapes"],
        ),
        (
            [Layer(name="p", op="maxpool", C=2, H=4, W=4, K=2, P=5, Q=4, R=1, S=1, sources=("c",))],
            ["P = 5 places a window outside the input"],
        ),
        (
            [Layer(name="p", op="avgpool", C=2, H=4, W=4, K=2, P=2, Q=4, R=1, S=1, sources=("c",))],
            ["P = 2, but the output size formula gives 4"],
        ),
        ([Layer(name="p", op="avgpool", C=2, H=4, W=4, K=3, P=4, Q=4, sources=("c",))], ["K = 3, but pooling keeps"]),
    ],
)
def test_unsupported_networks_name_their_layers(layers: list[Layer], messages: list[str]) -> None:
    network = network_of(conv("c", INPUT, C=2, H=4, K=2, R=3, padding=1), *layers)
    with pytest.raises(InputError) as error:
        Executor(network)
    for message in messages:
        assert error.match(message)


def test_networks_without_values_cannot_start() -> None:
    with pytest.raises(InputError, match="network 'shapes' cannot be executed: no weight values in c"):
        Executor(Network("shapes", (conv("c", INPUT, C=1, H=4, K=1, R=1),)))


@pytest.mark.parametrize("copies", [1, 3])
def test_an_image_may_be_joined_with_itself(copies: int) -> None:
    network = network_of(
        elementwise("j", "concat", [INPUT] * copies, 4, K=2 * copies), conv("c", "j", C=2 * copies, H=4, K=3, R=1)
    )
    executor, images = Executor(network), images_for((2, 4, 4), 3)
    found, expected = executor.run(images, 0), reference.forward(network, images, 0)
    assert executor.check(images, 0).passed
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
