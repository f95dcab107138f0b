"""Lowering: bytes are what the real encoders write, products what the masks leave."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.traces.formats import FORMATS
from nestling.traces.lowering import ASSUMED_RELU_DENSITY, lower
from nestling.traces.trace import Activations
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer
from nestling.workloads.network import INPUT, Network
from nestling.workloads.zoo import build

from .spine_cases import SHAPES, mixed_network, network


@pytest.mark.parametrize("shape", [name for name, layer in SHAPES.items() if layer.has_weights])
@pytest.mark.parametrize("levels", [1, 8])
def test_bytes_and_macs_of_every_level(shape: str, levels: int) -> None:
    layer = SHAPES[shape]
    net = network(layer, levels=levels, seed=levels)
    (trace,) = lower(net, weight_bits=6).layers
    gemm, keep = layer.gemm, net.weights[layer.name].keep.reshape(trace.keep.shape)  # type: ignore[union-attr]
    assert gemm is not None
    np.testing.assert_array_equal(trace.keep, keep)
    codes = np.random.default_rng(0).integers(-32, 32, keep.shape)
    taps = layer.R * layer.S if layer.op in ("conv", "dwconv") else 1
    beside = keep.reshape(len(keep), -1, taps).swapaxes(1, 2).reshape(keep.shape)  # N:M groups run along channels
    for level in range(levels):
        nonzeros = sum(int(k) > level for k in keep.reshape(-1))
        assert trace.nonzeros[level] == nonzeros
        assert trace.macs(level) == nonzeros * gemm.m * layer.repeat
        for name, entry in FORMATS.items():
            seen = beside if name.startswith("nm") else keep
            encoded = entry.encode(codes, seen, level=level, levels=levels, value_bits=6)
            assert trace.bytes(name, level) == len(encoded) + 4 * layer.bias_params


def test_a_network_without_weights_is_dense() -> None:
    layers = mixed_network().layers
    trace = lower(Network("n", layers))
    assert trace.levels == 1
    assert trace.macs(0) == sum(x.macs for x in layers)
    assert trace.weight_bytes("dense", 0) == sum(x.weight_params + 4 * x.bias_params for x in layers)
    assert all((x.keep == 1).all() for x in trace.layers if x.keep is not None)


def test_products_of_activations_are_stored_at_activation_width() -> None:
    layer = SHAPES["matmul"]
    (trace,) = lower(Network("n", (layer,)), weight_bits=4, activation_bits=12).layers
    assert trace.weight_bits == 12
    assert {int(size[0]) for size in trace.storage.values()} == {-(-3 * 10 * 21 * 12 // 8)}
    assert trace.macs(0) == 3 * 18 * 10 * 21


def test_order_reduction_index_is_channel_row_column() -> None:
    layer = SHAPES["odd"]
    keep = np.zeros(layer.weight_shape, np.uint8)
    keep[3, 2, 4, 1] = 1
    (trace,) = lower(network(layer, levels=1, keep=keep)).layers
    assert trace.keep is not None
    assert np.argwhere(trace.keep).tolist() == [[3, (2 * 5 + 4) * 3 + 1]]


def test_activations_measured_or_assumed() -> None:
    taps = np.arange(27, dtype=np.int64)
    captured = Activations(0.1, 2, taps)
    trace = {x.layer.name: x for x in lower(mixed_network(), activations={"stem": captured}).layers}
    assert trace["stem"].activations is captured
    for name, density in (("deep", ASSUMED_RELU_DENSITY), ("point", 1.0)):
        assert (trace[name].activations.density, trace[name].activations.measured) == (density, False)
    with pytest.raises(InputError, match="unknown layer with activations 'stm'; did you mean 'stem'"):
        lower(mixed_network(), activations={"stm": captured})


def test_operators_without_products_are_listed_with_their_bytes() -> None:
    layers = (
        *mixed_network().layers[:3],
        Layer(name="pool", op="maxpool", C=8, H=12, W=12, K=8, P=6, Q=6, R=2, S=2, stride=2, sources=("sum",)),
    )
    found = {x.name: (x.op, x.bytes) for x in lower(Network("n", layers), activation_bits=4).data_movement}
    grid = 8 * 12 * 12
    assert found == {"sum": ("add", 3 * grid // 2), "pool": ("maxpool", (grid + 8 * 36) // 2)}


def test_normalisations_move_every_token() -> None:
    """The reference tables state features only; rows follow from the products around them, here counted by hand."""
    bert = {x.name: x.bytes for x in lower(build("bert_base", tokens=9), formats=["dense"]).data_movement}
    norms = ["emb.ln", *(f"layer{n}.ln{i}" for n in range(12) for i in (1, 2))]
    tables = ["emb.word", "emb.pos", "emb.type"]
    assert bert == dict.fromkeys(norms + tables, 2 * 9 * 768)

    vit = {x.name: x.bytes for x in lower(build("vit_b_16", image=64), formats=["dense"]).data_movement}
    norms = ["ln", *(f"layer{n}.ln{i}" for n in range(12) for i in (1, 2))]
    assert {name: vit[name] for name in norms} == dict.fromkeys(norms, 2 * 17 * 768)  # 16 patches and the class

    words = build("transformer_base", source_tokens=5, target_tokens=8)
    moved = {x.name: x.bytes for x in lower(words, formats=["dense"], activation_bits=16).data_movement}
    assert {name: bytes_ // (2 * 2 * 512) for name, bytes_ in moved.items()} == {
        "embedding": 5,
        **{f"enc{n}.ln{i}": 5 for n in range(6) for i in (1, 2)},
        **{f"dec{n}.ln{i}": 8 for n in range(6) for i in (1, 2, 3)},
    }


def test_a_network_without_any_product() -> None:
    pool = Layer(name="p", op="maxpool", C=1, H=2, W=2, K=1, P=1, Q=1, R=2, S=2, sources=(INPUT,))
    trace = lower(Network("n", (pool,)))
    assert (len(trace.layers), len(trace.data_movement), trace.macs(0)) == (0, 1, 0)


def test_progress_names_the_layers() -> None:
    seen: list[str] = []
    lower(mixed_network(), progress=seen.append)
    assert seen == ["stem", "deep", "point", "head"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 0}, "value_bits = 0; allowed are 1 to 16"),
        ({"weight_bits": 17}, "value_bits = 17"),
        ({"activation_bits": 0}, "activation_bits = 0; allowed are 1 to 32"),
        ({"activation_bits": -8}, "activation_bits = -8"),
        ({"formats": ["bitmaps"]}, "unknown storage format 'bitmaps'; did you mean 'bitmap'"),
        ({"formats": []}, "no storage format is allowed"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lower(mixed_network(), **options)  # type: ignore[arg-type]
