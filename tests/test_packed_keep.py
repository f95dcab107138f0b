"""Packed keep maps: every bit where the documentation says, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nestling.traces.packed_keep import keep_bits, pack_keep, packed_bytes, unpack_keep


@pytest.mark.parametrize(
    ("levels", "bits"), [(1, 1), (2, 2), (3, 2), (4, 4), (15, 4), (16, 8), (255, 8)]
)  # fmt: skip
def test_widths(levels: int, bits: int) -> None:
    assert keep_bits(levels) == bits


@given(st.sampled_from([1, 2, 4, 8]).flatmap(lambda b: st.tuples(
    st.just(b), hnp.arrays(np.uint8, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(0, 2**b - 1)),
)))  # fmt: skip
def test_every_weight_stands_in_its_bits(case: tuple[int, np.ndarray]) -> None:
    bits, keep = case
    data = pack_keep(keep, bits)
    assert data.size == packed_bytes(keep.size, bits) == -(-keep.size * bits // 8)
    whole = int.from_bytes(data.tobytes(), "little")
    assert [(whole >> (i * bits)) & (2**bits - 1) for i in range(keep.size)] == keep.reshape(-1).tolist()
    assert whole >> (keep.size * bits) == 0
    np.testing.assert_array_equal(unpack_keep(data, bits, keep.size), keep.reshape(-1))


def test_too_few_bytes() -> None:
    with pytest.raises(ValueError, match="2 bytes hold fewer than 9 weights of 2 bits"):
        unpack_keep(np.zeros(2, np.uint8), 2, 9)
