"""Every vectorised operator of imported graphs against onnxruntime, over attributes and operator sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from nestling.sim.executor.operators import OPERATORS, operator_for
from nestling.workloads.errors import InputError
from nestling.workloads.graph import Node
from nestling.workloads.onnx_import.draft import to_node
from onnx import helper

from .graph_cases import model_of, relative_error, run_onnxruntime

#: Largest difference from onnxruntime, relative to the largest output; both sum in float32, in different orders.
BOUND = 2e-6


class Case(NamedTuple):
    """One call: operands (None = absent), attributes, operator set, number of outputs."""

    op: str
    operands: tuple[np.ndarray | None, ...]
    attributes: Mapping[str, Any] = {}
    opset: int = 17
    outputs: int = 1

    @property
    def label(self) -> str:
        return f"{self.op}-{self.opset}-{'-'.join(map(str, self.attributes.values()))}"[:60]


def tensor(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def codes(*shape: int, dtype: type = np.int64, low: int = -9, high: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X, IMAGE, ODD = tensor(2, 3, 4), tensor(2, 4, 7, 6), tensor(1, 3, 8, 5, seed=3)
TRUTH, OTHER = X > 0, tensor(2, 3, 4, seed=1) > 0
A8, B8 = codes(5, 7, dtype=np.uint8, low=0, high=255), codes(7, 6, dtype=np.int8, low=-128, high=127)


def elementwise() -> list[Case]:
    plain = ("Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Tanh")
    plain += ("Asinh", "Relu", "Sigmoid", "Softplus", "Softsign", "Erf", "Identity", "HardSwish", "Elu", "Selu", "Celu")
    plain += ("LeakyRelu", "HardSigmoid", "ThresholdedRelu", "IsNaN")
    cases = [Case(op, (X,)) for op in plain]
    cases += [Case(op, (tensor(2, 5, low=1.1, high=3.0),)) for op in ("Log", "Sqrt", "Reciprocal", "Acosh")]
    cases += [Case(op, (tensor(2, 5, low=-0.9, high=0.9),)) for op in ("Asin", "Acos", "Atanh")]
    cases += [Case(op, (X, tensor(3, 1, seed=4))) for op in ("Add", "Sub", "Mul", "Div", "PRelu", "Less", "Greater")]
    cases += [Case(op, (X, X.round())) for op in ("Equal", "LessOrEqual", "GreaterOrEqual")]
    cases += [Case(op, (TRUTH, OTHER)) for op in ("And", "Or", "Xor")]
    cases += [Case(op, (codes(9), codes(9, seed=1)), opset=18) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")]
    cases += [Case("Not", (TRUTH,)), Case("BitwiseNot", (codes(9),), opset=18), Case("Mish", (X,), opset=18)]
    cases += [Case(op, (X, tensor(4, seed=2), tensor(3, 4, seed=3))) for op in ("Sum", "Max", "Min", "Mean")]
    cases += [Case("Div", (codes(40, dtype=np.int32), codes(40, dtype=np.int32, low=1, seed=2)))]
    cases += [Case("Div", (codes(40, dtype=np.int32), -codes(40, dtype=np.int32, low=1, seed=2)))]
    cases += [Case("Mod", (codes(40), codes(40, low=1, seed=2))), Case("Mod", (X, X[::-1].copy()), {"fmod": 1})]
    cases += [Case("Pow", (np.abs(X), np.float32([0.5]))), Case("Pow", (X, ints(2, 3, 2, 1)))]
    cases += [Case("Elu", (X,), {"alpha": 0.5}), Case("Celu", (X,), {"alpha": 2.0}), Case("Selu", (X,), {"gamma": 2.0})]
    cases += [Case("Clip", (X,), {"min": -0.5, "max": 1.0}, 9), Case("Clip", (X, np.float32(-1.0), np.float32(0.2)))]
    cases += [Case("Clip", (X, None, np.float32(0.2))), Case("Clip", (X, np.float32(1.0), np.float32(0.2)))]
    cases += [Case("Gelu", (X,), {"approximate": mode}, 20) for mode in ("none", "tanh")]
    cases += [Case("Cast", (X,), {"to": to}) for to in (6, 7, 9, 11)] + [Case("Where", (TRUTH, X, np.float32(0.0)))]
    cases += [Case("CastLike", (X, codes(1, dtype=np.int32))), Case("Dropout", (X,), outputs=2)]
    cases += [Case("IsInf", (np.float32([1, np.inf, -np.inf, np.nan]),), {"detect_negative": n}) for n in (0, 1)]
    return cases


def layout() -> list[Case]:
    cases = [Case("Reshape", (X, ints(*shape))) for shape in ((4, 6), (-1,), (0, -1), (2, 2, 1, 6))]
    cases += [Case("Flatten", (IMAGE,), {"axis": axis}) for axis in (0, 1, 2, -1)]
    cases += [Case("Transpose", (X,)), Case("Transpose", (X,), {"perm": [2, 0, 1]})]
    wide = X[:, None, :, None]
    cases += [
        Case("Squeeze", (wide,), {"axes": [1]}, 11),
        Case("Squeeze", (wide, ints(-2, 1))),
        Case("Squeeze", (wide,)),
    ]
    cases += [Case("Unsqueeze", (X,), {"axes": [0, 4]}, 11), Case("Unsqueeze", (X, ints(-1, 1)))]
    cases += [Case("Concat", (X, tensor(2, 1, 4)), {"axis": axis}) for axis in (1, -2)]
    cases += [Case("Split", (IMAGE,), {"axis": 1}, 11, 2), Case("Split", (IMAGE,), {"axis": 2, "split": [3, 4]}, 11, 2)]
    cases += [Case("Split", (IMAGE, ints(2, 1, 4)), {"axis": -2}, 13, 3)]
    cases += [Case("Split", (IMAGE,), {"axis": 2, "num_outputs": 3}, 18, 3)]
    cases += [Case("Slice", (IMAGE,), {"starts": [1, -4], "ends": [9, -1], "axes": [1, 3]}, 9)]
    bounds = [((1, 0), (2, 3)), ((-1, 5), (-9, 0)), ((0, 2), (2**31 - 1, -1))]
    steps = [(1, 1), (-1, -2), (2, 1)]
    cases += [Case("Slice", (IMAGE, ints(*b[0]), ints(*b[1]), ints(2, 3), ints(*s)))
              for b, s in zip(bounds, steps, strict=True)]  # fmt: skip
    cases += [Case("Slice", (IMAGE, ints(0, 1), ints(1, 3)))]
    cases += [Case("Pad", (X,), {"pads": [0, 1, 2, 0, 0, 1], "value": 1.5}, 9)]
    cases += [Case("Pad", (X, ints(0, 1, 2, 0, 0, 1)), {"mode": mode}) for mode in ("constant", "reflect", "edge")]
    cases += [Case("Pad", (X, ints(0, -1, 2, 0, 0, -1), np.float32(3.0)))]
    cases += [
        Case("Pad", (X, ints(1, 2), np.float32(3.0), ints(-1)), opset=18),
        Case("Pad", (X, ints(1, 2), None, ints(1)), {"mode": "wrap"}, 19),
    ]
    cases += [
        Case("Gather", (X, codes(2, 2, low=-3, high=3)), {"axis": 1}),
        Case("Gather", (X, np.array(1)), {"axis": 0}),
    ]
    cases += [Case("GatherElements", (X, codes(2, 2, 4, low=-3, high=3)), {"axis": 1})]
    cases += [Case("Expand", (X[:, :1], ints(2, 3, 1))), Case("Tile", (X, ints(2, 1, 3)))]
    cases += [Case("Shape", (X,)), Case("Shape", (X,), {"start": 1, "end": -1}), Case("Size", (X,))]
    cases += [Case("ConstantOfShape", (ints(2, 3),)), Case("Range", (np.array(1), np.array(9), np.array(3)))]
    cases += [Case("DepthToSpace", (tensor(1, 8, 2, 3),), {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")]
    cases += [Case("SpaceToDepth", (tensor(1, 2, 4, 6),), {"blocksize": 2})]
    return cases


def reduction() -> list[Case]:
    names = (
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
    )
    cases = [Case(op, (X,), {"axes": [1], "keepdims": 0}, 11) for op in names]
    cases += [Case(op, (X, ints(0, -1)), opset=18) for op in names] + [Case(op, (X,), opset=18) for op in names]
    cases += [Case(op, (np.abs(X) + 1, ints(1)), opset=18) for op in ("ReduceLogSum", "ReduceLogSumExp")]
    cases += [Case("ReduceSum", (X,), {"noop_with_empty_axes": 1}, 18), Case("ReduceSum", (codes(4, 5), ints(1)))]
    ties = np.float32([[1, 3, 3], [2, 2, 0]])
    cases += [Case(op, (ties,), {"axis": 1, "keepdims": k, "select_last_index": last})
              for op in ("ArgMax", "ArgMin") for k, last in ((0, 0), (1, 1))]  # fmt: skip
    cases += [
        Case(op, (X,), {"axis": axis}, opset)
        for op in ("Softmax", "LogSoftmax")
        for axis in (1, 2)
        for opset in (11, 17)
    ]
    cases += [Case("Softmax", (X * 100,)), Case("Softmax", (X,), opset=9)]
    channel = [tensor(4, seed=s, low=0.5, high=1.5) for s in range(4)]
    cases += [Case("BatchNormalization", (IMAGE, *channel), {"epsilon": 1e-3}, opset) for opset in (9, 14, 15)]
    cases += [Case("InstanceNormalization", (IMAGE, *channel[:2]))]
    cases += [
        Case("LayerNormalization", (X, tensor(4), tensor(4, seed=1))),
        Case("LayerNormalization", (X, tensor(3, 4)), {"axis": 1}),
    ]
    cases += [Case("LayerNormalization", (X, tensor(4), tensor(4, seed=1)), outputs=3)]
    cases += [Case("GroupNormalization", (IMAGE, *channel[:2]), {"num_groups": 2}, 21)]
    cases += [Case("GroupNormalization", (IMAGE, *(c[:2] for c in channel[:2])), {"num_groups": 2}, 18)]
    cases += [Case("LRN", (IMAGE,), {"size": size, "alpha": 0.1, "bias": 2.0}) for size in (1, 3, 5)]
    cases += [Case("RMSNormalization", (X, tensor(4)), opset=23), Case("MeanVarianceNormalization", (IMAGE,), opset=13)]
    return cases


def windows() -> list[Case]:
    settings = [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [3, 3], "strides": [2, 1], "auto_pad": "VALID"},
    ]
    cases = [Case(op, (x,), s) for op in ("MaxPool", "AveragePool") for x in (IMAGE, ODD) for s in settings]
    cases += [Case("AveragePool", (IMAGE,), s | {"count_include_pad": 1}) for s in settings[:3]]
    cases += [Case("MaxPool", (IMAGE,), {"kernel_shape": [3, 2], "dilations": [2, 3]})]
    cases += [Case("AveragePool", (IMAGE,), {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]}, 19)]
    cases += [Case("MaxPool", (tensor(1, 2, 9),), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]})]
    cases += [Case("AveragePool", (tensor(1, 2, 5, 4, 6),), {"kernel_shape": [2, 3, 2], "pads": [0, 1, 1, 1, 1, 0]})]
    cases += [Case("LpPool", (IMAGE,), {"kernel_shape": [3, 2], "p": p, "pads": [1, 1, 1, 1]}) for p in (1, 2)]
    cases += [Case(op, (IMAGE,)) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")]
    cases += [Case("MaxPool", (codes(1, 2, 5, 5, dtype=np.uint8, low=0),), {"kernel_shape": [2, 2]})]
    return cases


def resizing() -> list[Case]:
    up, down, mixed = (np.float32(s) for s in ([1, 1, 2, 2], [1, 1, 0.6, 0.5], [1, 1, 1.7, 2.5]))
    none = np.zeros(0, np.float32)
    modes = [
        ("nearest", "asymmetric"),
        ("nearest", "half_pixel"),
        ("linear", "half_pixel"),
        ("linear", "align_corners"),
    ]
    modes += [
        ("linear", "pytorch_half_pixel"),
        ("linear", "asymmetric"),
        ("cubic", "half_pixel"),
        ("cubic", "align_corners"),
    ]
    cases = [Case("Resize", (IMAGE, none, scale), {"mode": mode, "coordinate_transformation_mode": where}, 13)
             for mode, where in modes for scale in (up, down, mixed)]  # fmt: skip
    cases += [Case("Resize", (IMAGE, none, mixed), {"nearest_mode": n, "coordinate_transformation_mode": "asymmetric"}, 13)
              for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")]  # fmt: skip
    cases += [
        Case("Resize", (IMAGE, none, None, ints(2, 4, 9, 10)), {"mode": mode}, 13) for mode in ("nearest", "linear")
    ]
    cases += [Case("Resize", (IMAGE, None, None, ints(9, 10)), {"mode": "linear", "axes": [2, 3]}, 18)]
    cases += [Case("Resize", (IMAGE, up), {"mode": mode}, 10) for mode in ("nearest", "linear")]
    cases += [Case("Resize", (IMAGE, none, mixed), {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}, 13)]
    cases += [Case("Upsample", (IMAGE, up), {"mode": mode}, 9) for mode in ("nearest", "linear")]
    cases += [
        Case(
            "Resize",
            (IMAGE, none, down),
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
            19,
        )
    ]
    return cases


def products() -> list[Case]:
    cases = [Case("MatMul", (tensor(*a), tensor(*b, seed=1)))
             for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)))]  # fmt: skip
    cases += [
        Case(
            "Gemm",
            (tensor(4, 3), tensor(5, 4, seed=1), tensor(5)),
            {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
        )
    ]
    cases += [Case("Gemm", (tensor(3, 4), tensor(4, 5, seed=1)))]
    cases += [Case("Einsum", (tensor(2, 3, 4), tensor(2, 5, 4, seed=1)), {"equation": "bij, bkj -> bik"})]
    settings = {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    cases += [
        Case("Conv", (IMAGE, tensor(6, 2, 3, 2), tensor(6)), settings),
        Case("Conv", (tensor(2, 3, 9), tensor(4, 3, 3)), {"auto_pad": "SAME_LOWER"}),
    ]
    cases += [Case("MatMulInteger", (A8, B8, np.uint8(120), np.int8(-3))), Case("MatMulInteger", (A8, B8))]
    return cases


def quantised() -> list[Case]:
    scale, zero = np.float32(0.02), np.uint8(100)
    cases = [Case("QuantizeLinear", (X, scale, zero), opset=13), Case("QuantizeLinear", (X, scale), opset=13)]
    cases += [
        Case(
            "QuantizeLinear", (IMAGE, tensor(4, low=0.01, high=0.05), np.array([-3, 0, 4, 9], np.int8)), {"axis": 1}, 13
        )
    ]
    cases += [
        Case("DequantizeLinear", (A8, scale, zero), opset=13),
        Case("DequantizeLinear", (codes(4, dtype=np.int32, high=2**30), scale), opset=13),
    ]
    cases += [Case("DequantizeLinear", (B8, tensor(7, low=0.01, high=0.05), codes(7, dtype=np.int8)), {"axis": 0}, 13)]
    cases += [Case("DynamicQuantizeLinear", (x,), opset=13, outputs=3) for x in (X, np.abs(X), -np.abs(X) - 1)]
    cases += [Case("QLinearMatMul", (A8, scale, zero, B8, np.float32(0.01), np.int8(2), np.float32(0.3), np.uint8(90)))]
    return cases


CASES = [*elementwise(), *layout(), *reduction(), *windows(), *resizing(), *products(), *quantised()]


def node_of(case: Case) -> Any:
    inputs = ["" if value is None else f"x{i}" for i, value in enumerate(case.operands)]
    return helper.make_node(case.op, inputs, [f"y{i}" for i in range(case.outputs)], name="n", **case.attributes)


def run_case(case: Case, find: Callable[[Node, int], Any] = operator_for) -> tuple[np.ndarray, ...]:
    node = to_node(node_of(case), "n")
    operands = [None if value is None else np.asarray(value) for value in case.operands]
    return find(node, case.opset)(operands, node, case.opset)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_operator_equals_onnxruntime(case: Case) -> None:
    feeds = {f"x{i}": value for i, value in enumerate(case.operands) if value is not None}
    model = model_of([node_of(case)], inputs=feeds, outputs=[f"y{i}" for i in range(case.outputs)], opset=case.opset)
    expected = run_onnxruntime(model, feeds)
    node = to_node(node_of(case), "n")
    assert operator_for(node, case.opset) is OPERATORS[case.op]
    found = run_case(case)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        if np.issubdtype(theirs.dtype, np.floating):
            assert relative_error(mine, theirs) <= BOUND
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_every_vectorised_operator_has_a_case() -> None:
    assert set(OPERATORS) == {case.op for case in CASES}


FALLBACKS = [
    Case("CumSum", (X, np.array(1)), {"exclusive": 1}, 14),
    Case("TopK", (X, ints(2)), {"axis": 1}, 11, 2),
    Case("OneHot", (ints(0, 2, 1), np.array(4), np.float32([0, 1])), {"axis": -1}, 11),
    Case("Trilu", (tensor(4, 4), np.array(1)), {"upper": 0}, 14),
    Case("ScatterND", (X, ints(0, 1).reshape(2, 1), tensor(2, 3, 4, seed=9)), {}, 16),
    Case("MaxPool", (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2]}, 12, 2),
]


@pytest.mark.parametrize("case", FALLBACKS, ids=lambda case: case.label)
def test_other_operators_are_the_packages_reference(case: Case) -> None:
    feeds = {f"x{i}": value for i, value in enumerate(case.operands) if value is not None}
    outputs = [f"y{i}" for i in range(case.outputs)]
    expected = run_onnxruntime(model_of([node_of(case)], inputs=feeds, outputs=outputs, opset=case.opset), feeds)
    assert operator_for(to_node(node_of(case), "n"), case.opset) is not OPERATORS.get(case.op)
    for mine, theirs in zip(run_case(case), expected, strict=True):
        assert relative_error(mine, theirs) <= BOUND


@pytest.mark.parametrize(
    ("op", "domain"), [("RandomNormal", ""), ("Bernoulli", ""), ("If", ""), ("Unheard", ""), ("Gelu", "com.microsoft")]
)
def test_unknown_and_random_operators_are_refused(op: str, domain: str) -> None:
    assert operator_for(Node(name="n", op=op, inputs=("x",), outputs=("y",), domain=domain), 17) is None


@pytest.mark.parametrize(
    ("case", "part"),
    [
        (Case("MaxPool", (IMAGE,), {"kernel_shape": [9, 9]}), "do not fit an input of (7, 6)"),
        (Case("MaxPool", (IMAGE,), {"kernel_shape": [3]}), "do not describe windows over 2 axes"),
        (Case("MaxPool", (IMAGE,)), "has no kernel_shape"),
        (Case("Pad", (X, ints(1, 2))), "2 pads for 3 axes"),
        (Case("Cast", (X,), {"to": 16}), "element type 16"),
        (Case("Add", (X,)), "lacks its operand 1"),
        (Case("Resize", (X, None, None)), "neither scales nor sizes"),
        (Case("Softmax", (X,), {"axis": "last"}), "must be a number"),
        (Case("Dropout", (X, None, np.array(True))), "training mode"),
    ],
)
def test_wrong_attributes_are_named(case: Case, part: str) -> None:
    with pytest.raises(InputError, match=part.replace("(", r"\(").replace(")", r"\)")):
        run_case(case)
