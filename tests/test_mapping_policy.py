"""Objectives and pinned tilings of the mapping search."""

from dataclasses import replace

import pytest
from nestling.accel.design import Design, load_design
from nestling.accel.loopnest import Blocking, Nest, split_bytes
from nestling.accel.mapping import MappingPolicy, PinnedTiling, choose_tiling
from nestling.accel.schedule import order_tiles
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.errors import InputError
from nestling.workloads.synthetic import with_synthetic_levels
from nestling.workloads.zoo import build
from pydantic import ValidationError


@pytest.fixture(scope="module")
def trace():
    return lower(with_synthetic_levels(build("resnet18"), (0.5, 0.13)))


def with_policy(name: str, policy: MappingPolicy) -> Design:
    return load_design(name).model_copy(update={"mapping": policy})


def one_nest(trace):
    layer = next(x for x in trace.layers if x.layer.name == "layer2.0.conv2")
    gemm = layer.layer.gemm
    import numpy as np

    share = np.ones((1, -(-gemm.n // 16), 1), dtype=np.int64)
    stored = split_bytes(gemm.n * gemm.k, share)
    return Nest(layer.layer, gemm, Blocking(16, 8, gemm.k), stored, 8)


@pytest.mark.parametrize("objective", ["energy", "latency", "edp"])
def test_objectives_choose_among_the_same_tilings(trace, objective):
    nest = one_nest(trace)
    base = load_design("nm-lanes-16x8").capacity()
    least = choose_tiling(nest, base, output_bits=8)
    chosen = choose_tiling(nest, replace(base, objective=objective), output_bits=8)
    assert chosen.dram_bytes >= least.dram_bytes
    if objective == "energy":
        assert chosen == least


def test_energy_objective_never_moves_more_bytes_than_others(trace):
    totals = {}
    for objective in ("energy", "latency", "edp"):
        result = simulate(trace, with_policy("nm-lanes-16x8", MappingPolicy(objective=objective)))
        totals[objective] = [sum(x.counts["dram_read_bytes"] for x in level.layers) for level in result.levels]
    assert all(e <= o for other in ("latency", "edp") for e, o in zip(totals["energy"], totals[other], strict=True))


def test_pinned_tiling_is_used_as_given(trace):
    nest = one_nest(trace)
    base = load_design("nm-lanes-16x8").capacity()
    for outer in (True, False):
        pin = PinnedTiling(rows=2, columns=4, weights_outer=outer)
        tiling = choose_tiling(nest, replace(base, pinned={"layer2.0.conv2": pin}), output_bits=8)
        assert (tiling.rows, tiling.columns, tiling.weights_outer) == (2, 4, outer)
        assert order_tiles(nest, tiling).row.size == nest.row_blocks * nest.column_blocks * nest.k_tiles
        assert tiling.dram_bytes >= choose_tiling(nest, base, output_bits=8).dram_bytes


def test_pinned_tiling_passes_the_conservation_checks_of_a_run(trace):
    pin = MappingPolicy(pinned={"layer1.0.conv1": PinnedTiling(rows=1, columns=2, weights_outer=False)})
    free = simulate(trace, load_design("systolic-16x16"))
    pinned = simulate(trace, with_policy("systolic-16x16", pin))
    assert pinned.levels[0].macs == free.levels[0].macs
    index = next(i for i, x in enumerate(free.levels[0].layers) if x.layer == "layer1.0.conv1")
    assert (
        pinned.levels[0].layers[index].counts["dram_read_bytes"]
        >= free.levels[0].layers[index].counts["dram_read_bytes"]
    )


def test_pinned_tiling_that_does_not_fit_is_refused(trace):
    nest = one_nest(trace)
    base = replace(load_design("nm-lanes-16x8").capacity(), weight_bytes=100_000)
    pin = PinnedTiling(rows=4, columns=1, weights_outer=True)
    with pytest.raises(InputError, match=r"layer2.0.conv2.*does not fit the weight buffer"):
        choose_tiling(nest, replace(base, pinned={"layer2.0.conv2": pin}), output_bits=8)


def test_policy_is_checked_in_the_design_file():
    with pytest.raises(ValidationError, match="objective"):
        MappingPolicy(objective="speed")
    with pytest.raises(ValidationError, match="rows"):
        PinnedTiling(rows=0, columns=1, weights_outer=True)


def test_equal_layers_share_one_search(trace):
    from nestling.accel.mapping import _search

    _search.cache_clear()
    simulate(trace, load_design("diannao"))
    info = _search.cache_info()
    assert info.hits > 0
    assert info.misses < len(trace.layers) * trace.levels * 3
