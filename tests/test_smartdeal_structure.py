"""Rows and channels pruned before the decomposition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.workloads.errors import InputError
from nestling.workloads.smartdeal.structure import prune_channels, prune_rows_by_group


@given(st.integers(1, 9), st.integers(1, 4), st.floats(0, 1), st.integers(1, 5))
def test_a_group_loses_the_same_share_of_rows(filters, channels, share, group):
    values = np.random.default_rng(0).normal(size=(filters, channels, 3, 3)).astype(np.float32)
    before = values.copy()
    out = prune_rows_by_group(values, share, group=group)
    assert np.array_equal(values, before)
    for first in range(0, filters, group):
        part = out[first : first + group]
        gone = (part == 0).all(axis=(0, 3))
        assert gone.sum() == round(share * channels * 3)
        assert ((part == 0).any(axis=(0, 3)) == gone).all()  # no row is pruned in some filters only
        kept = np.abs(values[first : first + group]).sum(axis=(0, 3))
        if gone.any() and not gone.all():
            assert kept[gone].max() <= kept[~gone].min()
    assert np.array_equal(out[out != 0], values[out != 0])


def test_value_and_energy():
    values = np.zeros((2, 1, 3, 3), np.float32)
    values[:, 0, 0], values[:, 0, 1], values[:, 0, 2] = 1.0, 2.0, 7.0
    assert not prune_rows_by_group(values, 4.0, kind="value")[:, 0, 0].any()  # 3 per filter
    assert prune_rows_by_group(values, 4.0, kind="value")[:, 0, 1].all()
    assert not prune_rows_by_group(values, 0.3, kind="energy")[:, 0, :2].any()  # 1 + 2 of 10
    assert prune_rows_by_group(values, 0.29, kind="energy")[:, 0, 1].all()


def test_channels_below_the_threshold_go_and_the_largest_stays():
    values = np.ones((2, 3, 1, 1), np.float32)
    assert prune_channels(values, np.array([0.1, -0.5, 0.3]), 0.2)[0, :, 0, 0].tolist() == [0, 1, 1]
    assert prune_channels(values, np.array([0.1, -0.5, 0.3]), 9.0)[0, :, 0, 0].tolist() == [0, 1, 0]


def test_mistakes():
    with pytest.raises(InputError, match="needed is"):
        prune_rows_by_group(np.ones((2, 3), np.float32), 0.5)
    with pytest.raises(InputError, match="kind of row pruning 'share'"):
        prune_rows_by_group(np.ones((2, 3, 1, 1), np.float32), 0.5, kind="share")
    with pytest.raises(InputError, match=r"amount = 1\.5"):
        prune_rows_by_group(np.ones((2, 3, 1, 1), np.float32), 1.5)
    with pytest.raises(InputError, match="2 scales for 3"):
        prune_channels(np.ones((2, 3, 1, 1), np.float32), np.ones(2), 0.1)
