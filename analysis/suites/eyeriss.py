"""Suite `eyeriss`: energy of ISCA 2016's figure 10 and the measured chip of JSSC 2017's table V, AlexNet.

Both published tables split the two-column layers of AlexNet into halves (figure 10: all of them, each half reads all of its
input). Layer names are those of AlexNet; sizes beyond the names are not in the tables and stand here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...accel.arrays.eyeriss import EyerissArray, PassShape, chip_run
from ...accel.arrays.row_stationary import ConvShape, RowStationaryChip, best_blocking
from ...workloads.errors import unknown_name
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import real

_ENERGY = "eyeriss_isca16_fig10_energy.csv"
_CHIP = "eyeriss_jssc17_tableV_alexnet.csv"


def _layer(C: int, K: int, out: int, kernel: int, stride: int = 1) -> ConvShape:
    return ConvShape(C=C, K=K, E=out, F=out, R=kernel, S=kernel, stride=stride, images=1)


#: Layer -> (shape of one half or of the whole layer, halves), as figure 10 was computed.
HALVES = {
    "conv1": (_layer(3, 48, 55, 11, 4), 2),
    "conv2": (_layer(48, 128, 27, 5), 2),
    "conv3": (_layer(256, 192, 13, 3), 2),
    "conv4": (_layer(192, 192, 13, 3), 2),
    "conv5": (_layer(192, 128, 13, 3), 2),
    "fc1": (_layer(256, 4096, 1, 6), 1),
    "fc2": (_layer(4096, 4096, 1, 1), 1),
    "fc3": (_layer(4096, 1000, 1, 1), 1),
}
#: Halves that read the same input run as one layer on the chip.
_SHARED_INPUT = ("conv1", "conv3")
#: ISCA 2016: 16 x 16 PEs, 512 B and 128 KB of 16-bit words, energies relative to one MAC (table IV of the paper).
_ISCA = RowStationaryChip(
    rows=16, columns=16, buffer_words=65536, register_words=256, dram_cost=200, buffer_cost=6, array_cost=2
)
_ISCA_IMAGES = 16
#: The chip: 12 x 14 PEs, 12/224/24 words per PE, 200 MHz; the bus widths (64-bit filters, 16-bit inputs) are recalled from
#: the paper, not verified.
_JSSC = EyerissArray(
    kind="eyeriss", rows=12, columns=14, input_spad=12, weight_spad=224, psum_spad=24, filter_bus=4, input_bus=1,
    run_bits=5, weight_bits=16, activation_bits=16, accumulator_bits=16,
)  # fmt: skip


@dataclass(frozen=True)
class ChipMapping:
    """How the chip runs a layer: ``images`` in turn per pass (n), filters whose sums stay in the buffer (m), the pass."""

    images: int
    kept_filters: int
    one: PassShape


def _mapping(m: int, n: int, e: int, p: int, q: int, *, r: int, t: int) -> ChipMapping:
    one = PassShape(filters_per_pe=p, channels_per_pe=q, filter_sets=t, channel_sets=r, out_rows=e, fold_high=1)
    return ChipMapping(images=n, kept_filters=m, one=one)


#: The paper's table of mapping parameters (m, n, e, p, q, r, t), recalled, not verified; what can be checked agrees: the PEs
#: in use are table V's, weights, windows and sums fit the scratchpads, and inputs and sums fill the buffer of 100 KB to
#: 88-95 %. How many images a pass takes, and how often filters are loaded, is thus the chip's own choice, not ours.
MAPPINGS = {
    "conv1": _mapping(96, 1, 7, 16, 1, r=1, t=2),
    "conv2": _mapping(64, 1, 27, 16, 2, r=1, t=1),
    "conv3": _mapping(64, 4, 13, 16, 4, r=1, t=4),
    "conv4": _mapping(64, 4, 13, 16, 3, r=2, t=2),
    "conv5": _mapping(64, 4, 13, 16, 3, r=2, t=2),
}
_JSSC_IMAGES = 4
_JSSC_CLOCK_HZ = 200e6
#: pJ per 16-bit access at 65 nm (nn_dataflow's test of this table) and static power of buffer and register files.
_JSSC_ENERGY = RowStationaryChip(
    rows=12, columns=14, buffer_words=55296, register_words=261, dram_cost=460, buffer_cost=15, array_cost=4
)
_MAC_PJ, _REGISTER_PJ, _STATIC_W = 2.0, 1.0, 30e-3
_REGISTERS_PER_MAC = 4  # filter, input, partial sum read and written


def checks(folder: Path) -> Iterator[Check]:
    """Figure 10 (ALU, DRAM and register energy per layer) and table V (latency, operations, PEs, filters, power)."""
    yield from _figure_10(folder / "eyeriss" / _ENERGY)
    yield from _table_5(folder / "eyeriss" / _CHIP)


def _figure_10(path: Path) -> Iterator[Check]:
    for row in read_rows(path, ("layer", "alu", "dram", "rf")):
        shape, halves = _shape(row["layer"], path)
        macs = shape.macs * _ISCA_IMAGES * halves
        words = best_blocking(replace(shape, images=_ISCA_IMAGES), _ISCA).dram_words * halves
        for column, energy in (
            ("alu", macs),
            ("dram", words * _ISCA.dram_cost),
            ("rf", _REGISTERS_PER_MAC * macs),
        ):
            yield Check(row["layer"], "figure 10", f"{column} energy", energy / 1e9, real(row, column, path=path))


def _table_5(path: Path) -> Iterator[Check]:
    columns = ("layer", "power_mW", "latency_ms", "ops_million", "active_pes", "filter_kwords")
    for row in read_rows(path, columns):
        layer = row["layer"]
        half, halves = _shape(layer, path)
        if layer not in MAPPINGS:
            raise unknown_name(f"layer of the chip's mapping in {path}", layer, MAPPINGS)
        half = replace(half, images=_JSSC_IMAGES)
        shape, parts = (replace(half, K=half.K * halves), 1) if layer in _SHARED_INPUT else (half, halves)
        run = chip_run(_JSSC, shape, MAPPINGS[layer].one, images=MAPPINGS[layer].images)
        macs = half.macs * halves
        found = {
            "latency_ms": run.total * parts / _JSSC_CLOCK_HZ * 1e3,
            "ops_million": round(macs / 1e6, _digits(row["ops_million"])),
            "active_pes": macs // (run.compute * parts),
            "filter_kwords": round(half.R * half.S * half.C * half.K * halves / 1e3, _digits(row["filter_kwords"])),
            "power_mW": _power_w(half, halves, seconds=run.total * parts / _JSSC_CLOCK_HZ) * 1e3,
        }
        for column, value in found.items():
            quantity, _, _ = column.partition("_")
            yield Check(f"{layer} chip", "table V", quantity, value, real(row, column, path=path))


def _power_w(half: ConvShape, halves: int, *, seconds: float) -> float:
    """On-chip power of the blocking with the least energy: without clock network and input/output pads."""
    moved = best_blocking(half, _JSSC_ENERGY)
    picojoules = moved.buffer_words * _JSSC_ENERGY.buffer_cost + moved.array_words * _JSSC_ENERGY.array_cost
    picojoules += half.macs * (_MAC_PJ + _REGISTERS_PER_MAC * _REGISTER_PJ)
    return picojoules * halves * 1e-12 / seconds + _STATIC_W


def _shape(layer: str, path: Path) -> tuple[ConvShape, int]:
    if layer not in HALVES:
        raise unknown_name(f"layer of AlexNet in {path}", layer, HALVES)
    return HALVES[layer]


def _digits(text: str) -> int:
    return len(text.partition(".")[2])


SUITE = Suite(
    name="eyeriss",
    title=(
        "Eyeriss on AlexNet: ISCA'16 figure 10, JSSC'17 table V. Latencies are 9 % below to 1 % above the chip's: DRAM and "
        "partial-sum traffic between passes is taken as hidden; power lacks clock network and pads"
    ),
    checks=checks,
    bars=(
        *(Bar(quantity=f"{part} energy", max=0.1) for part in ("alu", "dram", "rf")),
        Bar(quantity="latency", max=0.1),
        Bar(quantity="ops", max=1e-4),  # published with the last digit cut off
        Bar(quantity="active", exact=1.0),
        Bar(quantity="filter", exact=1.0),
        Bar(quantity="power"),
    ),
)
