"""SCALE-Sim topologies: published totals with and without padding, depthwise rows, N:M patterns, writing, bad rows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays.scale_sim import layerwise_rows
from nestling.workloads.errors import InputError
from nestling.workloads.layers import CONV_OPS, Gemm, Layer
from nestling.workloads.scale_sim_table import (
    CONV_HEADER,
    GEMM_HEADER,
    is_scale_sim_table,
    load_scale_sim_table,
    parse_groups,
    scale_sim_topology,
)
from nestling.workloads.zoo import MODELS, build

TOPOLOGIES = Path(__file__).parent.parent / "analysis" / "reference" / "scalesim" / "topologies"


def unpadded_rows(model: str) -> str:
    """A network of the zoo as SCALE-Sim's own tables have it: input sizes without padding."""
    rows = [CONV_HEADER]
    for layer in build(model).layers:
        if layer.op in CONV_OPS:
            rows.append(f"{layer.name},{layer.H},{layer.W},{layer.R},{layer.S},{layer.C},{layer.K},{layer.stride},")
        elif layer.gemm is not None:
            rows.append(f"{layer.name},1,1,1,1,{layer.gemm.k},{layer.gemm.n},1,")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("model", "valid", "same", "loss"),
    # The totals of SCALE-Sim's Resnet50.csv and Resnet18.csv under its rule without padding, and with padding.
    [("resnet50_v1", 3_409_810_112, 3_857_973_248, "-11.6%"), ("resnet18", 1_438_384_832, 1_814_073_344, "-20.7%")],
)
def test_missing_padding_costs_what_the_reference_says(
    tmp_path: Path, model: str, valid: int, same: int, loss: str
) -> None:
    path = tmp_path / "net.csv"
    path.write_text(unpadded_rows(model))
    with pytest.raises(InputError, match="the table states no padding") as caught:
        load_scale_sim_table(path)
    assert all(figure in str(caught.value) for figure in (f"{valid:,}", f"{same:,}", loss))
    bare = load_scale_sim_table(path, padding="valid")
    assert bare.macs == valid
    assert len(bare.notes) == 1
    assert loss in bare.notes[0]
    padded = load_scale_sim_table(path, padding="same")
    assert (padded.macs, padded.notes) == (same, ())
    expected = [x for x in build(model).layers if x.op in CONV_OPS]
    for found, layer in zip(padded.layers, expected, strict=False):
        assert (found.P, found.Q, found.padding) == (layer.P, layer.Q, layer.padding)


def test_sizes_that_include_the_padding() -> None:
    path = TOPOLOGIES / "resnet50_exact.csv"
    network = load_scale_sim_table(path, padding="file")
    assert network.macs == build("resnet50").macs
    conv1, second = network.layers[0], network.layers[2]
    assert (conv1.H, conv1.padding, conv1.P) == (223, 3, 112)
    assert (second.H, second.padding, second.P) == (56, 1, 56)
    assert load_scale_sim_table(path, padding="valid").macs == network.macs


def test_products_need_no_answers() -> None:
    network = load_scale_sim_table(TOPOLOGIES / "gemm_random20.csv")
    rows = (TOPOLOGIES / "gemm_random20.csv").read_text().splitlines()[1:]
    sizes = [tuple(int(cell) for cell in row.split(",")[1:4]) for row in rows]
    assert [(x.gemm.m, x.gemm.n, x.gemm.k) for x in network.layers if x.gemm is not None] == sizes
    assert network.weights == {}


def test_depthwise_rows_of_both_habits(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    rows = [
        "a,16,16,3,3,3,8,2,",
        "dw1, 8, 8, 3, 3, 8, 1, 1,",
        "b,8,8,1,1,8,16,1,",
        "\tdw2,8,8,3,3,1,1,2,#dw",
        "c,4,4,1,1,16,4,1",
    ]
    path.write_text("\n".join([CONV_HEADER, "", ",,,,,,,,", *rows]))
    with pytest.raises(InputError, match=r"2 rows \(dw1, dw2\) have one filter.*--groups depthwise"):
        load_scale_sim_table(path, padding="same")
    network = load_scale_sim_table(path, padding="same", groups="depthwise")
    assert [(x.op, x.C, x.K, x.groups) for x in network.layers] == [
        ("conv", 3, 8, 1), ("dwconv", 8, 8, 8), ("conv", 8, 16, 1), ("dwconv", 16, 16, 16), ("conv", 16, 4, 1),
    ]  # fmt: skip
    assert network.layers[1].macs == 64 * 9 * 8
    assert network.layers[3].macs == 16 * 9 * 16
    assert network.layers[1].sources == ("a",)
    assert "2 rows" in network.notes[0]
    stated = load_scale_sim_table(path, padding="same", groups="none")
    assert [x.macs for x in stated.layers][1::2] == [64 * 9 * 8, 16 * 9]
    assert load_scale_sim_table(path, padding="same", groups={"b": 4}).layers[2].macs == 64 * 8 * 16 // 4
    with pytest.raises(InputError, match="unknown layer with groups 'dw3'; did you mean 'dw"):
        load_scale_sim_table(path, padding="same", groups={"dw3": 4})


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 4), (2, 5)])
def test_patterns_keep_as_many_steps_as_scale_sim_does(tmp_path: Path, n: int, m: int) -> None:
    path = tmp_path / "net.csv"
    path.write_text(f"{CONV_HEADER} Sparsity,\nx,5,5,3,3,2,6,1,{n}:{m},\ny,3,3,1,1,6,4,1,,\n")
    network = load_scale_sim_table(path, padding="valid")
    keep = network.weights["x"].keep
    steps = layerwise_rows(3 * 3 * 2, kept=n, group=m)
    assert (keep.reshape(6, -1).sum(1) == steps).all()
    in_order = keep.transpose(0, 2, 3, 1).reshape(6, -1)
    assert (in_order == (np.arange(18) % m < n)).all()
    assert network.weights["y"].nonzeros.tolist() == [24]
    assert network.levels == 1


def test_names_that_repeat_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_text(f"{GEMM_HEADER} Sparsity,\nGEMM_1, 3, 5, 16, 3:4,\nGEMM_1, 1, 5, 16, 1:4,\ninput,1,1,1,,\n")
    network = load_scale_sim_table(path)
    assert [x.name for x in network.layers] == ["GEMM_1", "GEMM_1@2", "input@2"]
    assert [network.weights[x.name].nonzeros.tolist() for x in network.layers] == [[60], [20], [1]]


def test_every_bad_row_is_listed_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    rows = [
        "a,0,4,1,1,1,1,1,",
        "b,4,4,1,1,x,1,1,",
        "c,4,4,1,1",
        "d,4,4,5,1,1,1,1,",
        ",4,4,1,1,1,1,1",
        "e,99999999999,4,1,1,1,1,1,",
    ]
    path.write_text("\n".join([f"{CONV_HEADER} Sparsity", *rows, "f,4,4,1,1,1,1,1,5:4", "g,4,4,1,1,1,1,1,"]))
    with pytest.raises(InputError) as caught:
        load_scale_sim_table(path)
    lines = [int(re.findall(r"line (\d+):", problem)[0]) for problem in caught.value.problems]
    assert lines == [2, 3, 4, 5, 6, 7, 8]
    for problem, part in zip(
        caught.value.problems,
        (
            "IFMAP height = '0'",
            "channels = 'x'",
            "4 of 7 sizes",
            "exceeds",
            "no name",
            "99999999999",
            "'5:4' is not N:M",
        ),
        strict=True,
    ):
        assert part in problem


def test_sizes_beyond_counts_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    big = 1 << 31
    path.write_text(f"{GEMM_HEADER}\nx,{big},{big},{big},\n")
    with pytest.raises(InputError, match="exceed what 64-bit counts hold"):
        load_scale_sim_table(path)
    path.write_text(f"{GEMM_HEADER} Sparsity,\nx,1,{1 << 20},{1 << 20},2:4,\n")
    with pytest.raises(InputError, match="not held in memory"):
        load_scale_sim_table(path)


def test_other_files_are_not_taken_for_topologies(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for text, expected in ((CONV_HEADER, True), (GEMM_HEADER, True), ("name,op,src,C", False), ("", False)):
        path.write_text(text)
        assert is_scale_sim_table(path) is expected
    assert not is_scale_sim_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="line 1: not a SCALE-Sim header"):
        load_scale_sim_table(path)
    path.write_text(GEMM_HEADER)
    with pytest.raises(InputError, match="has no rows"):
        load_scale_sim_table(path)
    path.write_text("Layer,M,N,K\nx,1,2,3")
    with pytest.raises(InputError, match="unknown padding 'sam'; did you mean 'same'"):
        load_scale_sim_table(path, padding="sam")  # type: ignore[arg-type]


def test_groups_as_a_person_writes_them() -> None:
    assert parse_groups([]) is None
    assert parse_groups(["depthwise"]) == "depthwise"
    assert parse_groups(["conv2=2", "x=y=4"]) == {"conv2": 2, "x=y": 4}
    for text in ("conv2", "=2", "conv2=0", "conv2=-1", "conv2=99999999999"):
        with pytest.raises(InputError, match="NAME=GROUPS"):
            parse_groups([text])


# --- writing ---------------------------------------------------------------------------------------------------------


def scale_sim_macs(topology: str) -> int:
    """MACs of a topology as SCALE-Sim 3.0.0 counts them: output positions rounded up."""
    macs = 0
    for row in topology.splitlines()[1:]:
        sizes = [int(cell) for cell in row.rstrip(",").split(",")[1:]]
        if len(sizes) == 3:
            macs += sizes[0] * sizes[1] * sizes[2]
            continue
        h, w, r, s, c, k, step = sizes
        macs += -(-(h - r + step) // step) * -(-(w - s + step) // step) * r * s * c * k
    return macs


@pytest.mark.parametrize("model", list(MODELS))
def test_written_topologies_hold_the_macs_of_the_network(model: str) -> None:
    network = build(model)
    text, notes = scale_sim_topology(network.layers)
    assert scale_sim_macs(text) == network.macs
    assert (text.splitlines()[0] == GEMM_HEADER) == any("matrix products" in note for note in notes)


@pytest.mark.parametrize("model", ["resnet50", "transformer_base"])
def test_written_topologies_are_read_back(tmp_path: Path, model: str) -> None:
    network = build(model)
    path = tmp_path / "net.csv"
    path.write_text(scale_sim_topology(network.layers)[0])
    assert load_scale_sim_table(path, padding="file").macs == network.macs


def test_a_topology_of_millions_of_rows_is_refused() -> None:
    layer = Layer(name="x", op="lstm_hh", gemm=Gemm(1, 1, 4, 4), repeat=2_000_000)
    with pytest.raises(InputError, match="would have 2,000,000 rows"):
        scale_sim_topology([layer])
    with pytest.raises(InputError, match="has no products"):
        scale_sim_topology([Layer(name="x", op="add")])


@settings(max_examples=100, deadline=None)
@given(
    H=st.integers(1, 30), W=st.integers(1, 30), R=st.integers(1, 5), S=st.integers(1, 5), C=st.integers(1, 4),
    K=st.integers(1, 4), stride=st.integers(1, 4), padding=st.integers(0, 3), groups=st.sampled_from([1, 2]),
)  # fmt: skip
def test_scale_sim_computes_the_same_outputs_from_a_written_row(
    H: int, W: int, R: int, S: int, C: int, K: int, stride: int, padding: int, groups: int
) -> None:
    P, Q = (H + 2 * padding - R) // stride + 1, (W + 2 * padding - S) // stride + 1
    if min(P, Q) < 1:
        return
    layer = Layer(
        name="a,b", op="conv", C=C * groups, H=H, W=W, K=K * groups, P=P, Q=Q, R=R, S=S, stride=stride, padding=padding,
        groups=groups,
    )  # fmt: skip
    text, _ = scale_sim_topology([layer])
    names = [row.split(",")[0] for row in text.splitlines()[1:]]
    assert names == (["a_b"] if groups == 1 else ["a_b.0", "a_b.1"])
    assert scale_sim_macs(text) == layer.macs
