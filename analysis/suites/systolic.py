"""Suite `systolic`: dense systolic arrays against SCALE-Sim 3.0.0 (cycles, utilisations, SRAM words, DRAM reads).

DRAM reads are compared where the tool estimates bandwidth itself (mode CALC) and the topology file of the row is there.
Stalls come from the tool's bandwidth settings and are taken from the row. Its DRAM writes are not compared: they hold up to
0.1 % of words written twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...accel.arrays.scale_sim import FoldedProduct, dram_reads
from .scale_sim_rows import SHAPE_COLUMNS, Row, layer_addresses, rows
from .suite import Bar, Check, Suite

_COLUMNS = (
    *SHAPE_COLUMNS,
    *("demand_rows", "total_cycles", "stall_cycles", "overall_util_pct", "mapping_eff_pct", "compute_util_pct"),
    *("sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes"),
)
_DRAM_COLUMNS = ("dram_ifmap_reads", "dram_filter_reads", "sram_ifmap_kb", "sram_filter_kb", "topology", "layer")
#: (sizes of the buffers, product, topology, layer) -> DRAM reads: networks repeat layers.
_Memo = dict[tuple[object, ...], tuple[int, int]]


def checks(folder: Path) -> Iterator[Check]:
    """Every number of every row of the dense runs and of ResNet-50."""
    memo: _Memo = {}
    for table in ("dense.csv", "resnet50_32x32_ws.csv"):
        for row in rows(folder / "scalesim" / table, _COLUMNS):
            product = row.product()
            yield from _cycles(row, product)
            yield from _sram(row, product)
            yield from _dram(row, product, folder / "scalesim" / "topologies", memo)


def _cycles(row: Row, product: FoldedProduct) -> Iterator[Check]:
    stall, macs = row.stall_cycles, product.m * product.n * product.k
    return row.checks(
        {
            "cycles": (product.demand_rows, "demand_rows"),
            "total cycles": (product.total_cycles + stall, "total_cycles"),
            "overall utilisation": (
                100 * product.overall_utilisation(macs, stall_cycles=stall),
                "overall_util_pct",
            ),
            "mapping efficiency": (100 * product.mapping_efficiency, "mapping_eff_pct"),
            "compute utilisation": (100 * product.compute_utilisation, "compute_util_pct"),
        }
    )


def _sram(row: Row, product: FoldedProduct) -> Iterator[Check]:
    words = product.sram_words
    return row.checks(
        {
            "SRAM input reads": (words.inputs, "sram_ifmap_reads"),
            "SRAM filter reads": (words.filters, "sram_filter_reads"),
            "SRAM output writes": (words.counted_outputs, "sram_ofmap_writes"),
        }
    )


def _dram(row: Row, product: FoldedProduct, topologies: Path, memo: _Memo) -> Iterator[Check]:
    if row.cells.get("mode") != "CALC" or not row.has(*_DRAM_COLUMNS):
        return
    buffers = (row.whole("sram_ifmap_kb") * 1024, row.whole("sram_filter_kb") * 1024)
    addresses = layer_addresses(topologies, row.cells["topology"], row.cells["layer"])
    if addresses is None:
        return
    key = (buffers, product, addresses.positions.tobytes(), addresses.steps.tobytes())
    if key not in memo:
        memo[key] = dram_reads(product, addresses, input_buffer_bytes=buffers[0], filter_buffer_bytes=buffers[1])
    found = memo[key]
    yield from row.checks(
        {"DRAM input reads": (found[0], "dram_ifmap_reads"), "DRAM filter reads": (found[1], "dram_filter_reads")}
    )


SUITE = Suite(
    name="systolic",
    title="Dense systolic arrays against SCALE-Sim 3.0.0",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
