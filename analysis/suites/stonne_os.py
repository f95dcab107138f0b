"""Suite `stonne-os`: STONNE's output-stationary mesh, whose folds at the edges are cheaper than full ones.

Compared: cycles, multiplications, words read and written, folds (the tool's reconfigurations).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...accel.arrays.systolic_cycles import mesh_run
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import whole

_COUNTS = {
    "cycles": "cycles",
    "N_multiplications": "multiplications",
    "N_SRAM_weight_reads": "filter_reads",
    "N_SRAM_input_reads": "input_reads",
    "N_SRAM_psum_writes": "output_writes",
    "N_reconfigurations": "folds",
}
_SHAPE = ("M", "N", "K", "ms_rows", "ms_cols")


def checks(folder: Path) -> Iterator[Check]:
    """Every count of every row that the tool finished."""
    path = folder / "stonne" / "tpu_os_dense_gemm.csv"
    for number, row in enumerate(read_rows(path, (*_SHAPE, *_COUNTS))):
        if not row["cycles"]:
            continue
        m, n, k, rows, columns = (whole(row, name, path=path) for name in _SHAPE)
        run = mesh_run(m=m, n=n, k=k, rows=rows, columns=columns)
        for column, field in _COUNTS.items():
            if row[column]:
                expected = whole(row, column, path=path)
                yield Check(
                    f"row {number}", f"{rows}x{columns}", field.replace("_", " "), getattr(run, field), expected
                )


SUITE = Suite(
    name="stonne-os",
    title="Output-stationary mesh against STONNE",
    checks=checks,
    bars=(Bar(exact=1.0),),
)
