"""Suite `sparse-systolic`: N:M runs of SCALE-Sim 3.0.0 (cycles, SRAM words, storage and metadata).

Layer-wise: every filter keeps the first N of every M reduction steps, so the array works on a shorter product. For the
weight-stationary dataflow the tool multiplies its count of input reads by M/N, i.e. it reports them as if dense.
Row-wise: every filter draws its own N up to half a block; all are padded to half a block, whatever they drew. Input reads
and the mapping efficiency follow the draw of the tool's random numbers and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from re import search

from ...accel.arrays.scale_sim import FoldedProduct, check_pattern, layerwise_rows, metadata_words, rowwise_rows
from ...workloads.errors import InputError
from .scale_sim_rows import SHAPE_COLUMNS, Row, rows
from .suite import Bar, Check, Suite

_COLUMNS = (
    *SHAPE_COLUMNS,
    *("sparsity", "config", "demand_rows", "total_cycles", "stall_cycles", "overall_util_pct", "compute_util_pct"),
    *("sram_filter_reads", "sram_ofmap_writes"),
    *("sp_orig_filter_words", "sp_new_storage_words", "sp_metadata_words", "sp_avg_metadata_bw"),
)


def checks(folder: Path) -> Iterator[Check]:
    """Every determined number of every row of both tables."""
    for row in rows(folder / "scalesim" / "sparse_layerwise.csv", (*_COLUMNS, "sram_ifmap_reads", "mapping_eff_pct")):
        kept, group = _pattern(row)
        product = row.product(layerwise_rows(row.whole("K"), kept=kept, group=group))
        yield from _array(row, product)
        yield from _storage(row, product, group)
        # Shortened products read fewer inputs; only where weights stay does the tool scale them back.
        scale = group / kept if row.cells["dataflow"] == "ws" else 1.0
        yield from row.checks(
            {
                "SRAM input reads": (product.sram_words.inputs * scale, "sram_ifmap_reads"),
                "mapping efficiency": (100 * product.mapping_efficiency, "mapping_eff_pct"),
            }
        )
    for row in rows(folder / "scalesim" / "sparse_rowwise.csv", _COLUMNS):
        block = int(_setting(row, r"-b(\d+)", "block size"))
        product = row.product(rowwise_rows(row.whole("K"), block=block))
        yield from _array(row, product)
        yield from _storage(row, product, _pattern(row)[1])


def _array(row: Row, product: FoldedProduct) -> Iterator[Check]:
    stall, dense_macs = row.stall_cycles, product.m * product.n * row.whole("K")
    words = product.sram_words
    return row.checks(
        {
            "cycles": (product.demand_rows, "demand_rows"),
            "total cycles": (product.total_cycles + stall, "total_cycles"),
            "overall utilisation": (
                100 * product.overall_utilisation(dense_macs, stall_cycles=stall),
                "overall_util_pct",
            ),
            "compute utilisation": (100 * product.compute_utilisation, "compute_util_pct"),
            "SRAM filter reads": (words.filters, "sram_filter_reads"),
            "SRAM output writes": (words.counted_outputs, "sram_ofmap_writes"),
        }
    )


def _storage(row: Row, product: FoldedProduct, group: int) -> Iterator[Check]:
    values, k = product.k * product.n, row.whole("K")
    layout = _setting(row, r"_sp-([a-z_]+?)-", "sparse layout")
    metadata = metadata_words(layout, values=values, k=k, n=product.n, group=group)
    cycles = max(1, product.total_cycles + row.stall_cycles)
    return row.checks(
        {
            "dense filter words": (k * product.n, "sp_orig_filter_words"),
            "metadata words": (metadata, "sp_metadata_words"),
            "storage words": (values + metadata, "sp_new_storage_words"),
            "metadata words per cycle": (metadata / cycles, "sp_avg_metadata_bw"),
        }
    )


def _pattern(row: Row) -> tuple[int, int]:
    """N and M of a row's N:M column."""
    text = row.cells["sparsity"]
    kept, _, group = text.partition(":")
    if not (kept.isdigit() and group.isdigit()):
        raise InputError(f"{row.path}: sparsity = '{text}' is not of the form N:M")
    check_pattern(int(kept), int(group))
    return int(kept), int(group)


def _setting(row: Row, pattern: str, what: str) -> str:
    """A setting that the table states only inside the name of the run's configuration."""
    found = search(pattern, row.cells["config"])
    if found is None:
        raise InputError(f"{row.path}: config = '{row.cells['config']}' does not name the {what}")
    return found[1]


SUITE = Suite(
    name="sparse-systolic",
    title="N:M systolic arrays against SCALE-Sim 3.0.0",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
