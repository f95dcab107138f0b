"""Constants that fold into products: normalisation, scales, quantised weights; the graph still computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from .onnx_cases import Array, floats, model, node
from .onnx_imports import imported, rows

IMAGE = {"x": [1, 4, 9, 7]}
WEIGHT, BIAS = floats(6, 4, 3, 3, seed=1), floats(6, seed=2, zeros=0)
CODES = np.random.default_rng(3).integers(0, 7, (6, 4, 3, 3)).astype(np.uint8)


def test_batch_norm_and_channel_scale_fold_into_the_product_before_them(tmp_path: Path) -> None:
    statistics = {name: floats(6, seed=i, zeros=0) for i, name in enumerate(("g", "h", "m"))}
    constants = {
        "w": WEIGHT,
        "b": BIAS,
        **statistics,
        "v": np.abs(floats(6, seed=7, zeros=0)) + 0.5,
        "one": np.float32([3]),
    }
    constants["s"] = floats(6, 1, 1, seed=11, zeros=0)
    nodes = [
        node("Conv", "x w b", "a"),
        node("BatchNormalization", "a g h m v", "n"),
        node("Mul", "n s", "p"),
        node("Add", "one p", "q"),
        node("Relu", "q"),
    ]
    found = imported(tmp_path, model(nodes, IMAGE, constants))
    (layer,) = found.network.layers
    assert (layer.activation, layer.params) == ("relu", WEIGHT.size + 6)


@pytest.mark.parametrize("op", ["ConvTranspose", "Gemm"])
def test_batch_norm_folds_into_transposed_conv_and_gemm(tmp_path: Path, op: str) -> None:
    channels, constants = 6, {name: floats(6, seed=i, zeros=0) for i, name in enumerate(("g", "h", "m"))}
    constants["v"] = np.abs(floats(channels, seed=7, zeros=0)) + 0.5
    constants["w"] = floats(4, 3, 2, 2) if op == "ConvTranspose" else floats(4, 6)
    constants["b"] = floats(channels, seed=12)
    options = {"group": 2} if op == "ConvTranspose" else {"alpha": 0.7, "beta": 2.0}
    nodes = [node(op, "x w b", "a", **options), node("BatchNormalization", "a g h m v", "y")]
    inputs = {"x": [1, 4, 3, 3]} if op == "ConvTranspose" else {"x": [5, 4]}
    found = imported(tmp_path, model(nodes, inputs, constants))
    assert len(found.network.layers) == 1


def test_batch_norm_stays_where_something_else_reads_its_input(tmp_path: Path) -> None:
    constants = {"w": WEIGHT, **{name: np.abs(floats(6, seed=i, zeros=0)) for i, name in enumerate("ghmv")}}
    nodes = [node("Conv", "x w", "a"), node("BatchNormalization", "a g h m v", "n"), node("Add", "a n")]
    found = imported(tmp_path, model(nodes, IMAGE, constants))
    assert [x.op for x in found.network.layers] == ["conv", "bn", "add"]
    assert rows(found)["batchnormalization_n"].norm_params == 12


def test_dequantised_weights_are_folded_and_their_width_is_known(tmp_path: Path) -> None:
    scales = np.linspace(0.1, 0.6, 6).astype(np.float32)
    constants = {
        "w": CODES.astype(np.int8),
        "s": scales,
        "z": np.zeros(6, np.int8),
        "q": np.float32(0.1),
        "o": np.uint8(3),
    }
    nodes = [
        node("QuantizeLinear", "x q o", "xq"),
        node("DequantizeLinear", "xq q o", "xd"),
        node("DequantizeLinear", "w s z", "wd", axis=0),
        node("Conv", "xd wd"),
    ]
    found = imported(tmp_path, model(nodes, IMAGE, constants))
    values = found.network.weights["conv_y"].values
    np.testing.assert_array_equal(values, CODES.astype(np.float32) * scales[:, None, None, None])
    assert found.weight_bits == {"conv_y": 8}
    assert [x.op for x in found.network.layers] == ["conv"]


def test_quantised_conv_keeps_codes_without_their_zero_point(tmp_path: Path) -> None:
    constants = {
        "xs": np.float32(0.1), "xz": np.uint8(3), "w": CODES, "ws": np.float32(0.2), "wz": np.uint8(3),
        "ys": np.float32(2), "yz": np.uint8(100), "b": np.arange(6, dtype=np.int32),
    }  # fmt: skip
    nodes = [node("QLinearConv", "x xs xz w ws wz ys yz b", "c"), node("DequantizeLinear", "c ys yz")]
    case = model(nodes, IMAGE, constants, kind=TensorProto.UINT8)
    feeds = {"x": np.random.default_rng(0).integers(0, 255, (1, 4, 9, 7)).astype(np.uint8)}
    found = imported(tmp_path, case, feeds=feeds)
    weights = found.network.weights["qlinearconv_c"]
    np.testing.assert_array_equal(weights.dense(0), CODES.astype(np.float32) - 3)
    assert int(weights.nonzeros[0]) == np.count_nonzero(CODES != 3)
    assert found.weight_bits == {"qlinearconv_c": 8}


@pytest.mark.parametrize("op", ["MatMulInteger", "ConvInteger", "QLinearMatMul"])
def test_integer_products(tmp_path: Path, op: str) -> None:
    rng = np.random.default_rng(1)
    image = op == "ConvInteger"
    weight = CODES if image else rng.integers(0, 9, (4, 5)).astype(np.uint8)
    constants: dict[str, Array] = {"w": weight, "xz": np.uint8(2), "wz": np.uint8(4), "s": np.float32(0.1)}
    inputs = "x s xz w s wz s xz" if op == "QLinearMatMul" else "x w xz wz"
    nodes = [node(op, inputs, "c"), node("Cast", "c", to=TensorProto.FLOAT)]
    shape = [1, 4, 9, 7] if image else [3, 4]
    feeds = {"x": rng.integers(0, 255, shape).astype(np.uint8)}
    found = imported(tmp_path, model(nodes, {"x": shape}, constants, kind=TensorProto.UINT8), feeds=feeds)
    layer = rows(found)[f"{op.lower()}_c"]
    assert layer.macs == (7 * 5 if image else 3) * weight.size
    assert int(found.network.weights[layer.name].nonzeros[0]) == np.count_nonzero(weight != 4)
