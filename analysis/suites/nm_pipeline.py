"""Suite `nm-pipeline`: the tile pipeline against cycle-exact RTL runs of the N:M array (total cycles, every load time)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...accel.arrays.nm_lanes import NMLanesArray, lane_geometry
from ...accel.loopnest import ceil_div
from ...accel.tiles import ArrayTiming, TileTable
from ...sim.pipeline import DramTiming, run_recurrence
from ...workloads.errors import InputError
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import described, whole

_COLUMNS = ("R", "C", "L", "bus", "systolic", "kind", "G", "N", "T", "B", "ii", "ci", "cycles", "load")
_GROUP = 4  # M of the RTL runs
_NO_DRAM = DramTiming(cycles_num=1, cycles_den=1, latency=0)  # no bytes, no cycles


def rtl_array(row: dict[str, str], *, path: Path) -> NMLanesArray:
    """The array of one reference row: 8-bit multipliers (``mul``) or 4-bit power-of-two shifters (``shift``)."""
    values = {
        "kind": "nm_lanes",
        "rows": whole(row, "R", path=path),
        "columns": whole(row, "C", path=path),
        "lanes": whole(row, "L", path=path),
        "group": _GROUP,
        "groups_per_tile": whole(row, "G", path=path),
        "bus_bits": whole(row, "bus", path=path),
        "weight_bits": 8 if row["kind"] == "mul" else 4,
        "activation_bits": 8,
        "accumulator_bits": 24,
        "operand_feed": "systolic" if row["systolic"] == "True" else "broadcast",
        "step_interval": whole(row, "ci", path=path),
        "step_control": "layer",
    }
    return described(NMLanesArray, values, path=path)


def rtl_tiles(array: NMLanesArray, *, kept: int, k_tiles: int, blocks: int) -> TileTable:
    """``blocks`` output blocks of ``k_tiles`` tiles each, every group holding ``kept`` non-zeros; no DRAM traffic."""
    geometry, tiles = lane_geometry(array), k_tiles * blocks
    steps = ceil_div(kept, array.lanes)
    beats = array.groups_per_tile * (steps * geometry.weight_beats + geometry.activation_beats)
    closes = np.arange(1, tiles + 1) % k_tiles == 0
    none = np.zeros(tiles, dtype=np.int64)
    return TileTable(
        weight_bytes=none,
        input_bytes=none,
        weight_address=none,
        input_address=none,
        store_bytes=none,
        store_address=none,
        load_beats=np.full(tiles, beats, dtype=np.int64),
        steps=np.full(tiles, array.groups_per_tile * steps, dtype=np.int64),
        drain_words=np.where(closes, ceil_div(array.rows * array.columns, array.drain_width), 0).astype(np.int64),
        after=none - 1,
    )


def checks(folder: Path) -> Iterator[Check]:
    """Total cycles and the cycle at which each tile's load ends, for every row."""
    path = folder / "rtl" / "nm_pipeline_cycles.csv"
    for number, row in enumerate(read_rows(path, _COLUMNS)):
        array = rtl_array(row, path=path)
        loads = _loads(row, path=path)
        tiles = rtl_tiles(
            array,
            kept=whole(row, "N", path=path),
            k_tiles=whole(row, "T", path=path),
            blocks=whole(row, "B", path=path),
        )
        timing = ArrayTiming(
            beat_interval=whole(row, "ii", path=path),
            step_interval=array.step_interval,
            latency=lane_geometry(array).latency,
        )
        events = run_recurrence(tiles, timing, _NO_DRAM)
        group = f"{array.operand_feed}, {row['kind']}"
        yield Check(f"row {number}", group, "cycles", int(events.drained.max()), whole(row, "cycles", path=path))
        for found, expected in zip(events.loaded, loads, strict=True):
            yield Check(f"row {number}", group, "load time", int(found), expected)


def _loads(row: dict[str, str], *, path: Path) -> list[int]:
    """The cycle at which each tile's load ends: as many as the row has tiles, at least one."""
    words, tiles = (row["load"] or "").split(), whole(row, "T", path=path) * whole(row, "B", path=path)
    if not words or len(words) != tiles or not all(word.isdecimal() for word in words):
        raise InputError(f"{path}: load = '{row['load']}' is not the {tiles} load times of a row with T x B tiles")
    return [int(word) for word in words]


SUITE = Suite(
    name="nm-pipeline",
    title="N:M array tile pipeline against RTL (Amaranth)",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
