"""What a row of a trace file holds, and what a file may claim: columns, header, conversion from and to layers.

Schema version 2, one row (and row group) per product layer in execution order.

* Scalar columns: ``name``, ``op``, ``C H W K P Q R S stride padding dilation groups repeat``, the GEMM view ``gemm_b gemm_m
  gemm_n gemm_k``, ``weight_bits``, ``activation_bits``, ``bias_bytes``, ``relu_in``, ``activation_density``,
  ``activation_images``, ``measured``, ``keep_bits``.
* List columns, one entry per level, densest first: ``nonzeros`` and ``bytes_<format>``.
* Binary columns: ``keep`` (``keep_bits`` bits per weight, row-major (gemm_b * gemm_n, gemm_k), layout as in
  :mod:`packed_keep`; null for products of two activations), ``tap_nonzeros`` (int64 little-endian; null if assumed) and
  ``sample`` (int16 little-endian input codes of the shape in ``sample_shape``; null if none).

Network-wide facts (levels, source, operators without products) stand as JSON in the file's metadata under ``nestling``.
Version 1 (one byte per weight, columns b m n k) was never released and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError
from ..workloads.layers import CONV_OPS, Gemm, Layer
from ..workloads.nesting import MAX_LEVELS
from .packed_keep import keep_bits, pack_keep, packed_bytes, unpack_keep
from .trace import DIMENSIONS, Activations, DataMovement, LayerFacts, LayerTrace, Trace

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 2
#: Columns whose cells grow with the layer; all others are small.
LARGE_COLUMNS = ("keep", "tap_nonzeros", "sample")
#: One layer's keep map is held in memory: a GiB. The largest layer of a 7-billion-parameter decoder is an eighth of it.
MAX_LAYER_WEIGHTS = 1 << 30
#: Beyond these a file is mistaken or hostile: output positions of a product, elements of an operand or output.
MAX_POSITIONS, MAX_ELEMENTS = 1 << 26, 1 << 34
#: The prefix tells ``k`` from ``K`` where column names have no case (SQL).
_GEMM = {f"gemm_{axis}": axis for axis in "bmnk"}
_WIDTHS = ("weight_bits", "activation_bits", "bias_bytes")
_BYTES = "bytes_"


def arrow_schema(formats: Sequence[str]) -> pa.Schema:
    """The columns of a trace that knows these storage formats, in the file's order."""
    import pyarrow as pa

    fields = [("name", pa.string()), ("op", pa.string())]
    fields += [(name, pa.int64()) for name in (*DIMENSIONS, *_GEMM, *_WIDTHS)]
    fields += [("relu_in", pa.bool_()), ("activation_density", pa.float64()), ("activation_images", pa.int64())]
    fields += [("measured", pa.bool_()), ("nonzeros", pa.list_(pa.int64()))]
    fields += [(_BYTES + name, pa.list_(pa.int64())) for name in formats]
    fields += [("keep_bits", pa.int64()), ("keep", pa.large_binary()), ("tap_nonzeros", pa.large_binary())]
    fields += [("sample", pa.large_binary()), ("sample_shape", pa.list_(pa.int64()))]
    return pa.schema(fields)


def formats_of(columns: Sequence[str]) -> list[str]:
    """The storage formats that a file with these columns knows."""
    return [name.removeprefix(_BYTES) for name in columns if name.startswith(_BYTES)]


def header_text(trace: Trace) -> bytes:
    """The network-wide facts of ``trace`` as JSON; its layers do not matter."""
    facts = {
        "schema": SCHEMA,
        "network": trace.network,
        "levels": trace.levels,
        "source": trace.source,
        "notes": list(trace.notes),
        "weight_densities": [float(d) for d in trace.weight_densities],
        "data_movement": [asdict(entry) for entry in trace.data_movement],
    }
    return json.dumps(facts, sort_keys=True).encode()


def parse_header(text: bytes) -> dict[str, Any]:
    """Keyword arguments of :class:`Trace` but the layers; ``InputError`` for anything else than a header."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("Parquet without a readable 'nestling' header: not a trace") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, dict) else None
        raise InputError(f"trace schema {found!r}, this version reads {SCHEMA}; write it again with `nestling lower`")
    levels, densities = header.get("levels"), header.get("weight_densities")
    if type(levels) is not int or not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"levels = {levels!r}; allowed are 1 to {MAX_LEVELS}")
    if not isinstance(densities, list) or len(densities) != levels or not all(map(_is_fraction, densities)):
        raise InputError(f"weight_densities must be {levels} numbers of 0 to 1")
    if not isinstance(header.get("network"), str) or not isinstance(header.get("source"), str):
        raise InputError("network and source must be texts")
    notes = header.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(text, str) for text in notes):
        raise InputError("notes must be a list of texts")
    return {
        "network": header["network"],
        "levels": levels,
        "source": header["source"],
        "notes": tuple(notes),
        "weight_densities": np.array(densities, dtype=np.float64),
        "data_movement": tuple(_movements(header.get("data_movement"))),
    }


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _movements(entries: object) -> list[DataMovement]:
    found = []
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or set(entry) != {"name", "op", "bytes"}:
            raise InputError("data_movement must be a list of objects with name, op and bytes")
        if not (isinstance(entry["name"], str) and isinstance(entry["op"], str) and type(entry["bytes"]) is int):
            raise InputError("data_movement: name and op must be texts, bytes a whole number")
        found.append(DataMovement(**entry))
    return found


def row_of(trace: LayerTrace) -> dict[str, Any]:
    """One row: column -> value.

    Raises
    ------
    InputError
        for a layer of more weights than a file may hold, or one in SmartDeal form.
    """
    layer, activations = trace.layer, trace.activations
    if trace.coefficients is not None:
        raise InputError(f"layer '{layer.name}' is in SmartDeal form; trace files hold plain weights only")
    if trace.weights > MAX_LAYER_WEIGHTS:
        raise InputError(
            f"layer '{layer.name}' has {trace.weights:,} weights; a trace file holds up to {MAX_LAYER_WEIGHTS:,} per layer"
        )
    assert layer.gemm is not None
    bits = keep_bits(trace.levels)
    row: dict[str, Any] = {"name": layer.name, "op": layer.op, "relu_in": layer.relu_in, "keep_bits": bits}
    row |= {name: getattr(layer, name) for name in DIMENSIONS}
    row |= {name: getattr(layer.gemm, axis) for name, axis in _GEMM.items()}
    row |= {name: getattr(trace, name) for name in _WIDTHS}
    row |= {"activation_density": activations.density, "activation_images": activations.images}
    row |= {"measured": trace.measured, "nonzeros": trace.nonzeros.tolist()}
    row |= {_BYTES + name: size.tolist() for name, size in trace.storage.items()}
    row["keep"] = None if trace.keep is None else pack_keep(trace.keep, bits).tobytes()
    taps, sample = activations.tap_nonzeros, activations.sample
    row["tap_nonzeros"] = None if taps is None else taps.astype("<i8").tobytes()
    row["sample"] = None if sample is None else sample.astype("<i2").tobytes()
    row["sample_shape"] = None if sample is None else list(sample.shape)
    return row


def facts_of(row: Mapping[str, Any], levels: int) -> LayerFacts:
    """The facts of a row without its large columns.

    Raises
    ------
    InputError
        for dimensions that contradict each other or exceed what is simulated, and counts that do not fit the layer.
    """
    layer = _layer_of(row)
    facts = LayerFacts(
        layer=layer,
        levels=levels,
        nonzeros=_per_level(row["nonzeros"]),
        storage={name: _per_level(row[_BYTES + name]) for name in formats_of(tuple(row))},
        measured=bool(row["measured"]),
        **{name: int(row[name]) for name in _WIDTHS},
    )
    if int(facts.nonzeros[0]) > facts.weights or int(facts.nonzeros[-1]) < 0:
        raise InputError(f"layer '{layer.name}': {facts.nonzeros.tolist()} non-zeros of {facts.weights} weights")
    if not 1 <= facts.weight_bits <= 32 or facts.bias_bytes < 0 or row["keep_bits"] != keep_bits(levels):
        raise InputError(f"layer '{layer.name}': weight_bits, bias_bytes or keep_bits outside what is allowed")
    return facts


def _layer_of(row: Mapping[str, Any]) -> Layer:
    gemm = Gemm(**{axis: int(row[name]) for name, axis in _GEMM.items()})
    dimensions: dict[str, Any] = {name: int(row[name]) for name in DIMENSIONS}
    if not isinstance(row["name"], str) or not isinstance(row["op"], str):
        raise InputError("a layer has no name or no operator")
    layer = Layer(
        name=row["name"],
        op=row["op"],
        **dimensions,
        gemm=None if row["op"] in CONV_OPS else gemm,
        relu_in=bool(row["relu_in"]),
    )
    if layer.gemm != gemm:
        raise InputError(f"layer '{layer.name}': GEMM view {gemm} does not follow from the dimensions")
    limits = {
        "weights": (gemm.b * gemm.n * gemm.k, MAX_LAYER_WEIGHTS),
        "output positions": (gemm.m, MAX_POSITIONS),
        "input elements": (max(layer.input_size, layer.C * layer.H * layer.W), MAX_ELEMENTS),
        "output elements": (layer.output_size, MAX_ELEMENTS),
        "repeats": (layer.repeat, MAX_POSITIONS),
    }
    for what, (found, most) in limits.items():
        if found > most:
            raise InputError(f"layer '{layer.name}': {found:,} {what}; at most {most:,} are simulated")
    return layer


def _per_level(values: object) -> NDArray[np.int64]:
    return np.array([] if values is None else values, dtype=np.int64)


def layer_of(facts: LayerFacts, row: Mapping[str, Any]) -> LayerTrace:
    """The layer of these facts with the masks of its row's large columns.

    Raises
    ------
    InputError
        for masks of another size, or that do not retain what the facts say.
    """
    name, sample = facts.layer.name, None
    keep = None if row["keep"] is None else _keep_of(facts, np.frombuffer(row["keep"], dtype=np.uint8))
    if (keep is None) == facts.layer.has_weights:
        raise InputError(
            f"layer '{name}': a {facts.layer.op} layer {'with' if keep is not None else 'without'} a keep map"
        )
    taps = None if row["tap_nonzeros"] is None else np.frombuffer(row["tap_nonzeros"], dtype="<i8").astype(np.int64)
    if row["sample"] is not None:
        sample = np.frombuffer(row["sample"], dtype="<i2").astype(np.int16).reshape(row["sample_shape"])
    if facts.measured != (taps is not None):
        raise InputError(f"layer '{name}': measured and captured activations contradict each other")
    return LayerTrace(
        **{entry: getattr(facts, entry) for entry in LayerFacts.__dataclass_fields__},
        keep=keep,
        activations=Activations(float(row["activation_density"]), int(row["activation_images"]), taps, sample),
    )


def _keep_of(facts: LayerFacts, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gemm, name, bits = facts.layer.gemm, facts.layer.name, keep_bits(facts.levels)
    assert gemm is not None
    if data.size != packed_bytes(facts.weights, bits):
        needed = packed_bytes(facts.weights, bits)
        raise InputError(f"layer '{name}': keep map has {data.size} bytes, {facts.weights} weights need {needed}")
    keep = unpack_keep(data, bits, facts.weights)
    if int(keep.max(initial=0)) > facts.levels:
        raise InputError(f"layer '{name}': keep reaches {int(keep.max())}, but there are {facts.levels} levels")
    if facts.nonzeros.tolist() != [np.count_nonzero(keep > level) for level in range(facts.levels)]:
        raise InputError(f"layer '{name}': non-zeros do not match the keep map")
    return keep.reshape(gemm.b * gemm.n, gemm.k)
