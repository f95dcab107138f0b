"""Are several weight files the levels of one nested network? Values and masks, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .weights_file import read_tensors

#: What a level may be given as: a safetensors file, or tensors by name (NumPy arrays, or what has ``numpy()``).
LevelSource = Path | str | Mapping[str, Any]


@dataclass(frozen=True)
class NestingBreak:
    """The first weight of a sparser level that its denser neighbour does not have.

    ``level``: the sparser one, counted from 0, the densest; ``found`` and ``allowed``: its value and the denser level's,
    which must be equal unless the former is zero.
    """

    tensor: str
    index: tuple[int, ...]
    level: int
    found: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"not nested: '{self.tensor}' {self.index} is {self.found:.9g} at level {self.level}, but {self.allowed:.9g} at "
            f"level {self.level - 1}"
        )


@dataclass(frozen=True)
class LevelReport:
    """``densities``: fraction of all weights that each level keeps, densest first; ``weights``: weights per level;
    ``problem``: where nesting breaks, or None."""

    densities: tuple[float, ...]
    weights: int
    problem: NestingBreak | None

    @property
    def nested(self) -> bool:
        return self.problem is None


def check_nested(levels: Sequence[LevelSource]) -> LevelReport:
    """Whether each level's weights are its denser neighbour's or zero.

    Weights are the floating-point tensors of two dimensions or more; biases and normalisation may differ by level. Pairs
    ``X_orig`` and ``X_mask`` (torch.nn.utils.prune) are multiplied first.

    Parameters
    ----------
    levels : densest first; at least two.

    Raises
    ------
    InputError
        if a file is unreadable, or the levels do not hold the same weights in the same shapes.
    """
    if len(levels) < 2:
        raise InputError(f"{len(levels)} level given; nesting needs at least two, the densest first")
    names = [str(level) if isinstance(level, Path | str) else f"level {i}" for i, level in enumerate(levels)]
    states = [dict(_weights(level)) for level in levels]
    for name, state in zip(names, states, strict=True):
        _check_same(states[0], state, where=f"{names[0]} and {name}")
    problem: NestingBreak | None = None
    kept = [0] * len(states)
    for tensor in states[0]:
        values = [state[tensor] for state in states]
        kept = [total + int(np.count_nonzero(value)) for total, value in zip(kept, values, strict=True)]
        problem = problem or _first_break(tensor, values)
    total = sum(value.size for value in states[0].values())
    return LevelReport(tuple(count / max(1, total) for count in kept), total, problem)


def _first_break(tensor: str, levels: Sequence[NDArray[Any]]) -> NestingBreak | None:
    for level, (denser, values) in enumerate(pairwise(levels), start=1):
        bad = (values != 0) & (values != denser)
        if bad.any():
            index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            return NestingBreak(tensor, index, level, float(values[index]), float(denser[index]))
    return None


def _weights(level: LevelSource) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and values of a level's weights, masks applied."""
    tensors = read_tensors(Path(level))[0] if isinstance(level, Path | str) else level
    arrays = {name: _array(value) for name, value in tensors.items()}
    for name, array in arrays.items():
        base = name.removesuffix("_orig")
        mask = arrays.get(f"{base}_mask") if base != name else None
        if array.ndim > 1 and array.size and np.issubdtype(array.dtype, np.floating) and not name.endswith("_mask"):
            yield (name, array) if mask is None else (base, array * mask)


def _array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a PyTorch tensor; bfloat16 has no NumPy type
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _check_same(first: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]], *, where: str) -> None:
    different = sorted(set(first) ^ set(other))
    if different:
        raise InputError(f"{where} do not hold the same weights; the first is '{different[0]}'")
    for name, array in first.items():
        if other[name].shape != array.shape:
            raise InputError(f"{where}: '{name}' has shapes {array.shape} and {other[name].shape}")
    if not first:
        raise InputError(f"{where} hold no weights (floating point, two dimensions or more)")
