"""Bank timing and candidate commands of one DRAM channel: the lower half of the controller kernel.

A channel is one row of int64: its parameters, then its state (layout below). For every command that a bank wants, the
earliest cycle by the bank's own timing is kept, and their minimum per bank group; what the rank and the group demand is
kept once per rank and group. So the next command cycle is a minimum over few numbers without branches (whose outcomes a
processor could not predict for random traffic), and cycles in between are skipped.
Timing pairs and their scopes are those of DRAMsim3 (timing.cc, commit 2981759).

The upper half (``dram_kernel.py``) calls into this file and holds its checksum, so that a change here also changes that
file and with it Numba's cache. ``_nrt=False``: no kernel owns an array, and counting references took 40 % of the time.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic, overload

compiled = njit(cache=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, error_model="numpy", _nrt=False, inline="always")
#: For small functions with several callers: LLVM merges them into the caller. A real call passes an array as seven words,
#: clears the places of its result and of its status, and tests the status afterwards: some 30 instructions per call.
fused = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
# fmt: off
# --- parameters (cycles unless the name says otherwise) ---------------------------------------------------------------
(RCD_RD, RCD_WR, RAS, RC, RP, RD_PRE, WR_PRE, RRD_S, RRD_L, FAW, CCD_S, CCD_L, RD_TO_WR, WR_TO_RD_S, WR_TO_RD_L,
 RANK_RD_RD, RANK_RD_WR, RANK_WR_RD, RANK_WR_WR, PRE_PRE, RFC, REFI, READ_END, WRITE_END, XP, DUAL, BANKS, RANKS,
 RANK_SHIFT, GROUP_SHIFT, READ_QUEUE, WRITE_QUEUE, BANK_QUEUE, HIT_CAP, DRAIN_HIGH, DRAIN_LOW, PORT_WIDTH, ACCESS_BYTES,
 SPLIT, POWER_DOWN_AFTER, CHANNEL_SHIFT, CHANNEL_MASK, ROW_SHIFT, SEGMENTS) = range(44)
SEGMENT, MAX_SEGMENTS = 44, 28   # SEGMENTS x (right shift, mask, left shift): address -> row | channel | bank
PARAMETERS = 128
# --- state ------------------------------------------------------------------------------------------------------------
(CLOCK, NEXT_COMMAND, WANTING, READY, STALE, POINTER, DRAIN, HELD, REF_DUE, REF_NEXT, REF_OPEN, REF_RANK, IN_BANKS, SEQUENCE,
 FREE, LAST_END, READS, WRITES, READ_HITS, WRITE_HITS, ACTS, PRES, REFS, MERGED, LATENCY, EMPTY_FROM, EMPTY_IDLE,
 EMPTY_REFS, DOWN_OPEN, DOWN_CLOSED, READ_REQUESTS, WRITE_REQUESTS,
 LAST_ADDRESS, LAST_PLACE, WRITES_IN_BANKS) = range(PARAMETERS, PARAMETERS + 35)
ACT, RD, WR, PRE = range(4)      # kinds of command; RD and WR are also the kinds of request
MAX_RANKS, MAX_GROUPS, MAX_BANKS, SLOTS, FILTER = 4, 16, 32, 512, 1024
WAITING, MOVABLE, WANTS = PARAMETERS + 36, PARAMETERS + 40, PARAMETERS + 64    # [kind] requests; bank mask; bank mask
OPEN_BANKS, IDLE_FROM, IDLE, REF_READY, FAW_HEAD = range(PARAMETERS + 44, PARAMETERS + 64, 4)           # [rank]
FAW_RING = WANTS + 4                               # [rank, 4]
RANK_TIME = FAW_RING + 4 * MAX_RANKS                          # [rank, kind] earliest cycle, as the next two
GROUP_TIME = RANK_TIME + 4 * MAX_RANKS                        # [group, kind]
BANK_TIME = GROUP_TIME + 4 * MAX_GROUPS                       # [kind, bank]
GROUP_WANTED = BANK_TIME + 4 * MAX_BANKS                      # [group, kind] least BANK_TIME of the banks that want it
OPEN_ROW = GROUP_WANTED + 4 * MAX_GROUPS                      # [bank] -1: closed
HITS = OPEN_ROW + MAX_BANKS                                   # [bank] column commands since ACT
QUEUED = HITS + MAX_BANKS                                     # [bank] entries of the bank queue
FIRST_HIT = QUEUED + MAX_BANKS                                # [kind, bank] slot of the oldest hit of the open row, -1
HEAD = FIRST_HIT + 4 * MAX_BANKS                              # [list, bank] list 0: bank queue; RD, WR: waiting
TAIL = HEAD + 3 * MAX_BANKS
# A slot is a handle: the offset of eight words (one cache line) that hold a request from acceptance to completion.
KEY = TAIL + 3 * MAX_BANKS                                    # [slot] row * 2 + is_write
LINK, ADDRESS, TAG, ORDER, MERGES, SLOT_WORDS = KEY + 1, KEY + 2, KEY + 3, KEY + 4, KEY + 5, 8    # [slot]
PENDING = KEY + SLOT_WORDS * SLOTS                            # [hash of address] requests that hold a slot
STATE_SIZE = PENDING + FILTER
FAR = 1 << 60
READ_PAIRS = sum(1 << 4 * group + RD for group in range(MAX_GROUPS))
# fmt: on
# Indices are masked where they come from memory: the compiler then knows that they are not negative.
BANK_BITS, SLOT_BITS, SHIFT_BITS = MAX_BANKS - 1, SLOT_WORDS * SLOTS - 1, 31


@intrinsic
def _trailing_zeros(typing_context, mask):
    """The processor's instruction that counts trailing zeros; undefined for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), generate


def lowest(mask):
    """Index of the lowest set bit of a mask."""
    return int(mask & -mask).bit_length() - 1


@overload(lowest, inline="always")
def _lowest(mask):
    return lambda mask: _trailing_zeros(mask) & 63


def _fold(address):
    """Place of an address in the table of pending addresses."""
    line = address >> 5
    return (line ^ (line >> 10) ^ (line >> 20)) & (FILTER - 1)


def _append(s, queue, slot):
    """Append a slot to a list: a bank queue (index: bank) or a waiting list (index: kind * MAX_BANKS + bank)."""
    s[LINK + slot] = -1
    if s[HEAD + queue] < 0:
        s[HEAD + queue] = slot
    else:
        s[LINK + (s[TAIL + queue] & SLOT_BITS)] = slot
    s[TAIL + queue] = slot


def _find_same(s, kind, bank, address):
    """Slot of a pending request of a kind to an address, or -1."""
    for queue in range(0, kind + 1, kind):
        slot = s[HEAD + queue * MAX_BANKS + bank]
        while slot >= 0:
            if s[ADDRESS + slot] == address and s[KEY + slot] & 1 == kind - RD:
                return slot
            slot = s[LINK + slot]
    return -1


def _want(s, kind, bank):
    """Make a command a candidate from the cycle on that the bank's timing allows."""
    bank &= BANK_BITS
    since, pair = s[BANK_TIME + kind * MAX_BANKS + bank], (bank >> (s[GROUP_SHIFT] & SHIFT_BITS)) * 4 + kind
    least = s[GROUP_WANTED + pair] if s[WANTING] >> pair & 1 != 0 else FAR
    s[GROUP_WANTED + pair] = min(least, since)
    s[WANTING] |= 1 << pair
    s[WANTS + kind] |= 1 << bank
    s[STALE] = 1


def _drop(s, kind, bank):
    bank &= BANK_BITS
    if s[WANTS + kind] >> bank & 1 == 0:
        return
    s[WANTS + kind] ^= 1 << bank
    group, least = bank >> (s[GROUP_SHIFT] & SHIFT_BITS), FAR
    pair = group * 4 + kind
    banks = wanting(s, kind, group)
    if banks == 0:
        s[WANTING] ^= 1 << pair
    while banks != 0:
        least = min(least, s[BANK_TIME + kind * MAX_BANKS + (lowest(banks) & BANK_BITS)])
        banks &= banks - 1
    s[GROUP_WANTED + pair] = least
    s[STALE] = 1


def _wanting(s, kind, group):
    """Mask of the banks of a group that want a command."""
    shift = s[GROUP_SHIFT] & SHIFT_BITS
    return s[WANTS + kind] & ((1 << (1 << shift)) - 1) << (group << shift)


def _command_time(s, kind, bank):
    """Earliest cycle that the bank's rank and group allow for a command."""
    rank, group = bank >> (s[RANK_SHIFT] & SHIFT_BITS), bank >> (s[GROUP_SHIFT] & SHIFT_BITS)
    return max(s[RANK_TIME + rank * 4 + kind], s[GROUP_TIME + group * 4 + kind])


def _earliest(s, clock):
    """Set the first cycle (from ``clock``) in which a command can issue, and the pairs (group, kind) that can then."""
    pairs, shift = s[WANTING], 2 + (s[RANK_SHIFT] - s[GROUP_SHIFT]) & SHIFT_BITS
    if s[REF_OPEN] > 0:  # a rank whose refresh is due takes no other command
        pairs &= ~(((2 << ((1 << shift) - 1)) - 1) << (s[REF_RANK] << shift))
    best, ready_pairs = FAR, 0
    while pairs != 0:
        pair = lowest(pairs)
        gap = max(s[GROUP_TIME + pair], s[RANK_TIME + (pair >> shift) * 4 + (pair & 3)])
        time = max(clock, s[GROUP_WANTED + pair], gap)
        ready_pairs = (ready_pairs if time >= best else 0) | (pairs & -pairs if time <= best else 0)
        best = min(best, time)
        pairs &= pairs - 1
    s[NEXT_COMMAND], s[READY], s[STALE] = best, ready_pairs, 0


def _candidates(s, clock):
    """Mask of the banks that can issue a command at ``clock``, given the pairs (group, kind) that can."""
    able, pairs = 0, s[READY]
    while pairs != 0:
        pair = lowest(pairs)
        banks = wanting(s, pair & 3, pair >> 2)
        if banks & (banks - 1) == 0:
            able |= banks
            banks = 0
        while banks != 0:
            bank = lowest(banks) & BANK_BITS
            able |= banks & -banks if s[BANK_TIME + (pair & 3) * MAX_BANKS + bank] <= clock else 0
            banks &= banks - 1
        pairs &= pairs - 1
    return able


def _choose(s, clock):
    """The next bank, round robin, that can issue a command at ``clock``."""
    able = candidates(s, clock)
    later = able & ~((2 << (s[POINTER] & BANK_BITS)) - 1)
    return lowest(later if later != 0 else able) & BANK_BITS


def _ready(s, kind, bank, clock):
    """True if a command that the bank wants can issue in this cycle."""
    since = s[BANK_TIME + kind * MAX_BANKS + (bank & BANK_BITS)]
    return since <= clock and command_time(s, kind, bank & BANK_BITS) <= clock


def _find_hit(s, kind, bank, slot):
    """Oldest hit of a kind from ``slot`` on in the bank queue, or -1."""
    key = s[OPEN_ROW + bank] * 2 + kind - RD
    while slot >= 0 and s[KEY + (slot & SLOT_BITS)] != key:
        slot = s[LINK + (slot & SLOT_BITS)]
    s[FIRST_HIT + kind * MAX_BANKS + bank] = slot
    return slot


def _weigh_precharge(s, bank):
    """A row is closed for its queue's head if no hit waits, or after HIT_CAP column commands (ArbitratePrecharge)."""
    drop(s, PRE, bank)
    if s[QUEUED + bank] == 0 or s[KEY + (s[HEAD + bank] & SLOT_BITS)] >> 1 == s[OPEN_ROW + bank]:
        return
    no_hits = s[FIRST_HIT + RD * MAX_BANKS + bank] < 0 and s[FIRST_HIT + WR * MAX_BANKS + bank] < 0
    if no_hits or s[HITS + bank] >= s[HIT_CAP]:
        want(s, PRE, bank)


def _activate(s, bank, clock):
    """Open the row that the head of the bank queue needs."""
    rank = bank >> (s[RANK_SHIFT] & SHIFT_BITS)
    drop(s, ACT, bank)
    s[OPEN_ROW + bank], s[HITS + bank] = s[KEY + (s[HEAD + bank] & SLOT_BITS)] >> 1, 0
    s[BANK_TIME + ACT * MAX_BANKS + bank] = clock + s[RC]
    s[BANK_TIME + RD * MAX_BANKS + bank] = clock + s[RCD_RD]
    s[BANK_TIME + WR * MAX_BANKS + bank] = clock + s[RCD_WR]
    s[BANK_TIME + PRE * MAX_BANKS + bank] = clock + s[RAS]
    head = s[FAW_HEAD + rank] & 3
    s[FAW_RING + 4 * rank + head] = clock + s[FAW]
    head = (head + 1) & 3
    s[FAW_HEAD + rank] = head
    s[RANK_TIME + rank * 4 + ACT] = max(clock + s[RRD_S], s[FAW_RING + 4 * rank + head])
    s[GROUP_TIME + (bank >> (s[GROUP_SHIFT] & SHIFT_BITS)) * 4 + ACT] = clock + s[RRD_L]
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE + rank] += clock - s[IDLE_FROM + rank]
    s[OPEN_BANKS + rank] += 1
    s[ACTS] += 1
    if s[IN_BANKS] > s[WRITES_IN_BANKS] and find_hit(s, RD, bank, s[HEAD + bank]) >= 0:
        want(s, RD, bank)
    if s[WRITES_IN_BANKS] > 0 and find_hit(s, WR, bank, s[HEAD + bank]) >= 0:
        want(s, WR, bank)


def _precharge(s, bank, clock):
    """Close the bank's row."""
    rank = bank >> (s[RANK_SHIFT] & SHIFT_BITS)
    for kind in range(RD, PRE + 1):
        drop(s, kind, bank)
    s[OPEN_ROW + bank], s[HITS + bank] = -1, 0
    s[FIRST_HIT + RD * MAX_BANKS + bank] = s[FIRST_HIT + WR * MAX_BANKS + bank] = -1
    at = BANK_TIME + ACT * MAX_BANKS + bank
    s[at] = max(s[at], clock + s[RP])
    s[REF_READY + rank] = max(s[REF_READY + rank], clock + s[RP])
    s[RANK_TIME + rank * 4 + PRE] = clock + s[PRE_PRE]
    s[OPEN_BANKS + rank] -= 1
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE_FROM + rank] = clock
    s[PRES] += 1
    if s[QUEUED + bank] > 0:
        want(s, ACT, bank)


def _column_times(s, kind, bank, clock):
    """Delay the next column commands of group and ranks, and the bank's PRE, after a column command."""
    rank, group = bank >> (s[RANK_SHIFT] & SHIFT_BITS), bank >> (s[GROUP_SHIFT] & SHIFT_BITS)
    for other in range(s[RANKS]):
        at = RANK_TIME + other * 4 + RD
        if other == rank:
            to_rd, to_wr = (s[CCD_S], s[RD_TO_WR]) if kind == RD else (s[WR_TO_RD_S], s[CCD_S])
        else:
            to_rd, to_wr = (s[RANK_RD_RD], s[RANK_RD_WR]) if kind == RD else (s[RANK_WR_RD], s[RANK_WR_WR])
        s[at] = max(s[at], clock + to_rd)
        s[at + WR - RD] = max(s[at + WR - RD], clock + to_wr)
    at = GROUP_TIME + group * 4 + RD
    pre = BANK_TIME + PRE * MAX_BANKS + bank
    if kind == RD:
        s[at] = max(s[at], clock + s[CCD_L])
        s[pre] = max(s[pre], clock + s[RD_PRE])
    else:
        s[at] = max(s[at], clock + s[WR_TO_RD_L])
        s[at + WR - RD] = max(s[at + WR - RD], clock + s[CCD_L])
        s[pre] = max(s[pre], clock + s[WR_PRE])


def _column_kind(s, bank, clock):
    """Read or write: the kind of the first ready hit of a bank that can issue a column command."""
    read, write = s[FIRST_HIT + RD * MAX_BANKS + bank], s[FIRST_HIT + WR * MAX_BANKS + bank]
    if read < 0:
        return WR
    if write < 0:
        return RD
    slot = s[HEAD + bank]
    while slot not in (read, write):
        slot = s[LINK + (slot & SLOT_BITS)]
    older = RD if slot == read else WR
    return older if ready(s, older, bank, clock) else RD + WR - older


def _full_of_hits(s, bank):
    """True if a bank's full queue starts with two reads of the open row, the first unmerged, and more reads wait."""
    slot = s[HEAD + bank] & SLOT_BITS
    return (
        s[QUEUED + bank] == s[BANK_QUEUE] > 1
        and s[HEAD + RD * MAX_BANKS + bank] >= 0
        and s[FIRST_HIT + RD * MAX_BANKS + bank] == slot
        and s[KEY + (s[LINK + slot] & SLOT_BITS)] == s[KEY + slot]
        and s[MERGES + slot] < 0
    )


def _enqueue(s, kind, bank, slot, clock):
    """Append to a bank queue and update the bank's candidates."""
    append(s, bank, slot)
    s[QUEUED + bank] += 1
    s[IN_BANKS] += 1
    s[WRITES_IN_BANKS] += kind - RD
    if s[QUEUED + bank] == s[BANK_QUEUE]:
        s[MOVABLE + RD] &= ~(1 << bank)
        s[MOVABLE + WR] &= ~(1 << bank)
    if s[OPEN_ROW + bank] < 0:
        if s[QUEUED + bank] == 1:
            want(s, ACT, bank)
    elif s[KEY + slot] >> 1 == s[OPEN_ROW + bank]:
        if s[FIRST_HIT + kind * MAX_BANKS + bank] < 0:
            s[FIRST_HIT + kind * MAX_BANKS + bank] = slot
            want(s, kind, bank)
            weigh_precharge(s, bank)
    elif s[QUEUED + bank] == 1:
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
    return max(clock, least, s[RANK_TIME + rank * 4 + PRE])


fold, find_same, append, wanting = inlined(_fold), compiled(_find_same), inlined(_append), inlined(_wanting)
want, drop, candidates, choose = fused(_want), fused(_drop), inlined(_candidates), inlined(_choose)
command_time, earliest, ready = fused(_command_time), inlined(_earliest), fused(_ready)
find_hit, weigh_precharge = inlined(_find_hit), fused(_weigh_precharge)
column_kind, full_of_hits, enqueue = fused(_column_kind), inlined(_full_of_hits), inlined(_enqueue)
activate, precharge, column_times = fused(_activate), fused(_precharge), inlined(_column_times)
refresh, refresh_time = compiled(_refresh), compiled(_refresh_time)
