"""Slicing, basis weights, nesting and storage of SmartDeal weights."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.traces.formats.coefficients import COEFFICIENT_FORMATS, CoefficientFormat, coefficient_bytes
from nestling.workloads.bundled import load_bundled
from nestling.workloads.errors import InputError
from nestling.workloads.nesting import NestedWeights
from nestling.workloads.smartdeal.basis_weights import BasisWeights, basis_codes, encode_powers, quantise_bases
from nestling.workloads.smartdeal.nested import SmartDealOptions, decompose_network, decompose_weights, grows
from nestling.workloads.smartdeal.slicing import VECTOR_SLICES, Slicing, slice_rows, slicing_of

SHAPES = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 80)),
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)),
)


@given(SHAPES)
def test_cut_and_join_are_inverse(shape):
    weights = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    slicing = slicing_of(shape)
    pieces = slicing.cut(weights)
    assert pieces.shape == (slicing.matrices, slicing.rows, slicing.columns)
    assert np.count_nonzero(pieces) == weights.size  # padding is zero, and nothing is lost
    assert np.array_equal(slicing.join(pieces), weights)


def test_rows_of_a_filter_are_kernel_rows():
    weights = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    assert np.array_equal(slicing_of(weights.shape).cut(weights)[1][5], weights[1, 1, 2])
    column = np.random.default_rng(0).normal(size=(2, 4, 5, 1))  # a 5 x 1 kernel is read along its column
    assert np.array_equal(slicing_of(column.shape).cut(column)[1][2], column[1, 2, :, 0])


def test_authors_table_of_vectors_holds_every_length():
    for length, (slices, rows) in VECTOR_SLICES.items():
        assert 0 <= slices * rows * 3 - length < 3 * slices
        assert slicing_of((1, length)).slices == slices


@given(st.integers(1, 3000), st.integers(1, 400))
def test_slices_are_equal_and_as_long_as_allowed(total, limit):
    rows = slice_rows(total, limit)
    allowed = [d for d in range(1, total + 1) if total % d == 0 and d <= limit]
    assert rows == (total if total <= limit or max(allowed) == 1 else max(allowed))


@st.composite
def _weights(draw):
    units, rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 4))
    levels = draw(st.sampled_from([1, 2, 3, 8]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    by_row = draw(st.booleans())
    shape = (units, rows, columns)
    bases = quantise_bases(rng.normal(size=(draw(st.sampled_from([1, levels])), units, columns, columns)).astype("f4"))
    return BasisWeights(
        codes=rng.integers(-7, 8, shape).astype(np.int8),
        lowest=-6,
        bases=bases,
        keep=rng.integers(0, levels + 1, shape[:2] if by_row else shape).astype(np.uint8),
        levels=levels,
        slicing=Slicing((units, 1, rows, columns), units, 1, rows, columns),
    )


@settings(max_examples=150, deadline=None)
@given(_weights(), st.sampled_from(sorted(COEFFICIENT_FORMATS)))
def test_size_equals_stream_and_stream_gives_the_codes_back(weights, name):
    layout = COEFFICIENT_FORMATS[name]
    if layout.granularity == "row" and not weights.by_row:
        with pytest.raises(InputError, match="stores whole rows"):
            layout.sizes(weights)
        return
    sizes = layout.sizes(weights)
    streams = [layout.encode(weights, level) for level in range(weights.levels)]
    assert [len(stream) for stream in streams] == [-(-int(bits) // 8) for bits in sizes]
    for level, stream in enumerate(streams):
        codes, bases = layout.decode(stream, weights, level)
        assert np.array_equal(codes, np.where(weights.kept(level), weights.codes, 0))
        expected, fraction = basis_codes(weights.basis(level))
        assert np.array_equal(np.ldexp(bases, -fraction), np.ldexp(expected, -fraction))
    if layout.index == "ordered" and weights.shared:  # bit-exact prefix, up to the padding of the last byte
        assert all(streams[0][: len(s) - 1] == s[:-1] for s in streams)


@settings(max_examples=40, deadline=None)
@given(_weights(), st.sampled_from(sorted(COEFFICIENT_FORMATS)), st.integers(0, 2**31))
def test_damaged_streams_are_refused_or_decode_to_something(weights, name, seed):
    layout = COEFFICIENT_FORMATS[name]
    if layout.granularity == "row" and not weights.by_row:
        return
    data = bytearray(layout.encode(weights, 0))
    rng = np.random.default_rng(seed)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    damaged = bytes(data[: rng.integers(1, len(data) + 1)])
    with contextlib.suppress(InputError):
        codes, _ = layout.decode(damaged, weights, 0)
        assert codes.shape == weights.codes.shape


def test_levels_are_nested_and_equal_in_value():
    nested = NestedWeights(
        values=np.random.default_rng(0).normal(0, 0.1, (6, 5, 3, 3)).astype(np.float32),
        keep=np.ones((6, 5, 3, 3), np.uint8),
        levels=1,
    )
    weights = decompose_weights(nested, (1.0, 0.5, 0.2))
    plain = weights.nested()
    for level in range(3):
        assert np.array_equal(plain.dense(level), weights.dense(level))
    assert (np.diff(weights.nonzero_rows) < 0).all()
    assert weights.nonzero_rows[1] == round(0.5 * 6 * 15)


def test_refit_never_fits_worse():
    nested = NestedWeights(
        values=np.random.default_rng(0).normal(0, 0.1, (4, 8, 3, 3)).astype(np.float32),
        keep=np.ones((4, 8, 3, 3), np.uint8),
        levels=1,
    )
    options = SmartDealOptions(basis_bits=0)
    shared = decompose_weights(nested, (1.0, 0.4), options=options)
    refitted = decompose_weights(nested, (1.0, 0.4), options=replace(options, refit=True))
    assert not refitted.shared
    for level in range(2):
        target = nested.dense(0)
        # Both bases are rounded to float32 once: 1e-6 of the norm covers it.
        slack = 1e-6 * np.linalg.norm(target)
        assert np.linalg.norm(refitted.dense(level) - target) <= np.linalg.norm(shared.dense(level) - target) + slack
    with pytest.raises(InputError, match="one shared basis"):
        refitted.nested()


@pytest.mark.parametrize("unit", ["row", "coefficient"])
def test_a_trained_network_keeps_its_own_levels(unit):
    network, _, _ = load_bundled()
    done = decompose_network(network, options=SmartDealOptions(unit=unit))
    assert list(done.plain) == ["conv1"]  # one input channel: 9 coefficients and 9 basis elements for 9 weights
    assert set(done.bases) | set(done.plain) == set(network.weights)
    for name, basis in done.bases.items():
        trained = basis.slicing.cut(network.weights[name].keep)
        for level in range(network.levels):
            outside = basis.kept(level) & ~(trained > level).any(axis=2, keepdims=True)
            assert not outside.any()
    assert max(done.error.values()) < 0.3
    one = done.at_level(2)
    assert one.levels == 1
    assert np.array_equal(one.biases["fc"], network.biases["fc"][2:3])


def test_depthwise_layers_would_grow_and_wide_ones_not():
    assert grows(slicing_of((32, 1, 3, 3)))
    assert not grows(slicing_of((32, 16, 3, 3)))


def test_four_bit_codes_and_eight_bit_bases():
    bases = np.random.default_rng(0).normal(size=(1, 5, 3, 3)).astype(np.float32)
    rounded = quantise_bases(bases)
    codes, fraction = basis_codes(rounded)
    assert np.abs(codes).max() <= 127
    assert np.abs(rounded - bases).max() <= 2.0 ** -(fraction + 1) + 1e-12
    with pytest.raises(InputError, match="not 8-bit fixed point"):
        basis_codes(bases)


def test_coefficients_outside_the_code_range_are_an_error():
    codes, lowest = encode_powers(np.array([[[2.0**-9, 1.0, 0.0]]]))
    assert (lowest, codes.tolist()) == (-9, [[[1, 10, 0]]])
    weights = BasisWeights(
        codes=codes, lowest=lowest, bases=np.ones((1, 1, 3, 3), np.float32), keep=np.ones((1, 1), np.uint8), levels=1,
        slicing=Slicing((1, 3), 1, 1, 1, 3),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"span 10 exponents, 4-bit codes hold 8; .* smallest = 2\^-7"):
        weights.with_bits()
    with pytest.raises(InputError, match="span 10 exponents, 'smartdeal_row_direct' holds 7"):
        COEFFICIENT_FORMATS["smartdeal_row_direct"].encode(weights, 0)
    assert coefficient_bytes(weights) == {}
    wide = CoefficientFormat("row", "direct", coefficient_bits=5)
    assert np.array_equal(wide.decode(wide.encode(weights, 0), weights, 0)[0], codes)
    with pytest.raises(InputError, match=r"coefficient 0.3 at \(0, 0, 1\)"):
        encode_powers(np.array([[[1.0, 0.3]]]))


def test_wrong_basis_weights_are_named():
    good = {
        "codes": np.ones((1, 2, 3), np.int8), "lowest": 0, "bases": np.ones((1, 1, 3, 3), np.float32),
        "keep": np.ones((1, 2), np.uint8), "levels": 1, "slicing": Slicing((1, 6), 1, 1, 2, 3),
    }  # fmt: skip
    assert BasisWeights(**good).nonzeros.tolist() == [6]
    for change, text in (
        ({"levels": 0}, "0 levels"),
        ({"codes": np.ones((1, 1, 3), np.int8)}, "codes have shape"),
        ({"keep": np.full((1, 2), 2, np.uint8)}, "keep exceeds"),
        ({"bases": np.full((1, 1, 3, 3), np.nan, np.float32)}, "NaN or infinity"),
        ({"bases": np.ones((2, 1, 3, 3), np.float32)}, "bases have shape"),
    ):
        with pytest.raises(InputError, match=text):
            BasisWeights(**(good | change))
