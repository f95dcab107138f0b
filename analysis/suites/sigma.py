"""Suite `sigma`: STONNE's SIGMA-like array on random sparse products.

The matrices of a row are drawn again with the generator the tool used (glibc's rand(), seed 1): first M x K, then K x N.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...accel.arrays.sigma_run import sigma_run
from ...workloads.errors import InputError
from ...workloads.text_files import read_rows
from .glibc_random_kernel import random_masks
from .suite import Bar, Check, Suite
from .tables import whole

_SHAPE = ("M", "N", "K", "MK_sparsity_arg", "KN_sparsity_arg")
_ARRAY = {"multipliers": "num_ms", "ports": "dn_bw", "lines": "rn_bw"}
#: Columns compared in every row, and those that only some tables have.
_COUNTS = {"N_multiplications": "multiplications", "N_reconfigurations": "iterations", "cycles": "cycles"}
_MORE_COUNTS = {
    "N_SRAM_weight_reads": "stationary_reads",
    "N_SRAM_input_reads": "streamed_reads",
    "N_SRAM_psum_reads": "psum_reads",
    "N_SRAM_psum_writes": "psum_writes",
    "STA_vectors_at_once_max": "most_vectors",
}


def checks(folder: Path) -> Iterator[Check]:
    """Every count of every row that the tool finished."""
    path = folder / "stonne" / "sigma_sparse_gemm.csv"
    drawn: dict[tuple[int, ...], tuple[NDArray[np.bool_], ...]] = {}
    for number, row in enumerate(read_rows(path, (*_SHAPE, *_ARRAY.values(), *_COUNTS, "dataflow"))):
        if not row["cycles"]:
            continue
        shape = tuple(whole(row, name, path=path) for name in _SHAPE)
        if shape not in drawn:
            m, n, k, *percents = shape
            drawn = {shape: random_masks(((m, k), (k, n)), tuple(percents))}
        stationary, streamed = _operands(row["dataflow"], *drawn[shape], path=path)
        array = {name: whole(row, column, path=path) for name, column in _ARRAY.items()}
        run = sigma_run(stationary, streamed, reorder=row.get("optimize") == "1", **array)
        group = "one port per multiplier" if array["ports"] == array["multipliers"] else "shared ports"
        for column, name in (_COUNTS | _MORE_COUNTS).items():
            if row.get(column):
                expected = whole(row, column, path=path)
                yield Check(f"row {number}", group, name.replace("_", " "), getattr(run, name), expected)


def _operands(
    dataflow: str, left: NDArray[np.bool_], right: NDArray[np.bool_], *, path: Path
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Stationary and streamed operand as (vectors, k)."""
    columns = np.ascontiguousarray(right.T)
    if dataflow == "MK_STA_KN_STR":
        return left, columns
    if dataflow == "MK_STR_KN_STA":
        return columns, left
    raise InputError(f"{path}: dataflow = '{dataflow}'; allowed are MK_STA_KN_STR, MK_STR_KN_STA")


SUITE = Suite(
    name="sigma",
    title="SIGMA-like array against STONNE",
    checks=checks,
    bars=(
        Bar(quantity="multiplications", exact=1.0),
        Bar(quantity="iterations", exact=1.0),
        Bar(quantity="cycles", median=0.02),
    ),
)
