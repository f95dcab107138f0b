"""SRAM costs: the sweep's own rows exactly, values between their neighbours, nothing outside."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nestling.accel import sram
from nestling.accel.sram import WRITE_CAP, sram_cost
from nestling.workloads.errors import InputError

TABLE = Path(sram.__file__).parent / "data" / "cacti7_sram.csv"


def sweep() -> dict[tuple[float, int, int], tuple[float, float, float]]:
    """(node, width, size) -> (read pJ, write pJ, leakage mW) of the low-standby-power cells."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {
        (float(r["tech_nm"]), int(r["width_bits"]), int(r["size_bytes"])): (
            float(r["read_pJ"]), float(r["write_pJ"]), float(r["leak_mW"])
        )
        for r in csv.DictReader(lines)
        if r["cell"] == "itrs-lstp"
    }  # fmt: skip


SWEEP = sweep()
NODES = sorted({node for node, _, _ in SWEEP})


def test_rows_of_the_sweep_are_returned_exactly() -> None:
    assert len(SWEEP) > 200
    for (node, width, size), (read, write, leakage) in SWEEP.items():
        cost = sram_cost(size, width, node)
        assert cost.read_pj_per_byte == read / (width / 8)
        assert cost.write_pj_per_byte == min(write, WRITE_CAP * read) / (width / 8)
        assert cost.leakage_w == leakage * 1e-3


def sizes(node: float, width: int) -> list[int]:
    return sorted(size for n, w, size in SWEEP if (n, w) == (node, width))


@settings(max_examples=200)
@given(axes=st.sampled_from(sorted({(n, w) for n, w, _ in SWEEP})), size=st.integers(1024, 4 << 20))
def test_between_two_sizes(axes: tuple[float, int], size: int) -> None:
    node, width = axes
    grid = sizes(node, width)
    below, above = max(s for s in grid if s <= size), min(s for s in grid if s >= size)
    cost, low, high = (sram_cost(s, width, node) for s in (size, below, above))
    assert cost.write_pj_per_byte <= WRITE_CAP * cost.read_pj_per_byte
    for name in ("read_pj_per_byte", "leakage_w"):
        ends = sorted((getattr(low, name), getattr(high, name)))
        assert ends[0] * (1 - 1e-12) <= getattr(cost, name) <= ends[1] * (1 + 1e-12)


@settings(max_examples=100)
@given(size=st.integers(1024, 4 << 20), more=st.integers(1, 1 << 20), node=st.sampled_from(NODES))
def test_larger_memories_never_cost_less(size: int, more: int, node: float) -> None:
    assume(size + more <= 4 << 20)
    small, large = sram_cost(size, 64, node), sram_cost(size + more, 64, node)
    assert large.read_pj_per_byte >= small.read_pj_per_byte * (1 - 1e-12)
    assert large.leakage_w >= small.leakage_w * (1 - 1e-12)


def read_pj(size: int, width: int, node: float) -> float:
    """Read energy per access."""
    return sram_cost(size, width, node).read_pj_per_byte * width / 8


def test_halfway_in_the_logarithm_is_the_geometric_mean() -> None:
    """In each axis where the sweep leaves room: widths 16 and 64 at 22 nm, nodes 22 and 32 nm, sizes 64 and 128 KiB."""
    low, high = SWEEP[22.0, 16, 16384][0], SWEEP[22.0, 64, 16384][0]
    assert (22.0, 32, 16384) not in SWEEP
    assert read_pj(16384, 32, 22) == pytest.approx((low * high) ** 0.5, rel=1e-12)
    low, high = SWEEP[22.0, 64, 16384][0], SWEEP[32.0, 64, 16384][0]
    assert read_pj(16384, 64, (22 * 32) ** 0.5) == pytest.approx((low * high) ** 0.5, rel=1e-12)
    low, high = SWEEP[45.0, 64, 65536][0], SWEEP[45.0, 64, 131072][0]
    rounding = 1 / 92681  # of the size to whole bytes; energy grows slower than size
    assert read_pj(92681, 64, 45) == pytest.approx((low * high) ** 0.5, rel=rounding)


def test_three_axes_at_once() -> None:
    """The corners' shares multiply: (22..32 nm) x (16..64 bits) x (64..128 KiB), each halfway, is the mean of eight rows."""
    corners = [SWEEP[n, w, s][2] for n in (22.0, 32.0) for w in (16, 64) for s in (65536, 131072)]
    found = sram_cost(92681, 32, (22 * 32) ** 0.5).leakage_w
    assert found == pytest.approx(math.prod(corners) ** (1 / 8) * 1e-3, rel=1 / 92681)


@pytest.mark.parametrize(
    ("size", "width", "node", "message"),
    [
        (256, 64, 45, r"SRAM size 256 bytes is outside the CACTI sweep \(512 to 4\.1943e\+06 bytes\)"),
        (8 << 20, 64, 45, "SRAM size"),
        (512, 256, 45, r"SRAM size 512 bytes is outside the CACTI sweep \(1024 to"),
        (4096, 4, 45, r"SRAM word width 4 bits is outside the CACTI sweep \(8 to 256 bits\)"),
        (4096, 512, 45, "SRAM word width 512 bits"),
        (4096, 64, 7, r"technology node 7 nm is outside the CACTI sweep \(22 to 90 nm\)"),
        (4096, 64, 130, "technology node 130 nm"),
    ],
)
def test_nothing_is_extrapolated(size: int, width: int, node: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sram_cost(size, width, node)
