"""Density models: counts stay, placement changes as the model says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.traces.density import DENSITY_MODELS, with_density_model
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.layers import conv
from nestling.workloads.network import Network
from nestling.workloads.synthetic import with_synthetic_levels


def trace_of(channels=16, filters=8, kernel=3, densities=(0.6, 0.3, 0.05), seed=1):
    layer = conv("c", "input", C=channels, H=6, K=filters, R=kernel, padding=kernel // 2)
    return lower(with_synthetic_levels(Network("n", (layer,)), densities, seed=seed))


@pytest.mark.parametrize("model", DENSITY_MODELS)
@settings(max_examples=25, deadline=None)
@given(channels=st.integers(1, 20), filters=st.integers(1, 9), kernel=st.sampled_from([1, 3]), top=st.floats(0, 1))
def test_counts_and_nesting_stay(model, channels, filters, kernel, top):
    trace = trace_of(channels, filters, kernel, (top, top / 2, 0.0))
    redrawn = with_density_model(trace, model).layers[0]
    for level in range(3):
        assert (redrawn.keep > level).sum() == trace.layers[0].nonzeros[level]
        assert redrawn.storage["dense"][level] == trace.layers[0].storage["dense"][level]


def test_structured_spreads_evenly_over_groups_of_channels():
    layer = with_density_model(trace_of(channels=32), "structured").layers[0]
    for level in range(3):
        mask = (layer.keep > level).reshape(8, 4, 8, 9)  # filters, groups of 8 channels, channel, tap
        occupancy = mask.sum(axis=2)
        assert occupancy.max() - occupancy.min() <= 1 + 1  # a row's count differs by one, a group's by one more


def test_uniform_occupancy_is_hypergeometric():
    """Mean and variance of a group's occupancy against the distribution's, 4096 groups (bounds: 5 standard errors)."""
    trace = trace_of(channels=256, filters=16, kernel=1, densities=(0.25,))
    layer = with_density_model(trace, "uniform", seed=3).layers[0]
    occupancy = (layer.keep > 0).reshape(-1, 8).sum(axis=1)
    total, kept, drawn = 4096, 1024, 8
    p = kept / total
    variance = drawn * p * (1 - p) * (total - drawn) / (total - 1)
    groups = occupancy.size
    assert occupancy.mean() == drawn * p  # exactly: the total is fixed
    assert abs(occupancy.var() - variance) < 5 * variance * np.sqrt(2 / groups) * 1.2


def test_actual_is_untouched_and_unknown_is_refused():
    trace = trace_of()
    assert with_density_model(trace, "actual") is trace
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        with_density_model(trace, "unifrom")
