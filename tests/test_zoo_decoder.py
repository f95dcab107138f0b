"""The decoder of any size: the published total of LLaMA-7B, and closed forms for every other size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.analysis.sources import MAX_DRAWN_WEIGHTS, load_workload
from nestling.traces.lowering import data_movement
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer
from nestling.workloads.network import Network
from nestling.workloads.synthetic import SyntheticLevels
from nestling.workloads.zoo import DECODERS, MODELS, build


def macs_of(network: Network, op: str) -> int:
    return sum(x.macs for x in network.layers if x.op == op)


def layer(network: Network, name: str) -> Layer:
    return next(x for x in network.layers if x.name == name)


def test_llama_7b_to_the_last_digit() -> None:
    """6,738,415,616: KerasHub's preset llama_7b_en; the shapes are those of Touvron et al., table 2."""
    network = build("llama_7b")
    assert network.params == 6_738_415_616
    assert sum(x.has_weights for x in network.layers) == 32 * 7 + 1
    assert layer(network, "layers.31.down_proj").weight_shape == (4096, 11008)
    assert layer(network, "layers.0.qk").gemm.b == 32  # type: ignore[union-attr]


def test_other_sizes_of_the_family() -> None:
    """LLaMA-13B: 40 blocks, 5120 wide, 13824 inner; 13,015,864,320 parameters (num_parameters of transformers' model)."""
    assert build("llama_7b", layers=40, width=5120, inner=13824).params == 13_015_864_320


@given(
    tokens=st.integers(1, 300), context=st.integers(0, 5000), layers=st.integers(1, 5), heads=st.integers(1, 9),
    inner=st.integers(1, 3000), vocabulary=st.integers(2, 5000),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_closed_forms(tokens: int, context: int, layers: int, heads: int, inner: int, vocabulary: int) -> None:
    width = 128 * heads
    network = build(
        "llama_7b", tokens=tokens, context=context, layers=layers, width=width, inner=inner, vocabulary=vocabulary
    )
    stored = layers * (4 * width**2 + 3 * width * inner) + width * vocabulary
    assert macs_of(network, "linear") == tokens * stored
    assert macs_of(network, "matmul") == layers * 2 * tokens * (tokens + context) * width
    assert network.params == stored + width * vocabulary + (2 * layers + 1) * width
    assert SyntheticLevels(network, (1.0,)).weights == stored


def test_one_step_of_decoding() -> None:
    step = build("llama_7b", tokens=1, context=2047)
    assert {x.gemm.m for x in step.layers if x.gemm is not None} == {1}
    assert macs_of(step, "linear") == 6_738_415_616 - 32000 * 4096 - 65 * 4096
    assert layer(step, "layers.5.av").gemm.k == 2048  # type: ignore[union-attr]


def test_every_row_is_moved() -> None:
    """Bytes at 8 bits of the operators between the products, by hand: a block has two norms (read, written), two rotations
    (read, written), a gate and two sums (two read, one written)."""
    tokens, width, inner = 7, 256, 300
    network = build("llama_7b", tokens=tokens, layers=2, width=width, inner=inner, vocabulary=50)
    moved = {x.name: x.bytes for x in data_movement(network.layers, 8)}
    row = tokens * width
    block = {"input_norm": 2, "rotary_q": 2, "rotary_k": 2, "attention_sum": 3, "post_norm": 2, "feed_forward_sum": 3}
    expected = {f"layers.{n}.{name}": times * row for n in range(2) for name, times in block.items()}
    expected |= {f"layers.{n}.gated": 3 * tokens * inner for n in range(2)}
    assert moved == expected | {"embed_tokens": 2 * row, "norm": 2 * row}


def test_it_is_none_of_the_reference_tables() -> None:
    assert not set(DECODERS) & set(MODELS)
    assert "llama_7b" in DECODERS


def test_too_many_masks_for_the_memory() -> None:
    with pytest.raises(InputError, match=r"6,607,077,376 prunable weights.*nestling lower llama_7b -o FILE"):
        load_workload("llama_7b")
    workload = load_workload("llama_7b", densities=(0.5, 0.13), draw=False)
    assert workload.pattern is not None
    assert workload.pattern.weights > MAX_DRAWN_WEIGHTS
    assert workload.pattern.densities.tolist() == pytest.approx([0.5, 0.13], abs=1e-8)
    assert not workload.network.weights
