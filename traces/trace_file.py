"""One Parquet file per trace: a row per product layer, streamed, readable by pandas, polars and DuckDB.

Schema version 1. Scalar columns: ``name``, ``op``, ``C H W K P Q R S stride padding dilation groups repeat``, the
GEMM view ``b m n k``, ``weight_bits``, ``activation_bits``, ``bias_bytes``, ``relu_in``, ``activation_density``,
``activation_images``. List columns (one entry per level, densest first): ``nonzeros`` and ``bytes_<format>``. Binary
columns: ``keep`` (uint8 per weight, row-major (b*n, k); null for products of two activations), ``tap_nonzeros``
(int64 little-endian; null if assumed) and ``sample`` (int16 little-endian input codes of the shape in
``sample_shape``; null if none). Network-wide facts (levels, source, operators without products) stand as JSON in the
file's metadata under ``nestling``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..workloads.errors import InputError
from ..workloads.layers import CONV_OPS, Gemm, Layer
from .trace import DIMENSIONS, Activations, DataMovement, LayerTrace, Trace

SCHEMA = 1
_SCALARS = ("weight_bits", "activation_bits", "bias_bytes")


def write_trace(path: Path, trace: Trace) -> None:
    """Write ``trace`` layer by layer (one row group each) to a temporary name, then rename.

    Raises
    ------
    InputError
        if the folder cannot be written to.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    formats = sorted(trace.layers[0].storage) if trace.layers else []
    schema = _schema(pa, formats).with_metadata({b"nestling": json.dumps(_header(trace), sort_keys=True).encode()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for layer in trace.layers:
                    writer.write_table(pa.Table.from_pylist([_row(layer)], schema=schema))
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_trace(path: Path) -> Trace:
    """Read a trace file.

    Raises
    ------
    InputError
        if the file is missing, is not Parquet, has another schema, or a layer's numbers contradict each other.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with pq.ParquetFile(path) as file:
            header = _parse_header(path, file.schema_arrow.metadata or {})
            layers = tuple(_layer(path, row, header["levels"]) for row in _rows(file))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: a column is missing or garbled ({error})") from None
    return Trace(
        network=header["network"],
        levels=header["levels"],
        layers=layers,
        data_movement=tuple(DataMovement(**entry) for entry in header["data_movement"]),
        source=header["source"],
        weight_densities=np.array(header["weight_densities"]),
    )


def _schema(pa: Any, formats: list[str]) -> Any:
    fields = [("name", pa.string()), ("op", pa.string())]
    fields += [(name, pa.int64()) for name in (*DIMENSIONS, "b", "m", "n", "k", *_SCALARS)]
    fields += [("relu_in", pa.bool_()), ("activation_density", pa.float64()), ("activation_images", pa.int64())]
    fields += [("nonzeros", pa.list_(pa.int64()))]
    fields += [(f"bytes_{name}", pa.list_(pa.int64())) for name in formats]
    fields += [("keep", pa.large_binary()), ("tap_nonzeros", pa.large_binary())]
    fields += [("sample", pa.large_binary()), ("sample_shape", pa.list_(pa.int64()))]
    return pa.schema(fields)


def _header(trace: Trace) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "network": trace.network,
        "levels": trace.levels,
        "source": trace.source,
        "weight_densities": [float(d) for d in trace.weight_densities],
        "data_movement": [asdict(entry) for entry in trace.data_movement],
    }


def _parse_header(path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        header = json.loads(metadata[b"nestling"])
    except (KeyError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise InputError(f"{path}: Parquet without a 'nestling' header: not a trace") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise InputError(f"{path}: trace schema is not {SCHEMA}, the one this version reads")
    if not isinstance(header.get("levels"), int) or not 1 <= header["levels"] <= 255:
        raise InputError(f"{path}: levels = {header.get('levels')!r}; allowed are 1 to 255")
    return header


def _row(trace: LayerTrace) -> dict[str, Any]:
    layer, gemm, taps = trace.layer, trace.layer.gemm, trace.activations.tap_nonzeros
    assert gemm is not None
    row: dict[str, Any] = {"name": layer.name, "op": layer.op, "relu_in": layer.relu_in}
    row |= {name: getattr(layer, name) for name in DIMENSIONS}
    row |= asdict(gemm) | {name: getattr(trace, name) for name in _SCALARS}
    row |= {"activation_density": trace.activations.density, "activation_images": trace.activations.images}
    row |= {"nonzeros": trace.nonzeros.tolist()}
    row |= {f"bytes_{name}": size.tolist() for name, size in trace.storage.items()}
    row["keep"] = None if trace.keep is None else np.ascontiguousarray(trace.keep).tobytes()
    row["tap_nonzeros"] = None if taps is None else taps.astype("<i8").tobytes()
    sample = trace.activations.sample
    row["sample"] = None if sample is None else sample.astype("<i2").tobytes()
    row["sample_shape"] = None if sample is None else list(sample.shape)
    return row


def _rows(file: Any) -> Iterator[dict[str, Any]]:
    for group in range(file.num_row_groups):
        yield from file.read_row_group(group).to_pylist()


def _layer(path: Path, row: dict[str, Any], levels: int) -> LayerTrace:
    gemm = Gemm(*(int(row[axis]) for axis in "bmnk"))
    dimensions: dict[str, Any] = {name: int(row[name]) for name in DIMENSIONS}
    layer = Layer(
        name=row["name"],
        op=row["op"],
        **dimensions,
        gemm=None if row["op"] in CONV_OPS else gemm,
        relu_in=bool(row["relu_in"]),
    )
    if layer.gemm != gemm:
        raise InputError(f"{path}: layer '{layer.name}': GEMM view {gemm} does not follow from the dimensions")
    keep = None
    if row["keep"] is not None:
        shape = (gemm.b * gemm.n, gemm.k)
        if len(row["keep"]) != shape[0] * shape[1]:
            raise InputError(f"{path}: layer '{layer.name}': keep map has {len(row['keep'])} entries, needs {shape}")
        keep = np.frombuffer(row["keep"], dtype=np.uint8).reshape(shape)
    taps = None if row["tap_nonzeros"] is None else np.frombuffer(row["tap_nonzeros"], dtype="<i8").astype(np.int64)
    sample = None
    if row["sample"] is not None:
        sample = np.frombuffer(row["sample"], dtype="<i2").astype(np.int16).reshape(row["sample_shape"])
    nonzeros = np.array(row["nonzeros"], dtype=np.int64)
    if keep is not None and nonzeros.tolist() != [int((keep > level).sum()) for level in range(levels)]:
        raise InputError(f"{path}: layer '{layer.name}': non-zeros do not match the keep map")
    return LayerTrace(
        layer=layer,
        levels=levels,
        keep=keep,
        nonzeros=nonzeros,
        storage={
            name.removeprefix("bytes_"): np.array(size, dtype=np.int64)
            for name, size in row.items()
            if name.startswith("bytes_")
        },
        activations=Activations(float(row["activation_density"]), int(row["activation_images"]), taps, sample),
        **{name: int(row[name]) for name in _SCALARS},
    )
