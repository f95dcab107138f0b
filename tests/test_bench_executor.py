"""The executor's benchmark: what it compares is right, pairs are counted, tables say what was missing."""

from __future__ import annotations

import os
from importlib.metadata import version

import numpy as np
import pytest
from nestling.analysis import bench_executor
from nestling.analysis.bench_executor import Comparison, geometric_means, interleaved, markdown, our_product, pruned
from nestling.analysis.bench_network import NetworkRow, PeerTime, magnitude_pruned
from nestling.analysis.bench_network import markdown as network_markdown
from nestling.analysis.executor_comparison import Measured, one_thread, run_executor_bench
from nestling.analysis.executor_comparison import markdown as joined
from nestling.analysis.executor_peers import PEERS
from nestling.analysis.network_peers import NETWORK_PEERS
from nestling.analysis.progress import silent
from nestling.sim.executor import reference
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.bundled import FASHION_SCALE, load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.zoo import build


@pytest.mark.parametrize("pattern", bench_executor.PATTERNS)
def test_patterns_keep_what_they_say(pattern: str) -> None:
    weights = pruned((16, 64), pattern, np.random.default_rng(0))
    kept = weights.mask(0).reshape(16, 64)
    density = {"50 %": 0.5, "2:4": 0.5, "25 %": 0.25, "13 %": 0.13, "5 %": 0.05}[pattern]
    assert abs(kept.mean() - density) < 1e-3
    if pattern == "2:4":
        assert (kept.reshape(-1, 4).sum(axis=1) == 2).all()


@pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
def test_every_installed_peer_computes_the_same_product() -> None:
    random = np.random.default_rng(0)
    weights = pruned((24, 32), "25 %", random)
    matrix = np.ascontiguousarray(weights.dense(0).reshape(24, 32))
    x = random.standard_normal((32, 48)).astype(np.float32)
    run, plan = our_product(matrix, weights, x)  # checks itself against NumPy
    run()
    assert plan.split()[0] in ("windowed", "direct", "packed")
    compared = 0
    for name, peer in PEERS.items():
        try:
            found = peer(matrix, x)()
        except ImportError:
            continue
        if name not in ("MKL sparse", "torch dense bf16"):
            np.testing.assert_allclose(np.asarray(found), matrix @ x, atol=1e-4)
            compared += 1
    assert compared >= 1


def test_every_candidate_runs_in_every_round() -> None:
    counts = {"a": 0, "b": 0}

    def run(name: str) -> None:
        counts[name] += 1
        sum(range(200_000))

    seconds = interleaved({name: lambda name=name: run(name) for name in counts}, 4)  # type: ignore[misc]
    assert [len(times) for times in seconds.values()] == [4, 4]
    assert all(time > 0 for times in seconds.values() for time in times)
    assert min(counts.values()) >= 6


def test_tables() -> None:
    rows = [
        Comparison("5 %", (2, 3, 4), "direct 4", 10.0, {"torch dense": 2.0}, {"torch dense": (1.0, 3.0)}),
        Comparison("5 %", (4, 3, 4), "direct 4", 30.0, {"torch dense": 8.0}, {"torch dense": (7.0, 9.0)}),
    ]
    assert geometric_means(rows)["5 %"]["torch dense"] == pytest.approx((4.0, 2.0, 8.0))
    text = markdown(rows, ["MKL sparse"])
    assert "| 5 % | 4.00 [2.00-8.00] | 10-30 |" in text
    assert "Not installed, not compared: MKL sparse." in text
    peers = {"ONNX Runtime": PeerTime(80.0, 5.0), "OpenVINO": PeerTime(90.0, 5.6)}
    whole = network_markdown([NetworkRow("5 %, own store", 16.0, peers), NetworkRow("x", 1.0, {})])
    assert "ours, CPU ms | speed-up over ONNX Runtime (80.0 CPU ms) | speed-up over OpenVINO (90.0 CPU ms) |" in whole
    assert "| 5 %, own store | 16.0 | 5.00 | 5.60 |" in whole
    assert "| x | 1.0 | - | - |" in whole
    assert "Not installed, not compared: OpenVINO bf16." in whole


def test_threads_are_limited_for_children_only() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    with one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_pruned_networks_have_the_densities_asked_for() -> None:
    network = magnitude_pruned(build("densenet40_cifar_init16"), (0.5, 0.05))
    for weights in network.weights.values():
        np.testing.assert_allclose(weights.densities, (0.5, 0.05), atol=0.01)


#: Largest difference from the reference, as a share of the largest output; bfloat16 has 8 significant bits.
PEER_SHARES = {"ONNX Runtime": 1e-4, "OpenVINO": 1e-4, "OpenVINO bf16": 3e-2}


@pytest.mark.parametrize("name", NETWORK_PEERS)
def test_a_peer_computes_the_same_network(name: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime" if name == "ONNX Runtime" else "openvino")
    network, pixels, _ = load_bundled()
    image = (pixels[:1, None].astype(np.float32) * np.float32(FASHION_SCALE)).astype(np.float32)
    for level in (0, 2):
        found = NETWORK_PEERS[name](network, level, threads=1)(image)[0].reshape(-1)
        expected = reference.forward(network, image, level).reshape(-1)
        assert np.abs(found - expected).max() < PEER_SHARES[name] * np.abs(expected).max()


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'rows'"):
        run_executor_bench(["row"], peers=False, progress=silent)


def test_all_tables_stand_under_their_titles() -> None:
    found = {"a": Measured("Title", [], "| a |\n| --- |"), "b": Measured("Other", [], "text")}
    text = joined(found)
    assert text.startswith("**Title**\n\n| a |\n| --- |\n\n**Other**\n\ntext\n\nMeasured with numpy ")
    assert f"scipy {version('scipy')}" in text
