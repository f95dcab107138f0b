"""Reduced formats as choices of a plan: which ones a user allows, which ones a layer's weights can have, what to measure.

The products themselves are loaded only where such a format is allowed: their kernels' modules take a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .....workloads.errors import InputError, unknown_name
from .....workloads.layers import Layer
from .....workloads.nesting import NestedWeights
from ..features import has
from ..planes import PlaneLayout
from ..product import ROUNDING, Choice, Dense, Kind, LayerPlan
from . import formats_kernel

#: Formats that change results and therefore need the user's permission.
FORMATS = ("bfloat16", "float16")
#: Largest finite number of each: bfloat16 has float32's exponents and 7 bits of fraction.
LARGEST: Mapping[str, float] = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": float(np.finfo(np.float16).max)}
#: Weights that are looked at first: most layers have more numbers than there are codes among them already.
_SAMPLE = 4096
#: The widest tile that is measured: beyond it rows share no loads.
_WIDEST = 8


def allowed_formats(names: str | Iterable[str]) -> tuple[str, ...]:
    """The formats that a user allows, each once, in the order of :data:`FORMATS`; a string is one name.

    Raises
    ------
    InputError
        for another name, with the nearest one, and for what is no name.
    """
    given = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    for name in given:
        if not isinstance(name, str):
            raise InputError(f"allow: {name!r} is no name of a number format; allowed: {', '.join(FORMATS)}")
    found = set(given)
    for name in sorted(found - set(FORMATS)):
        raise unknown_name("number format", name, FORMATS)
    return tuple(name for name in FORMATS if name in found)


def in_range(weights: NestedWeights, allow: Iterable[str]) -> tuple[str, ...]:
    """The allowed formats that have a finite number for each of a layer's weights."""
    allow = tuple(allow)
    if not allow or weights.values is None:
        return ()
    largest = float(np.abs(weights.values).max(initial=0.0))
    return tuple(fmt for fmt in allow if largest <= LARGEST[fmt])


def reduced_kinds(layer: Layer, weights: NestedWeights, allow: Iterable[str]) -> tuple[Kind, ...]:
    """The sparse stores of fewer bits that a layer's weights can have; none for grouped layers.

    Codes are exact and need no permission, only few different numbers; bfloat16 needs masks that keep whole blocks, float16
    a processor that converts, both weights in their range.
    """
    if layer.groups > 1:
        return ()
    allow = in_range(weights, allow)
    found: dict[Kind, bool] = {
        "coded": _few_numbers(weights),
        "half": "float16" in allow and formats_kernel.CONVERTS_HALF,
        "bfloat16": "bfloat16" in allow and _whole_blocks(weights),
    }
    return tuple(kind for kind, possible in found.items() if possible)


def reduced_candidates(kinds: Iterable[Kind], target: PlaneLayout) -> list[Choice]:
    """What a planner should measure for these stores."""
    return [Choice(kind, vectors) for kind in kinds for vectors in _tiles(target)]


def reduced_dense_candidates(layer: Layer, target: PlaneLayout, allow: Iterable[str]) -> list[Dense]:
    """The same for dense levels; ``allow``: formats whose range holds the weights."""
    if layer.groups > 1 or "bfloat16" not in allow:
        return []
    return [Dense(vectors, "bfloat16") for vectors in _tiles(target)]


def likely_reduced(plan: LayerPlan, target: PlaneLayout, allow: Iterable[str]) -> LayerPlan:
    """An expected plan with its dense levels in bfloat16, if that is allowed and the processor multiplies it: twice as many
    products per instruction and half the bytes are the one gain that is sure without measuring."""
    native = "bfloat16" in allow and (has("avx512_bf16") or has("amx_bf16"))
    if not native or not plan.dense_levels:
        return plan
    from .words_product import word_vectors

    return plan._replace(dense_vectors=word_vectors(target), dense_format="bfloat16")


def permitted(plan: LayerPlan, allow: Iterable[str]) -> bool:
    """True if a plan rounds to formats that are allowed only."""
    used = {plan.dense_format, ROUNDING.get(plan.sparse.kind, "float32")}
    return used <= {"float32", *allow}


def _tiles(target: PlaneLayout) -> tuple[int, ...]:
    return tuple(v for v in target.vectors if 1 < v <= _WIDEST) or target.vectors


def _few_numbers(weights: NestedWeights) -> bool:
    """True if the weights that any level keeps are at most as many different numbers as there are codes."""
    if weights.values is None:
        return False
    codes = formats_kernel.CODE_MASK + 1
    values, keep = weights.values.reshape(-1), weights.keep.reshape(-1)
    for part in (slice(_SAMPLE), slice(None)):
        kept = values[part][keep[part] > 0]
        if np.unique(kept).size > codes or not np.isfinite(kept).all():
            return False
    return True


def _whole_blocks(weights: NestedWeights) -> bool:
    """True if every level keeps whole blocks of 16 rows by 32 columns."""
    from .bf16_product import COLUMNS
    from .words_product import ROWS, levels_per_block

    first = weights.keep.reshape(weights.shape[0], -1)[:ROWS, :COLUMNS]
    if (first != first[0, 0]).any():  # most masks end here
        return False
    try:
        levels_per_block(weights, COLUMNS)
    except InputError:
        return False
    return True
