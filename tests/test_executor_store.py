"""The level-ordered store: one copy, prefixes per level, exact counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor import store as store_module
from nestling.sim.executor.geometry import planes_of, weight_offsets
from nestling.sim.executor.store import LevelStore
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Gemm, Layer, conv, linear
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.network import Network


def nested(shape: tuple[int, ...], *, levels: int, seed: int) -> NestedWeights:
    rng = np.random.default_rng(seed)
    keep = rng.integers(0, levels + 1, size=shape, dtype=np.uint8)
    return NestedWeights(values=rng.standard_normal(shape).astype(np.float32), keep=keep, levels=levels)


def network_of(*layers: Layer, levels: int = 3, seed: int = 0) -> Network:
    weights = {x.name: nested(x.weight_shape, levels=levels, seed=seed + i) for i, x in enumerate(layers)}
    return Network("n", layers, weights)


def decode(store: LevelStore, name: str, level: int, columns: np.ndarray) -> np.ndarray:
    """Dense matrix of one level, read entry by entry from the prefixes. columns[r, j] = offset of weight j of row r."""
    rows = store.layers[name]
    dense = np.zeros(columns.shape, np.float32)
    for r in range(columns.shape[0]):
        place = {int(offset): j for j, offset in enumerate(columns[r])}
        for i in range(rows.row_start[r], rows.row_end[level, r]):
            dense[r, place[int(rows.offsets[i])]] += rows.values[i]
    return dense


@settings(deadline=None, max_examples=40)
@given(levels=st.sampled_from([1, 2, 8, 255]), rows=st.integers(1, 9), k=st.integers(1, 17), seed=st.integers(0, 999))
def test_every_level_decodes_to_its_dense_weights(levels: int, rows: int, k: int, seed: int) -> None:
    network = network_of(linear("fc", "input", features_in=k, features_out=rows), levels=levels, seed=seed)
    store = LevelStore.from_network(network)
    columns = np.broadcast_to(np.arange(k), (rows, k))
    for level in range(levels):
        np.testing.assert_array_equal(decode(store, "fc", level, columns), network.weights["fc"].dense(level))


def test_convolutions_decode_through_their_offsets() -> None:
    layer = conv("c", "input", C=4, H=9, W=7, K=6, R=3, S=2, stride=2, padding=1, groups=2)
    network = network_of(layer)
    store = LevelStore.from_network(network)
    columns = weight_offsets(layer, planes_of(layer))
    for level in range(3):
        dense = network.weights["c"].dense(level).reshape(6, -1)
        np.testing.assert_array_equal(decode(store, "c", level, columns), dense)


def test_levels_are_prefixes_of_one_stream() -> None:
    network = network_of(
        conv("c", "input", C=3, H=5, K=7, R=3, padding=1), linear("fc", "c", features_in=175, features_out=4), levels=8
    )
    store = LevelStore.from_network(network)
    assert store.values.size == sum(int(w.nonzeros[0]) for w in network.weights.values())
    for rows in store.layers.values():
        assert np.shares_memory(rows.values, store.values)
        assert np.shares_memory(rows.offsets, store.offsets)
        # Rows lie one behind the other; sparser levels end earlier.
        np.testing.assert_array_equal(rows.row_start[1:], rows.row_end[0, :-1])
        assert (np.diff(rows.row_end, axis=0) <= 0).all()
        assert (rows.row_end >= rows.row_start).all()


def test_blocks_do_not_change_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(linear("fc", "input", features_in=13, features_out=11), levels=8)
    whole = LevelStore.from_network(network)
    monkeypatch.setattr(store_module, "SORT_ELEMENTS", 30)
    blocked = LevelStore.from_network(network)
    np.testing.assert_array_equal(whole.values, blocked.values)
    np.testing.assert_array_equal(whole.offsets, blocked.offsets)
    np.testing.assert_array_equal(whole.layers["fc"].row_end, blocked.layers["fc"].row_end)


def test_macs_equal_a_count_of_products() -> None:
    layer = conv("c", "input", C=4, H=6, W=5, K=4, R=3, stride=2, padding=1, groups=4)
    recurrent = Layer(name="h", op="lstm_hh", C=5, K=20, gemm=Gemm(1, 2, 20, 5), repeat=7, sources=("c",))
    network = network_of(layer, recurrent, levels=8, seed=3)
    store = LevelStore.from_network(network)
    for level in range(8):
        mask = network.weights["c"].mask(level)
        products = sum(1 for _ in np.argwhere(mask) for _y in range(layer.P) for _x in range(layer.Q))
        steps = int(network.weights["h"].mask(level).sum()) * 2 * 7
        assert store.macs(level) == {"c": products, "h": steps}


def test_dense_level_counts_every_mac_of_the_network() -> None:
    layer = conv("c", "input", C=2, H=8, K=3, R=3, padding=1)
    keep = np.ones(layer.weight_shape, np.uint8)
    weights = {"c": NestedWeights(values=np.ones(keep.shape, np.float32), keep=keep, levels=1)}
    store = LevelStore.from_network(Network("n", (layer,), weights))
    assert store.macs(0) == {"c": layer.macs}
    assert store.layers["c"].macs.dtype == np.int64


def test_stored_zeros_count_as_retained_weights() -> None:
    layer = linear("fc", "input", features_in=3, features_out=1)
    weights = NestedWeights(values=np.zeros((1, 3), np.float32), keep=np.array([[1, 0, 2]], np.uint8), levels=2)
    store = LevelStore.from_network(Network("n", (layer,), {"fc": weights}))
    assert [store.macs(level)["fc"] for level in (0, 1)] == [2, 1]


def test_bytes_of_streams_and_pointers() -> None:
    network = network_of(linear("fc", "input", features_in=10, features_out=4), levels=3)
    store = LevelStore.from_network(network)
    nonzeros = network.weights["fc"].nonzeros
    assert store.stored_bytes == int(nonzeros[0]) * 8 + 4 * 8 + 3 * 4 * 8
    for level in range(3):
        assert store.bytes_read(level) == int(nonzeros[level]) * 8 + 4 * 8 + 4 * 8


def test_networks_without_values_name_the_layers() -> None:
    layers = (conv("a", "input", C=1, H=4, K=2, R=1), conv("b", "a", C=2, H=4, K=2, R=1))
    with pytest.raises(InputError, match="no weight values in a, b"):
        LevelStore.from_network(Network("shapes", layers))
    pattern = NestedWeights(values=None, keep=np.ones((2, 1, 1, 1), np.uint8), levels=1)
    full = NestedWeights(values=np.ones((2, 2, 1, 1), np.float32), keep=np.ones((2, 2, 1, 1), np.uint8), levels=1)
    with pytest.raises(InputError, match=r"no weight values in a$"):
        LevelStore.from_network(Network("half", layers, {"a": pattern, "b": full}))


@pytest.mark.parametrize("level", [-1, 3])
def test_levels_that_do_not_exist(level: int) -> None:
    store = LevelStore.from_network(network_of(linear("fc", "input", features_in=2, features_out=2)))
    for question in (store.macs, store.bytes_read):
        with pytest.raises(InputError, match=rf"level {level} does not exist; levels are 0 \(densest\) to 2"):
            question(level)


def test_planes_of_other_layers_and_of_huge_inputs() -> None:
    with pytest.raises(InputError, match="only convolutions have input planes"):
        planes_of(linear("fc", "input", features_in=2, features_out=2))
    with pytest.raises(InputError, match="offsets allow at most"):
        planes_of(conv("c", "input", C=2, H=1, W=2**30, K=1, R=1))
