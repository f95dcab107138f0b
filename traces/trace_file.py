"""One Parquet file per trace: a row per product layer, written and read one at a time (columns: :mod:`trace_schema`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..workloads.errors import InputError
from .parquet_guard import check_claims, metadata_of, read_directory
from .trace import LayerFacts, LayerSource, LayerTrace, Trace
from .trace_schema import (
    LARGE_COLUMNS,
    arrow_schema,
    facts_of,
    formats_of,
    header_text,
    layer_of,
    parse_header,
    row_of,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Bytes of a name and entries of a list in a file's directory; more is refused before it is allocated.
_THRIFT_LIMITS = {"thrift_string_size_limit": 64 << 20, "thrift_container_size_limit": 1 << 20}


def write_trace(path: Path, trace: Trace) -> None:
    """Write ``trace`` layer by layer (one row group each) to a temporary name, then rename.

    Raises
    ------
    InputError
        if the folder cannot be written to, or a layer is too large for a file.
    """
    formats = sorted(trace.facts[0].storage) if trace.facts else []
    schema = arrow_schema(formats)
    rows = (layer_table(layer, schema) for layer in trace.layers)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            write_tables(temporary, rows, schema, header=header_text(trace))
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def layer_table(layer: LayerTrace, schema: pa.Schema) -> pa.Table:
    """One layer as a table of one row."""
    import pyarrow as pa

    return pa.Table.from_pylist([row_of(layer)], schema=schema)


def write_tables(
    path: Path, tables: Iterable[pa.Table], schema: pa.Schema, *, header: bytes, compress: bool = True
) -> None:
    """Write one row group per table; the bytes of the file depend on tables, header and ``compress`` only."""
    import pyarrow.parquet as pq

    # Masks are a few symbols: zstd's entropy coder at its fastest level is all they need. The reader relies on one data page
    # per cell (no dictionaries) and on checksums.
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1} if compress else {"compression": "none"}
    options |= {
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
        "data_page_version": "1.0",
    }
    with pq.ParquetWriter(path, schema.with_metadata({b"nestling": header}), **options) as writer:
        for table in tables:
            writer.write_table(table)


def read_trace(path: Path) -> Trace:
    """Open a trace file; a layer's masks are read, and checked against its counts, when the layer is asked for.

    Raises
    ------
    InputError
        if the file is missing, is not Parquet, has another schema, claims sizes that it cannot hold, or a layer's numbers
        contradict each other. Asking for a layer raises it where the masks are garbled.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with _readable(path):
        layers, header = _open(path)
        return Trace(layers=layers, **header)


class StoredLayers(LayerSource):
    """The layers of a trace file. Each access reads one row group and leaves nothing behind."""

    def __init__(self, path: Path, metadata: pq.FileMetaData, facts: Sequence[LayerFacts]) -> None:
        self.facts = facts
        self._path, self._metadata, self._stamp = path, metadata, _stamp(path)

    def __len__(self) -> int:
        return len(self.facts)

    @overload
    def __getitem__(self, index: int) -> LayerTrace: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerTrace]: ...

    def __getitem__(self, index: int | slice) -> LayerTrace | Sequence[LayerTrace]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        number = range(len(self))[index]
        with _readable(self._path):
            if _stamp(self._path) != self._stamp:
                raise InputError("the file changed while it was being read")
            return layer_of(self.facts[number], self._row(number))

    def _row(self, number: int) -> dict[str, Any]:
        import pyarrow.parquet as pq

        columns = [*LARGE_COLUMNS, "sample_shape", "activation_density", "activation_images"]
        with pq.ParquetFile(self._path, metadata=self._metadata, page_checksum_verification=True) as file:
            table = file.read_row_group(number, columns=columns, use_threads=False)
        row = {name: table.column(name)[0] for name in columns}
        # A mask stays where Arrow put it: a Python copy would double what a large layer takes.
        return {name: x.as_buffer() if name in LARGE_COLUMNS else x.as_py() for name, x in row.items()}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever Arrow or a garbled column raises becomes one InputError that names the file."""
    import pyarrow as pa

    try:
        yield
    except InputError as error:
        raise InputError([f"{path}: {problem}" for problem in error.problems]) from None
    except (pa.ArrowException, OSError) as error:
        text = next(iter(str(error).splitlines()), "no reason given")
        raise InputError(f"{path}: not a readable Parquet file ({text})") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: a column is missing or garbled ({error})") from None


def _open(path: Path) -> tuple[StoredLayers, dict[str, Any]]:
    import pyarrow.parquet as pq

    directory = read_directory(path)
    header = parse_header(metadata_of(directory).get(b"nestling", b""))
    check_claims(path, directory, LARGE_COLUMNS)
    with pq.ParquetFile(path, page_checksum_verification=True, **_THRIFT_LIMITS) as file:
        schema = file.schema_arrow
        formats = formats_of(schema.names)
        if not schema.remove_metadata().equals(arrow_schema(formats)):
            raise InputError("columns are not those of a trace of this version")
        small = [name for name in schema.names if name not in LARGE_COLUMNS]
        rows = file.read(columns=small, use_threads=False).to_pylist() if file.metadata.num_rows else []
        facts = tuple(facts_of(row, header["levels"]) for row in rows)
        return StoredLayers(path, file.metadata, facts), header


def _stamp(path: Path) -> tuple[int, int, int]:
    """Tells one content of a path from another."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
