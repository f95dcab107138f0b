"""More processing elements never make a compute-bound layer slower (`scnn`, `sigma`: in their own files)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.workloads.layers import conv
from nestling.workloads.network import Network
from nestling.workloads.synthetic import with_synthetic_levels

from .spine_cases import design

#: What makes each array larger, two steps; buffers and DRAM are generous, so that only the array limits.
GROWTH = {
    "systolic-16x16": ("rows", (8, 16)),
    "nm-lanes-16x8": ("columns", (4, 8)),
    "diannao": ("outputs", (8, 16)),
    "cambricon-x": ("pes", (8, 16)),
    "dadiannao": ("tiles", (1, 2)),
    "bit-pragmatic": ("tiles", (1, 2)),
    "eyeriss": ("columns", (7, 14)),
    "eyeriss-v2": ("clusters", (4, 8)),
    "stc-2-4": ("partitions", (1, 2)),
    "stc-flexible": ("partitions", (1, 2)),
    "dstc": ("partitions_high", (1, 2)),
    "smartdeal": ("dim_c", (8, 16)),
}


def compute_bound_cycles(name: str, field: str, size: int, network: Network) -> list[int]:
    changes = {f"array.{field}": size, "dram.bandwidth_bytes_per_s.value": 1e15, "dram.latency_s.value": 0.0}
    result = simulate(lower(network), design(name, changes))
    return [level.split.compute for level in result.levels]


@pytest.mark.parametrize("name", GROWTH)
@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(8, 64), filters=st.integers(16, 64), size=st.integers(6, 14), kernel=st.sampled_from([1, 3])
)
def test_more_pes_never_issue_longer(name, channels, filters, size, kernel):
    layer = conv("c", "input", C=channels, H=size, K=filters, R=kernel, padding=kernel // 2)
    network = with_synthetic_levels(Network("n", (layer,)), (1.0, 0.3), seed=channels * filters)
    field, (small, large) = GROWTH[name]
    few, many = (compute_bound_cycles(name, field, count, network) for count in (small, large))
    # A fold of more rows fills longer (R + C - 2 cycles), but from 36 positions on the saved folds outweigh that.
    assert all(b <= a for a, b in zip(few, many, strict=True))
