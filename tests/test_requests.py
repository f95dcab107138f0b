"""Request traces: DRAMsim3 and Ramulator files there and back, and their bad lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.traces.requests import Requests, parse_requests, read_requests, request_lines, throttled, write_requests
from nestling.workloads.errors import InputError


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.booleans(), st.integers(0, 100)), min_size=1, max_size=50),
    st.sampled_from(["dramsim3", "ramulator"]),
)
def test_written_traces_read_back(entries: list[tuple[int, bool, int]], form: str) -> None:
    lines, writes, gaps = zip(*entries, strict=True)
    requests = Requests(np.array(lines) * 64, np.array(writes), np.cumsum(gaps))
    text = list(request_lines(requests, form))
    back = parse_requests(["# a comment\n", "\n", *text], name="t")
    np.testing.assert_array_equal(back.addresses, requests.addresses)
    np.testing.assert_array_equal(back.is_write, requests.is_write)
    np.testing.assert_array_equal(back.cycles, requests.cycles if form == "dramsim3" else 0 * requests.cycles)
    assert (back.reads, back.writes) == (len(entries) - sum(writes), sum(writes))


def test_formats_to_the_letter(tmp_path: Path) -> None:
    requests = Requests(np.array([0x40, 0x1000]), np.array([False, True]), np.array([3, 7]))
    for form, expected in (
        ("dramsim3", "0x40 READ 3\n0x1000 WRITE 7\n"),
        ("ramulator", "LD 0x40\nST 0x1000\n"),
    ):
        file = tmp_path / form
        write_requests(requests, file, form=form)
        assert file.read_text() == expected
        assert len(read_requests(file)) == 2


def test_decimal_addresses_of_ramulator() -> None:
    assert parse_requests(["LD 4096", "ST 0x1000"], name="t").addresses.tolist() == [4096, 4096]


def test_every_bad_line_with_its_number() -> None:
    lines = [
        "0x40 READ 5", "0x41 READ 6", "0x80 RAED 6", "0x80 READ", "zz READ 7", "0x80 READ -1", "0x80 WRITE 4",
        "LD 0x40", "0x80 WRITE 5", "0x" + "f" * 20 + "00 READ 9",
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        parse_requests(lines, name="my.trace")
    first, *rest = caught.value.problems
    assert first == "my.trace: 8 bad lines"
    assert [problem.split(":")[1] for problem in rest] == ["2", "3", "4", "5", "6", "7", "8", "10"]
    for problem, part in zip(
        rest,
        [
            "address 0x41 is not aligned to 64 bytes", "did you mean 'READ'", "expected 'address READ|WRITE cycle'",
            "expected a hexadecimal number", "expected a whole number", "cycle 4 comes after cycle 5",
            "a ramulator line in a dramsim3 trace", "numbers must be below",
        ],
        strict=True,
    ):  # fmt: skip
        assert part in problem


def test_many_bad_lines_are_counted_not_listed() -> None:
    with pytest.raises(InputError) as caught:
        parse_requests(["LD 7"] * 1000, name="t")
    assert caught.value.problems[0] == "t: 1000 bad lines"
    assert len(caught.value.problems) == 21


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_requests(tmp_path / "none.trace")
    (tmp_path / "empty.trace").write_text("# nothing\n")
    with pytest.raises(InputError, match="no requests"):
        read_requests(tmp_path / "empty.trace")
    (tmp_path / "binary.trace").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_requests(tmp_path / "binary.trace")
    with pytest.raises(InputError, match="unknown request trace format 'dramsim'; did you mean 'dramsim3'"):
        list(request_lines(Requests(np.zeros(1, np.int64), np.zeros(1, np.bool_)), "dramsim"))


@pytest.mark.parametrize(
    ("addresses", "cycles", "message"),
    [
        ([64, 65, 66], [0, 0, 0], "2 with address that is no multiple of 64, the first is request 1"),
        ([0, -64], [0, 0], "1 with negative address"),
        ([0, 64], [5, 4], "arrival before that of the request in front"),
        ([0, 64], [-1, 4], "arrival before"),
        ([0, 64], [0], "2 addresses, 2 kinds, 1 cycles"),
    ],
)
def test_inconsistent_requests(addresses: list[int], cycles: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Requests(np.array(addresses), np.zeros(len(addresses), np.bool_), np.array(cycles))


def test_throttled_arrivals() -> None:
    requests = Requests(np.arange(5) * 64, np.zeros(5, np.bool_))
    assert throttled(requests, fraction=0.75, peak_bytes_per_cycle=16.0).cycles.tolist() == [0, 5, 10, 16, 21]
    assert throttled(requests, fraction=0, peak_bytes_per_cycle=16.0).cycles.tolist() == [0] * 5
    with pytest.raises(InputError, match="between 0 and 1"):
        throttled(requests, fraction=1.5, peak_bytes_per_cycle=16.0)
