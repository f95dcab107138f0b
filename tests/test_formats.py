"""Storage formats: one contract for every registry entry, the prefix property, and the users' mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.traces.formats import (
    FORMATS,
    BitReader,
    GroupedSlots,
    MatrixSpec,
    PackedSlots,
    StorageFormat,
    pick,
    sizes_by_format,
)
from nestling.workloads.errors import InputError

ALL = {**FORMATS, "nm3": GroupedSlots(3), "nm32_packed": PackedSlots(32)}
Case = tuple[np.ndarray, np.ndarray, int, int, int]  # values, keep, level, levels, value_bits


# --- cases -----------------------------------------------------------------------------------------------------------


@st.composite
def matrices(draw: st.DrawFn) -> Case:
    """Shapes include 0xN, 1xN and Nx1, levels include empty and full ones."""
    shape = (draw(st.integers(0, 6)), draw(st.integers(0, 21)))
    if draw(st.booleans()):
        shape = shape[::-1]
    levels = draw(st.sampled_from([1, 2, 3, 5, 8]))
    level = draw(st.integers(0, levels - 1))
    value_bits = draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))
    deepest = draw(st.integers(0, levels))  # levels beyond it are all zero
    keep = np.where(rng.random(shape) < density, rng.integers(0, deepest + 1, shape), 0).astype(np.uint8)
    values = rng.integers(-(2 ** (value_bits - 1)), 2 ** (value_bits - 1), shape)
    return values, keep, level, levels, value_bits


def check_contract(entry: StorageFormat, case: Case) -> None:
    values, keep, level, levels, value_bits = case
    where = {"level": level, "levels": levels, "value_bits": value_bits}
    before = (values.copy(), keep.copy())
    data = entry.encode(values, keep, **where)
    bits = entry.bits(keep, level, levels=levels, value_bits=value_bits)
    assert len(data) == -(-bits // 8)
    sizes = entry.bits_per_level(keep, levels, value_bits=value_bits)
    assert sizes.dtype == np.int64
    assert sizes.shape == (levels,)
    assert sizes[level] == bits
    # Packed patterns may cost more with fewer slots, since C(M, N) is largest at N = M/2.
    assert (np.diff(sizes) <= 0).all() or isinstance(entry, PackedSlots)
    expected = np.where(keep > level, values, 0)
    got, mask = entry.decode(data, keep.shape, **where)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(mask, keep > level if entry.exact_mask else expected != 0)
    np.testing.assert_array_equal(before, (values, keep))
    assert got.dtype == np.int32


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None)
@given(case=matrices())
def test_round_trip_and_size(name: str, case: Case) -> None:
    check_contract(ALL[name], case)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1), (1, 37), (37, 1), (3, 64)])
def test_extreme_shapes(name: str, shape: tuple[int, int]) -> None:
    values = np.arange(shape[0] * shape[1]).reshape(shape) % 16 - 8
    for levels in (1, 8):
        for fill in {0, 1, levels}:  # empty at every level, at all but the densest, at none
            keep = np.full(shape, fill, dtype=np.uint8)
            for level in {0, levels - 1}:
                check_contract(ALL[name], (values, keep, level, levels, 4))


@pytest.mark.parametrize("name", ALL)
def test_long_runs_and_reader_stops_at_the_level(name: str) -> None:
    rng = np.random.default_rng(7)
    keep = np.zeros((40, 3000), dtype=np.uint8)
    keep.reshape(-1)[rng.choice(keep.size, 25, replace=False)] = rng.integers(1, 4, 25)
    values = rng.integers(-128, 128, keep.shape)
    sizes = ALL[name].bits_per_level(keep, 3, value_bits=8)
    for level in range(3):
        check_contract(ALL[name], (values, keep, level, 3, 8))
        data = ALL[name].encode(values, keep, level=level, levels=3, value_bits=8)
        reader = BitReader(data + b"\xff" * 9)
        got, _ = ALL[name].read(reader, MatrixSpec(*keep.shape, level, 3, 8))
        assert reader.position == sizes[level]
        np.testing.assert_array_equal(got, np.where(keep > level, values, 0))


@pytest.mark.parametrize("name", ALL)
def test_every_format_documents_its_layout(name: str) -> None:
    entry = ALL[name]
    assert entry.name == name
    assert entry.title
    assert len((type(entry).__doc__ or "").split()) > 15


# --- levels ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(case=matrices())
def test_level_ordered_levels_are_prefixes(case: Case) -> None:
    values, keep, _, levels, value_bits = case
    entry = FORMATS["level_ordered"]
    whole = entry.encode(values, keep, level=0, levels=levels, value_bits=value_bits)
    sizes = entry.bits_per_level(keep, levels, value_bits=value_bits)
    for level in range(levels):
        prefix = whole[: sizes[level] // 8]
        assert sizes[level] % 8 == 0
        assert prefix == entry.encode(values, keep, level=level, levels=levels, value_bits=value_bits)
        reader = BitReader(whole)
        got, mask = entry.read(reader, MatrixSpec(*keep.shape, level, levels, value_bits))
        assert reader.position == sizes[level]
        scrambled = prefix + bytes(255 - b for b in whole[len(prefix) :])
        again, _ = entry.decode(scrambled, keep.shape, level=level, levels=levels, value_bits=value_bits)
        np.testing.assert_array_equal(got, np.where(keep > level, values, 0))
        np.testing.assert_array_equal(mask, keep > level)
        np.testing.assert_array_equal(again, got)


def test_level_tag_costs_its_tags_and_reads_everything() -> None:
    keep = np.random.default_rng(0).integers(0, 4, (30, 50)).astype(np.uint8)
    values = np.ones(keep.shape, dtype=np.int8)
    csr = FORMATS["csr"].bits_per_level(keep, 3, value_bits=8)
    tagged = FORMATS["level_tag"].bits_per_level(keep, 3, value_bits=8)
    assert (tagged == csr[0] + 2 * np.count_nonzero(keep)).all()
    streams = {FORMATS["level_tag"].encode(values, keep, level=x, levels=3, value_bits=8) for x in range(3)}
    assert len(streams) == 1


# --- choosing ---


def test_pick_breaks_ties_in_registry_order() -> None:
    keep = np.zeros((0, 4), dtype=np.uint8)  # nothing to store: dense, bitmap, csr and coo all take 0 bits
    assert pick(keep, 2, value_bits=8) == ("dense", "dense")
    assert pick(keep, 2, value_bits=8, allowed=["coo", "csr"]) == ("csr", "csr")


@settings(max_examples=40, deadline=None)
@given(case=matrices())
def test_shared_statistics_give_each_formats_own_sizes(case: Case) -> None:
    _, keep, _, levels, value_bits = case
    for name, sizes in sizes_by_format(keep, levels, value_bits=value_bits).items():
        own = FORMATS[name].bits_per_level(keep, levels, value_bits=value_bits)
        np.testing.assert_array_equal(sizes, own)


# --- mistakes --------------------------------------------------------------------------------------------------------

KEEP = np.array([[2, 0, 1], [0, 1, 2]], dtype=np.uint8)
VALUES = np.array([[5, 99, -3], [99, 7, -8]])


@pytest.mark.parametrize("name", ALL)
def test_cut_streams_are_reported(name: str) -> None:
    data = ALL[name].encode(VALUES, KEEP, level=0, levels=2, value_bits=4)
    with pytest.raises(InputError, match="cut off"):
        ALL[name].decode(data[:-1], KEEP.shape, level=0, levels=2, value_bits=4)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None)
@given(noise=st.binary(min_size=0, max_size=60), columns=st.integers(1, 20))
def test_noise_is_decoded_or_reported(name: str, noise: bytes, columns: int) -> None:
    try:
        values, mask = ALL[name].decode(noise, (3, columns), level=0, levels=3, value_bits=5)
    except InputError:
        return  # any other error fails the test
    assert values.shape == mask.shape == (3, columns)
    assert not values[~mask].any()


def test_messages_name_what_is_wrong() -> None:
    csr = FORMATS["csr"]
    with pytest.raises(InputError, match=r"code 5 at \(0, 0\) does not fit 3 bits \(-4 to 3\)"):
        csr.encode(VALUES, KEEP, level=0, levels=2, value_bits=3)
    with pytest.raises(InputError, match="keep reaches 2, but there are 1 levels"):
        csr.bits(KEEP, 0, levels=1, value_bits=8)
    with pytest.raises(InputError, match="level 2 does not exist; levels are 0 to 1"):
        csr.bits(KEEP, 2, levels=2, value_bits=8)
    with pytest.raises(InputError, match="value_bits = 17; allowed are 1 to 16"):
        csr.bits(KEEP, 0, levels=2, value_bits=17)
    with pytest.raises(InputError, match="uint8 matrix"):
        csr.bits(KEEP.reshape(-1), 0, levels=2, value_bits=8)
    with pytest.raises(InputError, match="must be integers of shape"):
        csr.encode(VALUES.astype(float), KEEP, level=0, levels=2, value_bits=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'bitmap'"):
        pick(KEEP, 2, value_bits=8, allowed=["bitmaps"])
    with pytest.raises(InputError, match="no storage format is allowed"):
        pick(KEEP, 2, value_bits=8, allowed=[])
    with pytest.raises(InputError, match="allowed are 2 to 64"):
        GroupedSlots(65)
