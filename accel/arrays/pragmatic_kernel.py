"""Numba kernels: rounds of term-serial lanes, and when the columns of a Bit-Pragmatic tile finish."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _brick_rounds(terms, lanes, span):
    """Rounds, terms and non-zeros of every brick at every position; ``terms``: int64 (sets, channels, X, Y)."""
    sets, channels, width, height = terms.shape
    bricks = (channels + lanes - 1) // lanes
    found = np.zeros((3, sets, bricks, width, height), np.int32)
    left = np.zeros(lanes, np.int64)
    for g in range(sets):
        for brick in range(bricks):
            first = brick * lanes
            used = min(lanes, channels - first)
            for x in range(width):
                for y in range(height):
                    lowest = np.int64(0)
                    count = nonzero = rounds = 0
                    for lane in range(used):
                        mask = terms[g, first + lane, x, y]
                        left[lane] = mask
                        if mask != 0:
                            nonzero += 1
                            bit = mask & -mask
                            if lowest == 0 or bit < lowest:
                                lowest = bit
                    while lowest != 0:
                        reach = lowest << span  # the first stage shifts this far beyond the common shift
                        lowest = np.int64(0)
                        rounds += 1
                        for lane in range(used):
                            mask = left[lane]
                            if mask != 0:
                                bit = mask & -mask
                                if bit <= reach:
                                    mask &= mask - 1
                                    left[lane] = mask
                                    count += 1
                                    bit = mask & -mask
                                if mask != 0 and (lowest == 0 or bit < lowest):
                                    lowest = bit
                    found[0, g, brick, x, y] = max(1, rounds)
                    found[1, g, brick, x, y] = count
                    found[2, g, brick, x, y] = nonzero
    return found


def _window_finish(found, offsets, stride, out_width, windows, columns, registers, repeats, per_tile):
    """When every (set, window block, repeat, k tile) finishes; its terms and non-zeros per (set, window block, k tile).

    Arguments as in ``window_finish``; ``windows``: output positions.
    """
    sets, bricks = found.shape[1], found.shape[2]
    blocks = (windows + columns - 1) // columns
    steps = offsets.shape[0] * bricks
    tiles = (steps + per_tile - 1) // per_tile
    finish = np.zeros((sets, blocks, repeats, tiles), np.int64)
    work = np.zeros((2, sets, blocks, tiles), np.int64)
    column = np.zeros(columns, np.int64)  # when each column is done with what it was given
    earlier = np.zeros(registers + 1, np.int64)  # when the latest column was done with each of the last steps
    number = 0
    for g in range(sets):
        for block in range(blocks):
            first = block * columns
            used = min(columns, windows - first)
            for repeat in range(repeats):
                for step in range(steps):
                    tap, brick = step // bricks, step % bricks
                    ready = earlier[number % (registers + 1)]
                    latest = np.int64(0)
                    for c in range(used):
                        x = ((first + c) // out_width) * stride + offsets[tap, 0]
                        y = ((first + c) % out_width) * stride + offsets[tap, 1]
                        column[c] = max(column[c], ready) + found[0, g, brick, x, y]
                        if repeat == 0:
                            work[0, g, block, step // per_tile] += found[1, g, brick, x, y]
                            work[1, g, block, step // per_tile] += found[2, g, brick, x, y]
                    for c in range(columns):
                        latest = max(latest, column[c])
                    earlier[number % (registers + 1)] = latest
                    number += 1
                    finish[g, block, repeat, step // per_tile] = latest
    return finish, work


def _staggered_finish(found, columns, repeats, per_tile):
    """As ``_window_finish`` for one position: its bricks go to the columns in turn, one a cycle."""
    sets, bricks = found.shape[1], found.shape[2]
    tiles = (bricks + per_tile - 1) // per_tile
    finish = np.zeros((sets, 1, repeats, tiles), np.int64)
    work = np.zeros((2, sets, 1, tiles), np.int64)
    column = np.zeros(columns, np.int64)
    now = latest = np.int64(0)
    number = 0
    for g in range(sets):
        for repeat in range(repeats):
            for brick in range(bricks):
                c = number % columns
                number += 1
                now = max(now, column[c])
                column[c] = now + found[0, g, brick, 0, 0]
                latest = max(latest, column[c])
                now += 1
                finish[g, 0, repeat, brick // per_tile] = latest
                if repeat == 0:
                    work[0, g, 0, brick // per_tile] += found[1, g, brick, 0, 0]
                    work[1, g, 0, brick // per_tile] += found[2, g, brick, 0, 0]
    return finish, work


_brick_rounds_compiled = njit(cache=True)(_brick_rounds)
_window_finish_compiled = njit(cache=True)(_window_finish)
_staggered_finish_compiled = njit(cache=True)(_staggered_finish)


def brick_rounds(terms: NDArray[np.int64], *, lanes: int, first_stage_bits: int) -> NDArray[np.int32]:
    """(rounds, terms, non-zeros) of every brick at every position, int32 (3, sets, bricks, X, Y).

    A round shifts all lanes by the lowest term position left; every lane whose own lowest term lies at most
    2^first_stage_bits - 1 above it takes that term. A brick without terms takes one round. ``terms``: int64 (sets, channels,
    X, Y), bit j set where an input has a term 2^j.
    """
    reach = (1 << first_stage_bits) - 1
    if int(terms.max(initial=0)).bit_length() + reach > 62:
        raise ValueError("terms and first stage exceed 62 bits")
    found: NDArray[np.int32] = _brick_rounds_compiled(np.ascontiguousarray(terms, dtype=np.int64), lanes, reach)
    return found


def window_finish(
    found: NDArray[np.int32],
    *,
    offsets: NDArray[np.int64],
    stride: int,
    output: tuple[int, int],
    columns: int,
    registers: int,
    repeats: int,
    per_tile: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cycle at which every (set, window block, repeat, k tile) is done, and its (terms, non-zeros) for one filter.

    Blocks of ``columns`` windows run along the rows of the output. Steps are (tap, brick); a column starts a step when it is
    done with its own last one and all columns are done with the step ``registers`` + 1 before. ``repeats``: times a block
    runs (groups of filters). ``offsets``: int64 (taps, 2). Shapes: int64 (sets, blocks, repeats, k tiles) and int64
    (2, sets, blocks, k tiles).
    """
    finish: NDArray[np.int64]
    work: NDArray[np.int64]
    finish, work = _window_finish_compiled(
        found,
        np.ascontiguousarray(offsets, dtype=np.int64),
        stride,
        output[1],
        output[0] * output[1],
        columns,
        registers,
        repeats,
        per_tile,
    )
    return finish, work


def staggered_finish(
    found: NDArray[np.int32], *, columns: int, repeats: int, per_tile: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As :func:`window_finish` where there is one output position only: its bricks go to the columns in turn."""
    finish: NDArray[np.int64]
    work: NDArray[np.int64]
    finish, work = _staggered_finish_compiled(found, columns, repeats, per_tile)
    return finish, work
