"""The layer graph: what fits together, and every mistake of a graph at once."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network

STEM = conv("stem", INPUT, C=3, H=8, K=4, R=3, padding=1)
NEXT = conv("next", "stem", C=4, H=8, K=6, R=3, padding=1)
HEAD = linear("head", "next", features_in=384, features_out=5)
LAYERS = (STEM, NEXT, HEAD)


def pattern(layer: Layer, levels: int = 2) -> NestedWeights:
    return NestedWeights(None, np.ones(layer.weight_shape, np.uint8), levels)


def problems(*layers: Layer, **parts: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        Network("n", layers, **parts)  # type: ignore[arg-type]
    assert all(p.startswith("network 'n': ") for p in caught.value.problems)
    return [p.removeprefix("network 'n': ") for p in caught.value.problems]


def test_totals_and_levels() -> None:
    shape_only = Network("n", LAYERS)
    assert (shape_only.levels, shape_only.has_values) == (1, False)
    assert shape_only.macs == 64 * 4 * 27 + 64 * 6 * 36 + 384 * 5
    assert shape_only.params == (4 * 27 + 4) + (6 * 36 + 6) + (384 * 5 + 5)
    assert shape_only.densities.tolist() == [1.0]
    weights = {x.name: pattern(x, 3) for x in LAYERS}
    assert Network("n", LAYERS, weights).levels == 3


def test_density_weighs_layers_by_their_size() -> None:
    keep = np.zeros(STEM.weight_shape, np.uint8)
    keep.reshape(-1)[:27] = 2
    weights = {"stem": NestedWeights(None, keep, 2), "next": pattern(NEXT), "head": pattern(HEAD)}
    total = 108 + 216 + 1920
    found = Network("n", LAYERS, weights).densities
    np.testing.assert_array_equal(found, [(27 + 216 + 1920) / total, 27 / total])


def test_values_make_a_network_executable() -> None:
    weights = {x.name: NestedWeights(np.ones(x.weight_shape, np.float32), pattern(x).keep, 2) for x in LAYERS}
    assert Network("n", LAYERS, weights).has_values
    assert not Network("n", LAYERS, weights | {"head": pattern(HEAD)}).has_values


def test_no_layers() -> None:
    assert problems() == ["it has no layers"]


def test_graph_mistakes_all_at_once() -> None:
    late = conv("late", "last", C=4, H=8, K=4, R=1)
    found = problems(STEM, STEM, late, conv("last", "stem", C=5, H=8, K=4, R=1))
    assert found == [
        "layer name 'stem' is used twice",
        "layer 'late' reads 'last', which no earlier layer produces",
        "layer 'last' reads (5, 8, 8) (C,H,W), but 'stem' produces (4, 8, 8)",
    ]
    assert problems(conv("input", INPUT, C=1, H=2, K=1, R=1)) == ["layer name 'input' is used twice"]


def test_a_layer_may_not_read_itself() -> None:
    loop = conv("loop", "loop", C=1, H=2, K=1, R=1)
    assert problems(loop) == ["layer 'loop' reads 'loop', which no earlier layer produces"]


def test_sums_need_equal_shapes() -> None:
    total = Layer(name="sum", op="add", C=4, H=8, W=8, K=4, P=8, Q=8, sources=("stem", "next"))
    (found,) = problems(STEM, NEXT, total)
    assert found == "layer 'sum' adds tensors of different shapes: {'stem': (4, 8, 8), 'next': (6, 8, 8)}"


def test_weight_mistakes() -> None:
    weights = {x.name: pattern(x) for x in LAYERS}
    assert "unknown layer with weights 'hed'; did you mean 'head'?" in problems(
        *LAYERS, weights=weights | {"hed": pattern(HEAD)}
    )[0]  # fmt: skip
    assert problems(*LAYERS, weights=weights | {"head": pattern(NEXT)}) == [
        "weights of 'head' have shape (6, 4, 3, 3), the layer needs (5, 384)"
    ]
    assert problems(*LAYERS, weights=weights | {"head": pattern(HEAD, 3)}) == [
        "layers have different numbers of levels"
    ]
    del weights["next"]
    assert problems(*LAYERS, weights=weights) == ["layer 'next' has no weights"]


def test_bias_mistakes() -> None:
    weights = {x.name: pattern(x) for x in LAYERS}
    good = np.zeros((2, 5), np.float32)
    assert Network("n", LAYERS, weights, {"head": good}).biases["head"] is good
    assert problems(*LAYERS, weights=weights, biases={"head": good[:1]}) == [
        "bias of 'head' has shape (1, 5), must be (2, 5)"
    ]
    assert problems(*LAYERS, weights=weights, biases={"hed": good}) == [
        "unknown layer with a bias 'hed'; did you mean 'head'? Allowed: head, next, stem"
    ]
    assert problems(*LAYERS, weights=weights, biases={"head": good * np.nan}) == [
        "bias of 'head' contains NaN or infinity"
    ]
