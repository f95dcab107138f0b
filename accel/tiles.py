"""The one type every PE-array model produces: tiles in execution order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TileTable:
    """Structure of arrays, one entry per tile of one layer in execution order; all int64 of shape (tiles,).

    A tile passes through five stages: its DRAM bytes are *fetched* into the on-chip buffers, its operands are *loaded* over
    the bus into one of two PE-side banks, it is *computed*, and where it closes an output block the block is *drained* and
    its bytes are *stored* to DRAM.

    Attributes
    ----------
    weight_bytes, input_bytes : DRAM bytes this tile is the first to need.
    weight_address, input_address, store_address : byte addresses of those transfers.
    store_bytes : DRAM bytes written once the tile's output block is drained; 0 where the tile closes no block.
    load_beats : bus beats that fill the PE-side bank (0 = the array reads the buffers directly).
    steps : issue steps of the array; 0 = nothing to issue.
    drain_words : cycles that empty the output registers (0 = the tile closes no block).
    after : index of the tile whose completion frees the buffer space this tile's fetch needs; -1 = free from the start.
    actions : name -> count per tile.
    """

    weight_bytes: Int64Array
    input_bytes: Int64Array
    weight_address: Int64Array
    input_address: Int64Array
    store_bytes: Int64Array
    store_address: Int64Array
    load_beats: Int64Array
    steps: Int64Array
    drain_words: Int64Array
    after: Int64Array
    actions: Mapping[str, Int64Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.columns().items():
            if column.dtype != np.int64 or column.shape != self.steps.shape:
                raise ValueError(
                    f"tile column '{name}' is {column.dtype}{column.shape}, must be int64{self.steps.shape}"
                )
            if name != "after" and column.size and column.min() < 0:
                raise ValueError(f"tile column '{name}' holds a negative number")
        if (self.after >= np.arange(self.after.size)).any() or (self.after < -1).any():
            raise ValueError("a tile's fetch may only wait for an earlier tile")

    def __len__(self) -> int:
        return int(self.steps.size)

    def columns(self) -> dict[str, Int64Array]:
        """All columns by name, actions included."""
        fixed = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "actions"}
        return fixed | dict(self.actions)

    def totals(self) -> dict[str, int]:
        """Action counts summed over the tiles, with the DRAM traffic."""
        totals = {name: int(column.sum()) for name, column in self.actions.items()}
        totals["dram_read_bytes"] = int(self.weight_bytes.sum() + self.input_bytes.sum())
        totals["dram_write_bytes"] = int(self.store_bytes.sum())
        return totals


@dataclass(frozen=True, kw_only=True)
class ArrayTiming:
    """Constants of the array's part of the tile pipeline, in accelerator cycles.

    Symbols of the N:M array RTL (DESIGN.md, "Time"): ``beat_interval`` ii, ``step_interval`` ci, ``latency`` P (from the last
    issue to the first result in the output registers). ``output_slots``: output blocks that wait for DRAM at most.
    """

    beat_interval: int = 1
    step_interval: int = 1
    latency: int = 0
    output_slots: int = 2
