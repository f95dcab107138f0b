"""Benchmark: SCALE-Sim's ResNet-50 (32x32 PEs, weight stationary), every number equal, our CPU time beside its own."""

from __future__ import annotations

import time
from pathlib import Path

from ..accel.arrays.scale_sim import FoldedProduct, InputAddresses, dram_reads
from ..workloads.errors import InputError
from .bench import BenchRow
from .suites.scale_sim_rows import SHAPE_COLUMNS, Row, layer_addresses, rows
from .validate import REFERENCE

#: CPU seconds SCALE-Sim 3.0.0 needed for the whole network (the lower of two measured figures, see reference/scalesim).
SCALE_SIM_CPU_S = 640.0
_COUNTS = (
    "demand_rows",
    "sram_ifmap_reads",
    "sram_filter_reads",
    "sram_ofmap_writes",
    "dram_ifmap_reads",
    "dram_filter_reads",
)
_KIB = 1024


def scale_sim_rows(reference: Path = REFERENCE, *, repeats: int = 3) -> list[BenchRow]:
    """CPU seconds for cycles, SRAM words and DRAM reads of all layers, repeated layers computed again each time.

    Raises
    ------
    InputError
        if the reference tables cannot be read.
    RuntimeError
        if one number differs from SCALE-Sim's.
    """
    folder = reference / "scalesim"
    layers = list(rows(folder / "resnet50_32x32_ws.csv", (*SHAPE_COLUMNS, *_COUNTS, "topology", "layer")))
    addresses = [_addresses(row, folder / "topologies") for row in layers]
    found = [_counts(row, address) for row, address in zip(layers, addresses, strict=True)]  # compiles, too
    expected = [tuple(row.whole(column) for column in _COUNTS) for row in layers]
    if found != expected:
        differ = sum(ours != theirs for ours, theirs in zip(found, expected, strict=True))
        raise RuntimeError(f"{differ} of {len(layers)} layers differ from SCALE-Sim")
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        for row, address in zip(layers, addresses, strict=True):
            _counts(row, address)
        seconds.append(time.process_time() - start)
    ours, cycles = min(seconds), sum(counts[0] - 1 for counts in found)
    return [
        BenchRow(
            f"SCALE-Sim's ResNet-50, 32x32 ws: {len(layers)} layers, {cycles} cycles, all counts equal",
            ours,
            SCALE_SIM_CPU_S,
            ours / SCALE_SIM_CPU_S,
            "CPU s",
        )
    ]


def _addresses(row: Row, topologies: Path) -> InputAddresses:
    addresses = layer_addresses(topologies, row.cells["topology"], row.cells["layer"])
    if addresses is None:
        raise InputError(f"{topologies}: no topology '{row.cells['topology']}'")
    return addresses


def _counts(row: Row, addresses: InputAddresses) -> tuple[int, ...]:
    """The row's counts, in the order of _COUNTS."""
    product: FoldedProduct = row.product()
    words = product.sram_words
    reads = dram_reads(
        product,
        addresses,
        input_buffer_bytes=row.whole("sram_ifmap_kb") * _KIB,
        filter_buffer_bytes=row.whole("sram_filter_kb") * _KIB,
    )
    return product.demand_rows, words.inputs, words.filters, words.counted_outputs, *reads
