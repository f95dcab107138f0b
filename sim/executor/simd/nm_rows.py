"""Fully connected layers that keep 2 of every 4 weights, as 4-bit codes: 0.75 bytes per retained weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....workloads.errors import InputError
from . import nm_kernel
from .planes import Floats, aligned
from .team import Call, call

#: Columns per step of the kernel, and non-zeros per step.
_COLUMNS, _VALUES = 32, 16
#: Tasks per thread, so that an interrupted thread delays nobody.
_SHARES = 4


def power_table(lowest: int) -> Floats:
    """The 16 numbers of sign-and-exponent codes: code c < 8 is 2^(lowest + c), code c + 8 its negative.

    Raises
    ------
    InputError
        if a power is no normal float32.
    """
    if not -126 <= lowest <= 120:
        raise InputError(f"lowest exponent {lowest}; allowed are -126 to 120")
    powers = np.ldexp(np.float32(1), np.arange(lowest, lowest + 8)).astype(np.float32)
    return np.concatenate([powers, -powers])


class CodedRows:
    """out = clamp(bias + scale * (W x)) for a vector x, W holding at most 2 non-zeros per 4 columns, each one of 16 numbers.

    Parameters
    ----------
    codes : uint8 (rows, columns), index into ``table`` where ``keep``; columns a multiple of 4.
    keep : bool (rows, columns), at most 2 of every 4.
    table : float32 (16,). scales : float32 (rows,).

    Raises
    ------
    InputError
        naming the first group with more than 2 weights, or shapes, codes and tables that do not fit.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        keep: NDArray[np.bool_],
        *,
        table: Floats,
        scales: Floats,
        threads: int = 1,
    ) -> None:
        rows, columns = _checked(codes, keep, table, scales)
        self.rows = rows
        blocks, padded = -(-columns // _COLUMNS), -(-rows // nm_kernel.ROWS) * nm_kernel.ROWS
        groups = np.zeros((padded, blocks * _COLUMNS), np.uint8)
        kept = np.zeros(groups.shape, bool)
        groups[:rows, :columns], kept[:rows, :columns] = codes, keep
        place = np.argsort(~kept.reshape(padded, -1, 4), axis=2, kind="stable")[:, :, :2]
        chosen = np.take_along_axis(groups.reshape(padded, -1, 4), place, 2)
        real = np.take_along_axis(kept.reshape(padded, -1, 4), place, 2)
        self._table = np.zeros(16, np.float32)
        self._table[:] = table
        zeros = np.flatnonzero(self._table == 0)
        if not real[:rows, : columns // 4].all() and not len(zeros):
            raise InputError("a group keeps fewer than 2 weights: the table needs a 0 for what is missing")
        chosen = np.where(real, chosen, zeros[0] if len(zeros) else 0).reshape(padded, blocks, _VALUES)
        by_parity = np.concatenate([chosen[:, :, 0::2], chosen[:, :, 1::2]], axis=2)
        self._codes = _by_group(by_parity[:, :, 0::2] | by_parity[:, :, 1::2] << 4)
        self._positions = _by_group(_packed_positions(place.reshape(padded, blocks, _VALUES)))
        self._scales = np.zeros(padded, np.float32)
        self._scales[:rows] = scales
        self.inputs: Floats = aligned(blocks * _COLUMNS)
        self.outputs: Floats = aligned(padded)
        self._tasks = 1 if threads == 1 else min(padded // nm_kernel.ROWS, _SHARES * threads)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, positions, table and scales."""
        return self._codes.nbytes + self._positions.nbytes + self._table.nbytes + self._scales.nbytes

    def call(self, bias: Floats, clamp: tuple[np.float32, np.float32]) -> Call:
        """The call that computes ``outputs[:rows]`` from ``inputs`` (columns, then zeros)."""
        every = np.zeros(len(self._scales), np.float32)
        every[: self.rows] = bias
        step = -(-len(every) // nm_kernel.ROWS // self._tasks)
        weights = (self._codes.reshape(-1), self._positions.reshape(-1), self._table, self._scales)
        return call(nm_kernel.rows_2_of_4, self._tasks, step, self.inputs, self.outputs, weights, every, *clamp)


def _by_group(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, blocks, bytes) in the kernel's order: group of 4 rows, block, row, byte; one stream instead of four."""
    rows, blocks, size = array.shape
    grouped = array.reshape(rows // nm_kernel.ROWS, nm_kernel.ROWS, blocks, size).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grouped, np.uint8)


def _packed_positions(place: NDArray[np.int64]) -> NDArray[np.uint8]:
    """16 positions of 2 bits in 4 bytes, the first in the lowest bits."""
    quads = place.reshape(*place.shape[:2], 4, 4).astype(np.uint8)
    return np.asarray(quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6)


def _checked(codes: NDArray[np.uint8], keep: NDArray[np.bool_], table: Floats, scales: Floats) -> tuple[int, int]:
    if codes.ndim != 2 or codes.shape != keep.shape or codes.shape[1] % 4:
        raise InputError(f"codes {codes.shape} and keep {keep.shape} must be (rows, columns), columns a multiple of 4")
    if table.shape != (16,) or scales.shape != (len(codes),) or int(codes.max(initial=0)) > 15:
        raise InputError(f"needed are codes below 16, a table of 16 numbers and {len(codes)} scales")
    crowded = keep.reshape(len(keep), -1, 4).sum(axis=2) > 2
    if crowded.any():
        row, group = (int(i) for i in np.argwhere(crowded)[0])
        raise InputError(f"row {row}, columns {4 * group} to {4 * group + 3}: more than 2 weights are kept")
    return codes.shape[0], codes.shape[1]
