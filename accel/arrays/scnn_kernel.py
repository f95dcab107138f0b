"""Numba kernel: what every input channel costs on a grid of Cartesian-product PEs (SCNN)."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: What the kernel counts per input channel and group of output channels, in the order of its last axis.
COUNTS = (
    "cycles",
    "dense_cycles",
    "products",
    "conflict_slots",
    "idle_slots",
    "weight_words",
    "input_words",
    "input_fetches",
    "weight_fetches",
    "broadcast_words",
    "weights",
)


def _collect_inputs(pattern, stride, tile_x, tile_y, pes_y, positions, starts):
    """Quotients (x // stride, y // stride) of one channel's non-zeros, by PE, then phase, then (x, y)."""
    width, height = pattern.shape
    filled = 0
    for pe in range((starts.size - 1) // (stride * stride)):
        x0, y0 = (pe // pes_y) * tile_x, (pe % pes_y) * tile_y
        for phase in range(stride * stride):
            starts[pe * stride * stride + phase] = filled
            sx, sy = phase // stride, phase % stride
            for x in range(x0 + (sx - x0) % stride, min(x0 + tile_x, width), stride):
                for y in range(y0 + (sy - y0) % stride, min(y0 + tile_y, height), stride):
                    if pattern[x, y] != 0:
                        positions[filled, 0] = x // stride
                        positions[filled, 1] = y // stride
                        filled += 1
    starts[starts.size - 1] = filled


def _collect_weights(keep, level, first, last, tap_order, tap_starts, weights, starts):
    """(2*tap + bit 2 of k, bits 0 and 1 of k) of the non-zero weights, by phase, then (r, s, k)."""
    filled = 0
    for phase in range(starts.size - 1):
        starts[phase] = filled
        for t in range(tap_starts[phase], tap_starts[phase + 1]):
            tap = tap_order[t]
            for k in range(first, last):
                if keep[tap, k] > level:
                    weights[filled, 0] = 2 * tap + ((k >> 2) & 1)
                    weights[filled, 1] = k & 3
                    filled += 1
    starts[starts.size - 1] = filled


def _quotient(distance, remainder):
    """(distance*stride + remainder) / stride rounded towards zero, for |remainder| < stride."""
    if remainder > 0 and distance < 0:
        return distance + 1
    if remainder < 0 and distance > 0:
        return distance - 1
    return distance


_quotient = njit(inline="always")(_quotient)
_collect_inputs = njit(cache=True)(_collect_inputs)
_collect_weights = njit(cache=True)(_collect_weights)


def _fuller(a, b):
    """Byte by byte the larger one; bytes below 128."""
    larger = ((((a | -0x7F7F7F7F7F7F7F80) - b) >> 7) & 0x0101010101010101) * 255
    return (a & larger) | (b & ~larger)


_fuller = njit(inline="always")(_fuller)


def _fullest(sums):
    """The largest of the eight bytes of ``sums``; bytes below 128."""
    top = _fuller(sums, sums >> 32)
    top = _fuller(top, top >> 16)
    return _fuller(top, top >> 8) & 255


_fullest = njit(inline="always")(_fullest)


def _pe_cost(positions, weights, taps, tap_list, out, shape, slots, lines, sums):
    """Cycles, products, conflict cycles, input and weight fetches of one PE at one phase.

    Accumulator bank of a product (DNNsim): bits 0 and 1 are those of k; bit 2 is h & 1; bit 3 is w & 1; bit 4 is the
    exclusive or of bit 1 of w, bit 1 of h and bit 2 of k. So products of different k & 3 never meet, and for one k & 3 the
    occupancy of the eight remaining banks is eight bytes of one integer, summed weight by weight.
    ``lines[2*tap + bit 2 of k]``: occupancy by one weight and the current inputs, its fullest byte, its products.
    """
    input_lanes, weight_lanes = shape
    inputs, kernels = positions.shape[0], weights.shape[0]
    cycles = products = conflicts = input_fetches = weight_fetches = 0
    for i in range(0, inputs, input_lanes):
        input_fetches += 1
        if kernels == 0:
            continue
        for tap in tap_list:
            even = odd = valid = 0
            for a in range(i, min(i + input_lanes, inputs)):
                w = _quotient(positions[a, 0] - taps[tap, 1], taps[tap, 3])
                h = _quotient(positions[a, 1] - taps[tap, 2], taps[tap, 4])
                if 0 <= w < out[0] and 0 <= h < out[1]:
                    slot = (((w ^ h) & 2) << 1) | ((w & 1) << 1) | (h & 1)
                    even += 1 << (8 * (slot & slots))
                    odd += 1 << (8 * ((slot ^ 4) & slots))
                    valid += 1
            full = _fullest(even)
            lines[2 * tap, 0], lines[2 * tap, 1], lines[2 * tap, 2] = even, full, valid
            lines[2 * tap + 1, 0], lines[2 * tap + 1, 1], lines[2 * tap + 1, 2] = odd, full, valid
        for f in range(0, kernels, weight_lanes):
            weight_fetches += 1
            top = 1
            sums[:] = 0
            for b in range(f, min(f + weight_lanes, kernels)):
                line, lane = weights[b, 0], weights[b, 1]
                total = sums[lane]
                if total == 0:
                    sums[lane] = lines[line, 0]
                    top = max(top, lines[line, 1])
                else:
                    total += lines[line, 0]
                    sums[lane] = total
                    top = max(top, _fullest(total))
                products += lines[line, 2]
            cycles += top
            conflicts += top - 1
    return cycles, products, conflicts, input_fetches, weight_fetches


_pe_cost = njit(cache=True)(_pe_cost)


def _channel_counts(pattern, keep, blocks, levels, taps, geometry, dense_inputs):
    """Counts (levels, blocks, channels, COUNTS); arguments as in ``channel_counts``, ``geometry`` its scalars.

    ``dense_inputs``: positions of every PE at every phase, int64 (PEs, phases).
    """
    stride, tile_x, tile_y, pes_y, mult_i, mult_f, out_w, out_h, banks = geometry
    pes, squares = dense_inputs.shape
    out, shape, multipliers = (out_w, out_h), (mult_i, mult_f), mult_i * mult_f
    slots = min(banks, 32) // 4 - 1
    channels, tap_count = keep.shape[0], keep.shape[1]
    counts = np.zeros((levels, blocks.shape[0], channels, 11), np.int64)
    positions = np.empty((pattern.shape[1] * pattern.shape[2], 2), np.int64)
    starts = np.zeros(pes * squares + 1, np.int64)
    widest = 1
    for block in range(blocks.shape[0]):
        widest = max(widest, blocks[block, 1] - blocks[block, 0])
    weights = np.empty((widest * tap_count, 2), np.int32)
    weight_starts = np.zeros(squares + 1, np.int64)
    tap_order = np.empty(tap_count, np.int64)
    tap_starts = np.zeros(squares + 1, np.int64)
    listed = 0
    for phase in range(squares):
        for tap in range(tap_count):
            if taps[tap, 0] == phase:
                tap_order[listed] = tap
                listed += 1
        tap_starts[phase + 1] = listed
    lines = np.zeros((2 * tap_count, 3), np.int64)
    sums = np.zeros(4, np.int64)
    for channel in range(channels):
        held = -1
        for block in range(blocks.shape[0]):
            first, last, source = blocks[block, 0], blocks[block, 1], blocks[block, 2] + channel
            if source != held:
                _collect_inputs(pattern[source], stride, tile_x, tile_y, pes_y, positions, starts)
                held = source
            for level in range(levels):
                _collect_weights(keep[channel], level, first, last, tap_order, tap_starts, weights, weight_starts)
                count = counts[level, block, channel]
                slowest = slowest_dense = busy = most_fetches = words = 0
                for phase in range(squares):
                    words += -(-(weight_starts[phase + 1] - weight_starts[phase]) // mult_f) * mult_f
                for pe in range(pes):
                    spent = fetched = dense = 0
                    for phase in range(squares):
                        inputs = positions[starts[pe * squares + phase] : starts[pe * squares + phase + 1]]
                        tap_list = tap_order[tap_starts[phase] : tap_starts[phase + 1]]
                        cycles, products, conflicts, input_fetches, weight_fetches = _pe_cost(
                            inputs, weights[weight_starts[phase] : weight_starts[phase + 1]], taps, tap_list,
                            out, shape, slots, lines, sums,
                        )  # fmt: skip
                        spent += cycles
                        fetched += input_fetches
                        dense_weights = tap_list.size * (last - first)
                        dense += -(-dense_inputs[pe, phase] // mult_i) * -(-dense_weights // mult_f)
                        count[2] += products
                        count[3] += conflicts * multipliers
                        count[6] += -(-inputs.shape[0] // mult_i) * mult_i
                        count[8] += weight_fetches
                    slowest = max(slowest, spent)
                    slowest_dense = max(slowest_dense, dense)
                    busy += spent
                    most_fetches = max(most_fetches, fetched)
                    count[7] += fetched
                count[0] = slowest
                count[1] = slowest_dense
                count[4] = (slowest * pes - busy) * multipliers
                count[5] = words * pes
                count[9] = most_fetches * words
                count[10] = weight_starts[squares]
    return counts


_channel_counts = njit(cache=True)(_channel_counts)


def channel_counts(
    pattern: NDArray[np.uint8],
    keep: NDArray[np.uint8],
    blocks: NDArray[np.int64],
    *,
    levels: int,
    taps: NDArray[np.int64],
    stride: int,
    tile: tuple[int, int],
    pes: tuple[int, int],
    multipliers: tuple[int, int],
    output: tuple[int, int],
    banks: int,
) -> NDArray[np.int64]:
    """Counts of every (level, block of output channels, input channel), int64 (levels, blocks, channels, len(COUNTS)).

    Parameters
    ----------
    pattern : uint8 (input channels of the layer, X, Y), non-zeros of the padded map, X and Y multiples of the PE tiles.
    keep : uint8 (channels of a group, taps, output channels of the layer).
    blocks : int64 (blocks, 3): first and last + 1 output channel of a block, first input channel of its group.
    taps : int64 (taps, 5): phase of the tap, its quotients by the stride (2), what is left of (input - tap) (2).
    tile, pes, multipliers, output : inputs per PE, PEs, (I, F), output positions, each (x, y).
    """
    geometry = np.array([stride, *tile, pes[1], *multipliers, *output, banks], dtype=np.int64)
    counts: NDArray[np.int64] = _channel_counts(
        np.ascontiguousarray(pattern, dtype=np.uint8),
        np.ascontiguousarray(keep, dtype=np.uint8),
        np.ascontiguousarray(blocks, dtype=np.int64),
        levels,
        np.ascontiguousarray(taps, dtype=np.int64),
        geometry,
        _positions_by_phase(stride, tile, pes),
    )
    return counts


def _positions_by_phase(stride: int, tile: tuple[int, int], pes: tuple[int, int]) -> NDArray[np.int64]:
    """Positions of every PE's tile at every phase of the stride, int64 (PEs, stride * stride)."""
    found = np.zeros((pes[0] * pes[1], stride * stride), dtype=np.int64)
    for pe in range(len(found)):
        x = np.arange(tile[0]) + (pe // pes[1]) * tile[0]
        y = np.arange(tile[1]) + (pe % pes[1]) * tile[1]
        phase = (x % stride)[:, None] * stride + (y % stride)[None, :]
        found[pe] = np.bincount(phase.reshape(-1), minlength=stride * stride)
    return found
