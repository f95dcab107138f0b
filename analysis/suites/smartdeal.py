"""Suite `smartdeal`: the authors' decomposition of seeded matrices, storage of the form, cycles of the rebuild engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...accel.arrays.smartdeal_operands import rebuild_cycles
from ...traces.formats.coefficients import COEFFICIENT_FORMATS
from ...workloads.array_files import read_npz
from ...workloads.errors import InputError
from ...workloads.smartdeal.basis_weights import BasisWeights
from ...workloads.smartdeal.decomposition import Decomposition, DecompositionOptions, decompose
from ...workloads.smartdeal.slicing import Slicing
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import whole

_FOLDER = "smartdeal"
_COLUMNS = ("id", "m", "n", "scale", "threshold", "decompose_scale", "threshold_row", "nnz_Ce", "zero_rows_Ce",
            "rel_frob_error", "min_exp", "max_exp", "iterations_recorded")  # fmt: skip
#: Filters in the layer whose storage is compared; the bits per weight do not depend on it.
_UNITS = 250
_BITS = 32
_DECIMALS = 12


def checks(folder: Path) -> Iterator[Check]:
    """Every row of the decomposition table, the stored arrays among them, the storage table and the rebuild engine's."""
    path = folder / _FOLDER / "decompose.csv"
    arrays = stored_arrays(folder / _FOLDER / "decompose.npz")
    for row in read_rows(path, _COLUMNS):
        yield from _decomposition(row, arrays, path)
    yield from _storage(_table(folder, "storage.csv"))
    yield from _rebuild(_table(folder, "rebuild.csv"))


def _table(folder: Path, name: str) -> Path:
    """The folder's own table, or the product's copy."""
    table = folder / _FOLDER / name
    return table if table.exists() else Path(__file__).parents[1] / "reference" / _FOLDER / name


def _rebuild(path: Path) -> Iterator[Check]:
    """Cycles of the register-transfer engine on rows of coefficients drawn as its test bench draws them."""
    for row in read_rows(path, ("rows", "density", "seed", "serial_cycles", "parallel_cycles")):
        rows, density = whole(row, "rows", path=path), float(row["density"])
        generator = np.random.default_rng(whole(row, "seed", path=path))
        generator.integers(-128, 128, size=(3, 3))  # the basis
        exponents = generator.integers(1, 8, size=(rows, 3)) * (generator.random((rows, 3)) < density)
        nonzeros = np.count_nonzero(exponents, axis=1)
        for kind in ("serial", "parallel"):
            found = rebuild_cycles(nonzeros, parallel=kind == "parallel")
            expected = whole(row, f"{kind}_cycles", path=path)
            yield Check(f"{rows} rows at {density:g}", "rebuild", f"{kind} cycles", found, expected)


def _decomposition(row: dict[str, str], arrays: dict[str, NDArray[np.float64]], path: Path) -> Iterator[Check]:
    name, m, n = row["id"], whole(row, "m", path=path), whole(row, "n", path=path)
    matrix = arrays.get(f"A_{name}")
    if matrix is None:
        matrix = np.random.default_rng([7, m, n, 1]).normal(0, float(row["scale"]), (m, n))
    options = DecompositionOptions(
        threshold=float(row["threshold"]),
        scale=row["decompose_scale"] == "1",
        row_threshold=row["threshold_row"] == "1",
    )
    done = decompose(matrix[None], options)
    group = "decomposition"
    for quantity, (found, column) in _counts(done).items():
        if row[column]:
            yield Check(name, group, quantity, found, whole(row, column, path=path))
    # Where the fit is exact the error itself is rounding noise: compare what is reached, to twelve decimals.
    reached = round(1 - float(done.error[0]), _DECIMALS)
    yield Check(name, group, "1 - error", reached, round(1 - float(row["rel_frob_error"]), _DECIMALS))
    if f"Ce_{name}" in arrays:
        yield Check(name, group, "coefficients unlike", int((done.coefficients[0] != arrays[f"Ce_{name}"]).sum()), 0)
    if f"B_{name}" in arrays:
        apart = ~np.isclose(done.bases[0], arrays[f"B_{name}"], rtol=1e-9, atol=1e-12)
        yield Check(name, group, "basis elements unlike", int(apart.sum()), 0)


def _counts(done: Decomposition) -> dict[str, tuple[int, str]]:
    coefficients = done.coefficients[0]
    exponents = np.log2(np.abs(coefficients[coefficients != 0]))
    return {
        "non-zeros": (int(np.count_nonzero(coefficients)), "nnz_Ce"),
        "zero rows": (int((coefficients == 0).all(axis=1).sum()), "zero_rows_Ce"),
        "smallest exponent": (int(exponents.min(initial=99)), "min_exp"),
        "largest exponent": (int(exponents.max(initial=-99)), "max_exp"),
        "iterations": (int(done.fits[0]), "iterations_recorded"),
    }


def _storage(path: Path) -> Iterator[Check]:
    """Compression against 32-bit weights, as our calculator counts it, beside the table's two decimals."""
    for row in read_rows(path, ("rows_per_slice",)):
        rows = whole(row, "rows_per_slice", path=path)
        for column, text in row.items():
            if column.startswith("s="):
                ratio = compression(rows, float(column[2:]))
                yield Check(f"storage {rows} {column}", "storage", "compression", ratio, float(text))


def compression(rows: int, zero_rows: float) -> float:
    """32-bit weights over the stored form of ``_UNITS`` filters of ``rows`` x 3, a share ``zero_rows`` of rows zero."""
    slicing = Slicing((_UNITS, rows, 1, 3), _UNITS, 1, rows, 3)
    keep = np.ones(_UNITS * rows, np.uint8)
    keep[: round(zero_rows * keep.size)] = 0
    weights = BasisWeights(
        codes=np.ones((_UNITS, rows, 3), np.int8),
        lowest=0,
        bases=np.ones((1, _UNITS, 3, 3), np.float32),
        keep=keep.reshape(_UNITS, rows),
        levels=1,
        slicing=slicing,
    )
    bits = int(COEFFICIENT_FORMATS["smartdeal_row_direct"].sizes(weights)[0])
    return weights.codes.size * _BITS / bits


def stored_arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    """Matrices of the authors' own runs by name, none where there is no file; InputError unless all are real numbers."""
    arrays = read_npz(path) if path.exists() else {}
    wrong = [
        f"{path}: {name} is {array.dtype}; needed are real numbers"
        for name, array in arrays.items()
        if array.dtype.kind not in "fiu"
    ]
    if wrong:
        raise InputError(wrong)
    return {name: array.astype(np.float64) for name, array in arrays.items()}


SUITE = Suite(
    name="smartdeal",
    title="The authors' decomposition on seeded matrices; storage of the SmartExchange form; rebuild engine",
    checks=checks,
    bars=(
        Bar(groups=("decomposition", "rebuild"), exact=1.0),
        # The table has two decimals of figures from 6.30 up: half a unit of the last is 0.08 %.
        Bar(quantity="compression", max=8e-4),
    ),
)
