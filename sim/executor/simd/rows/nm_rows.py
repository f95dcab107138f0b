"""Rows that keep N of every M weights: positions of 2 or 4 bits, values of 32 bits or as 4-bit codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .....workloads.errors import InputError
from ..planes import LANES, Floats, aligned
from ..team import Call, call
from . import nm_kernel
from .row_parts import Entries, Pass

Pattern = tuple[int, int]
#: Tasks per thread, so that an interrupted thread delays nobody.
_SHARES = 4
#: Numbers that a 4-bit code chooses from.
_CODES = 16


def pattern_of(mask: NDArray[np.bool_]) -> Pattern | None:
    """(N, M) if every M consecutive columns of every row hold exactly N ones; a last, shorter group at most N.

    Only exact patterns count: a group that were filled up with zeros would show NaN and infinity of columns it prunes.
    """
    columns = mask.shape[1]
    for kept, group in nm_kernel.PATTERNS:
        whole = columns // group * group
        rest = mask[:, whole:].sum(axis=1)
        if not whole or group * np.count_nonzero(mask[:, :whole]) != kept * whole * len(mask):
            continue  # the cheaper look comes first: hardly any mask holds as many ones by chance
        exact = mask[:, :whole].reshape(len(mask), -1, group).sum(axis=2) == kept
        if exact.all() and rest.max(initial=0) <= kept:
            return kept, group
    return None


def few_numbers(values: Floats) -> bool:
    """True if 4-bit codes can stand for the values and for zero."""
    return len(_numbers(values)) <= _CODES


def _numbers(values: Floats) -> Floats:
    """The different values, and 0, which fills the last group up."""
    return np.unique(np.append(values, np.float32(0)))


class PatternRows:
    """One stream of exact N of M, as float32; as 4-bit codes where its values are at most 16 different numbers."""

    def __init__(self, entries: Entries, stream: int) -> None:
        chosen = entries.of({stream})
        mask = chosen.mask()
        pattern = pattern_of(mask)
        if pattern is None:
            raise InputError(f"stream {stream} is no pattern of {nm_kernel.PATTERNS}")
        self.streams: tuple[int, ...] = (stream,)
        dense = chosen.dense()
        numbers = _numbers(chosen.value)
        self.coded = len(numbers) <= _CODES
        self._kernel = nm_kernel.KERNELS[(*pattern, self.coded)]
        table = np.resize(numbers, _CODES).astype(np.float32)
        stored = np.searchsorted(numbers, dense).astype(np.uint8) if self.coded else dense
        filling = np.searchsorted(numbers, np.float32(0)) if self.coded else 0
        values, positions = _packed(stored, mask, pattern, filling=int(filling))
        self._arrays = (values, positions, table, np.ones(_padded(len(mask)), np.float32))

    @property
    def nbytes(self) -> int:
        """Bytes of values or codes, positions, table and scales."""
        return sum(array.nbytes for array in self._arrays)

    def run(self, count: int) -> Pass:
        """The pass over the stream."""
        del count
        return Pass(self._kernel, len(self._arrays[3]) // nm_kernel.ROWS, self._arrays)


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
    """out = clamp(bias + scale * (W x)) for a vector x, W holding at most N non-zeros per M columns, each one of 16 numbers.

    A group that keeps fewer than N is filled up with weights of 0, which do meet NaN and infinity in its columns.

    Parameters
    ----------
    codes : uint8 (rows, columns), index into ``table`` where ``keep``; columns a multiple of M.
    keep : bool (rows, columns), at most N of every M.
    table : float32 (16,). scales : float32 (rows,).
    pattern : (N, M), one of ``nm_kernel.PATTERNS``.

    Raises
    ------
    InputError
        naming the first group with more than N weights, or shapes, codes and tables that do not fit.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        keep: NDArray[np.bool_],
        *,
        table: Floats,
        scales: Floats,
        pattern: Pattern = (2, 4),
        threads: int = 1,
    ) -> None:
        self.rows, columns = _checked(codes, keep, table, scales, pattern)
        kept, group = pattern
        zeros = np.flatnonzero(table == 0)
        complete = bool((keep.reshape(self.rows, -1, group).sum(axis=2) == kept).all())
        if not complete and not len(zeros):
            raise InputError(f"a group keeps fewer than {kept} weights: the table needs a 0 for what is missing")
        stored = np.where(keep, codes, zeros[0] if len(zeros) else 0).astype(np.uint8)
        values, positions = _packed(stored, keep, pattern, filling=int(zeros[0]) if len(zeros) else 0)
        padded = _padded(self.rows)
        every = np.zeros(padded, np.float32)
        every[: self.rows] = scales
        self._arrays = (values, positions, table.astype(np.float32), every)
        self._kernel = nm_kernel.KERNELS[kept, group, True]
        self.inputs: Floats = aligned(-(-columns // _span(pattern)) * _span(pattern))
        self.outputs: Floats = aligned(padded)
        self._tasks = 1 if threads == 1 else min(padded // nm_kernel.ROWS, _SHARES * threads)

    @property
    def nbytes(self) -> int:
        """Bytes of codes, positions, table and scales."""
        return sum(array.nbytes for array in self._arrays)

    def call(self, bias: Floats, clamp: tuple[np.float32, np.float32]) -> Call:
        """The call that computes ``outputs[:rows]`` from ``inputs`` (columns, then zeros)."""
        every = np.zeros(len(self.outputs), np.float32)
        every[: self.rows] = bias
        step = -(-len(every) // nm_kernel.ROWS // self._tasks)
        return call(self._kernel, self._tasks, step, self.inputs, self.outputs, self._arrays, every, *clamp)


def _span(pattern: Pattern) -> int:
    """Columns that 16 non-zeros belong to."""
    return LANES * pattern[1] // pattern[0]


def _padded(rows: int) -> int:
    return -(-rows // nm_kernel.ROWS) * nm_kernel.ROWS


def _packed(
    values: NDArray[np.uint8] | Floats, keep: NDArray[np.bool_], pattern: Pattern, *, filling: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values (codes two to a byte) and positions in the kernel's order, flat."""
    kept, group = pattern
    rows, columns = keep.shape
    blocks = -(-columns // _span(pattern))
    full = np.full((_padded(rows), blocks * _span(pattern)), filling, values.dtype)
    full[:rows, :columns] = values
    filled_up = np.ones(full.shape, bool)
    filled_up[:rows, :columns] = ~keep
    groups = (len(full), -1, group)
    place = np.argsort(filled_up.reshape(groups), axis=2, kind="stable")[:, :, :kept]
    missing = np.take_along_axis(filled_up.reshape(groups), place, 2)
    cut = np.arange(place.shape[1])[None, :, None] == columns // group  # the last column of a cut group is padding
    place = np.where(missing & cut & (columns % group != 0), group - 1, place)
    chosen = np.take_along_axis(full.reshape(groups), place, 2).reshape(len(full), blocks, LANES)
    places = place.reshape(len(full), blocks, LANES).astype(np.uint8)
    packed = chosen if values.dtype == np.float32 else _nibbles(chosen.astype(np.uint8))
    return _by_four_rows(packed), _by_four_rows(_pairs_of_bits(places) if group == 4 else _nibbles(places))


def _by_four_rows(array: NDArray[Any]) -> NDArray[Any]:
    """(rows, blocks, items) in the kernel's order: group of 4 rows, block, row, item; one stream instead of four."""
    rows, blocks, size = array.shape
    grouped = array.reshape(rows // nm_kernel.ROWS, nm_kernel.ROWS, blocks, size).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grouped).reshape(-1)


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """16 codes of 4 bits in 8 bytes: those of even lanes, then those of odd lanes, the first in the lowest bits."""
    by_parity = np.concatenate([codes[:, :, 0::2], codes[:, :, 1::2]], axis=2)
    return np.asarray(by_parity[:, :, 0::2] | by_parity[:, :, 1::2] << 4, np.uint8)


def _pairs_of_bits(place: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """16 positions of 2 bits in 4 bytes, the first in the lowest bits."""
    quads = place.reshape(*place.shape[:2], 4, 4)
    return np.asarray(quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6)


def _checked(
    codes: NDArray[np.uint8], keep: NDArray[np.bool_], table: Floats, scales: Floats, pattern: Pattern
) -> tuple[int, int]:
    if pattern not in nm_kernel.PATTERNS:
        raise InputError(f"pattern {pattern}; there are kernels for {', '.join(map(str, nm_kernel.PATTERNS))}")
    kept, group = pattern
    if codes.ndim != 2 or codes.shape != keep.shape or codes.shape[1] % group:
        wanted = f"(rows, columns), columns a multiple of {group}"
        raise InputError(f"codes {codes.shape} and keep {keep.shape} must be {wanted}")
    if table.shape != (_CODES,) or scales.shape != (len(codes),) or int(codes.max(initial=0)) >= _CODES:
        raise InputError(f"needed are codes below 16, a table of 16 numbers and {len(codes)} scales")
    crowded = keep.reshape(len(keep), -1, group).sum(axis=2) > kept
    if crowded.any():
        row, first = (int(i) for i in np.argwhere(crowded)[0])
        where = f"row {row}, columns {group * first} to {group * first + group - 1}"
        raise InputError(f"{where}: more than {kept} weights are kept")
    return codes.shape[0], codes.shape[1]
