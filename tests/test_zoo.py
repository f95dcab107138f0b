"""The builders of the zoo: equal to the reference tables by default, and right where nobody has a table."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.workloads.layers import DYNAMIC_OPS, Layer
from nestling.workloads.network import Network
from nestling.workloads.tables import load_table
from nestling.workloads.zoo import MODELS, build
from nestling.workloads.zoo.mobile import scaled_channels

TABLES = Path(__file__).parent / "data" / "layer_tables"
TOTALS = {row["model"]: row for row in csv.DictReader((TABLES / "TOTALS.csv").open(encoding="utf-8"))}


def layer(network: Network, name: str) -> Layer:
    return next(x for x in network.layers if x.name == name)


def macs_of(network: Network, *ops: str) -> int:
    return sum(x.macs for x in network.layers if x.op in ops)


# --- default parameters ----------------------------------------------------------------------------------------------


def test_every_table_has_a_builder() -> None:
    assert set(MODELS) == set(TOTALS)
    assert len(MODELS) == 25


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_rows_equal_the_reference_table(name: str) -> None:
    """Every field of every layer but the free text."""
    built = [replace(x, notes="") for x in build(name).layers]
    table = [replace(x, notes="") for x in load_table(TABLES / f"{name}.csv").layers]
    assert len(built) == len(table)
    for ours, reference in zip(built, table, strict=True):
        assert ours == reference


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_columns_equal_the_reference_file(name: str) -> None:
    """The raw file, without our own reader in between; empty fields are values a table does not state."""
    rows = list(csv.DictReader((TABLES / f"{name}.csv").open(encoding="utf-8")))
    columns = {
        "C": "C", "H": "H", "W": "W", "K": "K", "P": "P", "Q": "Q", "R": "R", "S": "S", "stride": "stride",
        "pad": "padding", "dil": "dilation", "groups": "groups", "repeat": "repeat", "w_params": "weight_params",
        "b_params": "bias_params", "norm_params": "norm_params", "macs": "macs", "relu_in": "relu_in",
    }  # fmt: skip
    for ours, row in zip(build(name).layers, rows, strict=True):
        assert (ours.name, ours.op, ours.activation) == (row["name"], row["op"], row["act"])
        stated = {c: int(row[c]) for c in columns if row[c] != ""}
        assert {c: int(getattr(ours, columns[c])) for c in stated} == stated
        if ours.gemm is not None:
            assert (ours.gemm.b, ours.gemm.m, ours.gemm.n, ours.gemm.k) == tuple(int(row[f"gemm_{a}"]) for a in "bmnk")
            assert ours.has_weights == (row["static_w"] == "1")


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_totals_to_the_last_digit(name: str) -> None:
    network = build(name)
    found = {
        "rows": len(network.layers),
        "mac_layers": sum(x.gemm is not None for x in network.layers),
        "w_params": sum(x.weight_params for x in network.layers),
        "b_params": sum(x.bias_params for x in network.layers),
        "norm_params": sum(x.norm_params for x in network.layers),
        "params": network.params,
        "macs": network.macs,
        "dynamic_macs": macs_of(network, *DYNAMIC_OPS),
    }
    assert found == {key: int(TOTALS[name][key]) for key in found}


# --- images ----------------------------------------------------------------------------------------------------------

IMAGE_MODELS = sorted(name for name, model in MODELS.items() if "image" in model.parameters)


@pytest.mark.parametrize(
    "name", [n for n in IMAGE_MODELS if not n.startswith(("alexnet", "vgg", "vit"))]
)  # fmt: skip
def test_work_grows_with_the_area_and_parameters_stay(name: str) -> None:
    """224 and 32 pixels divide evenly through all halvings, and so do their doubles."""
    base = MODELS[name].parameters["image"].default
    small, large = build(name), build(name, image=2 * base)
    assert large.params == small.params
    for a, b in zip(small.layers, large.layers, strict=True):
        per_position = a.op in ("conv", "dwconv") and ".se." not in a.name
        assert b.macs == (4 if per_position else 1) * a.macs


def test_vgg_reads_the_flattened_image() -> None:
    at_224, at_256 = build("vgg16"), build("vgg16", image=256)
    assert macs_of(at_256, "conv") * 49 == macs_of(at_224, "conv") * 64
    assert layer(at_256, "fc6").weight_params == 512 * 8 * 8 * 4096
    assert at_256.params - at_224.params == 512 * (64 - 49) * 4096
    assert layer(build("alexnet", image=63), "fc6").weight_params == 256 * 4096
    assert layer(build("alexnet_caffe", image=67), "fc6").weight_params == 256 * 4096
    assert layer(build("vgg19_cifar", image=64), "classifier").weight_params == 512 * 2 * 2 * 10


def test_vit_has_a_token_per_patch_and_one_for_the_class() -> None:
    for image in (32, 160, 384):
        network, tokens = build("vit_b_16", image=image), (image // 16) ** 2 + 1
        assert layer(network, "pos_embedding").weight_params == tokens * 768
        assert macs_of(network, "matmul") == 12 * 2 * tokens * tokens * 768
        per_token = 12 * (3 * 768 * 768 + 768 * 768 + 2 * 768 * 3072)
        assert macs_of(network, "linear") == tokens * per_token + 768 * 1000
        assert macs_of(network, "conv") == (tokens - 1) * 768 * 3 * 16 * 16


def test_classes_change_the_classifier_only() -> None:
    for name in sorted(n for n, m in MODELS.items() if "classes" in m.parameters and n != "gat_cora"):
        default = build(name)
        count = int(MODELS[name].parameters["classes"].default)
        more = build(name, classes=count + 7)
        changed = [(a, b) for a, b in zip(default.layers, more.layers, strict=True) if a != b]
        ((old, new),) = changed
        assert old is default.layers[-1]
        assert new.params - old.params == 7 * (old.C + 1)
        assert more.macs - default.macs == 7 * old.C


# --- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    # MobileNet V2 at widths 1.4, 0.75, 0.5 and 0.35 in the tables of Keras and torchvision; the last ones by hand
    [(32, 1.4, 48), (16, 1.4, 24), (24, 1.4, 32), (96, 1.4, 136), (160, 1.4, 224), (320, 1.4, 448), (24, 0.75, 24),
     (32, 0.35, 16), (16, 0.35, 8), (24, 0.35, 8), (32, 0.75, 24), (1280, 1.4, 1792), (12, 1.0, 16), (11, 1.0, 16),
     (3, 1.0, 8), (19, 1.0, 24), (17, 1.0, 16)],
)  # fmt: skip
def test_rounding_of_scaled_channels(channels: int, width: float, expected: int) -> None:
    assert scaled_channels(channels, width) == expected


@given(channels=st.integers(1, 4000), width=st.floats(0.1, 4.0))
def test_scaled_channels_are_near_and_divisible(channels: int, width: float) -> None:
    found, exact = scaled_channels(channels, width), channels * width
    assert found % 8 == 0
    assert found >= 8
    assert found >= 0.9 * exact
    assert found <= max(8, exact + 12)


def test_width_of_mobilenet_v2() -> None:
    assert build("mobilenet_v2", width=1.4).layers == build("mobilenet_v2_140").layers
    assert build("mobilenet_v2_140", width=1).layers == build("mobilenet_v2").layers
    # parameters of torchvision's mobilenet_v2(width_mult=0.5) and keras' MobileNetV2(alpha=0.5)
    assert build("mobilenet_v2", width=0.5).params == 1_968_680
    assert layer(build("mobilenet_v2", width=0.35), "conv_head").K == 1280


def test_width_of_mobilenet_v1() -> None:
    """Pointwise work scales with the square of the width, depthwise work with the width."""
    one, half = build("mobilenet_v1"), build("mobilenet_v1", width=0.5)
    assert macs_of(half, "dwconv") * 2 == macs_of(one, "dwconv")
    pointwise = [x.name for x in one.layers if x.name.startswith("conv_pw")]
    for name in pointwise:
        assert layer(half, name).macs * 4 == layer(one, name).macs
    assert half.params == 1_331_592  # Howard et al., table 6: 1.3 million
    assert round(half.macs / 1e6) == 149  # the same table


def test_growth_of_densenets() -> None:
    """A block of n layers ends with its input's channels and n times the growth."""
    narrow = build("densenet40_cifar", growth=4, initial=10)
    assert [layer(narrow, f"dense{b}.out").K for b in (1, 2, 3)] == [58, 106, 154]
    deep = build("densenet121", growth=16, initial=32)
    assert layer(deep, "block1.out").K == 32 + 6 * 16
    assert layer(deep, "trans1.conv").K == 64
    assert layer(deep, "block4.layer16.conv1").K == 4 * 16


# --- sequences -------------------------------------------------------------------------------------------------------


@given(tokens=st.integers(1, 512))
@settings(max_examples=20, deadline=None)
def test_bert_has_a_linear_and_a_quadratic_part(tokens: int) -> None:
    network = build("bert_base", tokens=tokens)
    assert macs_of(network, "matmul") == 12 * 2 * tokens**2 * 768
    assert macs_of(network, "linear") == tokens * 12 * (4 * 768**2 + 2 * 768 * 3072) + 768**2
    assert network.params == int(TOTALS["bert_base"]["params"])


@given(source=st.integers(1, 300), target=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_transformer_lengths(source: int, target: int) -> None:
    network = build("transformer_base", source_tokens=source, target_tokens=target)
    d, inner = 512, 2048
    assert macs_of(network, "matmul") == 6 * 2 * d * (source**2 + target**2 + source * target)
    encoder = source * (4 * d * d + 2 * d * inner)
    decoder = target * (6 * d * d + 2 * d * inner) + source * 2 * d * d
    assert macs_of(network, "linear") == 6 * (encoder + decoder) + target * d * 37000
    assert network.params == int(TOTALS["transformer_base"]["params"])


@given(source=st.integers(1, 300), target=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_gnmt_repeats_its_decoder_per_word(source: int, target: int) -> None:
    network = build("gnmt_v2", source_tokens=source, target_tokens=target)
    h = 1024
    for x in network.layers:
        in_encoder = x.name.startswith("enc") or x.name == "attn.linear_k"
        sequential = x.op == "lstm_hh" or (x.gemm is not None and x.op != "lstm_ih" and not in_encoder)
        assert x.repeat == ((source if in_encoder else target) if sequential else 1)
    encoder = source * 4 * h * (5 * h + 6 * h) + source * h * h
    decoder = target * 4 * h * (4 * h + 7 * h) + target * (h * h + 2 * source * h + h * 32320)
    assert network.macs == encoder + decoder
    assert network.params == int(TOTALS["gnmt_v2"]["params"])


def test_gru_steps_and_units() -> None:
    network = build("gru_wikitext103", tokens=64, hidden=96)
    assert layer(network, "gru.ih").repeat == 1
    assert layer(network, "gru.hh").repeat == 64
    assert layer(network, "gru.hh").weight_shape == (3 * 96, 96)
    assert network.macs == 64 * (3 * 96 * (128 + 96) + 96 * 256 + 256 * 128 + 128 * 256)
    vocabulary = build("gru_wikitext103", vocabulary=512)
    assert vocabulary.params - build("gru_wikitext103").params == 256 * (128 + 1)  # shared weights count once


# --- graphs and points -----------------------------------------------------------------------------------------------


@given(
    nodes=st.integers(1, 5000), edges=st.integers(0, 50_000), features=st.integers(1, 2000),
    heads=st.integers(1, 16), classes=st.integers(1, 50),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_gat_counts_nodes_and_edges(nodes: int, edges: int, features: int, heads: int, classes: int) -> None:
    network = build("gat_cora", nodes=nodes, edges=edges, features=features, heads=heads, classes=classes)
    wide = 8 * heads
    assert macs_of(network, "spmm") == (edges + nodes) * (wide + classes)
    assert macs_of(network, "linear") == nodes * (features * wide + 2 * wide + wide * classes + 2 * classes)
    assert network.params == features * wide + 3 * wide + wide * classes + 3 * classes


def test_pointnet_points_and_normals() -> None:
    default, many = build("pointnet2_ssg_cls"), build("pointnet2_ssg_cls", points=4096)
    assert many.macs == default.macs
    assert many.params == default.params
    assert layer(many, "sa1.fps").W == layer(many, "sa1.ball").W == 4096
    assert layer(many, "sa2.fps").W == 512
    normals = build("pointnet2_ssg_cls", normals=1)
    assert normals.params - default.params == 3 * 64
    assert normals.macs - default.macs == 3 * 64 * 512 * 32
