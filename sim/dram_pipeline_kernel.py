"""Numba kernel: the tile pipeline in closed loop with the DRAM controller, integers only.

The tile recurrence is that of ``pipeline_kernel.py``; instead of a channel with a rate, requests go to the controller of
``dram_kernel.py``. Who compiles it passes a checksum of the controller's files (``compiled_pipeline``): Numba's cache of
this file would not see a change there.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from numba import njit

from .dram_kernel import next_event, serve_run, tick

#: No request is known.
_NEVER = 1 << 60
#: Rows of ``out``.
FETCHED, LOADED, FIRST, LAST, DRAINED, STORED, FETCH_BEGIN, FETCH_END, STORE_BEGIN = range(9)
ROWS = 9


def _settle(state, book, tag, until):
    """Run the channels until all reads of a tag are under way, but not into cycle ``until``; True if they are."""
    while book[tag, 1] > 0:
        first, event = 0, next_event(state[0])
        for c in range(1, len(state)):
            other = next_event(state[c])
            if other < event:
                first, event = c, other
        if event >= until:
            return False
        tick(state[first], event, book)
    return True


def _offer(state, port, book, runs, begin, end, is_write, arrival, tag):
    """Put the runs ``begin`` to ``end`` through the port; returns the cycle after the last acceptance."""
    accepted = arrival
    for k in range(begin, end):
        accepted = serve_run(state, port, book, runs[0, k], runs[1, k], is_write, arrival, tag)
    return accepted + 1


def _dram_pipeline(
    state, port, book, fetch_ends, fetches, store_ends, stores, load_beats, steps, drain_words, closes, after, constants,
    waiting, out
):  # fmt: skip
    """See ``sim/dram_pipeline.py`` for arguments and rules; all arguments int64, ``closes`` bool.

    At each turn every tile whose data are known to arrive is computed; r is then the earliest request that is known. If the
    array waits for a fetch under way, the controller runs up to r: either that fetch completes, or what its completion will
    cause comes after r, so r is offered. Thus requests enter the port in order of request time.
    """
    beat_interval, step_interval, latency, slots, num, den = constants
    tiles = steps.size
    tail = tiles  # tag of all stores
    closed = served = 0  # blocks drained, blocks stored
    f = c = 0  # next tile to fetch, next tile to compute
    dma = writer = 0  # cycles at which the fetch and the store engine are free again
    drain_free = bus_free = bank_free = 0
    previous = -step_interval  # last step of the tile before
    while c < tiles or served < closed:
        blocked = False
        while c < f and (not closes[c] or closed - served < slots):
            if book[c, 1] > 0:
                blocked = True
                break
            if book[c, 0] > 0:
                out[FETCHED, c] = -(-book[c, 0] * den // num)
            start = max(out[FETCHED, c], bus_free, bank_free)
            if load_beats[c] > 0:
                if beat_interval > 1:
                    start = -(-start // beat_interval) * beat_interval
                start += (load_beats[c] - 1) * beat_interval + 1
            out[LOADED, c] = bus_free = start
            bank_free = previous + 1
            start = max(start, previous + step_interval) if steps[c] > 0 else max(start, previous)
            out[FIRST, c] = start
            if steps[c] > 0:
                start += (steps[c] - 1) * step_interval
            if closes[c]:
                start = max(start, drain_free)
                begin = start + 1 + latency
                if closed >= slots:
                    begin = max(begin, out[STORED, waiting[closed - slots]])
                drain_free = begin + drain_words[c]
                out[DRAINED, c] = drain_free
                waiting[closed] = c
                closed += 1
            out[LAST, c] = previous = start
            c += 1
        fetch_at = store_at = _NEVER
        if f < tiles and after[f] < c:
            fetch_at = dma if after[f] < 0 else max(dma, out[LAST, after[f]] + 1)
        if served < closed:
            store_at = max(out[DRAINED, waiting[served]], writer)
        request = min(fetch_at, store_at)
        arrival = _NEVER if request == _NEVER else -(-request * num // den)
        if (blocked and settle(state, book, c, arrival)) or request == _NEVER:
            continue
        if fetch_at <= store_at:
            run = fetch_ends[f - 1] if f > 0 else 0
            dma = fetch_at
            if fetch_ends[f] > run:
                accepted = offer(state, port, book, fetches, run, fetch_ends[f], False, arrival, f)
                dma = -(-accepted * den // num)
            else:
                out[FETCHED, f] = dma
            out[FETCH_BEGIN, f], out[FETCH_END, f] = fetch_at, dma
            f += 1
        else:
            tile = waiting[served]
            run = store_ends[tile - 1] if tile > 0 else 0
            writer = store_at
            if store_ends[tile] > run:
                accepted = offer(state, port, book, stores, run, store_ends[tile], True, arrival, tail)
                writer = -(-accepted * den // num)
            out[STORE_BEGIN, tile], out[STORED, tile] = store_at, writer
            served += 1


settle = njit(error_model="numpy", _nrt=False)(_settle)
offer = njit(error_model="numpy", _nrt=False)(_offer)
dram_pipeline = njit(error_model="numpy", _nrt=False)(_dram_pipeline)


def compiled_pipeline(version):
    """``_dram_pipeline`` compiled and cached under ``version``, a checksum of the files of its callees.

    Numba's cache distinguishes functions by the values they close over, so another version is compiled anew.
    """

    def pipeline(
        state, port, book, fetch_ends, fetches, store_ends, stores, load_beats, steps, drain_words, closes, after,
        constants, waiting, out
    ):  # fmt: skip
        _ = version
        dram_pipeline(
            state, port, book, fetch_ends, fetches, store_ends, stores, load_beats, steps, drain_words, closes, after,
            constants, waiting, out,
        )  # fmt: skip

    return njit(cache=True, error_model="numpy", _nrt=False)(pipeline)
