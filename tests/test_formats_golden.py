"""Storage formats on a 512x4608 layer: golden table, index bits of N:M patterns, break-evens and picks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nestling.traces.formats import (
    FORMATS,
    GroupedSlots,
    KeepStatistics,
    PackedSlots,
    entropy_bound_bits,
    pick,
    sizes_by_format,
    streams_per_level,
)
from nestling.traces.formats.runlength import RunLength

ROWS, COLUMNS = 512, 4608  # the 3x3 convolutions of ResNet-50's last stage


def exact_keep(densities: list[float]) -> np.ndarray:
    """512x4608 with round(density * n) retained weights per level at independent places."""
    order = np.random.default_rng(1).permutation(ROWS * COLUMNS)
    keep = np.zeros(ROWS * COLUMNS, dtype=np.uint8)
    for density in densities:
        keep[order[: round(density * keep.size)]] += 1
    return keep.reshape(ROWS, COLUMNS)


# density: bitmap, COO, CSR, run-length, its k, entropy bound; bits per element at 8-bit values, decimals as printed.
GOLDEN = {
    0.50: ("5.00", "15.0", "10.5", "5.33", 2, "5.00"),
    0.25: ("3.00", "7.50", "5.25", "3.03", 4, "2.81"),
    0.20: ("2.60", "6.00", "4.20", "2.47", 4, "2.32"),
    0.10: ("1.80", "3.00", "2.10", "1.35", 5, "1.27"),
    0.05: ("1.40", "1.50", "1.05", "0.73", 6, "0.69"),
    0.01: ("1.08", "0.30", "0.21", "0.17", 9, "0.16"),
}


@pytest.fixture(scope="module")
def golden_statistics() -> KeepStatistics:
    return KeepStatistics(exact_keep(list(GOLDEN)), len(GOLDEN))


@pytest.mark.parametrize("level", range(len(GOLDEN)))
def test_golden_table(golden_statistics: KeepStatistics, level: int) -> None:
    n = ROWS * COLUMNS
    density = list(GOLDEN)[level]
    bitmap, coo, csr, _, _, bound = GOLDEN[density]
    m = int(golden_statistics.nonzeros[level])
    assert m == round(density * n)
    sizes = {name: int(FORMATS[name].sizes(golden_statistics, 8)[level]) for name in ("bitmap", "coo", "csr")}
    assert sizes["bitmap"] == n + 8 * m
    assert sizes["coo"] == 22 + (22 + 8) * m
    survey = m * 13 + ROWS * math.ceil(math.log2(m))
    assert sizes["csr"] == 22 + survey + 8 * m  # m is no power of two here, so a row end takes ceil(log2 m) bits
    for name, printed in (("bitmap", bitmap), ("coo", coo), ("csr", csr)):
        decimals = len(printed.split(".")[1])
        assert f"{sizes[name] / n:.{decimals}f}" == printed
    assert f"{entropy_bound_bits(n, m, value_bits=8) / n:.2f}" == bound


@pytest.mark.parametrize("level", range(len(GOLDEN)))
def test_golden_run_length(golden_statistics: KeepStatistics, level: int) -> None:
    n = ROWS * COLUMNS
    density = list(GOLDEN)[level]
    printed, k = GOLDEN[density][3:5]
    entry = RunLength()
    assert entry.run_bits(golden_statistics, 8)[level] == k
    # Padding entries of one run are geometric: P(at least j) = a^j, so mean a/(1-a) and variance a/(1-a)^2.
    a = (1 - density) ** (2**k)
    m = density * n
    expected = m * (1 + a / (1 - a)) * (k + 8)
    six_sigma = 6 * math.sqrt(m * a) / (1 - a) * (k + 8)
    bits = int(entry.sizes(golden_statistics, 8)[level])
    assert abs(bits - (4 + 22) - expected) < six_sigma
    assert f"{expected / n:.2f}" == printed
    assert f"{bits / n:.2f}" == printed


@pytest.mark.parametrize(
    ("n", "m", "direct", "packed", "per_element"),
    [(2, 4, 2, 1.5, 5.0), (1, 4, 2, 2.0, 2.5), (2, 8, 3, 2.5, 2.75), (4, 8, 3, 1.75, 5.5), (1, 16, 4, 4.0, 0.75)],
)
def test_nm_index_bits(n: int, m: int, direct: int, packed: float, per_element: float) -> None:
    assert GroupedSlots(m).pattern_bits(n) == n * direct
    assert PackedSlots(m).pattern_bits(n) / n == packed
    rng = np.random.default_rng(3)
    one = np.repeat([1, 0], [n, m - n]).astype(np.uint8)
    keep = rng.permuted(np.broadcast_to(one, (64 * 32, m)), axis=1).reshape(64, 32 * m)
    header = math.ceil(math.log2(m + 1))
    assert GroupedSlots(m).bits(keep, 0, levels=1, value_bits=8) == header + keep.size * per_element
    packed_bits = header + keep.sum() * (8 + packed)
    assert PackedSlots(m).bits(keep, 0, levels=1, value_bits=8) == packed_bits


def test_one_full_group_sets_the_slots_of_all() -> None:
    keep = np.zeros((10, 10), dtype=np.uint8)
    keep[:, ::4] = 1
    assert GroupedSlots(4).bits(keep, 0, levels=1, value_bits=8) == 3 + 30 * (8 + 2)  # 10 columns: 3 groups per row
    keep[7, 4:8] = 1
    assert GroupedSlots(4).bits(keep, 0, levels=1, value_bits=8) == 3 + 30 * 4 * (8 + 2)


# --- choosing --------------------------------------------------------------------------------------------------------


def test_break_evens() -> None:
    """13-bit columns: bitmap beats CSR up to 1 - 1/13 = 92.3 % sparsity; run-length beats bitmap above about 76 %."""
    densities = [0.25, 0.22, 0.09, 0.07, 0.01]
    sizes = sizes_by_format(exact_keep(densities), len(densities), value_bits=8)
    bitmap, csr, coo, runs = (sizes[name] for name in ("bitmap", "csr", "coo", "run_length"))
    np.testing.assert_array_equal(bitmap < csr, [True, True, True, False, False])
    np.testing.assert_array_equal(runs < bitmap, [False, True, True, True, True])
    assert (csr < coo).all()
    # A 4:8 pattern is the one N:M pattern that a bitmap stores in fewer bits, unless its patterns are packed.
    half = np.random.default_rng(0).permuted(np.tile([1, 1, 1, 1, 0, 0, 0, 0], (ROWS, 8)).reshape(-1, 8), axis=1)
    keep = half.reshape(ROWS, -1).astype(np.uint8)
    at = {name: int(x[0]) for name, x in sizes_by_format(keep, 1, value_bits=8).items()}
    assert at["bitmap"] < at["nm8"]
    assert at["nm8_packed"] < at["bitmap"]


def test_pick_takes_the_fewest_bits_per_level() -> None:
    keep = exact_keep([1.0, 0.5, 0.1, 0.0])
    allowed = ["csr", "run_length", "bitmap", "dense"]
    # An empty level costs CSR its 22-bit header alone; run-length adds 4 bits for k.
    assert pick(keep, 4, value_bits=8, allowed=allowed) == ("dense", "bitmap", "run_length", "csr")
    sizes = sizes_by_format(keep, 4, value_bits=8)
    assert list(sizes) == list(FORMATS)
    for level, name in enumerate(pick(keep, 4, value_bits=8)):
        assert sizes[name][level] == min(x[level] for x in sizes.values())


def expected_stream_bytes(m: int, remaining: int) -> tuple[float, float]:
    """Mean and standard deviation of a stream's bytes, ``m`` of ``remaining`` positions drawn independently."""
    p = m / remaining
    sizes = []
    for k in range(16):
        a = (1 - p) ** (2**k)  # a run's quotient is geometric: mean a/(1-a), variance a/(1-a)^2
        header = 4 + math.ceil(math.log2(remaining + 1))
        sizes.append((header + m * (1 + k + a / (1 - a)), math.sqrt(m * a) / (1 - a)))
    mean, deviation = min(sizes)
    return (2 + mean + 8 * m) / 8, deviation / 8


def test_level_ordered_streams_of_independent_weights() -> None:
    densities = [0.5, 0.25, 0.13]
    streams = streams_per_level(exact_keep(densities), 3, value_bits=8)
    remaining = ROWS * COLUMNS
    for level in (2, 1, 0):
        m = round(densities[level] * ROWS * COLUMNS) - (ROWS * COLUMNS - remaining)
        mean, deviation = expected_stream_bytes(m, remaining)
        assert mean - 6 * deviation < streams[level] < mean + 6 * deviation + 1  # at most 7 bits of padding
        bound = entropy_bound_bits(remaining, m, value_bits=8) / 8
        assert bound < streams[level] < 1.005 * bound
        remaining -= m


def test_level_ordered_beats_rows_and_tags_and_adds_two_bits_to_a_dense_level() -> None:
    keep = exact_keep([1.0, 0.2, 0.08, 0.03])
    sizes = {
        name: FORMATS[name].bits_per_level(keep, 4, value_bits=8) for name in ("level_ordered", "csr", "level_tag")
    }
    assert (sizes["level_ordered"] < sizes["csr"]).all()
    assert (sizes["level_ordered"] < sizes["level_tag"]).all()
    values = -(-(2 + 8 * (keep == 1).sum()) // 8)
    assert streams_per_level(keep, 4, value_bits=8)[0] == values
