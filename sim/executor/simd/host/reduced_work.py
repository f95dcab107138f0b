"""What the products of reduced formats have to do, from the arguments of their calls; no costs are fitted to them."""

from __future__ import annotations

import numpy as np

from .....accel.host_cpu import LANES, Work
from .....workloads.layers import Layer
from ..planes import PlaneLayout
from ..product import ROUNDING, LayerPlan
from ..team import Call

_LINE = 4 * LANES


def reduced_name(plan: LayerPlan, level: int) -> str | None:
    """The kernel that runs a level in a reduced format; None for the kernels of float32."""
    if level in plan.dense_levels:
        return None if plan.dense_format == "float32" else f"dense {plan.dense_format} {plan.dense_vectors}"
    return f"{plan.sparse.kind} {plan.sparse.vectors}" if plan.sparse.kind in ("coded", *ROUNDING) else None


def reduced_work(name: str, layer: Layer, planes: PlaneLayout, step: Call) -> Work:
    """The bytes that a call moves and the vectors that it multiplies. ``planes``: what it reads.

    ``useful_flop`` is left to the caller, who knows the weights.
    """
    shape, streams = step.arguments[:2]
    vectors = int(name.rpartition(" ")[2])
    bytes_read, products = _blocks(streams) if "bfloat16" in name else _stream(shape, streams)
    tiles = int(step.tasks[1]) // (shape[4] if "bfloat16" in name else shape[3])
    return Work(
        name,
        multiply_adds=products * tiles * vectors,
        stream_bytes=bytes_read,
        passes=tiles,
        input_bytes=4 * planes.size,
        output_bytes=layer.K * tiles * vectors * _LINE,
    )


def _blocks(streams: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Bytes and words of the kept blocks, see ``words_blocks_kernel``."""
    starts, ends, columns, words, _ = streams
    blocks, per_block = int((ends - starts).sum()), words.size // max(1, columns.size)
    return blocks * (per_block * words.itemsize + columns.itemsize), blocks * per_block


def _stream(shape: tuple[int, ...], streams: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Bytes and number of a level's non-zeros, see ``reduced_kernel``."""
    *_, levels, wanted = shape
    _, _, rows, counts, offsets, values, table, _ = streams
    nonzeros = int(counts.reshape(levels, -1)[:wanted].sum(dtype=np.int64))
    each = offsets.itemsize + (values.itemsize if values.size else 0)
    listed = counts.size // levels
    return nonzeros * each + table.nbytes + listed * (rows.itemsize + wanted * counts.itemsize), nonzeros
