"""Lower a network to a trace file layer by layer: never more than a few layers in memory, and an interrupted run goes on.

A Parquet file cannot be continued, so each finished layer becomes a file of its own in ``FILE.parts`` (written under another
name, then renamed). They are joined in execution order as they come, which a run that goes on repeats from the first part;
at the end the joined file takes its name and the folder is removed. Whether a layer was lowered by this run or an earlier
one leaves no trace in the file: same inputs, same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ..workloads.errors import InputError
from .lowering import Lowering
from .parallel import in_order
from .trace_file import layer_table, write_tables
from .trace_schema import SCHEMA, arrow_schema, header_text

if TYPE_CHECKING:
    import pyarrow as pa

_INPUTS = "inputs.sha256"


def lower_to_file(
    path: Path, lowering: Lowering, *, workers: int = 1, progress: Callable[[str], None] | None = None
) -> int:  # fmt: skip
    """Lower every product layer of a network into the trace file ``path``; the bytes are those of ``write_trace``.

    Parameters
    ----------
    workers : layers lowered at once; each holds its masks, a byte per weight, a few times over.
    progress : called with each layer's name once it is finished, or found finished.

    Returns
    -------
    The number of layers that an interrupted run had finished before.

    Raises
    ------
    InputError
        if ``path`` cannot be written, or ``path.parts`` holds an unfinished run of other inputs.
    """
    parts = path.with_name(path.name + ".parts")
    schema = arrow_schema(sorted(lowering.formats) if lowering.products else [])
    try:
        _claim(parts, f"{lowering.digest()} schema {SCHEMA} nestling {version('nestling')}\n", path)
        job = _Job(lowering, parts, schema)
        joined = parts / "joined.parquet"
        tables = job.tables(workers=workers, progress=progress)
        write_tables(joined, tables, schema, header=header_text(lowering.trace(())))
        joined.replace(path)
        shutil.rmtree(parts)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    return job.found


def _claim(parts: Path, inputs: str, path: Path) -> None:
    """Make the folder, or make sure that it belongs to the same inputs."""
    parts.mkdir(parents=True, exist_ok=True)
    stamp = parts / _INPUTS
    if not stamp.exists() or not stamp.stat().st_size:  # empty: interrupted between its creation and its first byte
        if any(file != stamp for file in parts.iterdir()):
            raise InputError(f"{parts}: holds files that are no unfinished trace; remove the folder")
        stamp.write_text(inputs, encoding="ascii")
    elif stamp.read_bytes() != inputs.encode():
        raise InputError(
            f"{parts}: holds an unfinished trace of other inputs (network, parameters, levels, seed, bits or version); "
            f"remove the folder, or write to another file than {path.name}"
        )


class _Job:
    """The parts of one trace file."""

    def __init__(self, lowering: Lowering, parts: Path, schema: pa.Schema) -> None:
        self._lowering, self._parts, self._schema = lowering, parts, schema
        self.found = 0

    def tables(self, *, workers: int, progress: Callable[[str], None] | None) -> Iterator[pa.Table]:
        """Every part in execution order, lowered if it is not there yet. Counts those that are in ``found``."""
        import pyarrow.parquet as pq

        products = self._lowering.products
        finished = in_order(self._finish, range(len(products)), workers=workers)
        for number, was_there in enumerate(finished):
            self.found += was_there
            if progress is not None:
                progress(products[number].name)
            # Read back, not handed over: layers that wait to be joined would pile up in memory.
            yield pq.read_table(self._part(number), schema=self._schema, use_threads=False)

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:06d}.parquet"

    def _finish(self, number: int) -> bool:
        """Lower a layer into its part; True if the part was there already."""
        part = self._part(number)
        if _is_whole(part):
            return True
        layer = self._lowering.layer(self._lowering.products[number])
        draft = part.with_suffix(f".{os.getpid()}")
        write_tables(draft, [layer_table(layer, self._schema)], self._schema, header=b"", compress=False)
        draft.replace(part)
        return False


def _is_whole(part: Path) -> bool:
    """True for a part that was written to its end: the directory at the end of the file is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return part.exists() and pq.read_metadata(part).num_rows == 1
    except (pa.ArrowException, OSError):
        return False
