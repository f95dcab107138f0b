"""What the suites against SCALE-Sim share: a row's product, its topology file, floats summed by the tool."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...accel.arrays.scale_sim import Dataflow, FoldedProduct, InputAddresses, matrix_addresses, window_addresses
from ...workloads.errors import InputError
from ...workloads.text_files import read_rows
from .suite import Check
from .tables import real, whole

DATAFLOWS: dict[str, Dataflow] = {
    "ws": "weight_stationary",
    "os": "output_stationary",
    "is": "input_stationary",
}
SHAPE_COLUMNS = ("M", "N", "K", "array_rows", "array_cols", "dataflow")
#: The tool adds its averages up fold by fold in floating point; equal within this counts as equal.
FLOAT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Row:
    """One reference row under the name and group its checks carry."""

    cells: dict[str, str]
    path: Path
    name: str
    group: str

    def whole(self, column: str) -> int:
        return whole(self.cells, column, path=self.path)

    def number(self, column: str) -> float:
        """A number of the row; InputError names file, column and value otherwise."""
        return real(self.cells, column, path=self.path)

    def has(self, *columns: str) -> bool:
        """Whether the row states all of these columns (a table may lack optional ones)."""
        return all(self.cells.get(column) for column in columns)

    @property
    def stall_cycles(self) -> int:
        """Cycles the tool waited for its memory; 0 where it did not model any."""
        return self.whole("stall_cycles") if self.has("stall_cycles") else 0

    def checks(self, numbers: Mapping[str, tuple[float, str]]) -> Iterator[Check]:
        """Ours against the row's, equal up to the tool's rounding: quantity -> (our number, its column).

        A cell without a number (a mode of the tool that does not report it) is no check.
        """
        for quantity, (found, column) in numbers.items():
            if self.has(column):
                expected = self.number(column)
                same = math.isclose(found, expected, rel_tol=FLOAT_TOLERANCE)
                yield Check(self.name, self.group, quantity, expected if same else found, expected)

    def product(self, k: int | None = None) -> FoldedProduct:
        """The row's product, with ``k`` instead of its own reduction steps where sparsity shortens them."""
        dataflow = self.cells["dataflow"]
        if dataflow not in DATAFLOWS:
            raise InputError(f"{self.path}: dataflow = '{dataflow}'; allowed are {', '.join(DATAFLOWS)}")
        return FoldedProduct(
            m=self.whole("M"),
            n=self.whole("N"),
            k=self.whole("K") if k is None else k,
            rows=self.whole("array_rows"),
            columns=self.whole("array_cols"),
            dataflow=DATAFLOWS[dataflow],
        )


def rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table that the tool finished."""
    for number, cells in enumerate(read_rows(path, columns)):
        if not cells.get("error"):
            group = " ".join(cells[name] for name in ("mode", "dataflow") if cells.get(name))
            yield Row(cells, path, f"{path.stem} {number}", group)


def layer_addresses(topologies: Path, topology: str, layer: str) -> InputAddresses | None:
    """Word addresses of a layer's input operand; None where the folder has no such topology file.

    Convolutions list height, width, filter height and width, channels, filters, stride; GEMMs list M, N, K.
    """
    path = topologies / f"{topology}.csv"
    if not path.exists():
        return None
    shapes = _topology(path)
    if layer not in shapes:
        raise InputError(f"{path}: no layer '{layer}'")
    numbers = shapes[layer]
    if len(numbers) == 3:
        return matrix_addresses(m=numbers[0], k=numbers[2])
    H, W, R, S, C, _, stride = numbers[:7]
    return window_addresses(H=H, W=W, R=R, S=S, C=C, stride=stride)


@cache
def _topology(path: Path) -> dict[str, list[int]]:
    """Layer name -> its numbers, from a topology file (a heading, then comma-separated rows that end in a comma)."""
    shapes = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        name, *cells = (cell.strip() for cell in line.split(","))
        if not name:
            continue
        try:
            shapes[name] = [int(cell) for cell in cells if cell]
        except ValueError:
            raise InputError(f"{path}: layer '{name}' has a cell that is not a whole number") from None
        if len(shapes[name]) not in (3, 7):
            raise InputError(
                f"{path}: layer '{name}' has {len(shapes[name])} numbers, must be 3 (GEMM) or 7 (convolution)"
            )
    return shapes
