"""Bank timing and candidate commands of one DRAM channel: the middle part of the controller kernel.

A channel is one row of int64: its parameters, then its state (layout below). For each kind of command, two vectors with a
lane per bank say when it can issue: SINCE, from which cycle on the bank's own timing allows it (FAR if the bank does not
want it), and GATE, from which cycle on rank and group allow it. ``earliest`` finds the next command cycle and the banks that
can issue then in one scan of these vectors, without branches (whose outcomes a processor could not predict for random
traffic); cycles in between are skipped. After a column command in a stream of hits not even a scan is needed: ``follow``
has the next one in closed form and knows when it has not. A bank queue is a vector, too: looking for hits is one comparison.
Timing pairs and their scopes are those of DRAMsim3 (timing.cc, commit 2981759).

The upper part (``dram_kernel.py``) calls into this file and holds its checksum, as this file holds that of the vector
operations (``dram_lanes_kernel.py``), so that a change below also changes the files above and with them Numba's cache.
``_nrt=False``: no kernel owns an array, and counting references took 40 % of the time.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from numba import njit

from .dram_lanes_kernel import DEPTH, FAR, KEY_SHIFT, LANES, delay, lowest, matches, put, scan

compiled = njit(cache=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, error_model="numpy", _nrt=False, inline="always")
#: For small functions with several callers: LLVM merges them into the caller. A real call passes an array as seven words,
#: clears the places of its result and of its status, and tests the status afterwards: some 30 instructions per call.
fused = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
#: CRC-32 of ``dram_lanes_kernel.py``; see ``dram_kernel.py``.
LANES_KERNEL_CRC32 = 0x06A6D245
# fmt: off
# --- parameters (cycles unless the name says otherwise) ---------------------------------------------------------------
(RCD_RD, RCD_WR, RAS, RC, RP, RD_PRE, WR_PRE, RRD_S, RRD_L, FAW, CCD_S, CCD_L, RD_TO_WR, WR_TO_RD_S, WR_TO_RD_L,
 RANK_RD_RD, RANK_RD_WR, RANK_WR_RD, RANK_WR_WR, PRE_PRE, RFC, REFI, READ_END, WRITE_END, XP, DUAL, BANKS, RANKS,
 RANK_SHIFT, GROUP_SHIFT, READ_QUEUE, WRITE_QUEUE, BANK_QUEUE, HIT_CAP, DRAIN_HIGH, DRAIN_LOW, PORT_WIDTH, ACCESS_BYTES,
 SPLIT, POWER_DOWN_AFTER, CHANNEL_SHIFT, CHANNEL_MASK, ROW_SHIFT, ONE_SCAN) = range(44)
SEGMENT, MAX_SEGMENTS = 44, 27   # x (right shift, mask, left shift), mask 0 ends: address -> row | channel | bank
PARAMETERS = 128
# --- state ------------------------------------------------------------------------------------------------------------
(CLOCK, NEXT_COMMAND, STALE, POINTER, DRAIN, HELD, REF_DUE, REF_NEXT, REF_OPEN, REF_RANK, IN_BANKS, SEQUENCE,
 FREE, LAST_END, READS, WRITES, READ_HITS, WRITE_HITS, ACTS, PRES, REFS, MERGED, LATENCY, EMPTY_FROM, EMPTY_IDLE,
 EMPTY_REFS, DOWN_OPEN, DOWN_CLOSED, READ_REQUESTS, WRITE_REQUESTS, LAST_ADDRESS, LAST_PLACE,
 CLOSING, OTHERS, WRITE_UNTIL) = range(PARAMETERS, PARAMETERS + 35)
ACT, RD, WR, PRE = range(4)      # kinds of command; RD and WR are also the kinds of request
MAX_RANKS, MAX_BANKS, SLOTS, FILTER = 4, 32, 512, 1024
WAITING, MOVABLE, HITTING, READY, ARMED = range(PARAMETERS + 36, PARAMETERS + 56, 4)     # [kind] requests; bank masks
OPEN_BANKS, IDLE_FROM, IDLE, REF_READY, FAW_HEAD = range(PARAMETERS + 56, PARAMETERS + 76, 4)           # [rank]
FAW_RING = PARAMETERS + 76                         # [rank, 4]
# Vectors of lanes start at multiples of 64 bytes.
GATE = PARAMETERS + 96                                        # [kind, bank] cycle from which rank and group allow it
SINCE = GATE + 4 * MAX_BANKS                                  # [kind, bank] BANK_TIME if the bank wants the command, or FAR
BANK_TIME = SINCE + 4 * MAX_BANKS                             # [kind, bank] cycle from which the bank's timing allows it
QUEUE = BANK_TIME + 4 * MAX_BANKS                             # [bank, DEPTH] KEY << KEY_SHIFT | slot, oldest first, or -1
OPEN_ROW = QUEUE + DEPTH * MAX_BANKS                          # [bank] -1: closed
HITS = OPEN_ROW + MAX_BANKS                                   # [bank] column commands since ACT
QUEUED = HITS + MAX_BANKS                                     # [bank] entries of the bank queue
GROUP_BANKS = QUEUED + MAX_BANKS                              # [bank] mask of the banks in its group
RANK_BANKS = GROUP_BANKS + MAX_BANKS                          # [bank] mask of the banks in its rank
HEAD = RANK_BANKS + MAX_BANKS                                 # [kind, bank] list of the requests that wait for the bank
TAIL = HEAD + 3 * MAX_BANKS
# A slot is a handle: the offset of eight words (one cache line) that hold a request from acceptance to completion.
KEY = TAIL + 3 * MAX_BANKS                                    # [slot] row * 2 + is_write
LINK, ADDRESS, TAG, ORDER, MERGES, SLOT_WORDS = KEY + 1, KEY + 2, KEY + 3, KEY + 4, KEY + 5, 8    # [slot]
PENDING = KEY + SLOT_WORDS * SLOTS                            # [hash of address] requests that hold a slot
STATE_SIZE = PENDING + FILTER
# fmt: on
# Indices are masked where they come from memory: the compiler then knows that they are not negative.
BANK_BITS, SLOT_BITS, SHIFT_BITS, DEPTH_BITS = MAX_BANKS - 1, SLOT_WORDS * SLOTS - 1, 31, DEPTH - 1


def _fold(address):
    """Place of an address in the table of pending addresses."""
    line = address >> 5
    return (line ^ (line >> 10) ^ (line >> 20)) & (FILTER - 1)


def _append(s, queue, slot):
    """Append a slot to a list of waiting requests (index: kind * MAX_BANKS + bank)."""
    s[LINK + slot] = -1
    if s[HEAD + queue] < 0:
        s[HEAD + queue] = slot
    else:
        s[LINK + (s[TAIL + queue] & SLOT_BITS)] = slot
    s[TAIL + queue] = slot


def _find_same(s, kind, bank, address):
    """Slot of a pending request of a kind to an address, or -1."""
    for place in range(s[QUEUED + bank]):
        slot = s[QUEUE + DEPTH * bank + place] & SLOT_BITS
        if s[ADDRESS + slot] == address and s[KEY + slot] & 1 == kind - RD:
            return slot
    slot = s[HEAD + kind * MAX_BANKS + bank]
    while slot >= 0 and s[ADDRESS + slot] != address:
        slot = s[LINK + slot]
    return slot


def _want(s, kind, bank):
    """Make a command a candidate from the cycle on that the bank's timing allows."""
    at = kind * MAX_BANKS + bank
    since = s[BANK_TIME + at]
    put(s, SINCE + (at & ~DEPTH_BITS), at & DEPTH_BITS, since)
    since = max(since, s[GATE + at])
    s[OTHERS] = min(s[OTHERS], since)
    s[STALE] |= 1 if since <= s[NEXT_COMMAND] else 0


def _forget(s, kind, bank):
    """Let a bank want a command no more."""
    at = kind * MAX_BANKS + bank
    put(s, SINCE + (at & ~DEPTH_BITS), at & DEPTH_BITS, FAR)


def _drop(s, kind, bank):
    """``forget``, and note if the next command may have been this one."""
    forget(s, kind, bank)
    s[STALE] |= s[READY + kind] >> bank & 1


def _earliest(s, clock):
    """Set the first cycle (from ``clock``) in which a command can issue, and for each kind the banks that can then."""
    if s[REF_OPEN] > 0 or s[ONE_SCAN] == 0:
        earliest_part(s, clock)
    else:
        best, act, rd, wr, pre, reads, writes, others = scan(s, GATE, SINCE, MAX_BANKS, clock, -1)
        s[READY + ACT], s[READY + RD], s[READY + WR], s[READY + PRE] = act, rd, wr, pre
        s[ARMED + RD], s[ARMED + WR], s[OTHERS] = reads, writes, others
        s[NEXT_COMMAND], s[STALE] = best, 0


def _earliest_part(s, clock):
    """``earliest`` for many banks or ranks, without a rank whose refresh is due: it takes no other command."""
    best, act, rd, wr, pre = FAR, 0, 0, 0, 0
    allowed = ~s[RANK_BANKS + (s[REF_RANK] << s[RANK_SHIFT])] if s[REF_OPEN] > 0 else -1
    for first in range(0, s[BANKS], LANES):
        time, a, r, w, p, _, _, _ = scan(s, GATE + first, SINCE + first, MAX_BANKS, clock, allowed >> first)
        if time < best:
            best, act, rd, wr, pre = time, 0, 0, 0, 0
        if time == best:
            act, rd, wr, pre = act | a << first, rd | r << first, wr | w << first, pre | p << first
    s[READY + ACT], s[READY + RD], s[READY + WR], s[READY + PRE] = act, rd, wr, pre
    s[NEXT_COMMAND], s[OTHERS], s[STALE] = best, 0, 0


def _follow(s, kind, bank, clock):
    """What ``earliest`` would find after a column command, if more of its kind come before anything else; else STALE.

    Armed commands of one rank and kind wait for the command just issued alone: the one before it was CCD_S earlier, and
    CCD_L <= 2 * CCD_S.
    """
    other, armed = RD + WR - kind, s[ARMED + kind] & s[HITTING + kind]
    ready = armed if s[CCD_L] <= s[CCD_S] else armed & ~s[GROUP_BANKS + bank]
    time = clock + (s[CCD_S] if ready != 0 else s[CCD_L])
    mixed = s[ARMED + other] & s[HITTING + other]
    if armed != 0 and mixed == 0 and time < s[OTHERS] and (kind == WR or s[WRITE_UNTIL] <= time):
        s[READY + ACT] = s[READY + PRE] = s[READY + other] = 0
        s[READY + kind], s[NEXT_COMMAND] = ready if ready != 0 else armed, time
    else:
        s[STALE] = 1


def _choose(s):
    """The next bank, round robin, that can issue a command in the next command cycle."""
    able = s[READY + ACT] | s[READY + RD] | s[READY + WR] | s[READY + PRE]
    later = able & ~((2 << (s[POINTER] & BANK_BITS)) - 1)
    return lowest(later if later != 0 else able) & BANK_BITS


def _ready(s, kind, bank, clock):
    """True if a command that the bank wants can issue in this cycle."""
    at = kind * MAX_BANKS + bank
    return max(s[BANK_TIME + at], s[GATE + at]) <= clock


def _weigh_precharge(s, bank):
    """A row is closed for its queue's head if no hit waits, or after HIT_CAP column commands (ArbitratePrecharge)."""
    head, hitting = s[QUEUE + DEPTH * bank], (s[HITTING + RD] | s[HITTING + WR]) >> bank & 1
    if head >= 0 and head >> KEY_SHIFT + 1 != s[OPEN_ROW + bank] and (hitting == 0 or s[HITS + bank] >= s[HIT_CAP]):
        s[CLOSING] |= 1 << bank
        want(s, PRE, bank)
    elif s[CLOSING] >> bank & 1 != 0:
        s[CLOSING] ^= 1 << bank
        drop(s, PRE, bank)


def _activate(s, bank, clock):
    """Open the row that the head of the bank queue needs."""
    rank = bank >> (s[RANK_SHIFT] & SHIFT_BITS)
    drop(s, ACT, bank)
    row = s[QUEUE + DEPTH * bank] >> KEY_SHIFT + 1
    s[OPEN_ROW + bank], s[HITS + bank] = row, 0
    s[BANK_TIME + ACT * MAX_BANKS + bank] = clock + s[RC]
    s[BANK_TIME + RD * MAX_BANKS + bank] = clock + s[RCD_RD]
    s[BANK_TIME + WR * MAX_BANKS + bank] = clock + s[RCD_WR]
    s[BANK_TIME + PRE * MAX_BANKS + bank] = clock + s[RAS]
    head = s[FAW_HEAD + rank] & 3
    s[FAW_RING + 4 * rank + head] = clock + s[FAW]
    head = (head + 1) & 3
    s[FAW_HEAD + rank] = head
    until = max(clock + s[RRD_S], s[FAW_RING + 4 * rank + head])
    delay_ranks(s, ACT, bank, max(until, clock + s[RRD_L]), until, 0)
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE + rank] += clock - s[IDLE_FROM + rank]
    s[OPEN_BANKS + rank] += 1
    s[ACTS] += 1
    for kind in range(RD, PRE):
        if matches(s, QUEUE + DEPTH * bank, row * 2 + kind - RD) != 0:
            s[HITTING + kind] |= 1 << bank
            want(s, kind, bank)


def _precharge(s, bank, clock):
    """Close the bank's row."""
    rank = bank >> (s[RANK_SHIFT] & SHIFT_BITS)
    s[CLOSING] &= ~(1 << bank)
    drop(s, PRE, bank)
    for kind in range(RD, PRE):
        if s[HITTING + kind] >> bank & 1 != 0:
            s[HITTING + kind] ^= 1 << bank
            drop(s, kind, bank)
    s[OPEN_ROW + bank], s[HITS + bank] = -1, 0
    at = BANK_TIME + ACT * MAX_BANKS + bank
    s[at] = max(s[at], clock + s[RP])
    s[REF_READY + rank] = max(s[REF_READY + rank], clock + s[RP])
    if s[PRE_PRE] > 0:
        delay_ranks(s, PRE, bank, clock + s[PRE_PRE], clock + s[PRE_PRE], 0)
    s[OPEN_BANKS + rank] -= 1
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE_FROM + rank] = clock
    s[PRES] += 1
    if s[QUEUED + bank] > 0:
        want(s, ACT, bank)


def _delay_ranks(s, kind, bank, group_until, rank_until, others_until):
    """Allow a kind of command in the group of a bank from one cycle on, in the rest of its rank and in other ranks."""
    gate, group, rank = GATE + kind * MAX_BANKS, s[GROUP_BANKS + bank], s[RANK_BANKS + bank]
    if s[RANKS] == 1:
        delay(s, gate, group, -1, group_until, rank_until, 0)
    else:
        delay(s, gate, group, rank, group_until, rank_until, others_until)
    if s[BANKS] > LANES:
        delay(s, gate + LANES, group >> LANES, rank >> LANES, group_until, rank_until, others_until)


def _column_times(s, kind, bank, clock):
    """Delay the next column commands of group and ranks, and the bank's PRE, after a column command."""
    pre = BANK_TIME + PRE * MAX_BANKS + bank
    if kind == RD:
        until = clock + s[CCD_S]
        delay_ranks(s, RD, bank, max(until, clock + s[CCD_L]), until, clock + s[RANK_RD_RD])
        until = clock + s[RD_TO_WR]
        delay_ranks(s, WR, bank, until, until, clock + s[RANK_RD_WR])
        s[pre] = max(s[pre], clock + s[RD_PRE])
    else:
        until = clock + s[WR_TO_RD_S]
        s[WRITE_UNTIL] = max(until, clock + s[WR_TO_RD_L])
        delay_ranks(s, RD, bank, s[WRITE_UNTIL], until, clock + s[RANK_WR_RD])
        until = clock + s[CCD_S]
        delay_ranks(s, WR, bank, max(until, clock + s[CCD_L]), until, clock + s[RANK_WR_WR])
        s[pre] = max(s[pre], clock + s[WR_PRE])


def _older_kind(s, bank):
    """Read or write: the kind of the older one of the first read hit and the first write hit of a bank."""
    at, key = QUEUE + DEPTH * bank, s[OPEN_ROW + bank] * 2
    return RD if lowest(matches(s, at, key)) < lowest(matches(s, at, key + 1)) else WR


def _full_of_hits(s, bank):
    """True if a bank's full queue starts with two reads of the open row, the first unmerged, and more reads wait."""
    first, second, key = s[QUEUE + DEPTH * bank], s[QUEUE + DEPTH * bank + 1], s[OPEN_ROW + bank] * 2
    return (
        s[QUEUED + bank] == s[BANK_QUEUE]
        and first >> KEY_SHIFT == key
        and second >> KEY_SHIFT == key
        and s[HEAD + RD * MAX_BANKS + bank] >= 0
        and s[MERGES + (first & SLOT_BITS)] < 0
    )


def _enqueue(s, kind, bank, slot):
    """Append to a bank queue and update the bank's candidates."""
    place, key = s[QUEUED + bank] & DEPTH_BITS, s[KEY + slot]
    put(s, QUEUE + DEPTH * bank, place, key << KEY_SHIFT | slot)
    s[QUEUED + bank] = place + 1
    s[IN_BANKS] += 1
    if place + 1 == s[BANK_QUEUE]:
        s[MOVABLE + RD] &= ~(1 << bank)
        s[MOVABLE + WR] &= ~(1 << bank)
    if s[OPEN_ROW + bank] < 0:
        if place == 0:
            want(s, ACT, bank)
    elif key >> 1 == s[OPEN_ROW + bank]:
        if s[HITTING + kind] >> bank & 1 == 0:
            s[HITTING + kind] |= 1 << bank
            want(s, kind, bank)
            weigh_precharge(s, bank)
    elif place == 0:
        weigh_precharge(s, bank)


def _refresh(s, clock):
    """One step of an all-bank refresh: precharge the first open bank that allows it, else refresh. 1 if issued."""
    if clock >= s[REF_DUE]:
        s[REF_DUE] += s[REFI]
        s[REF_OPEN] += 1
        s[STALE] = 1
    rank, issued = s[REF_RANK], 0
    first, after = rank << s[RANK_SHIFT], (rank + 1) << s[RANK_SHIFT]
    if s[OPEN_BANKS + rank] > 0:
        for bank in range(first, after):
            if issued == 0 and s[OPEN_ROW + bank] >= 0 and ready(s, PRE, bank, clock):
                precharge(s, bank, clock)
                issued = 1
    elif s[REF_READY + rank] <= clock:
        s[REF_READY + rank] = clock + s[RFC]
        for bank in range(first, after):
            at = BANK_TIME + ACT * MAX_BANKS + bank
            s[at] = max(s[at], clock + s[RFC])
            drop(s, ACT, bank)
            if s[QUEUED + bank] > 0:
                want(s, ACT, bank)
        s[REFS] += 1
        s[REF_OPEN] -= 1
        s[REF_RANK] = (rank + 1) % s[RANKS]
        issued = 1
    s[REF_NEXT] = refresh_time(s, s[REF_RANK], clock + 1) if s[REF_OPEN] > 0 else FAR
    s[STALE] |= issued
    return issued


def _refresh_time(s, rank, clock):
    """Earliest cycle of the next step of a due refresh."""
    if s[OPEN_BANKS + rank] == 0:
        return max(clock, s[REF_READY + rank])
    least = FAR
    for bank in range(rank << s[RANK_SHIFT], (rank + 1) << s[RANK_SHIFT]):
        if s[OPEN_ROW + bank] >= 0:
            least = min(least, s[BANK_TIME + PRE * MAX_BANKS + bank])
    return max(clock, least, s[GATE + PRE * MAX_BANKS + (rank << s[RANK_SHIFT])])


fold, find_same, append = inlined(_fold), compiled(_find_same), inlined(_append)
forget, want, drop, choose, delay_ranks = (
    fused(_forget),
    fused(_want),
    fused(_drop),
    inlined(_choose),
    fused(_delay_ranks),
)
earliest, earliest_part, follow = inlined(_earliest), compiled(_earliest_part), fused(_follow)
full_of_hits = inlined(_full_of_hits)
ready, weigh_precharge, older_kind = fused(_ready), fused(_weigh_precharge), fused(_older_kind)
enqueue, activate, precharge, column_times = (
    inlined(_enqueue),
    fused(_activate),
    fused(_precharge),
    inlined(_column_times),
)
refresh, refresh_time = compiled(_refresh), compiled(_refresh_time)
