"""int8 products: every output equal to int64 arithmetic, and requantised ones to ONNX Runtime's QLinearConv."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.reduced.int8_planes import Requantise, new_bytes, new_sums
from nestling.sim.executor.simd.reduced.int8_product import Int8Product
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv

from .byte_cases import ByteCase, byte_case, byte_cases
from .reduced_runs import run_bytes

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")
Array = np.ndarray


def product_of(case: ByteCase, vectors: int, *, threads: int = 1) -> Int8Product:
    common = {"vectors": vectors, "source_zero": case.zero, "threads": threads}
    return Int8Product(case.layer, case.weights, *case.layouts(), **common)


def run(case: ByteCase, vectors: int, *, level: int, requantise: Requantise | None = None, threads: int = 1) -> Array:
    product = product_of(case, vectors, threads=threads)
    return run_bytes(product, case, level=level, requantise=requantise, threads=threads)


@settings(deadline=None, max_examples=60)
@given(byte_cases(), st.integers(1, 3))
def test_sums_equal_int64(drawn: tuple[ByteCase, int, int], threads: int) -> None:
    case, vectors, level = drawn
    np.testing.assert_array_equal(run(case, vectors, level=level, threads=threads), case.sums(level))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 10_000), st.sampled_from((1, 4)), st.integers(0, 99))
@example(10_000, 1, 0)
@example(1024, 1, 1)
@example(1025, 4, 2)
def test_long_reductions_equal_int64(reduction: int, vectors: int, seed: int) -> None:
    case = byte_case(conv("c", "input", C=reduction, H=1, W=16 * vectors, K=3, R=1), seed, density=1.0)
    np.testing.assert_array_equal(run(case, vectors, level=0), case.sums(0))


@pytest.mark.parametrize("reduction", [1024, 10_000, 131_071])
def test_the_largest_products_do_not_round(reduction: int) -> None:
    """-128 * -128 throughout: every window's sum is the largest there is, and an odd number after the last one."""
    case = byte_case(conv("c", "input", C=reduction, H=1, W=4, K=1, R=1), 0, density=1.0)
    case.weights.values[:] = -128
    case.weights.values.reshape(-1)[-1] = 1
    case.x[:], case.bias[:] = -128, 5
    expected = (reduction - 1) * 2**14 - 128 + 5
    assert (run(case, 1, level=0) == expected).all()


def test_sums_beyond_int32_say_so() -> None:
    case = byte_case(conv("c", "input", C=131_072, H=1, W=4, K=1, R=1), 0, density=1.0)
    case.weights.values[:] = -128
    with pytest.raises(InputError, match=r"row 0 may sum to .*, beyond int32"):
        run(case, 1, level=0)


@settings(deadline=None, max_examples=20)
@given(byte_cases(), st.integers(-128, 127), st.sampled_from(((-128, 127), (0, 127), (3, 20))))
def test_requantised_outputs(drawn: tuple[ByteCase, int, int], zero: int, limits: tuple[int, int]) -> None:
    """Powers of two as scales: halves are frequent and float32 products are exact, so float64 rounding is the oracle."""
    case, vectors, level = drawn
    scales = np.exp2(-np.random.default_rng(1).integers(7, 16, case.layer.K)).astype(np.float32)
    low, high = limits
    sums = case.sums(level) * scales.astype(np.float64)[:, None, None]
    expected = np.clip(np.rint(sums) + zero, low, high)
    asked = Requantise(scales, zero, low, high)
    np.testing.assert_array_equal(run(case, vectors, level=level, requantise=asked), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_requantised_outputs_equal_onnx_runtime(stride: int) -> None:
    """QLinearConv with an input and an output zero point, a scale per channel and padding."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    layer = conv("c", "input", C=13, H=11, W=19, K=9, R=3, padding=1, stride=stride)
    case = byte_case(layer, stride, density=0.6, zero=-9)
    case.weights.values[:] = np.clip(case.weights.values, -64, 63)  # the runtime's u8*s8 pairs saturate beyond
    random = np.random.default_rng(3)
    x_scale, y_scale = np.float32(0.031), np.float32(0.57)
    w_scale = random.uniform(0.001, 0.004, 9).astype(np.float32)
    weights = case.weights.dense(0).astype(np.int8)
    constants = {
        "xs": x_scale, "xz": np.int8(-9), "w": weights, "ws": w_scale, "wz": np.zeros(9, np.int8),
        "ys": y_scale, "yz": np.int8(4), "b": case.bias,
    }  # fmt: skip
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node(
        "QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], pads=[1] * 4, strides=[stride] * 2
    )
    kind = onnx.TensorProto.INT8
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, [1, 13, 11, 19])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": case.x[None]})[0][0]
    asked = Requantise(x_scale * w_scale / y_scale, 4)
    found = run(case, case.layouts()[1].vectors[0], level=0, requantise=asked)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 50


def test_what_does_not_fit_says_so() -> None:
    case = byte_case(conv("c", "input", C=3, H=2, W=16, K=2, R=1), 0)
    product = product_of(case, 1)
    x, target = new_bytes(product.source), product.target
    common = {"level": 0, "works": [product.new_work()]}
    with pytest.raises(InputError, match=r"planes are int8 with .* needed are .* of int32, contiguous"):
        product.call(x, new_bytes(target), bias=case.bias, **common)
    with pytest.raises(InputError, match=r"planes are float32 .* of int8"):
        product.call(product.source.new(), new_sums(target), bias=case.bias, **common)
    with pytest.raises(InputError, match=r"with 5 elements; needed are"):
        product.call(x[:5], new_sums(target), bias=case.bias, **common)
    with pytest.raises(InputError, match="bias must be int32"):
        product.call(x, new_sums(target), bias=case.bias.astype(np.int64), **common)
    wrong = Requantise(np.zeros(2, np.float32))
    with pytest.raises(InputError, match="2 positive float32 scales"):
        product.call(x, new_bytes(target), bias=case.bias, requantise=wrong, **common)
    wrong = Requantise(np.ones(2, np.float32), 0, 5, 4)
    with pytest.raises(InputError, match="limits 5 to 4"):
        product.call(x, new_bytes(target), bias=case.bias, requantise=wrong, **common)
    with pytest.raises(InputError, match="in place"):
        product.packing(x, x)
    case.weights.values[0, 0] = 0.5
    with pytest.raises(InputError, match=r"weight 0.5 at \(0, 0"):
        product_of(case, 1)
    grouped = byte_case(conv("c", "input", C=4, H=2, W=16, K=2, R=1, groups=2), 0)
    with pytest.raises(InputError, match="has 2 groups"):
        product_of(grouped, 1)
