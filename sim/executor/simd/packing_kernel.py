# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Moving tensors between planes: phases for strided operators, pooling, sums, factors per channel.

Channels are the tasks: threads that run a kernel together take them from ``tasks``, int64 (next, channels). Layouts come
as tuples of integers: (channels, height, width, pitch, lead, stride), see ``planes.PlaneLayout.dimensions``.
"""

import numpy as np
from numba import njit

from .edges_kernel import cells_between, every_second_between, store_first
from .lanes_kernel import across, first_lanes
from .machine_kernel import prefetch_read, prefetch_write, take_channel
from .vectors_kernel import (
    REVISION,
    add_bundles,
    add_from,
    address,
    clamp,
    filled,
    keep_lanes,
    larger_from,
    load,
    load_every_second,
    read_f32,
    store,
    times,
    times_from,
    write_f32,
)

#: Bytes between what is copied and what is asked for meanwhile.
AHEAD = 2048
#: Channels between the one whose surroundings become zero and the one whose are asked for meanwhile.
CHANNELS_AHEAD = 12


def _packer(revision):
    def pack_phases(tasks, x, source, out, target, phases, step, reach, fill):
        """Split a tensor into phase planes on the grid of the output of a strided window operator.

        ``phases``: int64 (n, 2), first input row and column of each phase; ``step``: the stride. Cell (u, v) of plane
        c * n + phase holds the input at (u * step + first); ``reach``: cells above, below, left of and right of the output
        grid that are filled too. Cells outside the input are ``fill``::

            for channel, phase, row u of the grid and its reach:
                16 cells at a time where the stride is 1 or 2: they may run past the row's end into cells that are
                written after them, but not past the phase's last cell, where another thread's channel begins
        """
        _ = revision  # a part of the cache key
        _, height, width, pitch, lead, stride = source
        _, rows, columns, to_pitch, to_lead, to_stride = target
        above, below, left, right = reach
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for phase in range(len(phases)):
                first_row, first_column = phases[phase]
                plane = (c * len(phases) + phase) * to_stride + to_lead
                low = max(-left, -(first_column // step))
                high = min(columns + right, (width - 1 - first_column) // step + 1)
                for u in range(-above, rows + below):
                    y = u * step + first_row
                    inside = high if 0 <= y < height else low
                    first = c * stride + lead + y * pitch + first_column
                    row = plane + u * to_pitch
                    if step > 2:
                        for i in range(-left, columns + right):
                            out[row + i] = x[first + i * step] if low <= i < inside else fill
                        continue
                    at, to = address(x) + 4 * first, address(out) + 4 * row
                    for start in range(-left, columns + right, 16):
                        v = max(-left, min(start, columns + right - 16))  # the last vector of a row ends with it
                        here = at + 4 * v * step
                        prefetch_read(2, here + AHEAD)
                        prefetch_write(1, to + 4 * v + AHEAD)
                        if low <= v and v + 16 <= inside:
                            cells = load(1, here) if step == 1 else load_every_second(here)
                        elif step == 1:
                            cells = cells_between(here, low - v, inside - v, fill)
                        else:
                            cells = every_second_between(here, low - v, inside - v, fill)
                        if v + 16 <= columns + right:
                            store(to + 4 * v, cells)
                        else:
                            store_first(to + 4 * v, columns + right - v, cells)
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(pack_phases)


pack_phases = _packer(REVISION)


def _pooler(revision):
    def pool(tasks, x, taps, step, out, target, masks, factor):
        """Maximum (``factor`` 0) or ``factor`` * sum over windows, from phase planes::

            for channel, for vector of its plane: for tap of the window: combine; zero the halo

        ``taps``: int64, bytes from a channel's phase planes to each operand; ``step``: bytes from channel to channel.
        """
        _ = revision
        lead, stride = target[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            base = address(x) + c * step
            to = address(out) + 4 * (c * stride + lead)
            for tile in range(len(masks)):
                at = base + 64 * tile
                total = load(1, at + taps[0])
                for i in range(1, len(taps)):
                    total = larger_from(total, at + taps[i]) if factor == 0 else add_from(total, at + taps[i])
                if factor != 0:
                    total = times(total, factor)
                store(to + 64 * tile, keep_lanes(total, address(masks) + 2 * tile))
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(pool)


pool = _pooler(REVISION)


def _map_pooler(revision):
    def pool_maps(tasks, x, source, out, target, factor):
        """Maximum (``factor`` 0) or ``factor`` * sum of every whole map::

            for channel: for row, for column: the larger; or, since halos are zero and add nothing:
                         for up to 32 vectors of its plane: for vector: add; then across the lanes

        A sum of sums rounds far less than one long sum.
        """
        _ = revision
        _, height, width, pitch, lead, stride = source
        to_lead, to_stride = target[4], target[5]
        vectors = (height * pitch + 15) // 16
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            first = c * stride + lead
            if factor == 0:
                largest = x[first]
                for row in range(first, first + height * pitch, pitch):
                    for i in range(row, row + width):
                        if not (x[i] <= largest or largest != largest):  # a NaN wins and stays
                            largest = x[i]
                out[c * to_stride + to_lead] = largest
            else:
                at = address(x) + 4 * first
                total = filled(1, np.float32(0))
                for start in range(0, vectors, 32):
                    part = filled(1, np.float32(0))
                    for vector in range(start, min(vectors - 1, start + 32)):
                        part = add_from(part, at + 64 * vector)
                    total = add_bundles(total, part)
                last = load(1, at + 64 * (vectors - 1))
                last = first_lanes(height * pitch - 16 * (vectors - 1), last, filled(1, np.float32(0)))
                total = add_bundles(total, last)
                out[c * to_stride + to_lead] = across(total) * factor
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(pool_maps)


pool_maps = _map_pooler(REVISION)


def _adder(revision):
    def add(tasks, x, y, out, target, masks, lowest, highest):
        """out = clamp(x + y) for three tensors of one layout: for channel, for vector of its plane."""
        _ = revision
        lead, stride = target[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for tile in range(len(masks)):
                at = 4 * (c * stride + lead) + 64 * tile
                total = clamp(add_from(load(1, address(x) + at), address(y) + at), lowest, highest)
                store(address(out) + at, keep_lanes(total, address(masks) + 2 * tile))
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(add)


add = _adder(REVISION)


def _scaler(revision):
    def scale(tasks, x, factors, out, target, masks):
        """out = x * factors[c] (squeeze-and-excitation): for channel, for vector of its plane."""
        _ = revision
        lead, stride = target[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for tile in range(len(masks)):
                at = 4 * (c * stride + lead) + 64 * tile
                product = times(load(1, address(x) + at), factors[c])
                store(address(out) + at, keep_lanes(product, address(masks) + 2 * tile))
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(scale)


scale = _scaler(REVISION)


def _multiplier(revision):
    def multiply(tasks, x, y, out, target, masks):
        """out = x * y for three tensors of one layout: for channel, for vector of its plane."""
        _ = revision
        lead, stride = target[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for tile in range(len(masks)):
                at = 4 * (c * stride + lead) + 64 * tile
                product = times_from(load(1, address(x) + at), address(y) + at)
                store(address(out) + at, keep_lanes(product, address(masks) + 2 * tile))
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(multiply)


multiply = _multiplier(REVISION)


def _copier(revision):
    def copy(tasks, x, out, target, masks):
        """out = x for two tensors of one layout: for channel, for vector of its plane."""
        _ = revision
        lead, stride = target[4:]
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for tile in range(len(masks)):
                at = 4 * (c * stride + lead) + 64 * tile
                store(address(out) + at, keep_lanes(load(1, address(x) + at), address(masks) + 2 * tile))
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(copy)


copy = _copier(REVISION)


def _cell_copier(revision):
    def copy_cells(tasks, x, source, out, target, shape):
        """Copy a tensor to memory of another order: for channel, for row, for cell.

        ``x``, ``out``: float32 (1,), the first cell of each; ``source``, ``target``: bytes from channel to channel, row to
        row, cell to cell.
        """
        _ = revision
        _, height, width = shape
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            for row in range(height):
                at = address(x) + c * source[0] + row * source[1]
                to = address(out) + c * target[0] + row * target[1]
                for _ in range(width):
                    write_f32(to, 0, read_f32(at, 0))
                    at += source[2]
                    to += target[2]
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(copy_cells)


copy_cells = _cell_copier(REVISION)


def _clearer(revision):
    def clear(tasks, x, target, gaps):
        """Zero the halo of planes: for channel: above its first row, as much below its last one, and after each row.

        ``gaps``: channels whose rows have their gaps made zero; what writes whole tiles writes those itself.
        """
        _ = revision
        _, height, width, pitch, lead, stride = target
        c = take_channel(tasks, -1)
        while c < tasks[1]:
            first = c * stride + lead
            soon = address(x) + 4 * (first + CHANNELS_AHEAD * stride)
            prefetch_write(1, soon - 4 * lead)
            prefetch_write(1, soon + 4 * height * pitch)
            for i in range(lead):
                x[first - lead + i] = 0
                x[first + height * pitch + i] = 0
            if c < gaps:
                for row in range(height):
                    for i in range(first + row * pitch + width, first + (row + 1) * pitch):
                        x[i] = 0
            c = take_channel(tasks, c)

    return njit(nogil=True, cache=True)(clear)


clear = _clearer(REVISION)
