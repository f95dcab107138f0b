"""Products with stored weights of imported graphs against onnxruntime, at every level; MACs equal to the trace's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nestling.sim.executor.graph_executor import GraphExecutor
from nestling.sim.executor.graph_reference import product_error
from nestling.traces.lowering import lower
from onnx import helper

from .graph_cases import Arrays, imported, model_of, nested_models, relative_error, run_onnxruntime

#: Largest difference from onnxruntime, relative to the largest output; the requirement is 1e-4.
BOUND = 1e-5
QUICK = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Product(NamedTuple):
    """A graph of one operator: constants whose names start with "w" are weights."""

    op: str
    inputs: Arrays
    constants: Arrays
    order: Sequence[str]
    attributes: Mapping[str, Any] = MappingProxyType({})
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)

    @property
    def model(self) -> onnx.ModelProto:
        node = helper.make_node(self.op, list(self.order), list(self.outputs), name="n", **self.attributes)
        return model_of([node], inputs=self.inputs, constants=self.constants, outputs=self.outputs, opset=self.opset)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype, endpoint=True)


def assert_equal_at_every_level(case: Product, folder: Path, *, levels: int = 3, empty_last: bool = False) -> None:
    network, models = nested_models(case.model, folder, levels=levels, empty_last=empty_last)
    executor, trace = GraphExecutor(network), lower(network)
    for level, model in enumerate(models):
        expected = run_onnxruntime(model, case.inputs)
        found = executor.outputs(case.inputs, level)[0]
        for name, theirs in zip(case.outputs, expected, strict=True):
            assert found[name].dtype == theirs.dtype
            if np.issubdtype(theirs.dtype, np.integer):
                np.testing.assert_array_equal(found[name], theirs)
            else:
                assert relative_error(found[name], theirs) <= BOUND
        nonzeros = {name: int((weights.keep > level).sum()) for name, weights in network.weights.items()}
        assert sum(executor.macs(level).values()) == trace.macs(level)
        assert (sum(nonzeros.values()) == 0) == (sum(executor.macs(level).values()) == 0)
        assert executor.check(case.inputs, level).passed


@st.composite
def convolutions(draw: st.DrawFn, *, transposed: bool = False) -> Product:
    """One or two dimensions, grouped, dilated, padded differently on each side, with its own stride per axis."""
    axes, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    each = lambda low, high: [draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    c, k = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    kernel, strides, dilations, before, after = each(1, 3), each(1, 3), each(1, 2), each(0, 2), each(0, 2)
    sizes = each(1, 7)
    for i in range(axes):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if transposed:
            whole = (sizes[i] - 1) * strides[i] + reach
            before[i], after[i] = min(before[i], (whole - 1) // 2), min(after[i], (whole - 1) // 2)
        else:
            sizes[i] = max(sizes[i], reach - before[i] - after[i])
    weights = (c, k // groups, *kernel) if transposed else (k, c // groups, *kernel)
    seed = draw(st.integers(0, 999))
    attributes = {"group": groups, "strides": strides, "dilations": dilations, "pads": before + after}
    return Product(
        "ConvTranspose" if transposed else "Conv",
        {"x": normal(draw(st.integers(1, 2)), c, *sizes, seed=seed)},
        {"w": normal(*weights, seed=seed + 1), "b": normal(k, seed=seed + 2)},
        ["x", "w", "b"] if draw(st.booleans()) else ["x", "w"],
        attributes | {"kernel_shape": kernel},
    )


@QUICK
@given(case=convolutions())
def test_convolutions(case: Product, tmp_path: Path) -> None:
    assert_equal_at_every_level(case, tmp_path, levels=2)


@QUICK
@given(case=convolutions(transposed=True))
def test_transposed_convolutions(case: Product, tmp_path: Path) -> None:
    assert_equal_at_every_level(case, tmp_path, levels=2)


IMAGE, W, W_T = normal(2, 4, 7, 6), normal(6, 2, 3, 2, seed=1), normal(4, 3, 3, 2, seed=1)


@pytest.mark.parametrize(
    ("op", "weights", "attributes"),
    [
        ("Conv", W, {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ("Conv", W, {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 1]}),
        ("Conv", W, {"group": 2, "auto_pad": "VALID", "strides": [1, 2]}),
        ("Conv", normal(8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        ("Conv", normal(5, 4, 7, 6), {}),
        ("ConvTranspose", W_T, {"group": 2, "strides": [2, 2], "output_padding": [1, 0], "pads": [1, 0, 0, 1]}),
        ("ConvTranspose", W_T, {"group": 2, "strides": [2, 1], "auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", W_T, {"group": 2, "strides": [2, 1], "auto_pad": "SAME_LOWER"}),
        ("ConvTranspose", W_T, {"group": 2, "strides": [2, 2], "output_shape": [14, 11]}),
    ],
)
def test_forms_of_padding(op: str, weights: np.ndarray, attributes: dict[str, Any], tmp_path: Path) -> None:
    assert_equal_at_every_level(Product(op, {"x": IMAGE}, {"w": weights}, ["x", "w"], attributes), tmp_path)


A, B, C = normal(5, 4), normal(4, 3, seed=1), normal(3, seed=2)


@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize(("turn_a", "turn_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("first", [False, True])
def test_gemm(m: int, turn_a: int, turn_b: int, first: bool, tmp_path: Path) -> None:
    a, b = (A[:m].T if turn_a else A[:m]), (B.T if turn_b else B)
    attributes = {"transA": turn_a, "transB": turn_b, "alpha": 0.5, "beta": 2.0}
    inputs, constants = ({"b": b}, {"wa": a}) if first else ({"a": a}, {"wb": b})
    order = ["wa", "b", "c"] if first else ["a", "wb", "c"]
    case = Product("Gemm", inputs, constants | {"c": C}, order, attributes)
    assert_equal_at_every_level(case, tmp_path)


@pytest.mark.parametrize("c", [normal(5, 1), normal(1, 1)[0], np.float32(2.0).reshape(())])
def test_gemm_bias_broadcasts(c: np.ndarray, tmp_path: Path) -> None:
    assert_equal_at_every_level(Product("Gemm", {"a": A}, {"w": B, "c": c}, ["a", "w", "c"]), tmp_path)


@pytest.mark.parametrize(
    ("moving", "weights", "first"),
    [
        (normal(5, 4), B, False),
        (normal(2, 3, 5, 4), B, False),
        (normal(4), B, False),
        (normal(5, 4), normal(4), False),
        (normal(2, 5, 4), normal(2, 4, 3), False),
        (normal(5, 4), normal(2, 4, 3), False),
        (normal(3, 2, 5, 4), normal(2, 4, 3), False),
        (normal(2, 5, 4), normal(1, 4, 3), False),
        (normal(3, 5), normal(4, 3), True),
        (normal(2, 3, 5), normal(4, 3), True),
        (normal(3), normal(4, 3), True),
        (normal(2, 3, 5), normal(2, 4, 3), True),
        (normal(2, 2, 3, 5), normal(2, 4, 3), True),
    ],
)
def test_matmul(moving: np.ndarray, weights: np.ndarray, first: bool, tmp_path: Path) -> None:
    case = Product("MatMul", {"x": moving}, {"w": weights}, ["w", "x"] if first else ["x", "w"])
    assert_equal_at_every_level(case, tmp_path)


@pytest.mark.parametrize(
    ("equation", "moving", "weights", "first"),
    [
        ("bik,kj->bij", (2, 5, 4), (4, 3), False),
        ("bik,jk->ijb", (2, 5, 4), (3, 4), False),
        ("gko,bgk->bgo", (2, 5, 4), (5, 4, 3), True),
        ("bhqc,hdc->bqhd", (2, 3, 5, 4), (3, 6, 4), False),
    ],
)
def test_einsum(equation: str, moving: tuple[int, ...], weights: tuple[int, ...], first: bool, tmp_path: Path) -> None:
    case = Product(
        "Einsum",
        {"x": normal(*moving)},
        {"w": normal(*weights)},
        ["w", "x"] if first else ["x", "w"],
        {"equation": equation},
    )
    assert_equal_at_every_level(case, tmp_path)


def recurrent(
    op: str, *, direction: str = "forward", batch: int = 2, extra: Arrays | None = None, **attributes: Any
) -> Product:
    """A recurrent node over 5 steps of 3 features with 4 hidden units; ``extra``: further operands by ONNX name."""
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    shape = (batch, 5, 3) if attributes.get("layout") else (5, batch, 3)
    constants = {
        "w": normal(ways, gates * 4, 3, seed=1),
        "w_r": normal(ways, gates * 4, 4, seed=2),
        "B": normal(ways, gates * 8, seed=3),
        **(extra or {}),
    }
    names = ["sequence_lens", "initial_h", "initial_c", "P"]
    order = ["x", "w", "w_r", "B", *(name if name in constants else "" for name in names)]
    while not order[-1]:
        order.pop()
    outputs = ("y", "y_h", "y_c") if op == "LSTM" else ("y", "y_h")
    return Product(
        op, {"x": normal(*shape)}, constants, order,
        {"hidden_size": 4, "direction": direction, **attributes}, opset=14, outputs=outputs,
    )  # fmt: skip


LENGTHS = {"sequence_lens": np.array([5, 3], np.int32)}


@pytest.mark.parametrize(
    "case",
    [
        *(recurrent(op, direction=way) for op in ("LSTM", "GRU", "RNN") for way in ("forward", "reverse", "bidirectional")),
        recurrent("GRU", linear_before_reset=1),
        recurrent("GRU", direction="bidirectional", linear_before_reset=1, batch=1),
        recurrent("LSTM", batch=1),
        recurrent("LSTM", input_forget=1),
        recurrent("LSTM", activations=["Sigmoid", "Relu", "Tanh"]),
        recurrent("RNN", direction="bidirectional", activations=["Relu", "Tanh"]),
        recurrent("LSTM", extra={"P": normal(1, 12), "initial_h": normal(1, 2, 4), "initial_c": normal(1, 2, 4, seed=5)}),
        recurrent("GRU", extra={"initial_h": normal(1, 2, 4)}),
        *(recurrent(op, direction="bidirectional", extra=LENGTHS) for op in ("LSTM", "GRU")),
    ],
    ids=lambda case: f"{case.op}-{'-'.join(map(str, case.attributes.values()))}-{len(case.order)}",
)  # fmt: skip
def test_recurrent(case: Product, tmp_path: Path) -> None:
    assert_equal_at_every_level(case, tmp_path)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_batch_first_layout_is_the_transposed_one(op: str, tmp_path: Path) -> None:
    """onnxruntime refuses layout = 1, so the oracle is layout = 0 with its axes exchanged."""
    plain, turned = recurrent(op), recurrent(op, layout=1)
    expected = run_onnxruntime(plain.model, {"x": turned.inputs["x"].transpose(1, 0, 2)})
    found = GraphExecutor(imported(turned.model, tmp_path)).outputs(turned.inputs, 0)[0]
    assert relative_error(found["y"], expected[0].transpose(2, 0, 1, 3)) <= BOUND
    assert relative_error(found["y_h"], expected[1].transpose(1, 0, 2)) <= BOUND


SCALES = {"xs": np.array(0.02, np.float32), "xz": np.array(110, np.uint8), "ws": np.array(0.01, np.float32)}


def quantised_conv(op: str, *, per_channel: bool) -> Product:
    w = codes(6, 2, 3, 3, dtype=np.int8)
    if op == "ConvInteger":
        return Product(
            op, {"x": codes(1, 4, 6, 6)}, {"w": w, "xz": SCALES["xz"]}, ["x", "w", "xz"], {"group": 2, "pads": [1] * 4}
        )
    w_scale = np.linspace(0.005, 0.03, 6).astype(np.float32) if per_channel else SCALES["ws"]
    constants = SCALES | {
        "w": w, "s": w_scale, "z": np.zeros(w_scale.shape, np.int8), "ys": np.array(0.5, np.float32),
        "yz": np.array(120, np.uint8), "b": codes(6, dtype=np.int16).astype(np.int32),
    }  # fmt: skip
    del constants["ws"]
    return Product(
        op, {"x": codes(1, 4, 6, 6)}, constants, ["x", "xs", "xz", "w", "s", "z", "ys", "yz", "b"],
        {"group": 2, "pads": [1] * 4, "strides": [2, 1]},
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        quantised_conv("ConvInteger", per_channel=False),
        quantised_conv("QLinearConv", per_channel=False),
        quantised_conv("QLinearConv", per_channel=True),
        Product("MatMulInteger", {"x": codes(5, 7)}, {"w": codes(7, 3, dtype=np.int8), "xz": SCALES["xz"]}, ["x", "w", "xz"]),
        Product(
            "QLinearMatMul", {"x": codes(2, 5, 7)},
            {"xs": SCALES["xs"], "xz": SCALES["xz"], "w": codes(7, 3, dtype=np.int8), "s": SCALES["ws"],
             "z": np.zeros((), np.int8), "ys": np.array(0.4, np.float32), "yz": np.array(9, np.uint8)},
            ["x", "xs", "xz", "w", "s", "z", "ys", "yz"],
        ),
    ],
    ids=lambda case: case.op,
)  # fmt: skip
def test_integer_products_are_exact(case: Product, tmp_path: Path) -> None:
    assert_equal_at_every_level(case, tmp_path)


def test_long_integer_sums_are_exact(tmp_path: Path) -> None:
    """A sum of 5000 products of the largest codes needs 29 bits: float32 would round it."""
    x, w = np.full((1, 5000), 255, np.uint8), np.full((5000, 2), 127, np.int8)
    w[0, 0] = 1
    case = Product("MatMulInteger", {"x": x}, {"w": w}, ["x", "w"])
    assert_equal_at_every_level(case, tmp_path, levels=1)


def test_eight_levels_down_to_an_empty_one(tmp_path: Path) -> None:
    case = Product("Conv", {"x": IMAGE}, {"w": W, "b": normal(6)}, ["x", "w", "b"], {"group": 2, "pads": [1, 0, 0, 1]})
    assert_equal_at_every_level(case, tmp_path, levels=8, empty_last=True)


def test_a_nan_that_the_reference_does_not_have_is_an_infinite_error() -> None:
    expected = np.array([1.0, 2.0, -4.0])
    assert product_error(np.array([1.0, 2.0, -4.1]), expected) == pytest.approx(0.025)
    assert product_error(np.array([1.0, np.nan, -4.0]), expected) == np.inf
    assert product_error(np.array([1.0, np.inf, -4.0]), expected) == np.inf
    assert product_error(np.array([1.0, 2.0, -4.0]), np.array([1.0, np.nan, -4.0]), strict=False) == 0.0
