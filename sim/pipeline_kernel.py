"""Numba kernel: event times of the tile pipeline as a max-plus recurrence over tiles, integers only."""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from numba import njit


def _pipeline(fetch_cycles, store_cycles, load_beats, steps, drain_words, after, constants, events, waiting):
    """See ``sim/pipeline.py`` for the meaning of every stage; all arguments int64. ``events`` (6, tiles): zeros, is filled;
    ``waiting`` (tiles,): room for the closing tiles in order, the queue of output blocks.

    Requests to the one DRAM channel are served in order of request time, a fetch before a store at equal times. At each
    turn every tile that can be computed is computed; what is then still unknown happens later than the earliest known
    request, so serving that one is safe.
    """
    beat_interval, step_interval, latency, slots, dram_latency = constants
    tiles = steps.size
    fetched, loaded, first = events[0], events[1], events[2]
    last, drained, stored = events[3], events[4], events[5]
    closed = served = 0  # blocks drained, blocks stored
    f = c = 0  # next tile to fetch, next tile to compute
    channel = 0  # cycle at which the channel is free again
    dma = 0  # cycle at which the fetch engine is free again
    writer = 0  # cycle at which the store engine is free again
    drain_free = 0
    bus_free = bank_free = 0
    previous = -step_interval  # last step of the tile before
    while c < tiles or served < closed:
        while c < f and ((drain_words[c] == 0 and store_cycles[c] == 0) or closed - served < slots):
            start = max(fetched[c], bus_free, bank_free)
            if load_beats[c] > 0:
                if beat_interval > 1:  # a division per tile is what this loop would otherwise spend most time on
                    start = -(-start // beat_interval) * beat_interval
                start += (load_beats[c] - 1) * beat_interval + 1
            loaded[c] = bus_free = start
            bank_free = previous + 1  # the other bank holds the tile before this one
            # A tile without steps passes without issuing.
            start = max(start, previous + step_interval) if steps[c] > 0 else max(start, previous)
            first[c] = start
            if steps[c] > 0:
                start += (steps[c] - 1) * step_interval
            if drain_words[c] > 0 or store_cycles[c] > 0:
                if drain_free > start:
                    start = drain_free
                begin = start + 1 + latency
                if closed >= slots and stored[waiting[closed - slots]] > begin:
                    begin = stored[waiting[closed - slots]]
                drain_free = begin + drain_words[c]
                drained[c] = drain_free
                waiting[closed] = c
                closed += 1
            last[c] = previous = start
            c += 1
        fetch_known = f < tiles and after[f] < c
        fetch_at = dma
        if fetch_known and after[f] >= 0 and last[after[f]] + 1 > fetch_at:
            fetch_at = last[after[f]] + 1
        if served < closed:
            tile = waiting[served]
            store_at = max(drained[tile], writer)
        if served < closed and not (fetch_known and fetch_at <= store_at):
            writer = store_at
            if store_cycles[tile] > 0:
                writer = max(channel, store_at) + store_cycles[tile]
                channel = writer
            stored[tile] = writer
            served += 1
        elif fetch_known:
            if fetch_cycles[f] > 0:
                dma = max(channel, fetch_at) + fetch_cycles[f]
                channel = dma
                fetched[f] = dma + dram_latency
            else:
                dma = fetch_at
                fetched[f] = fetch_at
            f += 1
            while f < tiles and fetch_cycles[f] == 0 and after[f] < 0:  # nothing to fetch, nothing to wait for
                fetched[f] = dma
                f += 1


# The caller brings the memory: without allocations and counted references it compiles in half the time.
pipeline = njit(cache=True, nogil=True, _nrt=False)(_pipeline)
