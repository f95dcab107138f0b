"""A DRAM controller stepped cycle by cycle in plain Python: slow, obvious, and written without the kernels.

Same policy as the product's controller (DRAMsim3's): every bank keeps, per command, the earliest cycle at which it may
issue; every command updates the tables of all banks it concerns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nestling.accel.dram import CommandDevice
from nestling.accel.dram_mapping import AddressMapping
from nestling.sim.dram import ControllerSettings
from nestling.traces.requests import Requests


@dataclass
class Access:
    address: int
    is_write: bool
    bank: tuple[int, int, int]  # rank, group, bank
    row: int
    accepted: int
    same: list[Access] = field(default_factory=list)


class OracleBank:
    def __init__(self) -> None:
        self.row: int | None = None
        self.hits = 0
        self.queue: list[Access] = []
        self.earliest: Counter[str] = Counter()

    def delay(self, command: str, until: int) -> None:
        self.earliest[command] = max(self.earliest[command], until)


class OracleChannel:
    def __init__(self, device: CommandDevice, settings: ControllerSettings) -> None:
        o, self.t, self.settings = device.organisation, device.timing, settings
        self.burst, self.dual = o.burst_cycles, o.separate_column_commands
        self.ranks = o.ranks
        places = [(r, g, b) for r in range(o.ranks) for g in range(o.bank_groups) for b in range(o.banks_per_group)]
        self.banks = {place: OracleBank() for place in places}
        self.order, self.pointer = places, 0
        self.activations: dict[int, list[int]] = {r: [] for r in range(o.ranks)}
        self.reads: list[Access] = []
        self.writes: list[Access] = []
        self.drain = 0
        self.held = False
        self.refreshes_due: list[int] = []
        self.next_refresh_rank = 0
        self.counts: Counter[str] = Counter()
        self.closed_cycles = 0
        self.latency = 0
        self.end = 0

    # --- requests
    def has_room(self, is_write: bool) -> bool:
        if is_write:
            return len(self.writes) < self.settings.write_queue
        return len(self.reads) < self.settings.read_queue

    def pending(self, access: Access, is_write: bool) -> Access | None:
        queues = [self.writes if is_write else self.reads, self.banks[access.bank].queue]
        same = [a for q in queues for a in q if a.address == access.address and a.is_write == is_write]
        return same[0] if same else None

    def add(self, access: Access, clock: int) -> None:
        if self.pending(access, True) is not None:
            self.counts["merged"] += 1
            self.latency += 0 if access.is_write else 1
            self.end = max(self.end, clock + 1)
        elif not access.is_write and (first := self.pending(access, False)) is not None:
            self.counts["merged"] += 1
            first.same.append(access)
        else:
            (self.writes if access.is_write else self.reads).append(access)

    @property
    def busy(self) -> bool:
        return bool(self.reads or self.writes or any(bank.queue for bank in self.banks.values()))

    # --- one cycle
    def tick(self, clock: int) -> None:
        if clock and clock % (self.t.tREFI // self.ranks) == 0:
            self.refreshes_due.append(self.next_refresh_rank)
            self.next_refresh_rank = (self.next_refresh_rank + 1) % self.ranks
        issued = self.refresh_step(clock) if self.refreshes_due else ""
        if not issued:
            issued = self.command_step(clock, "")
        if issued and self.dual:
            self.command_step(clock, issued)
        for rank in range(self.ranks):
            self.closed_cycles += all(bank.row is None for place, bank in self.banks.items() if place[0] == rank)
        self.move(clock)

    def refresh_step(self, clock: int) -> str:
        rank = self.refreshes_due[0]
        banks = {place: bank for place, bank in self.banks.items() if place[0] == rank}
        for place, bank in banks.items():
            if bank.row is not None and bank.earliest["PRE"] <= clock:
                self.issue("PRE", place, None, clock)
                return "row"
        if all(bank.row is None and bank.earliest["REF"] <= clock for bank in banks.values()):
            for bank in banks.values():
                bank.delay("ACT", clock + self.t.tRFC)
                bank.delay("REF", clock + self.t.tRFC)
            self.refreshes_due.pop(0)
            self.counts["REF"] += 1
            return "row"
        return ""

    def command_step(self, clock: int, before: str) -> str:
        for step in range(1, len(self.order) + 1):
            position = (self.pointer + step) % len(self.order)
            place = self.order[position]
            if self.refreshes_due and place[0] == self.refreshes_due[0]:
                continue
            found = self.first_ready(place, clock)
            if found is not None:
                self.pointer = position
                sort = "column" if found[0] in ("RD", "WR") else "row"
                if sort == before:
                    return ""
                self.issue(found[0], place, found[1], clock)
                return sort
        return ""

    def first_ready(self, place: tuple[int, int, int], clock: int) -> tuple[str, Access] | None:
        bank = self.banks[place]
        for position, access in enumerate(bank.queue):
            if bank.row is None:
                command = "ACT"
            elif bank.row == access.row:
                command = "WR" if access.is_write else "RD"
            else:
                command = "PRE"
                hits = any(a.row == bank.row for a in bank.queue)
                if position > 0 or (hits and bank.hits < self.settings.hit_cap):
                    continue
            window = self.activations[place[0]][-4:]
            if command == "ACT" and len(window) == 4 and clock < window[0] + self.t.tFAW:
                continue
            if bank.earliest[command] <= clock:
                return command, access
        return None

    def issue(self, command: str, place: tuple[int, int, int], access: Access | None, clock: int) -> None:
        bank, t = self.banks[place], self.t
        self.counts[command] += 1
        if command == "ACT":
            assert access is not None
            bank.row, bank.hits = access.row, 0
            self.activations[place[0]].append(clock)
            for name, distance in (("ACT", t.tRC), ("RD", t.tRCDRD), ("WR", t.tRCDWR), ("PRE", t.tRAS)):
                bank.delay(name, clock + distance)
            for other, neighbour in self.banks.items():
                if other[0] == place[0] and other != place:
                    neighbour.delay("ACT", clock + (t.tRRD_L if other[1] == place[1] else t.tRRD_S))
        elif command == "PRE":
            bank.row, bank.hits = None, 0
            bank.delay("ACT", clock + t.tRP)
            bank.delay("REF", clock + t.tRP)
            for other, neighbour in self.banks.items():
                if other[0] == place[0] and other != place:
                    neighbour.delay("PRE", clock + t.tPPD)
        else:
            assert access is not None
            self.column(command, place, access, clock)

    def column(self, command: str, place: tuple[int, int, int], access: Access, clock: int) -> None:
        bank, t, burst = self.banks[place], self.t, self.burst
        self.counts["row hits"] += bank.hits > 0
        bank.hits += 1
        bank.queue.remove(access)
        read_end, write_end = t.CL + burst, t.CWL + burst
        for other, neighbour in self.banks.items():
            same_group = other[:2] == place[:2]
            if other[0] != place[0]:
                gaps = {"RD": burst + t.tRTRS, "WR": read_end + burst + t.tRTRS - write_end}
                if command == "WR":
                    gaps = {"RD": write_end + burst + t.tRTRS - read_end, "WR": burst + t.tWPRE}
            elif command == "RD":
                gaps = {"RD": max(burst, t.tCCD_L if same_group else t.tCCD_S), "WR": read_end - t.CWL + t.tRTRS}
            else:
                gaps = {"RD": write_end + (t.tWTR_L if same_group else t.tWTR_S)}
                gaps["WR"] = max(burst, t.tCCD_L if same_group else t.tCCD_S)
            for name, gap in gaps.items():
                neighbour.delay(name, clock + gap)
        bank.delay("PRE", clock + (t.tRTP if command == "RD" else write_end + t.tWR))
        end = clock + (read_end if command == "RD" else write_end)
        self.end = max(self.end, end)
        if command == "RD":
            self.latency += sum(end - a.accepted for a in (access, *access.same))

    def move(self, clock: int) -> None:
        quiet = not any(bank.queue for bank in self.banks.values())
        if self.drain == 0 and not self.held:
            full = len(self.writes) >= self.settings.drain_high
            if full or (len(self.writes) > self.settings.drain_low and quiet):
                self.drain = len(self.writes)
        self.held = False
        waiting = self.writes if self.drain else self.reads
        for access in waiting:
            if len(self.banks[access.bank].queue) < self.settings.bank_queue:
                if access.is_write:
                    if self.pending(access, False) is not None:
                        # DRAMsim3 would drain again at once, for ever if that read cannot move: let reads move.
                        self.drain, self.held = 0, quiet
                        return
                    self.drain -= 1
                waiting.remove(access)
                self.banks[access.bank].queue.append(access)
                return


@dataclass(frozen=True)
class OracleResult:
    cycles: int
    last_accept: int
    counts: Counter[str]
    closed_cycles: int
    latency: int


def run_oracle(
    device: CommandDevice, mapping: AddressMapping, requests: Requests, settings: ControllerSettings
) -> OracleResult:
    """Serve requests from cycle 0 until the last data beat."""
    o = device.organisation
    channels = [OracleChannel(device, settings) for _ in range(o.channels)]
    split = 64 // o.access_bytes
    port = split * (settings.requests_per_cycle or o.channels)
    fields = {f: mapping.decode(requests.addresses, f) for f in ("ch", "ra", "bg", "ba", "ro")}
    todo = [
        (int(fields["ch"][i]), int(requests.cycles[i]), Access(
            int(requests.addresses[i]) + part * o.access_bytes, bool(requests.is_write[i]),
            (int(fields["ra"][i]), int(fields["bg"][i]), int(fields["ba"][i])), int(fields["ro"][i]), 0,
        ))
        for i in range(len(requests)) for part in range(split)
    ]  # fmt: skip
    clock, taken, last = 0, 0, 0
    while taken < len(todo) or any(channel.busy for channel in channels) or clock <= max(c.end for c in channels):
        for _ in range(port):
            if taken == len(todo):
                break
            which, arrival, access = todo[taken]
            if arrival > clock or not channels[which].has_room(access.is_write):
                break
            access.accepted = last = clock
            channels[which].add(access, clock)
            taken += 1
        for channel in channels:
            if taken == len(todo) and not channel.reads and channel.drain == 0:
                channel.drain = len(channel.writes)
            channel.tick(clock)
        clock += 1
    total: Counter[str] = Counter()
    for channel in channels:
        total.update(channel.counts)
    return OracleResult(
        clock, last, total, sum(c.closed_cycles for c in channels), sum(channel.latency for channel in channels)
    )
