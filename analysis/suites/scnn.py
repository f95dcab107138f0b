"""Suite `scnn`: cycles and every count of the SCNN model against isakedo/DNNsim runs on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...accel.arrays.scnn import SCNNArray, SCNNWork, scnn_work
from ...workloads.text_files import read_rows
from .dnnsim_tensors import row_tensors
from .suite import Bar, Check, Suite
from .tables import described, whole

_COLUMNS = (
    "weight_density", "act_density", "Wt", "Ht", "I", "F", "out_acc_size", "banks", "layer", "cycles",
)  # fmt: skip


def reference_array(row: dict[str, str], *, path: Path) -> SCNNArray:
    """The PE grid of one row; operand widths change neither cycles nor counts."""
    return described(
        SCNNArray,
        {
            "kind": "scnn",
            "pes_x": whole(row, "Wt", path=path),
            "pes_y": whole(row, "Ht", path=path),
            "input_lanes": whole(row, "I", path=path),
            "weight_lanes": whole(row, "F", path=path),
            "accumulators": whole(row, "out_acc_size", path=path),
            "banks": whole(row, "banks", path=path),
            "index_bits": 4,
            "weight_bits": 16,
            "activation_bits": 16,
            "accumulator_bits": 24,
        },
        path=path,
    )


def dnnsim_counts(work: SCNNWork, array: SCNNArray) -> dict[str, int]:
    """What that simulator reports of a layer, under its names. Idle slots are multiplier-cycles."""

    def total(name: str) -> int:
        return int(work.count(name).sum())

    halo, products = int(work.halo_cycles.sum()), total("products")
    idle = {
        "idle_bricks": total("weight_fetches") * array.input_lanes * array.weight_lanes - products,
        "idle_conflicts": total("conflict_slots"),
        "idle_pe": total("idle_slots"),
        "idle_halo": halo * array.multipliers,
    }
    return {
        "cycles": total("cycles") + halo,
        "dense_cycles": total("dense_cycles") + halo,
        "mults": products,
        **idle,
        "total_mult_cycles": products + sum(idle.values()),
        "halo_transfers": int(work.halo_sums.sum()),
        "weight_buff_reads": total("weight_words"),
        "act_buff_reads": total("input_words"),
        "accumulator_updates": products,
        "i_loop": total("input_fetches"),
        "f_loop": total("weight_fetches"),
        "offchip_weight_reads": total("broadcast_words"),
    }


def checks(folder: Path) -> Iterator[Check]:
    """Cycles, and whatever else a row gives of what that simulator counts."""
    path = folder / "scnn_pragmatic" / "scnn_cycles.csv"
    for number, row in enumerate(read_rows(path, _COLUMNS)):
        array = reference_array(row, path=path)
        tensors = row_tensors(row, integer=False, path=path)
        keep = (tensors.weights != 0).astype(np.uint8).reshape(tensors.layer.filters, -1)
        work = scnn_work(tensors.layer.view(), tensors.inputs != 0, keep, array, convention="dnnsim")
        for quantity, found in dnnsim_counts(work, array).items():
            if row.get(quantity):
                group = f"{array.pes_x}x{array.pes_y} PEs"
                yield Check(f"row {number}", group, quantity, found, whole(row, quantity, path=path))


SUITE = Suite(
    name="scnn",
    title="SCNN: cycles and counts against DNNsim",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
