"""Suite `pragmatic`: compute cycles of DaDianNao and Bit-Pragmatic against isakedo/DNNsim runs on the same tensors.

``compute_cycles`` leaves out memory; the ``cycles`` of the same rows add that simulator's buffers and DDR4 and are not
compared. Its first spatial axis is the inner one, so maps are transposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...accel.arrays.diannao import DianNaoArray, dense_cycles
from ...accel.arrays.operands import ConvView
from ...accel.arrays.pragmatic import PragmaticArray, pe_slots, pragmatic_work
from ...workloads.errors import unknown_name
from ...workloads.text_files import read_rows
from .dnnsim_tensors import Tensors, row_tensors
from .suite import Bar, Check, Suite
from .tables import described, whole

_COLUMNS = (
    "weight_density", "act_density", "bits", "architecture", "lanes", "columns", "rows", "tiles", "bits_first_stage",
    "column_registers", "booth", "layer", "compute_cycles",
)  # fmt: skip
_ARCHITECTURES = ("BitPragmatic", "DaDianNao")


def pragmatic_array(row: dict[str, str], *, path: Path) -> PragmaticArray:
    """The term-serial array of one row; DaDianNao rows leave the serial parameters empty."""
    serial = row["architecture"] == "BitPragmatic"
    return described(
        PragmaticArray,
        {
            "kind": "pragmatic",
            "tiles": whole(row, "tiles", path=path),
            "rows": whole(row, "rows", path=path),
            "columns": whole(row, "columns", path=path),
            "lanes": whole(row, "lanes", path=path),
            "first_stage_bits": whole(row, "bits_first_stage", path=path) if serial else 0,
            "column_registers": whole(row, "column_registers", path=path) if serial else 0,
            "encoding": "booth_runs" if whole(row, "booth", path=path) else "binary",
            "weight_bits": whole(row, "bits", path=path),
            "activation_bits": whole(row, "bits", path=path),
            "accumulator_bits": 24,
        },
        path=path,
    )


def dadiannao_array(array: PragmaticArray) -> DianNaoArray:
    """The dense array that has the same filters and lanes."""
    return DianNaoArray(
        kind="diannao",
        tiles=array.tiles,
        outputs=array.rows,
        inputs=array.lanes,
        weight_bits=array.weight_bits,
        activation_bits=array.activation_bits,
        accumulator_bits=array.accumulator_bits,
    )


def _compute_cycles(row: dict[str, str], array: PragmaticArray, *, tensors: Tensors, view: ConvView) -> int:
    if row["architecture"] == "DaDianNao":
        return dense_cycles(view, dadiannao_array(array))
    return pragmatic_work(view, tensors.inputs.transpose(0, 2, 1).astype(np.int32), array).cycles


def _group(row: dict[str, str], array: PragmaticArray) -> str:
    parts = [row["architecture"]]
    parts += ["Booth"] if array.encoding != "binary" else []
    parts += ["run-ahead"] if array.column_registers else []
    return ", ".join(parts)


def checks(folder: Path) -> Iterator[Check]:
    """Compute cycles, and PE slots with and without work where a row gives them."""
    path = folder / "scnn_pragmatic" / "pragmatic_cycles.csv"
    for number, row in enumerate(read_rows(path, _COLUMNS)):
        if row["architecture"] not in _ARCHITECTURES:
            raise unknown_name(f"architecture in {path}:", row["architecture"], _ARCHITECTURES)
        array = pragmatic_array(row, path=path)
        tensors = row_tensors(row, integer=True, path=path)
        view = tensors.layer.view()
        view = replace(view, height=view.width, width=view.height)
        scheduled, idle = pe_slots(view, array)
        counts = {
            "compute_cycles": _compute_cycles(row, array, tensors=tensors, view=view),
            "scheduled_PEs": scheduled,
            "idle_PEs": idle,
        }
        for quantity, found in counts.items():
            if row.get(quantity):
                yield Check(f"row {number}", _group(row, array), quantity, found, whole(row, quantity, path=path))


SUITE = Suite(
    name="pragmatic",
    title="DaDianNao and Bit-Pragmatic: compute cycles against DNNsim",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
