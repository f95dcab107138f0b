"""Layers as JSON objects: the fields that differ from their defaults, checked field by field on reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from .errors import InputError
from .layers import CONV_OPS, Gemm, Layer

_LAYER_FIELDS = tuple(f.name for f in fields(Layer))
_TUPLE_FIELDS = {"sources"}
#: Counts are 64-bit integers everywhere behind this border.
_MAX_COUNT = 1 << 62
_FIELD_TYPES = {f.name: {"int": int, "str": str, "bool": bool}.get(str(f.type), list) for f in fields(Layer)}


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """The layer's fields that differ from their defaults; the GEMM view only where the sizes do not give it."""
    entry: dict[str, Any] = {}
    for field in fields(Layer):
        value = getattr(layer, field.name)
        if field.name == "gemm":
            value = None if value is None or layer.op in CONV_OPS else [value.b, value.m, value.n, value.k]
        if value != field.default and value is not None:
            entry[field.name] = list(value) if field.name in _TUPLE_FIELDS else value
    return entry


def layer_from_json(entry: object) -> Layer:
    """The layer of an object written by :func:`layer_to_json`.

    Raises
    ------
    InputError
        for anything but an object, an unknown field, a field of another type, or a layer that does not exist.
    """
    if not isinstance(entry, dict):
        raise InputError(f"a layer is {entry!r}, must be an object")
    unknown = set(entry) - set(_LAYER_FIELDS)
    if unknown:
        raise InputError(f"layer '{entry.get('name')}' has unknown fields {sorted(unknown)}")
    if missing := sorted({"name", "op"} - set(entry)):
        raise InputError(f"layer '{entry.get('name')}' lacks or garbles {' and '.join(missing)}")
    if not str(entry["name"]).isprintable():
        raise InputError(f"layer {entry['name']!r}: names hold printable characters only")
    values = dict(entry)
    for field, found in entry.items():
        if type(found) is not _FIELD_TYPES[field]:  # bool is no int here, 1.0 is no size
            raise InputError(
                f"layer '{entry.get('name')}': {field} = {found!r}, must be {_FIELD_TYPES[field].__name__}"
            )
    if "gemm" in values:
        if [type(v) for v in values["gemm"]] != [int] * 4:
            raise InputError(f"layer '{entry.get('name')}': gemm = {values['gemm']!r}, must be four whole numbers")
        values["gemm"] = Gemm(*values["gemm"])
    if "sources" in values:
        values["sources"] = tuple(str(s) for s in values["sources"])
    return Layer(**values)


def check_counts(layers: Iterable[Layer]) -> None:
    """Raise InputError for a layer whose sizes a damaged or hostile file has blown up beyond 64-bit counts."""
    for layer in layers:
        sizes = [value for name in _FIELD_TYPES if type(value := getattr(layer, name)) is int]
        if max(layer.macs, layer.input_size, layer.output_size, *sizes) >= _MAX_COUNT:
            raise InputError(f"layer '{layer.name}': its sizes exceed what 64-bit counts hold")
