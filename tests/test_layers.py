"""Layer dimensions against a convolution that is really walked, and every mistake a user can state."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nestling.workloads.errors import InputError, unknown_name
from nestling.workloads.layers import OPS, Gemm, Layer, conv, linear, output_size

GOOD = {"name": "a", "op": "conv", "C": 4, "H": 5, "W": 6, "K": 8, "P": 5, "Q": 6, "R": 3, "S": 3, "padding": 1}


def placements(size: int, *, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many window positions fit, by trying them one after the other."""
    count, position = 0, -padding
    while position + dilation * (kernel - 1) < size + padding:
        count += 1
        position += stride
    return count


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_output_size_counts_window_positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    expected = placements(size, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    assume(expected > 0)  # the formula has no meaning where the window does not fit once
    assert output_size(size, kernel=kernel, stride=stride, padding=padding, dilation=dilation) == expected


@given(
    groups=st.integers(1, 4),
    channels=st.integers(1, 3),
    features=st.integers(1, 3),
    size=st.integers(3, 6),
    stride=st.integers(1, 2),
)
def test_macs_of_a_convolution_walked_by_hand(
    groups: int, channels: int, features: int, size: int, stride: int
) -> None:
    layer = conv(
        "a", "input", C=groups * channels, H=size, W=size + 1, K=groups * features, R=3, S=2,
        stride=stride, padding=1, groups=groups,
    )  # fmt: skip
    walked = 0
    for _feature in range(layer.K):
        for _p in range(placements(size, kernel=3, stride=stride, padding=1, dilation=1)):
            for _q in range(placements(size + 1, kernel=2, stride=stride, padding=1, dilation=1)):
                walked += channels * 3 * 2
    assert layer.macs == walked
    assert layer.weight_shape == (layer.K, channels, 3, 2)
    assert layer.output_size == layer.K * layer.P * layer.Q
    assert layer.op == ("dwconv" if channels == 1 and groups > 1 else "conv")
    assert layer.params == layer.weight_params + layer.K


def test_repeat_counts_time_steps_and_gemm_views() -> None:
    layer = Layer(name="r", op="gru_hh", gemm=Gemm(2, 3, 4, 5), repeat=7)
    assert layer.macs == 7 * 2 * 3 * 4 * 5
    assert layer.weight_shape == (8, 5)
    assert (layer.input_size, layer.output_size) == (30, 24)
    head = linear("l", "input", features_in=12, features_out=5, rows=3)
    assert (head.gemm, head.macs, head.params) == (Gemm(1, 3, 5, 12), 180, 65)


def test_data_operators_have_no_products() -> None:
    pool = Layer(name="p", op="maxpool", C=3, H=4, W=4, K=3, P=2, Q=2, R=2, S=2, stride=2, gemm=Gemm(1, 1, 1, 1))
    assert (pool.gemm, pool.macs, pool.has_weights, pool.weight_shape) == (None, 0, False, ())
    assert (pool.input_size, pool.output_size) == (48, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "convolution"}, "layer 'a': unknown operator 'convolution'; did you mean 'conv'?"),
        ({"activation": "rely"}, "unknown activation 'rely'; did you mean 'relu'?"),
        ({"C": 0}, "C = 0, must be at least 1"),
        ({"stride": 0}, "stride = 0, must be at least 1"),
        ({"dilation": -1}, "dilation = -1, must be at least 1"),
        ({"repeat": 0}, "repeat = 0, must be at least 1"),
        ({"padding": -1}, "padding = -1, must not be negative"),
        ({"groups": 3}, "groups = 3 does not divide C = 4 and K = 8"),
        ({"P": 4}, "P = 4, but the output size formula gives 5"),
        ({"Q": 7}, "Q = 7, but the output size formula gives 6"),
        ({"op": "linear"}, "operator 'linear' needs its GEMM view (b, m, n, k)"),
        ({"op": "linear", "gemm": Gemm(1, 0, 5, 5)}, "gemm m = 0, must be at least 1"),
        ({"op": "matmul", "gemm": Gemm(1, 2, 5, -5)}, "gemm k = -5, must be at least 1"),
    ],
)
def test_messages(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Layer(**(GOOD | change))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert all(problem.startswith("layer 'a': ") for problem in caught.value.problems)


def test_all_mistakes_of_a_layer_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Layer(**(GOOD | {"C": 0, "K": -2, "padding": -1, "activation": "x"}))  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"groups": 0}, {"R": 9}, {"groups": 2}])
def test_builder_mistakes_are_input_errors(wrong: dict[str, int]) -> None:
    arguments = {"C": 3, "H": 4, "K": 2, "R": 3} | wrong
    with pytest.raises(InputError, match="layer 'a'"):
        conv("a", "input", **arguments)  # type: ignore[arg-type]


@given(st.text(max_size=12))
def test_any_text_is_an_operator_or_an_input_error(text: str) -> None:
    if text in OPS:
        return
    with pytest.raises(InputError):
        Layer(name="a", op=text)


def test_unknown_name_without_a_near_match() -> None:
    assert str(unknown_name("model", "zzz", ["b", "a"])) == "unknown model 'zzz'. Allowed: a, b"
