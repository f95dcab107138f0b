"""Where tensors lie: nothing that is still needed is overwritten, and shared memory is made clean for every image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nestling.analysis.bench_network import magnitude_pruned
from nestling.sim.executor.plan import make_plan
from nestling.sim.executor.simd.arrangement import Placement, fused_sums, layouts, place
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.network import INPUT, Network
from nestling.workloads.zoo import build

from .test_simd_network import filled, zigzag

MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16")


def placed(network: Network) -> Placement:
    return place(network, layouts(network, make_plan(network).input_shape), fused_sums(network))


def span(buffer: np.ndarray) -> tuple[int, int]:
    start = buffer.__array_interface__["data"][0]
    return start, start + buffer.nbytes


def arena_bytes(found: Placement) -> int:
    spans = [span(buffer) for buffer in found.buffers.values()]
    return max(end for _, end in spans) - min(start for start, _ in spans)


@pytest.mark.parametrize("model", MODELS)
def test_tensors_needed_at_one_time_are_apart(model: str) -> None:
    """Straight from the meaning: at every layer, what later layers read and what it writes itself lie apart."""
    network = build(model)
    found, fused = placed(network), fused_sums(network)
    order = [INPUT, *(layer.name for layer in network.layers)]
    sources = {layer.name: set(layer.sources) for layer in network.layers}
    for index in range(1, len(order)):
        later = set().union(*(sources[name] for name in order[index:]))
        needed = {INPUT, order[index]} | {name for name in order[:index] if name in later}
        needed -= {product for product, total in fused.items() if total in needed}
        apart = sorted(span(found.buffers[name]) for name in needed)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(apart)), order[index]


def test_a_sum_lies_where_its_product_writes() -> None:
    network = build("resnet50")
    found = placed(network)
    for product, total in fused_sums(network).items():
        assert span(found.buffers[product]) == span(found.buffers[total])


def test_the_arena_is_about_as_large_as_what_is_live_at_once() -> None:
    """ResNet-50: the widest step has three tensors of 256 x 56 x 56 beside smaller ones."""
    found = placed(build("resnet50"))
    assert arena_bytes(found) < 1.5 * 3 * 4 * 256 * 56 * 56
    assert sum(buffer.nbytes for buffer in found.buffers.values()) > 5 * arena_bytes(found)


def network_of(name: str) -> Network:
    return filled(zigzag()) if name == "zigzag" else magnitude_pruned(build(name, image=64), (0.5, 0.1))


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", ["zigzag", "resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_memory_that_others_used_is_made_clean(model: str, threads: int) -> None:
    """Planes that share memory may hold anything between two images."""
    network = network_of(model)
    runner = PlaneNetwork(network, threads=threads)
    images = np.random.default_rng(0).standard_normal((2, *runner.input_shape)).astype(np.float32)
    expected = [PlaneNetwork(network).run(image, 1) for image in images]
    shared = [one.memory for one in runner._shared.values()]
    assert shared
    for image, alone in zip(images, expected, strict=True):
        for planes in (*shared, *runner._phases.values()):
            planes[:] = np.nan
        np.testing.assert_array_equal(runner.run(image, 1), alone)
