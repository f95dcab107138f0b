"""Traces: sums over layers, what a digest names, and contents that contradict themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations, LayerTrace, Trace
from nestling.workloads.errors import InputError

from .spine_cases import SHAPES, layer_trace, mixed_network, network

TRACE = lower(mixed_network())
STEM = TRACE.layers[0]


def test_sums_over_layers() -> None:
    for level in range(4):
        assert TRACE.macs(level) == sum(x.macs(level) for x in TRACE.layers)
        stored = sum(int(x.storage["csr"][level]) + 4 * x.layer.bias_params for x in TRACE.layers)
        assert TRACE.weight_bytes("csr", level) == stored


def test_products_of_activations_are_no_stored_weights() -> None:
    trace = lower(network(SHAPES["matmul"]))
    assert trace.weight_bytes("csr", 0) == 0
    assert trace.layers[0].keep is None
    assert trace.macs(0) == SHAPES["matmul"].macs


@pytest.mark.parametrize("level", [-1, 4])
def test_levels_that_do_not_exist(level: int) -> None:
    for call in (TRACE.macs, lambda x: TRACE.weight_bytes("csr", x), TRACE.check_level):
        with pytest.raises(InputError, match=rf"level {level} does not exist: 'mixed' has levels 0 \(densest\) to 3"):
            call(level)


def test_formats_that_the_trace_lacks() -> None:
    trace = lower(mixed_network(), formats=["csr", "bitmap"])
    with pytest.raises(InputError, match="layer 'stem': the trace has no storage format 'dense'; it has bitmap, csr"):
        trace.weight_bytes("dense", 0)


def test_digest_names_the_input_of_a_result() -> None:
    assert TRACE.digest() == lower(mixed_network()).digest()
    others = [
        lower(mixed_network(seed=4)),
        lower(mixed_network((0.9, 0.5, 0.2, 0.04))),
        lower(mixed_network(), weight_bits=4),
        lower(mixed_network(), activation_bits=16),
        lower(mixed_network(), activations={"stem": Activations(0.25)}),
        replace(TRACE, layers=TRACE.layers[1:]),
    ]
    taps = [np.full(27, n, np.int64) for n in (3, 4)]
    others += [lower(mixed_network(), activations={"stem": Activations(0.5, 1, t)}) for t in taps]
    digests = {x.digest() for x in others}
    assert len(digests | {TRACE.digest()}) == len(others) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": np.zeros((2, 2), np.uint8)}, r"layer 'stem': keep map has shape \(2, 2\)"),
        ({"nonzeros": np.array([5, 6, 1, 0])}, r"non-zeros \[5, 6, 1, 0\] do not shrink by level"),
        ({"nonzeros": np.array([5])}, "do not shrink by level"),
        ({"storage": {"csr": np.array([1, 2])}}, "storage 'csr' is not one size per level"),
        ({"storage": {"csr": np.array([1, 2, 3, -1])}}, "storage 'csr' is not one size per level"),
        ({"activation_bits": 0}, "activation_bits = 0; allowed are 1 to 32"),
        ({"activation_bits": 33}, "activation_bits = 33"),
        ({"activations": Activations(0.5, 1, np.zeros(26, np.int64))}, "must be 27 counts of 0 to 144"),
        ({"activations": Activations(0.5, 1, np.full(27, 145))}, "must be 27 counts of 0 to 144"),
        ({"activations": Activations(0.5, 1, np.full(27, -1))}, "must be 27 counts of 0 to 144"),
        ({"layer": mixed_network().layers[2]}, r"layer 'sum' \(add\) is not a product and has no trace"),
    ],
)
def test_contradictions(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(STEM, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_activation_densities(density: float) -> None:
    with pytest.raises(InputError, match="activation density"):
        Activations(density)


def test_captured_activations_need_images() -> None:
    with pytest.raises(InputError, match="captured from 0 images"):
        Activations(0.5, 0, np.zeros(3, np.int64))
    assert Activations(0.5, 2, np.zeros(3, np.int64)).measured
    assert not Activations(0.5).measured


def test_layers_share_their_levels() -> None:
    other: LayerTrace = layer_trace(SHAPES["conv"], levels=3)
    with pytest.raises(InputError, match="trace of 'n': layers have different numbers of levels"):
        Trace("n", 4, (STEM, other))
