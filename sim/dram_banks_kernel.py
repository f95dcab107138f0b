"""Bank timing and candidate commands of one DRAM channel: the lower half of the controller kernel.

A channel is one row of int64: its parameters, then its state (layout below). A *candidate* is a command that a bank wants
to issue; it is *hot* once the bank's own timing allows it and *cold* before. What the rank and the bank group demand is
kept once per rank and group. So the next command cycle is a minimum over few numbers, and cycles in between are skipped.
Timing pairs and their scopes are those of DRAMsim3 (timing.cc, commit 2981759).

The upper half (``dram_kernel.py``) calls into this file and holds its checksum, so that a change here also changes that
file and with it Numba's cache. ``_nrt=False``: no kernel owns an array, and counting references took 40 % of the time.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import numpy as np
from numba import njit

compiled = njit(cache=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, error_model="numpy", _nrt=False, inline="always")
# fmt: off
# --- parameters (cycles unless the name says otherwise) ---------------------------------------------------------------
(RCD_RD, RCD_WR, RAS, RC, RP, RD_PRE, WR_PRE, RRD_S, RRD_L, FAW, CCD_S, CCD_L, RD_TO_WR, WR_TO_RD_S, WR_TO_RD_L,
 RANK_RD_RD, RANK_RD_WR, RANK_WR_RD, RANK_WR_WR, PRE_PRE, RFC, REFI, READ_END, WRITE_END, XP, DUAL, BANKS, RANKS,
 RANK_SHIFT, GROUP_SHIFT, READ_QUEUE, WRITE_QUEUE, BANK_QUEUE, HIT_CAP, DRAIN_HIGH, DRAIN_LOW, PORT_WIDTH, ACCESS_BYTES,
 SPLIT, POWER_DOWN_AFTER, CHANNEL_SHIFT, CHANNEL_MASK, ROW_SHIFT, SEGMENTS) = range(44)
SEGMENT, MAX_SEGMENTS = 44, 28   # SEGMENTS x (right shift, mask, left shift): address -> row | channel | bank
PARAMETERS = 128
# --- state ------------------------------------------------------------------------------------------------------------
(CLOCK, NEXT_COMMAND, CANDIDATES, STALE, POINTER, DRAIN, HELD, REF_DUE, REF_NEXT, REF_OPEN, REF_RANK, IN_BANKS, SEQUENCE,
 FREE, LAST_END, READS, WRITES, READ_HITS, WRITE_HITS, ACTS, PRES, REFS, MERGED, LATENCY, EMPTY_FROM, EMPTY_IDLE,
 EMPTY_REFS, DOWN_OPEN, DOWN_CLOSED, READ_REQUESTS, WRITE_REQUESTS) = range(PARAMETERS, PARAMETERS + 31)
ACT, RD, WR, PRE = range(4)      # kinds of command; RD and WR are also the kinds of request
MAX_RANKS, MAX_GROUPS, MAX_BANKS, SLOTS, FILTER = 4, 16, 32, 512, 1024
HOT = PARAMETERS + 32                                         # [kind] bank mask, as COLD and MOVABLE
COLD, COLD_FROM, WAITING, MOVABLE = HOT + 4, HOT + 8, HOT + 12, HOT + 16                    # [kind]
OPEN_BANKS, IDLE_FROM, IDLE, REF_READY, FAW_HEAD = HOT + 20, HOT + 24, HOT + 28, HOT + 32, HOT + 36     # [rank]
FAW_RING = HOT + 40                                           # [rank, 4]
RANK_TIME = FAW_RING + 4 * MAX_RANKS                          # [kind, rank] earliest cycle, as the next two
GROUP_TIME = RANK_TIME + 4 * MAX_RANKS                        # [kind, group]
BANK_TIME = GROUP_TIME + 4 * MAX_GROUPS                       # [kind, bank]
OPEN_ROW = BANK_TIME + 4 * MAX_BANKS                          # [bank] -1: closed
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
# fmt: on
# Indices are masked where they come from memory: the compiler then knows that they are not negative.
BANK_BITS, SLOT_BITS, SHIFT_BITS = MAX_BANKS - 1, SLOT_WORDS * SLOTS - 1, 31
_SPREAD = 0x077CB531  # a de Bruijn sequence: its 32 windows of five bits differ
_BIT = np.zeros(32, dtype=np.int64)
for _k in range(32):
    _BIT[(_SPREAD << _k) >> 27 & 31] = _k


def _lowest(mask):
    """Index of the lowest set bit of a bank mask."""
    return _BIT[(mask & -mask) * _SPREAD >> 27 & 31] & BANK_BITS


def _want(s, kind, bank, clock):
    """Make a command a candidate: hot if its bank allows it at ``clock``, else cold until then."""
    since = s[BANK_TIME + kind * MAX_BANKS + (bank & BANK_BITS)]
    if since <= clock:
        s[HOT + kind] |= 1 << bank
    else:
        s[COLD + kind] |= 1 << bank
        s[COLD_FROM + kind] = min(s[COLD_FROM + kind], since)
    s[STALE] = 1


def _drop(s, kind, bank):
    s[HOT + kind] &= ~(1 << bank)
    s[COLD + kind] &= ~(1 << bank)


def _warm(s, kind, clock):
    """Move candidates whose bank is ready at ``clock`` from cold to hot."""
    least, rest, warmed = FAR, s[COLD + kind], 0
    while rest != 0:
        since = s[BANK_TIME + kind * MAX_BANKS + lowest(rest)]
        if since <= clock:
            warmed |= rest & -rest
        else:
            least = min(least, since)
        rest &= rest - 1
    s[COLD + kind] ^= warmed
    s[HOT + kind] |= warmed
    s[COLD_FROM + kind] = least


def _command_time(s, kind, bank):
    """Earliest cycle that the bank's rank and group allow for a command."""
    rank, group = bank >> (s[RANK_SHIFT] & SHIFT_BITS), bank >> (s[GROUP_SHIFT] & SHIFT_BITS)
    return max(s[RANK_TIME + kind * MAX_RANKS + rank], s[GROUP_TIME + kind * MAX_GROUPS + group])


def _earliest(s, clock):
    """Set the next cycle (from ``clock``) in which a command can issue, and the banks that can issue then."""
    allowed = -1
    if s[REF_OPEN] > 0:  # a rank whose refresh is due takes no other command
        allowed = ~(((1 << (1 << s[RANK_SHIFT])) - 1) << (s[REF_RANK] << s[RANK_SHIFT]))
    best, banks = FAR, 0
    for kind in range(4):
        if s[HOT + kind] | s[COLD + kind] == 0:
            continue
        if s[COLD_FROM + kind] <= clock:
            warm(s, kind, clock)
        hot = s[HOT + kind] & allowed
        # Banks of one group wait for the same: look at one of them. For PRE only the rank matters.
        shift = (s[RANK_SHIFT] if kind == PRE else s[GROUP_SHIFT]) & SHIFT_BITS
        members = (1 << (1 << shift)) - 1
        while hot != 0:
            bank = lowest(hot)
            some = hot & (members << (bank >> shift << shift))
            hot ^= some
            time = max(clock, command_time(s, kind, bank))
            if time <= best:
                banks = some if time < best else banks | some
                best = time
        cold = s[COLD + kind] & allowed if s[COLD_FROM + kind] <= best else 0
        while cold != 0:
            bank = lowest(cold)
            time = max(s[BANK_TIME + kind * MAX_BANKS + bank], command_time(s, kind, bank))
            if time <= best:
                banks = cold & -cold if time < best else banks | (cold & -cold)
                best = time
            cold &= cold - 1
    s[NEXT_COMMAND], s[CANDIDATES], s[STALE] = best, banks, 0


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


def _weigh_precharge(s, bank, clock):
    """A row is closed for its queue's head if no hit waits, or after HIT_CAP column commands (ArbitratePrecharge)."""
    if (s[HOT + PRE] | s[COLD + PRE]) >> bank & 1 != 0:
        drop(s, PRE, bank)
        s[STALE] = 1
    if s[QUEUED + bank] == 0 or s[KEY + (s[HEAD + bank] & SLOT_BITS)] >> 1 == s[OPEN_ROW + bank]:
        return
    no_hits = s[FIRST_HIT + RD * MAX_BANKS + bank] < 0 and s[FIRST_HIT + WR * MAX_BANKS + bank] < 0
    if no_hits or s[HITS + bank] >= s[HIT_CAP]:
        want(s, PRE, bank, clock)


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
    s[RANK_TIME + ACT * MAX_RANKS + rank] = max(clock + s[RRD_S], s[FAW_RING + 4 * rank + head])
    s[GROUP_TIME + ACT * MAX_GROUPS + (bank >> (s[GROUP_SHIFT] & SHIFT_BITS))] = clock + s[RRD_L]
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE + rank] += clock - s[IDLE_FROM + rank]
    s[OPEN_BANKS + rank] += 1
    s[ACTS] += 1
    for kind in range(RD, PRE):
        if find_hit(s, kind, bank, s[HEAD + bank]) >= 0:
            want(s, kind, bank, clock + 1)


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
    s[RANK_TIME + PRE * MAX_RANKS + rank] = clock + s[PRE_PRE]
    s[OPEN_BANKS + rank] -= 1
    if s[OPEN_BANKS + rank] == 0:
        s[IDLE_FROM + rank] = clock
    s[PRES] += 1
    if s[QUEUED + bank] > 0:
        want(s, ACT, bank, clock + 1)


def _column_times(s, kind, bank, clock):
    """Delay the next column commands of group and ranks, and the bank's PRE, after a column command."""
    rank, group = bank >> (s[RANK_SHIFT] & SHIFT_BITS), bank >> (s[GROUP_SHIFT] & SHIFT_BITS)
    for other in range(s[RANKS]):
        at = RANK_TIME + RD * MAX_RANKS + other
        if other == rank:
            to_rd, to_wr = (s[CCD_S], s[RD_TO_WR]) if kind == RD else (s[WR_TO_RD_S], s[CCD_S])
        else:
            to_rd, to_wr = (s[RANK_RD_RD], s[RANK_RD_WR]) if kind == RD else (s[RANK_WR_RD], s[RANK_WR_WR])
        s[at] = max(s[at], clock + to_rd)
        s[at + MAX_RANKS] = max(s[at + MAX_RANKS], clock + to_wr)
    at = GROUP_TIME + RD * MAX_GROUPS + group
    pre = BANK_TIME + PRE * MAX_BANKS + bank
    if kind == RD:
        s[at] = max(s[at], clock + s[CCD_L])
        s[pre] = max(s[pre], clock + s[RD_PRE])
    else:
        s[at] = max(s[at], clock + s[WR_TO_RD_L])
        s[at + MAX_GROUPS] = max(s[at + MAX_GROUPS], clock + s[CCD_L])
        s[pre] = max(s[pre], clock + s[WR_PRE])


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
                want(s, ACT, bank, clock + 1)
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
    return max(clock, least, s[RANK_TIME + PRE * MAX_RANKS + rank])


lowest, want, drop, warm = compiled(_lowest), compiled(_want), compiled(_drop), compiled(_warm)
command_time, earliest, ready = compiled(_command_time), compiled(_earliest), compiled(_ready)
find_hit, weigh_precharge = compiled(_find_hit), compiled(_weigh_precharge)
activate, precharge, column_times = compiled(_activate), compiled(_precharge), inlined(_column_times)
refresh, refresh_time = compiled(_refresh), compiled(_refresh_time)
