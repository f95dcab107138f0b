"""Single operators: what the table says of them, and that the graph still computes what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nestling.workloads.layers import Gemm
from nestling.workloads.onnx_import import load_onnx
from onnx import TensorProto, helper

from .onnx_cases import Array, floats, model, node, saved
from .onnx_imports import imported, rows
from .onnx_oracle import run_file

IMAGE = {"x": [1, 4, 9, 7]}
WEIGHT, BIAS = floats(6, 4, 3, 3, seed=1), floats(6, seed=2, zeros=0)
CODES = np.random.default_rng(3).integers(0, 7, (6, 4, 3, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("attributes", "weight", "expected"),
    [
        ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, WEIGHT, ("conv", 2, 1, 1, None)),
        ({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, WEIGHT, ("conv", 1, 2, 2, None)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, WEIGHT, ("conv", 2, 1, 1, None)),
        ({"auto_pad": "SAME_LOWER", "strides": [3, 3]}, WEIGHT, ("conv", 3, 0, 1, [0, 1, 0, 1])),
        ({"auto_pad": "VALID"}, WEIGHT, ("conv", 1, 0, 1, None)),
        ({"pads": [0, 1, 2, 1]}, WEIGHT, ("conv", 1, 0, 1, [0, 1, 2, 1])),
        ({"group": 2}, floats(6, 2, 3, 3), ("conv", 1, 0, 1, None)),
        ({"group": 4, "pads": [1, 1, 1, 1]}, floats(8, 1, 3, 3), ("dwconv", 1, 1, 1, None)),
        ({"dilations": [1, 5]}, floats(6, 4, 3, 1), ("conv", 1, 0, 1, None)),  # one tap has no dilation
    ],
)  # fmt: skip
def test_conv_as_a_layer(
    tmp_path: Path, attributes: dict[str, object], weight: Array, expected: tuple[str, int, int, int, list[int] | None]
) -> None:
    case = model([node("Conv", "x w b", **attributes)], IMAGE, {"w": weight, "b": floats(weight.shape[0], seed=4)})
    found = imported(tmp_path, case)
    layer = rows(found)["conv_y"]
    op, stride, padding, dilation, pad = expected
    assert (layer.op, layer.stride, layer.padding, layer.dilation) == (op, stride, padding, dilation)
    assert found.network.macs == layer.P * layer.Q * weight.size
    assert layer.params == weight.size + weight.shape[0]
    assert ("conv_y.pad" in rows(found)) == (pad is not None)
    assert pad is None or str(pad) in rows(found)["conv_y.pad"].notes


@pytest.mark.parametrize("attributes", [{"strides": [2, 1]}, {"dilations": [1, 2], "pads": [0, 1, 2, 3]}])
def test_conv_of_unequal_steps_is_a_product(tmp_path: Path, attributes: dict[str, object]) -> None:
    case = model([node("Conv", "x w", group=2, **attributes)], IMAGE, {"w": floats(6, 2, 3, 3)})
    layer = rows(imported(tmp_path, case))["conv_y"]
    made = run_file(tmp_path / "case.onnx", {"x": floats(1, 4, 9, 7)})[0].shape
    assert layer.op == "linear"
    assert "im2col" in layer.notes
    assert layer.gemm == Gemm(2, made[2] * made[3], 3, 18)


def test_conv_of_one_dimension_and_a_batch(tmp_path: Path) -> None:
    found = imported(tmp_path, model([node("Conv", "x w")], {"x": [3, 4, 11]}, {"w": floats(6, 4, 3)}))
    layer = rows(found)["conv_y"]
    assert (layer.H, layer.W, layer.R, layer.S, layer.P, layer.Q, layer.repeat) == (1, 11, 1, 3, 1, 9, 3)
    assert found.network.macs == 3 * 9 * 6 * 12


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [[9, 7], [9]])
def test_transposed_conv_counts_every_tap_of_every_input(tmp_path: Path, groups: int, size: list[int]) -> None:
    weight = floats(4, 3, *[3] * len(size))
    nodes = [node("ConvTranspose", "x w b", group=groups, strides=[2] * len(size), pads=[1] * 2 * len(size))]
    constants = {"w": weight, "b": floats(3 * groups)}
    found = imported(tmp_path, model(nodes, {"x": [1, 4, *size]}, constants))
    assert found.network.macs == np.prod(size) * weight.size
    assert rows(found)["convtranspose_y"].bias_params == 3 * groups


@pytest.mark.parametrize("case", ["x w", "w x"])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_with_many_rows_and_a_weight_on_either_side(tmp_path: Path, case: str, turned: int) -> None:
    weight = floats(5, 3) if (case == "x w") == bool(turned) else floats(3, 5)
    inputs = {"x": [7, 3]} if case == "x w" else {"x": [3, 7]}
    side = {"transB": turned} if case == "x w" else {"transA": turned}
    found = imported(tmp_path, model([node("Gemm", case, alpha=0.5, **side)], inputs, {"w": weight}))
    assert rows(found)["gemm_y"].gemm == Gemm(1, 7, 5, 3)


@pytest.mark.parametrize(
    ("order", "shape", "weight", "gemm"),
    [
        ("x w", [2, 3, 4], (4, 5), Gemm(1, 6, 5, 4)),
        ("x w", [2, 3, 4], (2, 4, 5), Gemm(2, 3, 5, 4)),
        ("x w", [3, 4], (2, 4, 5), Gemm(2, 3, 5, 4)),
        ("w x", [2, 4, 6], (3, 4), Gemm(1, 12, 3, 4)),
        ("w x", [4, 6], (2, 3, 4), Gemm(2, 6, 3, 4)),
        ("x w", [4], (4, 5), Gemm(1, 1, 5, 4)),
        ("x w", [3, 4], (4,), Gemm(1, 3, 1, 4)),
    ],
)
def test_matmul_with_a_stored_side(
    tmp_path: Path, order: str, shape: list[int], weight: tuple[int, ...], gemm: Gemm
) -> None:
    found = imported(tmp_path, model([node("MatMul", order)], {"x": shape}, {"w": floats(*weight)}))
    assert (rows(found)["matmul_y"].op, rows(found)["matmul_y"].gemm) == ("linear", gemm)


def test_matmul_of_two_activations(tmp_path: Path) -> None:
    found = imported(tmp_path, model([node("MatMul", "a b")], {"a": [2, 3, 4, 5], "b": [3, 5, 6]}, {}))
    assert (rows(found)["matmul_y"].op, rows(found)["matmul_y"].gemm) == ("matmul", Gemm(6, 4, 6, 5))


@pytest.mark.parametrize(
    ("equation", "shapes", "weight", "expected"),
    [
        ("bthd,bshd->bhts", ([2, 3, 4, 5], [2, 6, 4, 5]), None, Gemm(8, 3, 6, 5)),
        ("btd,df->btf", ([2, 3, 4], None), (4, 5), Gemm(1, 6, 5, 4)),
        ("hkd,bhd->bhk", (None, [2, 3, 4]), (3, 5, 4), Gemm(3, 2, 5, 4)),
        ("ij,ij->", ([3, 4], [3, 4]), None, Gemm(1, 1, 1, 12)),
    ],
)
def test_einsum_that_is_one_product(
    tmp_path: Path, equation: str, shapes: tuple[list[int] | None, ...], weight: tuple[int, ...] | None, expected: Gemm
) -> None:
    names = ["w" if shape is None else f"x{i}" for i, shape in enumerate(shapes)]
    inputs = {name: shape for name, shape in zip(names, shapes, strict=True) if shape is not None}
    case = model([node("Einsum", " ".join(names), equation=equation)], inputs, {"w": floats(*weight)} if weight else {})
    path = saved(tmp_path, case)
    found = load_onnx(path).network
    assert found.layers[0].gemm == expected
    if weight:
        operand, given = floats(*weight), floats(*next(iter(inputs.values())), seed=8)
        letters = equation.split("->", maxsplit=1)[0].split(",")[names.index("w")]
        kept = [x for x in letters if x in equation.split("->")[1]]
        matrix = np.einsum(f"{letters}->{''.join(kept)}{''.join(x for x in letters if x not in kept)}", operand)
        np.testing.assert_array_equal(found.weights["einsum_y"].dense(0), matrix.reshape(-1, expected.k))
        assert given.size


@pytest.mark.parametrize(("equation", "macs"), [("ii,ij->j", 36), ("ij,jk,kl->il", 3 * 4 * 5 * 6), ("ij->ji", None)])
def test_einsum_that_is_more_is_listed(tmp_path: Path, equation: str, macs: int | None) -> None:
    sizes = {"i": 3, "j": 12 if equation.startswith("ii") else 4, "k": 5, "l": 6}
    operands = equation.split("->", maxsplit=1)[0].split(",")
    inputs = {f"x{i}": [sizes[x] for x in letters] for i, letters in enumerate(operands)}
    nodes = [node("Einsum", " ".join(inputs), "a", equation=equation), node("Relu", "a")]
    (gap,) = load_onnx(saved(tmp_path, model(nodes, inputs, {}))).unsupported
    assert gap.operator == "Einsum"
    assert gap.macs == (macs if macs else 12)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent(tmp_path: Path, op: str, gates: int, directions: int) -> None:
    constants = {"w": floats(directions, gates * 5, 3), "r": floats(directions, gates * 5, 5, seed=1)}
    constants["b"] = floats(directions, 2 * gates * 5, seed=2)
    direction = "bidirectional" if directions == 2 else "reverse"
    case = model([node(op, "x w r b", hidden_size=5, direction=direction)], {"x": [7, 2, 3]}, constants)
    found = imported(tmp_path, case)
    assert found.network.macs == directions * 7 * 2 * gates * 5 * (3 + 5)
    assert [x.repeat for x in found.network.layers] == [1, 7] * directions
    assert found.network.params == sum(value.size for value in constants.values())


def test_a_bias_behind_a_product_joins_it_and_so_does_an_activation(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Add", "b a", "c"), node("Gelu", "c")]
    case = model(nodes, {"x": [3, 4]}, {"w": floats(4, 5), "b": floats(5, zeros=0)}, opset=20)
    (layer,) = imported(tmp_path, case).network.layers
    assert (layer.bias_params, layer.activation) == (5, "gelu")


def test_activations_mark_what_reads_them(tmp_path: Path) -> None:
    limits = {"low": np.float32(0), "high": np.float32(6), "w": WEIGHT, "v": floats(2, 6, 1, 1)}
    nodes = [
        node("Conv", "x w", "a"),
        node("Clip", "a low high", "c"),
        node("MaxPool", "c", "p", kernel_shape=[2, 2]),
        node("Conv", "p v"),
    ]
    found = rows(imported(tmp_path, model(nodes, IMAGE, limits)))
    assert (found["conv_a"].activation, found["maxpool_p"].relu_in, found["conv_y"].relu_in) == ("relu6", True, True)


def test_an_activation_of_a_shared_tensor_is_a_row_of_its_own(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "r"), node("Add", "a r")]
    found = imported(tmp_path, model(nodes, IMAGE, {"w": WEIGHT}))
    assert [(x.op, x.activation) for x in found.network.layers] == [
        ("conv", "none"),
        ("elementwise", "relu"),
        ("add", "none"),
    ]


@pytest.mark.parametrize("scale", ["Div", "Mul"])
def test_gelu_and_silu_in_small_operators_join_the_product(tmp_path: Path, scale: str) -> None:
    numbers = {
        "r": np.float32(np.sqrt(2) if scale == "Div" else np.sqrt(0.5)),
        "one": np.float32(1),
        "h": np.float32(0.5),
    }
    nodes = [
        node("MatMul", "x w", "a"),
        node(scale, "a r", "b"),
        node("Erf", "b", "c"),
        node("Add", "c one", "d"),
        node("Mul", "a d", "e"),
        node("Mul", "e h", "f"),
        node("MatMul", "f v", "g"),
        node("Sigmoid", "g", "s"),
        node("Mul", "g s"),
    ]
    case = model(nodes, {"x": [3, 4]}, {"w": floats(4, 5), "v": floats(5, 6), **numbers})
    found = imported(tmp_path, case)
    assert [(x.op, x.activation) for x in found.network.layers] == [("linear", "gelu"), ("linear", "silu")]


def test_almost_a_gelu_is_not_one(tmp_path: Path) -> None:
    numbers = {"r": np.float32(2), "one": np.float32(1), "h": np.float32(0.5)}
    nodes = [node("MatMul", "x w", "a"), node("Div", "a r", "b"), node("Erf", "b", "c"), node("Add", "c one", "d")]
    nodes += [node("Mul", "a d", "e"), node("Mul", "e h")]
    found = imported(tmp_path, model(nodes, {"x": [3, 4]}, {"w": floats(4, 5), **numbers}))
    assert [x.op for x in found.network.layers] == ["linear"] + ["elementwise"] * 5


@pytest.mark.parametrize("opset", [9, 11, 13, 16, 18, 21, 23])
def test_operator_sets(tmp_path: Path, opset: int) -> None:
    """Reshapes, slices and reductions take attributes or inputs, depending on the set."""
    axes: dict[str, Array] = {"axes": np.int64([1])} if opset >= 13 else {}
    squeeze = node("Squeeze", "p axes", "q") if opset >= 13 else node("Squeeze", "p", "q", axes=[1])
    nodes = [
        node("Conv", "x w", "a"),
        node("Relu", "a", "r"),
        node("Shape", "r", "s"),
        node("Gather", "s zero", "n"),
        node("Concat", "n rest", "t", axis=0),
        node("Reshape", "r t", "p"),
        squeeze,
        node("Gemm", "q v u"),
    ]
    constants = {
        "u": floats(3),
        "w": WEIGHT,
        "zero": np.int64([0]),
        "rest": np.int64([1, -1]),
        "v": floats(6 * 35, 3),
        **axes,
    }
    found = imported(tmp_path, model(nodes, IMAGE, constants, opset=opset))
    assert found.network.macs == 35 * WEIGHT.size + 6 * 35 * 3
    assert [x.op for x in found.network.layers] == ["conv", "linear"]
    assert found.network.layers[1].relu_in


def test_attention_operator_is_two_products(tmp_path: Path) -> None:
    nodes = [node("Attention", "q k v", q_num_heads=4, kv_num_heads=2)]
    inputs = {"q": [2, 5, 32], "k": [2, 7, 16], "v": [2, 7, 12]}
    found = load_onnx(saved(tmp_path, model(nodes, inputs, {}, opset=23))).network
    assert [x.gemm for x in found.layers] == [Gemm(8, 5, 7, 8), Gemm(8, 5, 6, 7)]


def test_conv_of_three_dimensions_is_listed_with_its_share(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("ReduceMean", "a", "m", axes=[2, 3, 4], keepdims=0), node("MatMul", "m v")]
    case = model(nodes, {"x": [1, 2, 5, 5, 5]}, {"w": floats(4, 2, 3, 3, 3), "v": floats(4, 10)})
    found = load_onnx(saved(tmp_path, case))
    (gap,) = found.unsupported
    assert (gap.operator, gap.count, gap.macs) == ("Conv", 1, 27 * 4 * 54)
    assert gap.macs_share == pytest.approx(27 * 4 * 54 / (27 * 4 * 54 + 40))
    assert gap.bytes == 250 + 216 + 108
    assert any("Conv" in text and "99.32% of the MACs" in text for text in found.network.notes)


def test_control_flow_is_listed_and_the_graph_left_out(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["n"])],
        "b",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, [2, 5])],
    )
    choose = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=branch, else_branch=branch)
    nodes = [node("MatMul", "x w", "a"), node("ReduceMax", "a", "m", keepdims=0), node("Cast", "m", "c", to=9), choose]
    found = load_onnx(saved(tmp_path, model(nodes, {"x": [2, 4]}, {"w": floats(4, 5)})))
    assert [(gap.operator, gap.macs_share) for gap in found.unsupported] == [("If", None)]
    assert found.network.graph is None
    assert found.network.macs == 40


def test_operators_of_other_domains_are_listed(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), helper.make_node("Fancy", ["a"], ["y"], domain="my.own")]
    case = model(nodes, {"x": [2, 4]}, {"w": floats(4, 5)})
    case.opset_import.append(helper.make_opsetid("my.own", 1))
    (gap,) = load_onnx(saved(tmp_path, case)).unsupported
    assert (gap.operator, gap.macs, gap.bytes) == ("my.own.Fancy", None, None)


def test_a_shape_that_depends_on_values_is_a_gap_not_an_error(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("NonZero", "a", "i"), node("Cast", "i", "f", to=1), node("MatMul", "v f")]
    found = load_onnx(saved(tmp_path, model(nodes, {"x": [2, 4]}, {"w": floats(4, 5), "v": floats(3, 2)})))
    assert [gap.operator for gap in found.unsupported] == ["MatMul", "NonZero"]
    assert found.network.macs == 40


def test_every_data_operator_reads_and_writes_its_tensors_once(tmp_path: Path) -> None:
    constants: dict[str, Array] = {
        "sizes": np.int64([2, 6]),
        "scales": np.float32([1, 1, 2, 2]),
        "g": floats(8, zeros=0),
    }
    nodes = [
        node("Split", "x sizes", "a b", axis=1),
        node("Concat", "b a", "c", axis=1),
        node("Resize", "c - scales", "d"),
        node("Transpose", "d", "e", perm=[0, 2, 3, 1]),
        node("LayerNormalization", "e g", "f"),
        node("Softmax", "f", "s"),
        node("ReduceMean", "s", "y", axes=[1, 2]),
    ]
    found = rows(imported(tmp_path, model(nodes, {"x": [1, 8, 3, 3]}, constants)))
    moved = {name: (layer.op, layer.input_size, layer.output_size) for name, layer in found.items()}
    assert moved == {
        "split_a": ("rearrange", 72, 72),
        "concat_c": ("concat", 72, 72),
        "resize_d": ("resize", 72, 288),
        "transpose_e": ("rearrange", 288, 288),
        "layernormalization_f": ("layernorm", 288, 288),
        "softmax_s": ("softmax", 288, 288),
        "reducemean_y": ("reduce", 288, 8),
    }
