"""DRAM controller kernel: FR-FCFS with open state, cycle-exact, driven by events.

The policy is DRAMsim3's (controller.cc, command_queue.cc at commit 2981759). Per channel, a read queue and a write buffer
feed one command queue per bank: one move per cycle, the oldest request whose bank queue has room. One command per cycle
(HBM: one row and one column command) issues round robin over the banks; inside a bank queue the first ready command wins,
and a row with waiting hits is closed only after ``HIT_CAP`` column commands. Writes are posted and drain in batches; reads
of posted data and of lines already on their way are answered without a second access. An in-order port feeds the channels
and blocks at its head, which couples them.

``state`` has one row per channel (layout in ``dram_banks_kernel.py``). ``port`` is (cycle, requests taken in that cycle).
``book[tag]`` is (last completion, open reads) of a tag: the cycle after the last data beat for reads, the cycle after
acceptance for posted writes. Channels run lazily, as far as the port or a wait needs them, so a call may stop anywhere and
continue later with the same result.
"""

# Numba infers the types of compiled functions; their wrappers are annotated.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

# isort: off
from .dram_banks_kernel import (
    ACCESS_BYTES, ACT, ADDRESS, BANKS, BANK_BITS, BANK_QUEUE, CHANNEL_MASK, CHANNEL_SHIFT, CLOCK, DEPTH_BITS,
    DOWN_CLOSED, DOWN_OPEN, DRAIN, DRAIN_HIGH, DRAIN_LOW, DUAL, EMPTY_FROM, EMPTY_IDLE, EMPTY_REFS, FREE, GATE, HEAD,
    HELD, HITS, HITTING, IDLE, IDLE_FROM, IN_BANKS, KEY, LAST_ADDRESS, LAST_END, LAST_PLACE, LATENCY, LINK, MAX_BANKS,
    MERGED, MERGES, MOVABLE, NEXT_COMMAND, OPEN_BANKS, OPEN_ROW, ORDER, PENDING, POINTER, PORT_WIDTH,
    POWER_DOWN_AFTER, PRE, QUEUE, QUEUED, RANKS, RD, READS, READY, READ_END, READ_HITS, READ_QUEUE, READ_REQUESTS,
    REFS, REF_DUE, REF_NEXT, RFC, ROW_SHIFT, RP, SEGMENT, SEQUENCE, SHIFT_BITS, SLOT_BITS, SPLIT, STALE, TAG, WAITING,
    WR, WRITE_END, WRITE_QUEUE, XP, activate, append, choose, column_times, compiled, earliest, enqueue, find_same,
    fold, follow, forget, full_of_hits, fused, inlined, older_kind, precharge, refresh, weigh_precharge,
)  # fmt: skip
from .dram_lanes_kernel import DEPTH, FAR, KEY_SHIFT, lowest, matches, put, take
# isort: on

#: CRC-32 of ``dram_banks_kernel.py``, checked by ``sim/dram.py``. Numba's cache of this file does not see changes there
#: (stale constants would corrupt the state); writing the new checksum here renews it.
BANKS_KERNEL_CRC32 = 0xA8B2FD42
# What is not negative, as in ``dram_banks_kernel.py``.
CHANNEL_BITS, TAG_BITS = (1 << 30) - 1, (1 << 62) - 1


def _retire(s, kind, slot, clock, book):
    """Book the end of a column command for its request and the reads merged into it; free their slots."""
    end = clock + (s[READ_END] if kind == RD else s[WRITE_END])
    s[LAST_END] = max(s[LAST_END], end)
    s[PENDING + fold(s[ADDRESS + slot])] -= 1
    while slot >= 0:
        slot &= SLOT_BITS
        following = s[MERGES + slot]
        if kind == RD:
            tag = s[TAG + slot] & TAG_BITS
            book[tag, 0] = max(book[tag, 0], end)
            book[tag, 1] -= 1
            s[LATENCY] += end
        s[LINK + slot], s[FREE] = s[FREE], slot
        slot = following
    if s[POWER_DOWN_AFTER] >= 0 and s[IN_BANKS] + s[WAITING + RD] + s[WAITING + WR] == 0:
        s[EMPTY_FROM], s[EMPTY_REFS], s[EMPTY_IDLE] = clock, s[REFS], idle_cycles(s, clock)


def _idle_cycles(s, clock):
    """Cycles before ``clock`` with all banks closed, summed over ranks."""
    total = 0
    for rank in range(s[RANKS]):
        total += s[IDLE + rank] + (clock - s[IDLE_FROM + rank] if s[OPEN_BANKS + rank] == 0 else 0)
    return total


def _wake(s, clock):
    """Account for power-down between the channel's last command and ``clock``; the next commands wait for tXP.

    Power-down starts POWER_DOWN_AFTER cycles after the queues ran empty and pauses for refreshes.
    """
    refreshes = s[REFS] - s[EMPTY_REFS]
    down = s[RANKS] * (clock - s[EMPTY_FROM] - s[POWER_DOWN_AFTER]) - refreshes * (s[RP] + s[RFC])
    if down <= 0:
        return
    closed = idle_cycles(s, clock) - s[EMPTY_IDLE] - refreshes * (s[RP] + s[RFC])
    closed = min(down, max(0, closed))
    s[DOWN_CLOSED] += closed
    s[DOWN_OPEN] += down - closed
    for at in range(GATE, GATE + 4 * MAX_BANKS):
        s[at] = max(s[at], clock + s[XP])
    s[STALE] = 1


def _column(s, kind, bank, clock, book):
    """Issue the oldest hit of a kind in a bank queue."""
    queue = QUEUE + DEPTH * bank
    hits = matches(s, queue, s[OPEN_ROW + bank] * 2 + kind - RD)
    place = lowest(hits) & DEPTH_BITS
    slot = s[queue + place] & SLOT_BITS
    take(s, queue, place)
    if s[QUEUED + bank] == s[BANK_QUEUE]:  # the bank queue has room again
        s[MOVABLE + RD] |= 1 << bank if s[HEAD + RD * MAX_BANKS + bank] >= 0 else 0
        s[MOVABLE + WR] |= 1 << bank if s[HEAD + WR * MAX_BANKS + bank] >= 0 else 0
    s[QUEUED + bank] -= 1
    s[IN_BANKS] -= 1
    s[READS + kind - RD] += 1
    s[READ_HITS + kind - RD] += 1 if s[HITS + bank] > 0 else 0
    s[HITS + bank] += 1
    column_times(s, kind, bank, clock)
    if hits & (hits - 1) == 0:
        s[HITTING + kind] ^= 1 << bank
        forget(s, kind, bank)
    weigh_precharge(s, bank)
    follow(s, kind, bank, clock)
    retire(s, kind, slot, clock, book)


def _issue(s, clock, before, book):
    """Issue one candidate and return its sort: 1 row command, 2 column command, 0 none.

    ``before`` is the sort already issued in this cycle. A second command of the same sort is found, moves the round
    robin on and is not issued (DRAMsim3, HBM).
    """
    bank = choose(s)
    s[POINTER] = bank
    closing, read, write = s[READY + PRE] >> bank & 1, s[READY + RD] >> bank & 1, s[READY + WR] >> bank & 1
    sort = 1 if closing != 0 or read | write == 0 else 2
    if sort == before:
        return 0
    if closing != 0:
        precharge(s, bank, clock)
    elif sort == 1:
        activate(s, bank, clock)
    else:
        kind = RD if write == 0 else WR
        column(s, older_kind(s, bank) if read & write != 0 else kind, bank, clock, book)
    return sort


def _drain_due(s):
    """A write drain starts when the buffer is full, or holds enough while nothing else is queued."""
    writes = s[WAITING + WR]
    return s[DRAIN] == 0 and (writes >= s[DRAIN_HIGH] or (writes > s[DRAIN_LOW] and s[IN_BANKS] == 0))


def _move(s, clock):
    """Move the oldest waiting request whose bank queue has room; writes only while draining, reads only otherwise."""
    if drain_due(s) and s[HELD] == 0:
        s[DRAIN] = s[WAITING + WR]
    s[HELD] = 0
    kind = WR if s[DRAIN] > 0 else RD
    movable, bank, oldest = s[MOVABLE + kind], -1, FAR
    while movable != 0:
        candidate = lowest(movable) & BANK_BITS
        order = s[ORDER + (s[HEAD + kind * MAX_BANKS + candidate] & SLOT_BITS)]
        if order < oldest:
            oldest, bank = order, candidate
        movable &= movable - 1
    if bank < 0:
        return
    slot = s[HEAD + kind * MAX_BANKS + bank] & SLOT_BITS
    if kind == WR:
        if s[PENDING + fold(s[ADDRESS + slot])] > 1 and find_same(s, RD, bank, s[ADDRESS + slot]) >= 0:
            # An older read of the line goes first. DRAMsim3 retries the drain at once and can hang when that read
            # still waits; here reads move for a cycle if nothing else is under way.
            s[DRAIN], s[HELD] = 0, 1 if s[IN_BANKS] == 0 else 0
            return
        s[DRAIN] -= 1
    s[HEAD + kind * MAX_BANKS + bank] = s[LINK + slot]
    s[WAITING + kind] -= 1
    if s[LINK + slot] < 0:
        s[MOVABLE + kind] &= ~(1 << bank)
    enqueue(s, kind, bank, slot)


def _tick(s, clock, book):
    """Everything that happens in one cycle of one channel."""
    sort, commands = 0, 2 if s[DUAL] != 0 else 1
    if s[REF_DUE] <= clock or s[REF_NEXT] <= clock:
        sort = refresh(s, clock)
        commands -= sort
        if s[STALE] != 0:
            earliest(s, clock)
    while commands > 0 and s[NEXT_COMMAND] <= clock:
        sort = issue(s, clock, sort, book)
        commands -= 1
        if commands > 0 and s[STALE] != 0:
            earliest(s, clock)
    move(s, clock)
    if s[STALE] != 0 or s[NEXT_COMMAND] <= clock:
        earliest(s, clock + 1)
    s[CLOCK] = clock + 1


def _next_event(s):
    """First cycle, from the channel's clock on, in which something can happen."""
    if (s[MOVABLE + WR] if s[DRAIN] > 0 else s[MOVABLE + RD]) != 0 or drain_due(s):
        return s[CLOCK]
    return max(s[CLOCK], min(s[NEXT_COMMAND], s[REF_NEXT], s[REF_DUE]))


def _advance(s, until, book):
    """Run a channel up to (without) cycle ``until``."""
    event = next_event(s)
    while event < until:
        tick(s, event, book)
        event = next_event(s)
    s[CLOCK] = max(s[CLOCK], until)


def _enter(s, kind, bank, row, address, tag, clock, book):
    """Take a request in at ``clock``: into its queue, or merged with a pending request for the same address."""
    s[READ_REQUESTS + kind - RD] += 1
    merged = -1
    if s[PENDING + fold(address)] > 0:
        if find_same(s, WR, bank, address) >= 0:  # posted data answers reads; a second write replaces it
            book[tag, 0] = max(book[tag, 0], clock + 1)
            s[MERGED] += 1
            s[LATENCY] += 1 if kind == RD else 0
            s[LAST_END] = max(s[LAST_END], clock + 1)
            return
        if kind == RD:
            merged = find_same(s, RD, bank, address)
    slot = s[FREE] & SLOT_BITS
    s[FREE], s[MERGES + slot], s[TAG + slot], s[ADDRESS + slot] = s[LINK + slot], -1, tag, address
    if kind == RD:
        book[tag, 1] += 1
        s[LATENCY] -= clock
    else:
        book[tag, 0] = max(book[tag, 0], clock + 1)
    if merged >= 0:
        s[MERGES + slot], s[MERGES + merged] = s[MERGES + merged], slot
        s[MERGED] += 1
        return
    s[KEY + slot], s[ORDER + slot] = row * 2 + kind - RD, s[SEQUENCE]
    s[SEQUENCE] += 1
    s[PENDING + fold(address)] += 1
    append(s, kind * MAX_BANKS + bank, slot)
    s[WAITING + kind] += 1
    if s[QUEUED + bank] < s[BANK_QUEUE]:
        s[MOVABLE + kind] |= 1 << bank


def _steady(s, address, clock):
    """True if a read offered to the full read queue at ``clock`` waits for a column read and for nothing else.

    No request moves to its bank before, and no drain, refresh, other command or merging interferes.
    """
    commands = s[READY + ACT] | s[READY + WR] | s[READY + PRE]
    return (
        commands | s[MOVABLE + RD] | s[STALE] | s[DRAIN] | s[HELD] | s[PENDING + fold(address)] == 0
        and clock <= s[NEXT_COMMAND] < min(s[REF_DUE], s[REF_NEXT])
        and s[WAITING + WR] < s[DRAIN_HIGH]
    )


def _next_hit(s, port, book, issued, bank, key, address, tag):
    """What ``tick`` and ``enter`` do in the steady state: issue a hit, move a read, take one in, into the freed slot."""
    queue, waiting = QUEUE + DEPTH * issued, RD * MAX_BANKS + issued
    event, slot, moved = s[NEXT_COMMAND], s[queue] & SLOT_BITS, s[HEAD + waiting] & SLOT_BITS
    end, clock, done = event + s[READ_END], event + 1, s[TAG + slot] & TAG_BITS
    take(s, queue, 0)
    put(s, queue, s[BANK_QUEUE] - 1 & DEPTH_BITS, s[KEY + moved] << KEY_SHIFT | moved)
    column_times(s, RD, issued, event)
    s[LAST_END] = max(s[LAST_END], end)
    s[PENDING + fold(s[ADDRESS + slot])] -= 1
    s[PENDING + fold(address)] += 1
    book[done, 0] = max(book[done, 0], end)
    book[done, 1] -= 1
    book[tag, 1] += 1
    s[LATENCY] += end - clock
    s[READS] += 1
    s[READ_HITS] += 1 if s[HITS + issued] > 0 else 0
    s[HITS + issued] += 1
    s[POINTER], s[CLOCK] = issued, clock
    s[HEAD + waiting] = s[LINK + moved]
    append(s, RD * MAX_BANKS + bank, slot)
    s[TAG + slot], s[ADDRESS + slot], s[KEY + slot], s[ORDER + slot] = tag, address, key, s[SEQUENCE]
    s[SEQUENCE] += 1
    s[READ_REQUESTS] += 1
    if s[QUEUED + bank] < s[BANK_QUEUE]:
        s[MOVABLE + RD] |= 1 << bank
    follow(s, RD, issued, event)
    if s[STALE] != 0:
        earliest(s, clock)
    port[0], port[1] = clock, 1
    return clock


def _decode(s, address):
    """Row, channel and bank of an address. The lowest part comes first: below it, an address has the last one's place."""
    place, k = 0, SEGMENT
    while s[k + 1] != 0:  # no counted loop: LLVM would gather the few parts with vector instructions
        place |= (address >> (s[k] & 63) & s[k + 1]) << (s[k + 2] & 63)
        k += 3
    s[LAST_ADDRESS], s[LAST_PLACE] = address, place


def _accept(state, port, book, address, is_write, arrival, tag):
    """Put one access through the in-order port; returns the cycle in which the controller took it."""
    s = state[0]
    if (address ^ s[LAST_ADDRESS]) >> (s[SEGMENT] & 63) != 0:
        decode(s, address)
    place = s[LAST_PLACE]
    s = state[place >> (s[CHANNEL_SHIFT] & SHIFT_BITS) & s[CHANNEL_MASK] & CHANNEL_BITS]
    bank, row = place & (s[BANKS] - 1) & BANK_BITS, place >> (s[ROW_SHIFT] & SHIFT_BITS)
    kind, depth = (WR, s[WRITE_QUEUE]) if is_write else (RD, s[READ_QUEUE])
    clock = max(arrival, port[0])
    if clock == port[0] and port[1] >= s[PORT_WIDTH]:
        clock += 1
    if kind == RD and s[WAITING + RD] >= depth and steady(s, address, clock):
        issued = choose(s)
        if full_of_hits(s, issued):
            return next_hit(s, port, book, issued, bank, row * 2, address, tag)
    full = s[WAITING + kind] >= depth or s[FREE] < 0
    while full or s[CLOCK] < clock:
        event = next_event(s)
        if event >= clock and not full:
            break
        tick(s, event, book)
        full = s[WAITING + kind] >= depth or s[FREE] < 0
    clock = s[CLOCK] = max(clock, s[CLOCK])
    if s[POWER_DOWN_AFTER] >= 0 and s[IN_BANKS] + s[WAITING + RD] + s[WAITING + WR] == 0:
        wake(s, clock)
    if clock > port[0]:
        port[0], port[1] = clock, 0
    port[1] += 1
    enter(s, kind, bank, row, address, tag, clock, book)
    return clock


def _serve(state, port, book, addresses, is_write, arrivals, first_tag, tag_step):
    """Put requests of SPLIT accesses each through the port, in order; request i has tag first_tag + i * tag_step."""
    tag = first_tag
    for i in range(len(addresses)):
        for part in range(state[0, SPLIT]):
            accept(state, port, book, addresses[i] + part * state[0, ACCESS_BYTES], is_write[i], arrivals[i], tag)
        tag += tag_step


def _serve_run(state, port, book, address, accesses, is_write, arrival, tag):
    """Put ``accesses`` consecutive accesses that arrive together through the port; returns the last acceptance."""
    accepted = arrival
    for k in range(accesses):
        accepted = accept(state, port, book, address + k * state[0, ACCESS_BYTES], is_write, arrival, tag)
    return accepted


def _wait(state, book, tag):
    """Run the channels until all reads of a tag are complete; returns the tag's last completion."""
    while book[tag, 1] > 0:
        first, event = 0, next_event(state[0])
        for c in range(1, len(state)):
            other = next_event(state[c])
            if other < event:
                first, event = c, other
        tick(state[first], event, book)
    return book[tag, 0]


def _finish(state, port, book):
    """Complete everything, posted writes too (drained at once); returns the cycles until the last data beat."""
    end = port[0]
    for c in range(len(state)):
        s = state[c]
        advance(s, port[0], book)
        while s[IN_BANKS] + s[WAITING + RD] + s[WAITING + WR] > 0:
            if s[WAITING + RD] == 0 and s[DRAIN] == 0:
                s[DRAIN] = s[WAITING + WR]
            tick(s, next_event(s), book)
        end = max(end, s[LAST_END])
    for c in range(len(state)):
        advance(state[c], end + 1, book)
    return end + 1


drain_due, idle_cycles, wake = inlined(_drain_due), compiled(_idle_cycles), compiled(_wake)
decode, retire, steady, next_hit = inlined(_decode), inlined(_retire), inlined(_steady), inlined(_next_hit)
column, issue, move = inlined(_column), inlined(_issue), inlined(_move)
tick, next_event, advance, enter = fused(_tick), inlined(_next_event), compiled(_advance), inlined(_enter)
accept, serve, serve_run = inlined(_accept), compiled(_serve), compiled(_serve_run)
wait, finish = compiled(_wait), compiled(_finish)
