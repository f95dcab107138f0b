"""Whole networks on planes: against the float64 reference at every level, for any thread count, with fused sums."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor import reference
from nestling.sim.executor.executor import TOLERANCE
from nestling.sim.executor.simd.network import PlaneNetwork, unsupported
from nestling.sim.executor.simd.planner import Planner
from nestling.sim.executor.simd.product import Choice, LayerPlan
from nestling.sim.executor.simd.program import Program
from nestling.sim.executor.simd.program_kernel import follow_images
from nestling.sim.executor.simd.team import Call
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.bundled import FASHION_SCALE, load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Gemm, Layer, conv, linear
from nestling.workloads.nesting import from_ranking
from nestling.workloads.network import Network
from nestling.workloads.zoo import build

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
DENSITIES = (0.9, 0.5, 0.05)


def filled(network: Network, densities: tuple[float, ...] = DENSITIES) -> Network:
    """Random weights and biases of useful size at every level."""
    random = np.random.default_rng(0)
    weights, biases = {}, {}
    for layer in network.layers:
        if layer.has_weights:
            scale = 1.5 / np.sqrt(np.prod(layer.weight_shape[1:]))
            values = random.normal(0, scale, layer.weight_shape).astype(np.float32)
            weights[layer.name] = from_ranking(values, np.abs(values), densities, name=layer.name)
            biases[layer.name] = random.normal(0, 0.1, (len(densities), layer.K)).astype(np.float32)
    return replace(network, weights=weights, biases=biases)


def pooled(name: str, op: str, source: str, before: Layer, *, size: int, stride: int, padding: int) -> Layer:
    side = (before.P + 2 * padding - size) // stride + 1
    sizes = {"C": before.K, "H": before.P, "W": before.Q, "K": before.K, "P": side, "Q": side, "R": size, "S": size}
    return Layer(name=name, op=op, sources=(source,), stride=stride, padding=padding, **sizes)


def zigzag() -> Network:
    """Every step there is: strides 1 to 3, both poolings with padding, a fused and a plain sum, concatenation, a gate."""
    first = conv("first", "input", C=3, H=19, K=6, R=5, stride=2, padding=1, activation="relu")
    side = first.P
    left = conv("left", "first", C=6, H=side, K=6, R=3, padding=1)
    right = conv("right", "first", C=6, H=side, K=6, R=1, activation="silu")
    total = Layer(
        name="total", op="add", C=6, H=side, W=side, K=6, P=side, Q=side, sources=("right", "left"), activation="relu6"
    )
    plain = replace(total, name="plain", sources=("total", "first"), activation="relu")
    join = Layer(name="join", op="concat", C=12, H=side, W=side, K=12, P=side, Q=side, sources=("plain", "total"))
    most = pooled("most", "maxpool", "join", join, size=3, stride=2, padding=1)
    mean = pooled("mean", "avgpool", "most", most, size=2, stride=1, padding=0)
    last = conv("last", "mean", C=12, H=mean.P, K=7, R=2, stride=3, padding=1, activation="tanh")
    gap = pooled("gap", "avgpool", "last", last, size=last.P, stride=1, padding=0)
    fc = linear("fc", "gap", features_in=7, features_out=5)
    return filled(Network("zigzag", (first, left, right, total, plain, join, most, mean, last, gap, fc)))


def worst_error(network: Network, image: np.ndarray, level: int, **options: object) -> float:
    found = PlaneNetwork(network, **options).run(image, level)  # type: ignore[arg-type]
    levels = [level] * sum(layer.has_weights for layer in network.layers)
    expected = reference.forward(network, image[None], levels).reshape(-1)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def image_for(network: Network) -> np.ndarray:
    first = network.layers[0]
    return np.random.default_rng(1).standard_normal((first.C, first.H, first.W)).astype(np.float32)


@pytest.mark.parametrize("level", range(3))
def test_every_step_against_the_reference(level: int) -> None:
    network = zigzag()
    assert worst_error(network, image_for(network), level) < TOLERANCE


@pytest.mark.parametrize("plan", [
    LayerPlan(Choice("direct", 1)),
    LayerPlan(Choice("packed", 1)),
    LayerPlan(Choice("windowed", 1, 7)),
    LayerPlan(Choice("direct", 1), 1, (0, 1, 2)),
])  # fmt: skip
def test_every_plan_against_the_reference(plan: LayerPlan) -> None:
    network = zigzag()
    assert worst_error(network, image_for(network), 1, choose=lambda *_: plan) < TOLERANCE


@pytest.mark.parametrize("level", range(4))
def test_the_bundled_network(level: int) -> None:
    network, pixels, _ = load_bundled()
    image = pixels[0][None].astype(np.float32) * np.float32(FASHION_SCALE)
    assert worst_error(network, image.astype(np.float32), level) < TOLERANCE


@pytest.mark.parametrize("model", ["mobilenet_v2", "efficientnet_b0"])
def test_depthwise_and_gated_models(model: str) -> None:
    network = filled(build(model), (0.3,))
    assert worst_error(network, image_for(network), 0) < TOLERANCE


def test_the_mean_of_a_large_even_map_rounds_little() -> None:
    """Equal terms all round the same way: one running sum of 224 x 224 of them is off by 6e-4."""
    first = conv("first", "input", C=1, H=224, K=2, R=1)
    mean = pooled("mean", "avgpool", "first", first, size=224, stride=1, padding=0)
    network = filled(Network("even", (first, mean)), (1.0,))
    assert worst_error(network, np.full((1, 224, 224), 0.1, np.float32), 0) < TOLERANCE


def test_an_image_with_its_channels_last_is_refused() -> None:
    network = zigzag()
    runner, image = PlaneNetwork(network), image_for(network)
    with pytest.raises(InputError, match="needs"):
        runner.run(image.transpose(1, 2, 0), 0)
    for same in (image[None], image.reshape(-1), image.astype(np.float64), np.asfortranarray(image)):
        np.testing.assert_array_equal(runner.run(same, 0), runner.run(image, 0))


def test_levels_may_be_numpy_integers() -> None:
    network = zigzag()
    runner = PlaneNetwork(network)
    image = image_for(network)
    np.testing.assert_array_equal(runner.run(image, np.int64(1)), runner.run(image, 1))  # type: ignore[arg-type]


def test_maps_of_one_size_are_multiplied_element_by_element() -> None:
    left = conv("left", "input", C=3, H=5, K=4, R=1)
    right = conv("right", "input", C=3, H=5, K=4, R=3, padding=1)
    product = Layer(name="product", op="mul", C=4, H=5, W=5, K=4, P=5, Q=5, sources=("left", "right"))
    network = filled(Network("products", (left, right, product)))
    assert worst_error(network, image_for(network), 0) < TOLERANCE


def test_threads_change_no_bit() -> None:
    network = zigzag()
    image = image_for(network)
    alone = PlaneNetwork(network)
    for threads in (2, 3, 8):
        together = PlaneNetwork(network, threads=threads)
        for level in (0, 2, 1):
            np.testing.assert_array_equal(together.run(image, level), alone.run(image, level))


def several_vectors(vectors: int) -> Network:
    """A convolution, then fully connected layers of this many vectors."""
    gemms = (Gemm(1, vectors, 6, 9), Gemm(1, vectors, 4, 6))
    first = Layer(name="first", op="linear", C=9, K=6, gemm=gemms[0], sources=("input",), activation="relu")
    second = Layer(name="second", op="linear", C=6, K=4, gemm=gemms[1], sources=("first",))
    return filled(Network("vectors", (first, second)))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(zigzag(), (3, 19, 19)), (several_vectors(5), (5, 9, 1)), (several_vectors(20), (20, 9, 1))],
)
def test_twins_run_at_the_same_time_with_the_same_bits(
    network: Network, shape: tuple[int, int, int], dense: bool
) -> None:
    plan = LayerPlan(Choice("direct", 1), 1, (0,) if dense else ())
    first = PlaneNetwork(network, choose=lambda *_: plan)
    twins = [first, first.twin(), first.twin()]
    images = np.random.default_rng(2).standard_normal((60, *shape)).astype(np.float32)
    for level in (0, 2):
        alone = np.stack([first.run(image, level) for image in images])
        found = np.zeros((3, *alone.shape), np.float32)
        for twin in twins:
            twin.prepare(level)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda twin, out, level=level: twin.run_batch(images, level, out), twins, found))
        np.testing.assert_array_equal(found, np.broadcast_to(alone, found.shape))


def test_twins_share_weights_and_no_tensor() -> None:
    network = zigzag()
    plan = LayerPlan(Choice("direct", 1), 1, (0,))
    first = PlaneNetwork(network, choose=lambda *_: plan)
    twin = first.twin()
    for layer in network.layers:
        assert not np.shares_memory(first.tensor(layer.name), twin.tensor(layer.name))
    for name, product in first.products.items():
        assert twin.products[name] is product
    image = image_for(network)
    before = first.run(image, 0)
    last = first.tensor("fc").copy()
    twin.run(image + 1, 0)
    np.testing.assert_array_equal(first.tensor("fc"), last)
    np.testing.assert_array_equal(twin.run(image, 0), before)
    pairs = zip(first.steps(0), twin.steps(0), strict=True)
    dense = [(a, b) for (_, a), (_, b) in pairs if isinstance(a, Call) and isinstance(b, Call) and a.extras]
    assert len(dense) == len(first.products)
    for one, other in dense:
        assert np.shares_memory(one.arguments[1], other.arguments[1])  # the dense level's own copy of its weights
        assert not np.shares_memory(one.extras[0][0][0], other.extras[0][0][0])


def test_levels_may_differ_by_layer_and_change_between_runs() -> None:
    network = zigzag()
    image = image_for(network)
    runner = PlaneNetwork(network)
    mixed = [2, 0, 1, 2, 0]
    first = runner.run(image, mixed)
    runner.run(image, 2)
    np.testing.assert_array_equal(runner.run(image, mixed), first)
    expected = reference.forward(network, image[None], mixed).reshape(-1)
    assert np.abs(first - expected).max() < TOLERANCE * np.abs(expected).max()


def test_an_image_may_be_a_list_or_an_array_of_any_real_type() -> None:
    network = zigzag()
    runner, image = PlaneNetwork(network), np.rint(image_for(network) * 9)
    expected = runner.run(image, 1)
    rows = np.zeros((6, *image.shape[1:]), np.float32)
    rows[::2] = image
    same = [image.tolist(), rows[::2], image.astype(">f4"), np.ma.masked_array(image)]
    for found in (*same, *(image.astype(kind) for kind in (np.float16, np.float64, np.int8, np.int64))):
        np.testing.assert_array_equal(runner.run(found, 1), expected)
    np.testing.assert_array_equal(runner.run(image > 0, 1), runner.run((image > 0).astype(np.float32), 1))


@pytest.mark.parametrize(("image", "problem"), [
    (np.ones((3, 19, 19), np.complex64), "holds complex numbers; needed are real numbers"),
    (np.ones((3, 19, 19), object), "holds objects; needed are real numbers"),
    (np.full((3, 19, 19), "1"), "holds text; needed are real numbers"),
    (None, "holds objects; needed are real numbers"),
    ([[1.0], [2.0, 3.0]], "nested list of uneven lengths"),
    (np.full((3, 19, 19), 1e39), "float64 with values beyond float32"),
    ([[1.0, 2.0]], r"image has shape \(1, 2\)"),
])  # fmt: skip
def test_an_image_of_anything_else_is_refused(image: object, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        PlaneNetwork(zigzag()).run(image, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("plan", [
    LayerPlan(Choice("direct", 1)),
    LayerPlan(Choice("packed", 1)),
    LayerPlan(Choice("windowed", 1, 7)),
    LayerPlan(Choice("direct", 1), 1, (0, 1, 2)),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the reference computes with them, too
def test_one_wrong_value_touches_what_it_touches_in_the_dense_result(plan: LayerPlan, bad: float) -> None:
    first = conv("first", "input", C=2, H=23, K=5, R=3, stride=2, padding=1)
    network = Network("wrong", (first, conv("last", "first", C=5, H=first.P, K=3, R=3, padding=1)))
    full, pruned = filled(network, (1.0,)), filled(network)
    image = image_for(network)
    image[1, 6, 11] = bad
    for each in (full, pruned):
        runner = PlaneNetwork(each, choose=lambda *_: plan)
        for level in range(each.levels):
            found, expected = runner.run(image, level), reference.forward(each, image[None], level)[0]
            finite = np.isfinite(expected)
            assert finite.any()
            assert not finite.all()
            scale = np.abs(expected[finite]).max()
            np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=TOLERANCE * scale)
            if each is full:
                np.testing.assert_array_equal(found[~finite], expected[~finite])


def test_an_image_of_nan_gives_nan() -> None:
    network = zigzag()
    assert np.isnan(PlaneNetwork(network).run(np.full_like(image_for(network), np.nan), 0)).all()


def test_a_maximum_keeps_nan_and_ignores_padding() -> None:
    first = conv("first", "input", C=1, H=6, K=1, R=1)
    network = Network("pool", (first, pooled("most", "maxpool", "first", first, size=3, stride=2, padding=1)))
    one = from_ranking(np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1)), (1.0,))
    network = replace(network, weights={"first": one})
    image = -np.arange(1.0, 37.0, dtype=np.float32).reshape(1, 6, 6)
    image[0, 0, 0] = np.nan
    found = PlaneNetwork(network).run(image, 0).reshape(3, 3)
    assert np.isnan(found[0, 0])
    np.testing.assert_array_equal(found.reshape(-1)[1:], [-2, -4, -7, -8, -10, -19, -20, -22])


def test_what_it_cannot_run_is_named() -> None:
    network = zigzag()
    layers = tuple(replace(x, activation="relu") if x.name == "most" else x for x in network.layers)
    changed = replace(network, layers=layers)
    assert unsupported(network) == []
    with pytest.raises(InputError, match="'most': 'relu' after 'maxpool'"):
        PlaneNetwork(changed)
    with pytest.raises(InputError, match="0 threads"):
        PlaneNetwork(network, threads=0)
    runner = PlaneNetwork(network)
    with pytest.raises(InputError, match=r"image has shape \(3, 4\)"):
        runner.run(np.zeros((3, 4), np.float32), 0)
    with pytest.raises(InputError, match="level 3 does not exist"):
        runner.run(image_for(network), 3)
    with pytest.raises(InputError, match="2 levels given; needed is one, or one for each of 5 weighted layers"):
        runner.run(image_for(network), [0, 1])


def test_tuning_is_kept_and_read_again(tmp_path: Path) -> None:
    network = zigzag()
    image = image_for(network)
    planner = Planner(tmp_path)
    assert planner.measured == 0
    assert planner.tune(network)
    again = Planner(tmp_path)
    assert again.measured == planner.measured > 0
    for level in range(3):
        assert worst_error(network, image, level, choose=again.choose) < TOLERANCE


def test_tuning_without_a_writable_folder_still_plans(tmp_path: Path) -> None:
    file = tmp_path / "no folder"
    file.write_text("in the way")
    planner = Planner(file)
    assert not planner.tune(filled(zigzag(), (0.5,)))
    assert planner.measured > 0


def test_a_damaged_table_counts_as_unmeasured(tmp_path: Path) -> None:
    planner = Planner(tmp_path)
    planner.tune(zigzag())
    next(tmp_path.iterdir()).write_text("[1, 2")
    assert Planner(tmp_path).measured == 0


def test_a_prepared_network_compiles_nothing_for_any_batch() -> None:
    network = PlaneNetwork(filled(zigzag()))
    network.prepare(0)
    compiled = len(follow_images.overloads)
    images = np.random.default_rng(0).normal(size=(5, int(np.prod(network.input_shape)))).astype(np.float32)
    expected = np.stack([network.run(image, 0) for image in images])
    fixed = images.copy()
    fixed.flags.writeable = False
    for batch in (images, fixed, np.repeat(images, 2, axis=0)[::2], np.asfortranarray(images), images[:0]):
        outputs = np.zeros((len(batch), expected.shape[1]), np.float32)
        network.run_batch(batch, 0, outputs)
        np.testing.assert_array_equal(outputs, expected[: len(batch)])
    assert len(follow_images.overloads) == compiled


def test_a_program_keeps_the_tensors_of_its_steps() -> None:
    network = PlaneNetwork(filled(zigzag()))
    network.prepare(0)
    program = Program([step for _, step in network.steps(0)], 1)
    arena = weakref.ref(network.tensor("input").base)
    del network
    gc.collect()
    assert arena() is not None
    program.run(0)
    del program
    gc.collect()
    assert arena() is None
