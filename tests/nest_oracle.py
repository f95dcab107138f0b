"""A slow, independent walk over a tiled loop nest with an ideal buffer, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from nestling.accel.loopnest import Blocking, Nest
from nestling.accel.mapping import Tiling
from nestling.workloads.layers import Layer, conv, linear

from .spine_cases import matmul


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    """Small nests: convolutions (also grouped and strided), products, uneven weight bytes with empty tiles."""
    kind = draw(st.sampled_from(["conv", "linear", "matmul"]))
    layer: Layer
    if kind == "conv":
        groups, H, R = draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(st.integers(1, 3))
        padding = draw(st.integers(0, 2))
        assume(H + 2 * padding >= R)
        channels, features = draw(st.integers(1, 3)), draw(st.integers(1, 6))
        layer = conv(
            "c", "input", C=groups * channels, H=H, K=groups * features, R=R,
            stride=draw(st.integers(1, 3)), padding=padding, groups=groups,
        )  # fmt: skip
    elif kind == "linear":
        sizes = [draw(st.integers(1, 12)) for _ in range(3)]
        layer = linear("l", "input", features_in=sizes[0], features_out=sizes[1], rows=sizes[2])
    else:
        layer = matmul(*(draw(st.integers(1, high)) for high in (3, 9, 9, 9)))
    gemm = layer.gemm
    assert gemm is not None
    blocking = Blocking(n=draw(st.integers(1, 4)), m=draw(st.integers(1, 20)), k=draw(st.integers(1, 8)))
    shape = (gemm.b, -(-gemm.n // blocking.n), -(-gemm.k // blocking.k))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes_ = rng.integers(0, 40, shape) * (rng.random(shape) < 0.8)
    return Nest(layer, gemm, blocking, sizes_.astype(np.int64), 8)


@dataclass
class Walk:
    """Per tile in execution order: loop indices (group, row, column, k), weight and input bytes fetched, supertile; and the
    most bytes that two successive supertiles need at once."""

    tiles: list[tuple[int, int, int, int]] = field(default_factory=list)
    weight_bytes: list[int] = field(default_factory=list)
    input_bytes: list[int] = field(default_factory=list)
    supertiles: list[int] = field(default_factory=list)
    weights_held: list[set[tuple[object, int]]] = field(default_factory=list)
    inputs_held: list[set[tuple[int, int]]] = field(default_factory=list)


def supertiles_in_order(nest: Nest, tiling: Tiling) -> list[tuple[int, list[int], list[int]]]:
    rows = [list(range(nest.row_blocks))[i : i + tiling.rows] for i in range(0, nest.row_blocks, tiling.rows)]
    columns = [
        list(range(nest.column_blocks))[i : i + tiling.columns] for i in range(0, nest.column_blocks, tiling.columns)
    ]
    if tiling.weights_outer:
        return [(b, r, c) for b in range(nest.gemm.b) for r in rows for c in columns]
    return [(b, r, c) for b in range(nest.gemm.b) for c in columns for r in rows]


def walk(nest: Nest, tiling: Tiling) -> Walk:
    """Visit every tile. The buffer keeps exactly what belongs to the current row supertile and column supertile; a streamed
    operand is not kept beyond the tile (weights) or the output block (inputs) that uses it."""
    found, weights, inputs = Walk(), set(), set()
    before: tuple[object, object] = (None, None)
    start, stop = nest.footprint
    for number, (b, rows, columns) in enumerate(supertiles_in_order(nest, tiling)):
        if (b, rows) != before[0]:
            weights = set()
        if (b, columns) != before[1]:
            inputs = set()
        before = ((b, rows), (b, columns))
        for row in rows:
            for column in columns:
                if tiling.inputs_streamed:
                    inputs = set()
                for k in range(nest.k_tiles):
                    if tiling.weights_streamed:
                        weights = set()
                    key = (b, row, k)
                    size = int(nest.tile_weight_bytes[key])
                    found.weight_bytes.append(0 if key in weights else size)
                    weights.add(key)
                    needed = {(b, byte) for byte in range(start[column], stop[column])} if k == 0 else set()
                    found.input_bytes.append(len(needed - inputs))
                    inputs |= needed
                    found.tiles.append((b, row, column, k))
                    found.supertiles.append(number)
        found.weights_held.append({(key, int(nest.tile_weight_bytes[key])) for key in weights})  # type: ignore[index]
        found.inputs_held.append(set(inputs))
    return found
