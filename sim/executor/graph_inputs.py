"""What a caller gives an imported graph: checked, and cut into one set of tensors per inference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...workloads.errors import InputError, unknown_name
from ...workloads.graph import Graph
from .operators.call import Array

#: One array where the graph has one input, else an array per input name.
GraphInputs = Array | Mapping[str, Array]
Feed = dict[str, Array]


def feeds_of(graph: Graph, inputs: GraphInputs) -> list[Feed]:
    """The tensors of each inference.

    An array has the shape of its graph input (one inference), n times its first size (n inferences one after the other),
    or one axis more in front (n inferences).

    Raises
    ------
    InputError
        listing every input that is missing or unknown, or has a wrong shape, element type or values, and inputs that
        disagree on the number of inferences.
    """
    arrays = _named(graph, inputs)
    problems: list[str] = []
    found: dict[str, Array] = {}
    for name, (shape, dtype) in graph.inputs.items():
        try:
            found[name] = _sets(name, arrays[name], tuple(shape), np.dtype(dtype))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(f"inputs disagree on the number of inferences: {listed}")
    return [{name: array[i] for name, array in found.items()} for i in range(next(iter(counts.values()), 0))]


def first_inferences(graph: Graph, inputs: GraphInputs, count: int) -> GraphInputs:
    """The first ``count`` inferences of inputs that :func:`feeds_of` accepts (fewer if there are fewer)."""
    arrays = _named(graph, inputs)
    cut = {}
    for name, array in arrays.items():
        shape = graph.inputs[name][0]
        stacked = array.ndim == len(shape) + 1
        cut[name] = array[: count if stacked or not shape else count * shape[0]]
    return cut


def _named(graph: Graph, inputs: GraphInputs) -> Mapping[str, Array]:
    if not isinstance(inputs, Mapping):
        if len(graph.inputs) != 1:
            raise InputError(f"the graph has {len(graph.inputs)} inputs ({', '.join(graph.inputs)}); name each array")
        return {next(iter(graph.inputs)): inputs}
    unknown = [str(unknown_name("graph input", name, graph.inputs)) for name in inputs if name not in graph.inputs]
    missing = [
        f"no values for graph input '{name}' of shape {tuple(shape)}, {np.dtype(dtype)}"
        for name, (shape, dtype) in graph.inputs.items()
        if name not in inputs
    ]
    if unknown or missing:
        raise InputError(unknown + missing)
    return inputs


def _sets(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """The array as (inferences, shape...)."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"input '{name}' is a {type(array).__name__}; needed is an array")
    if array.ndim == len(shape) + 1:
        fits = array.shape[1:] == shape
    else:
        fits = array.ndim == len(shape) and array.shape[1:] == shape[1:] and _divides(array, shape)
    if not fits or not array.size:
        more = f"n times {shape[0]} in front, or (n, {', '.join(map(str, shape))})" if shape else "(n,)"
        raise InputError(f"input '{name}' has shape {array.shape}; needed is {shape}, {more}")
    return _typed(name, array, dtype).reshape(-1, *shape)


def _divides(array: Array, shape: tuple[int, ...]) -> bool:
    return not shape or (shape[0] > 0 and array.shape[0] % shape[0] == 0)


def _typed(name: str, array: Array, dtype: np.dtype[np.generic]) -> Array:
    if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
        bad = int(np.size(array) - np.isfinite(array).sum())
        raise InputError(f"input '{name}': {bad} values are NaN or infinite")
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}
    if array.dtype.kind not in kinds.get(dtype.kind, ""):
        raise InputError(f"input '{name}' is {array.dtype}; needed is {dtype}")
    with np.errstate(over="ignore"):  # judged below
        typed = array.astype(dtype, copy=False)
    if dtype.kind in "iu" and not np.array_equal(typed, array):
        raise InputError(f"input '{name}' has values that {dtype} cannot hold")
    if dtype.kind == "f" and not np.isfinite(typed).all():
        raise InputError(f"input '{name}' has values that {dtype} cannot hold")
    return typed
