"""N:M formats of a convolution group input channels, as sparsifiers and arrays do."""

import numpy as np
import pytest
from nestling.traces.formats import FORMATS
from nestling.traces.lowering import lower
from nestling.workloads.layers import conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import INPUT, Network
from nestling.workloads.sparsify import sparsify


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_4_of_8_convolution_takes_four_slots_per_group(kernel):
    layer = conv("c", INPUT, C=16, H=6, K=8, R=kernel, padding=kernel // 2)
    values = np.random.default_rng(0).normal(size=layer.weight_shape).astype(np.float32)
    dense = Network("n", (layer,), {"c": NestedWeights(values, np.ones(values.shape, np.uint8), 1)})
    network = sparsify(dense, "nm", patterns=["4:8", "2:8", "1:8"])
    trace = lower(network, weight_bits=8)
    groups = values.size // 8
    for level, slots in enumerate((4, 2, 1)):
        bits = 4 + groups * slots * (8 + 3)  # header; a value and its place in the group per slot
        assert trace.layers[0].storage["nm8"][level] == -(-bits // 8)


def test_a_1_of_16_ladder_is_stored_as_such():
    layer = linear("fc", INPUT, features_in=64, features_out=32)
    values = np.random.default_rng(2).normal(size=layer.weight_shape).astype(np.float32)
    dense = Network("n", (layer,), {"fc": NestedWeights(values, np.ones(values.shape, np.uint8), 1)})
    storage = lower(sparsify(dense, "nm", patterns=["2:16", "1:16"]), weight_bits=8).layers[0].storage
    groups = values.size // 16
    assert storage["nm16"].tolist() == [-(-(5 + groups * n * (8 + 4)) // 8) for n in (2, 1)]
    assert storage["nm16_packed"].tolist() == [-(-(5 + groups * bits) // 8) for bits in (2 * 8 + 7, 8 + 4)]


def test_formats_keep_their_order_and_others_see_the_plain_matrix():
    layer = conv("c", INPUT, C=3, H=4, K=2, R=3, padding=1)
    keep = np.random.default_rng(1).integers(0, 3, layer.weight_shape).astype(np.uint8)
    network = Network("n", (layer,), {"c": NestedWeights(None, keep, 2)})
    storage = lower(network, weight_bits=8).layers[0].storage
    assert list(storage) == list(FORMATS)
    flat = keep.reshape(2, -1)
    for name in ("bitmap", "csr", "level_ordered"):
        assert storage[name].tolist() == (-(-FORMATS[name].bits_per_level(flat, 2, value_bits=8) // 8)).tolist()
    permuted = keep.transpose(0, 2, 3, 1).reshape(2, -1)
    assert storage["nm4"].tolist() == (-(-FORMATS["nm4"].bits_per_level(permuted, 2, value_bits=8) // 8)).tolist()
