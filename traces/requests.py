"""Memory requests of whole 64-byte lines, and the trace files of DRAMsim3 and Ramulator that hold them.

DRAMsim3: ``0x12340 READ 17`` (hexadecimal byte address, operation, cycle). Ramulator: ``LD 0x12340`` or ``ST 0x12340``
(no time: requests follow each other as fast as the memory takes them). Blank lines and ``#`` comments are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name

LINE_BYTES = 64
Format = Literal["dramsim3", "ramulator"]
FORMATS: tuple[Format, ...] = ("dramsim3", "ramulator")

_OPERATIONS = {"READ": False, "WRITE": True, "LD": False, "ST": True}
_SHOWN_PROBLEMS = 20
_ADDRESS = re.compile(r"(0[xX])?[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Requests:
    """Line requests in issue order.

    Parameters
    ----------
    addresses : (n,) int64 byte addresses, multiples of 64.
    is_write : (n,) bool.
    cycles : (n,) int64 arrival in DRAM clock cycles, not decreasing.

    Raises
    ------
    InputError
        for arrays of different lengths, negative or unaligned addresses, or arrivals that go back in time.
    """

    addresses: NDArray[np.int64]
    is_write: NDArray[np.bool_]
    cycles: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        count = len(self.addresses)
        if not len(self.cycles) and count:
            object.__setattr__(self, "cycles", np.zeros(count, np.int64))
        for name, dtype in (("addresses", np.int64), ("is_write", np.bool_), ("cycles", np.int64)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=dtype))
        lengths = {len(self.addresses), len(self.is_write), len(self.cycles)}
        if len(lengths) > 1:
            raise InputError(f"requests: {count} addresses, {len(self.is_write)} kinds, {len(self.cycles)} cycles")
        for mask, what in (
            (self.addresses < 0, "negative address"),
            (self.addresses % LINE_BYTES != 0, f"address that is no multiple of {LINE_BYTES}"),
            (np.diff(self.cycles, prepend=0) < 0, "arrival before that of the request in front of it"),
        ):
            if mask.any():
                first = int(np.argmax(mask))
                raise InputError(
                    f"requests: {int(mask.sum())} with {what}, the first is request {first} "
                    f"(address {int(self.addresses[first]):#x}, cycle {int(self.cycles[first])})"
                )

    def __len__(self) -> int:
        return len(self.addresses)

    @property
    def reads(self) -> int:
        return len(self) - self.writes

    @property
    def writes(self) -> int:
        return int(np.count_nonzero(self.is_write))


def throttled(requests: Requests, *, fraction: float, peak_bytes_per_cycle: float) -> Requests:
    """The same requests, line i arriving at cycle floor(i * 64 / (fraction * peak)). ``fraction`` 0: all at cycle 0."""
    if not 0 <= fraction <= 1:
        raise InputError(f"fraction of the peak rate is {fraction}, must lie between 0 and 1")
    index = np.arange(len(requests))
    cycles = np.floor(index * LINE_BYTES / (fraction * peak_bytes_per_cycle)) if fraction else np.zeros(len(index))
    return Requests(requests.addresses, requests.is_write, cycles.astype(np.int64))


def read_requests(path: Path | str) -> Requests:
    """Read a request trace; the format is recognised line by line and must be the same throughout.

    Raises
    ------
    InputError
        listing bad lines with their numbers (the first 20) and how many there are in all; nothing is returned then.
    """
    try:
        with Path(path).open(encoding="utf-8") as lines:
            return parse_requests(lines, name=str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None


def parse_requests(lines: Iterable[str], *, name: str) -> Requests:
    """As :func:`read_requests`, from lines; ``name`` stands for the file in messages."""
    addresses: list[int] = []
    kinds: list[bool] = []
    cycles: list[int] = []
    problems: list[str] = []
    bad, before, form = 0, 0, ""
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        found = _parse_line(words)
        problem = found if isinstance(found, str) else ""
        if not isinstance(found, str):
            problem = _misplaced(found, form=form, before=before)
            if not problem:
                form, address, is_write, before = found
                addresses.append(address)
                kinds.append(is_write)
                cycles.append(before)
        if problem:
            bad += 1
            if bad <= _SHOWN_PROBLEMS:
                problems.append(f"{name}:{number}: {problem}")
    if bad:
        raise InputError([f"{name}: {bad} bad {'line' if bad == 1 else 'lines'}", *problems])
    if not addresses:
        raise InputError(f"{name}: no requests")
    return Requests(np.array(addresses, np.int64), np.array(kinds, np.bool_), np.array(cycles, np.int64))


def _parse_line(words: list[str]) -> tuple[Format, int, bool, int] | str:
    """(format, address, is_write, cycle) of a line, or what is wrong with it."""
    ramulator = words[0].upper() in ("LD", "ST")
    if len(words) != (2 if ramulator else 3):
        expected = "'LD address' or 'ST address'" if ramulator else "'address READ|WRITE cycle'"
        return f"found '{' '.join(words)}'; expected {expected}"
    operation, address, cycle = (words[0], words[1], "0") if ramulator else (words[1], words[0], words[2])
    problem = _word_problem(operation, address, cycle)
    if problem:
        return problem
    base = 10 if ramulator and address.isdecimal() else 16
    if int(address, base) % LINE_BYTES:
        return f"address {address} is not aligned to {LINE_BYTES} bytes"
    if max(int(address, base), int(cycle)) >= 1 << 60:
        return f"found '{' '.join(words)}'; numbers must be below 2**60"
    form: Format = "ramulator" if ramulator else "dramsim3"
    return form, int(address, base), _OPERATIONS[operation.upper()], int(cycle)


def _word_problem(operation: str, address: str, cycle: str) -> str:
    if operation.upper() not in _OPERATIONS:
        return str(unknown_name("operation", operation, ("READ", "WRITE")))
    if not _ADDRESS.fullmatch(address):
        return f"found address '{address}'; expected a hexadecimal number"
    if not cycle.isdecimal():
        return f"found cycle '{cycle}'; expected a whole number from 0 on"
    return ""


def _misplaced(found: tuple[Format, int, bool, int], *, form: str, before: int) -> str:
    if form and found[0] != form:
        return f"a {found[0]} line in a {form} trace"
    if found[3] < before:
        return f"cycle {found[3]} comes after cycle {before}; requests must be in the order of their arrival"
    return ""


def request_lines(requests: Requests, form: Format) -> Iterator[str]:
    """Lines of a trace file, each with its newline."""
    if form not in FORMATS:
        raise unknown_name("request trace format", form, FORMATS)
    for address, write, cycle in zip(
        requests.addresses.tolist(), requests.is_write.tolist(), requests.cycles.tolist(), strict=True
    ):
        if form == "dramsim3":
            yield f"{address:#x} {'WRITE' if write else 'READ'} {cycle}\n"
        else:
            yield f"{'ST' if write else 'LD'} {address:#x}\n"


def write_requests(requests: Requests, path: Path | str, *, form: Format) -> None:
    """Write a trace file for DRAMsim3 or Ramulator. Ramulator's format has no arrival times."""
    lines = request_lines(requests, form)
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(lines)
