"""The shapes of a model's inputs: stated, pinned by the user, or a batch of one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import InputError, unknown_name

#: Largest dimension and tensor that a user or a file may state.
MAX_DIMENSION, MAX_ELEMENTS = 1 << 31, 1 << 34
_BATCH_NAME = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
_IMAGE_RANK = 4

Pins = Mapping[str, Sequence[int] | int]


@dataclass(frozen=True)
class PinnedInputs:
    """``shapes`` and ``dtypes`` of the inputs that a caller feeds; ``notes``: dimensions that were assumed."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[np.generic]]
    notes: tuple[str, ...]


def pinned_inputs(model: onnx.ModelProto, *, initializers: Collection[str], shapes: Pins) -> PinnedInputs:
    """Shapes of all inputs that are no initializers.

    A symbolic dimension takes the size given for its name; an input may be given as a whole. A batch dimension (a name
    that says so, or the first axis of an image) is 1 unless given.

    Raises
    ------
    InputError
        listing every dimension that is missing, unknown names, and sizes that contradict the file.
    """
    inputs = [value for value in model.graph.input if value.name not in initializers]
    known = {value.name for value in inputs} | {d.dim_param for v in inputs for d in _dimensions(v) if d.dim_param}
    problems = [str(unknown_name("input or dimension", name, known)) for name in shapes if name not in known]
    notes: list[str] = []
    found = {}
    for value in inputs:
        try:
            found[value.name] = _shape(value, shapes, notes)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    dtypes = {value.name: _dtype(value) for value in inputs}
    return PinnedInputs(found, dtypes, tuple(dict.fromkeys(notes)))


def _dimensions(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[np.generic]:
    kind = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or kind in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise InputError(f"input '{value.name}' is not a tensor of numbers")
    try:
        dtype: np.dtype[np.generic] = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    except KeyError:
        raise InputError(f"input '{value.name}' has the unknown number type {kind}") from None
    return dtype


def _shape(value: onnx.ValueInfoProto, shapes: Pins, notes: list[str]) -> tuple[int, ...]:
    given = shapes.get(value.name)
    if given is not None:
        shape = tuple(given) if isinstance(given, Sequence) else (given,)
        _check_against_file(value, shape)
    elif not value.type.tensor_type.HasField("shape"):
        raise InputError(f"input '{value.name}' has no shape in the file; give --shape {value.name}=D0,D1,...")
    else:
        shape = _from_file(value, shapes, notes)
    if any(not 1 <= size <= MAX_DIMENSION for size in shape) or np.prod(shape, dtype=float) > MAX_ELEMENTS:
        raise InputError(f"input '{value.name}' of shape {list(shape)}; sizes must be at least 1 and not absurd")
    return shape


def _from_file(value: onnx.ValueInfoProto, shapes: Pins, notes: list[str]) -> tuple[int, ...]:
    dimensions = _dimensions(value)
    shape: list[int] = []
    missing: list[str] = []
    for axis, dimension in enumerate(dimensions):
        pinned = shapes.get(dimension.dim_param) if dimension.dim_param else None
        image_batch = axis == 0 and len(dimensions) >= _IMAGE_RANK
        if dimension.dim_value > 0:  # some exporters write 0 for an open dimension
            shape.append(dimension.dim_value)
        elif isinstance(pinned, int):
            shape.append(pinned)
        elif image_batch or _BATCH_NAME.fullmatch(dimension.dim_param):
            shape.append(1)
            notes.append(f"batch dimension '{dimension.dim_param or axis}' of input '{value.name}' is taken as 1")
        else:
            missing.append(dimension.dim_param or f"axis {axis}")
    if missing:
        stated = ",".join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in dimensions)
        by_name = " ".join(f"--shape {name}=N" for name in missing if not name.startswith("axis "))
        raise InputError(
            f"input '{value.name}' [{stated}] leaves {', '.join(missing)} open; give --shape "
            f"{value.name}=D0,...,D{len(dimensions) - 1}{f' or {by_name}' if by_name else ''}"
        )
    return tuple(shape)


def _check_against_file(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    if not value.type.tensor_type.HasField("shape"):
        return
    dimensions = _dimensions(value)
    fixed = [(d.dim_value if d.dim_value > 0 else None) for d in dimensions]
    if len(fixed) != len(shape) or any(f not in (None, s) for f, s in zip(fixed, shape, strict=True)):
        stated = ",".join("?" if f is None else str(f) for f in fixed)
        raise InputError(f"--shape {value.name}={','.join(map(str, shape))}: the file fixes [{stated}]")
