"""The controller kernel: timing constraints to the cycle, a cycle-stepped oracle, open state, plain Python."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nestling.accel.dram import CommandDevice, load_command_device
from nestling.sim import dram_banks_kernel as layout
from nestling.sim import dram_kernel as kernel
from nestling.sim.dram import Controller, ControllerSettings, initial_state
from nestling.sim.dram_lanes_kernel import DEPTH, KEY_SHIFT
from nestling.traces.requests import Requests
from numpy.typing import NDArray

from .dram_oracle import run_oracle

DEVICES = (
    "ddr4_2400_x8", "ddr4_2400_x16", "ddr3_1600_x8", "lpddr4_3200_x16", "lpddr4_3200_x32_lockstep", "hbm2", "hbm2_8ch",
)  # fmt: skip
ACT, RD, WR, PRE = layout.ACT, layout.RD, layout.WR, layout.PRE
Channel = NDArray[np.int64]


def new_channel(device: CommandDevice) -> Channel:
    return initial_state(Controller(device).parameters, channels=1)[0]


def issue(s: Channel, kind: int, bank: int, clock: int) -> None:
    """Issue a command directly, with one request for row 5 waiting in the bank's queue."""
    if kind == ACT:
        s[layout.QUEUE + DEPTH * bank], s[layout.QUEUED + bank] = 10 << KEY_SHIFT, 1
        layout.activate(s, bank, clock)
    elif kind == PRE:
        layout.precharge(s, bank, clock)
    else:
        kernel.column_times(s, kind, bank, clock)


def assert_tight(s: Channel, kind: int, bank: int, clock: int) -> None:
    assert not layout.ready(s, kind, bank, clock - 1)
    assert layout.ready(s, kind, bank, clock)


@pytest.mark.parametrize("name", DEVICES)
def test_constraints_within_a_bank_are_tight(name: str) -> None:
    device = load_command_device(name)
    t, burst, start = device.timing, device.organisation.burst_cycles, 1000
    for first, second, distance in (
        (ACT, RD, t.tRCDRD), (ACT, WR, t.tRCDWR), (ACT, PRE, t.tRAS), (ACT, ACT, t.tRC),
        (RD, PRE, t.tRTP), (WR, PRE, t.CWL + burst + t.tWR), (PRE, ACT, t.tRP),
    ):  # fmt: skip
        s = new_channel(device)
        if first == PRE:
            issue(s, ACT, 0, start - t.tRC)
        issue(s, first, 0, start)
        assert_tight(s, second, 0, start + distance)


@pytest.mark.parametrize("name", DEVICES)
def test_constraints_between_banks_are_tight(name: str) -> None:
    device = load_command_device(name)
    t, o, start = device.timing, device.organisation, 1000
    burst = o.burst_cycles
    turn = t.CL + burst - t.CWL + t.tRTRS
    same_group = {
        (ACT, ACT): t.tRRD_L, (RD, RD): max(burst, t.tCCD_L), (WR, WR): max(burst, t.tCCD_L), (RD, WR): turn,
        (WR, RD): t.CWL + burst + t.tWTR_L,
    }  # fmt: skip
    other_group = {
        (ACT, ACT): t.tRRD_S, (RD, RD): max(burst, t.tCCD_S), (WR, WR): max(burst, t.tCCD_S), (RD, WR): turn,
        (WR, RD): t.CWL + burst + t.tWTR_S,
    }  # fmt: skip
    cases = [(1, same_group)] + ([(o.banks_per_group, other_group)] if o.bank_groups > 1 else [])
    for bank, distances in cases:
        for (first, second), distance in distances.items():
            s = new_channel(device)
            issue(s, first, 0, start)
            assert_tight(s, second, bank, start + distance)


@pytest.mark.parametrize("name", DEVICES)
def test_four_activations_fill_the_window(name: str) -> None:
    device = load_command_device(name)
    t, o = device.timing, device.organisation
    s, clock, issued = new_channel(device), 1000, []
    for k in range(5):
        bank = k % o.bank_groups * o.banks_per_group + k // o.bank_groups
        while not layout.ready(s, ACT, bank, clock):
            clock += 1
        issue(s, ACT, bank, clock)
        issued.append(clock)
    assert issued[4] == max(issued[0] + t.tFAW, issued[3] + (t.tRRD_S if o.bank_groups > 1 else t.tRRD_L))


def test_precharges_of_lpddr4_keep_their_distance() -> None:
    device = load_command_device("lpddr4_3200_x16")
    s = new_channel(device)
    issue(s, ACT, 0, 100)
    issue(s, ACT, 1, 100 + device.timing.tRRD_L)
    issue(s, PRE, 0, 1000)
    assert_tight(s, PRE, 1, 1000 + device.timing.tPPD)


@pytest.mark.parametrize("name", DEVICES)
def test_refresh_waits_for_precharge_and_blocks_activation(name: str) -> None:
    device = load_command_device(name)
    t = device.timing
    s = new_channel(device)
    issue(s, ACT, 0, t.tREFI - 1)  # open when the refresh is due
    events = []
    for clock in range(t.tREFI, t.tREFI + t.tRAS + t.tRP + 10):
        before = int(s[layout.PRES]), int(s[layout.REFS])
        layout.refresh(s, clock) if s[layout.REF_OPEN] or clock == t.tREFI else 0
        events += [clock] * (before != (int(s[layout.PRES]), int(s[layout.REFS])))
    closing, refresh = t.tREFI - 1 + t.tRAS, t.tREFI - 1 + t.tRAS + t.tRP
    assert events == [closing, refresh]
    assert_tight(s, ACT, 0, max(refresh + t.tRFC, t.tREFI - 1 + t.tRC))


@pytest.mark.parametrize("name", DEVICES)
def test_vectors_begin_at_cache_lines_and_entries_hold_every_slot(name: str) -> None:
    device = load_command_device(name)
    state = initial_state(Controller(device).parameters, channels=device.organisation.channels)
    starts = (layout.GATE, layout.SINCE, layout.BANK_TIME, layout.QUEUE, layout.STATE_SIZE)
    assert [(state.ctypes.data + 8 * start) % 64 for start in starts] == [0] * len(starts)
    assert layout.SLOT_WORDS * layout.SLOTS == 1 << KEY_SHIFT
    assert state[0, layout.GROUP_BANKS] == (1 << device.organisation.banks_per_group) - 1
    assert [int(mask) >> bank & 1 for bank, mask in enumerate(state[0, layout.RANK_BANKS :][: layout.MAX_BANKS])] == [
        1
    ] * 32


def random_requests(seed: int, *, count: int, device: CommandDevice, spread: int, slack: int) -> Requests:
    """Requests that revisit few rows and lines, with reads, writes and gaps mixed."""
    rng = np.random.default_rng(seed)
    capacity = device.organisation.capacity_bytes
    bases = rng.integers(0, capacity // 64, 4)
    lines = (bases[rng.integers(0, 4, count)] + rng.integers(0, spread, count)) % (capacity // 64)
    write_share = rng.choice([0.0, 0.2, 0.5, 1.0])
    arrivals = np.cumsum(rng.integers(0, slack + 1, count)) if slack else np.zeros(count, np.int64)
    return Requests(lines * 64, rng.random(count) < write_share, arrivals)


CONFIGURATIONS = (
    *((name, 1) for name in DEVICES),
    ("ddr4_2400_x8", 2),
    ("hbm2", 2),
    ("lpddr4_3200_x16", 2),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(CONFIGURATIONS), st.integers(0, 2**32 - 1), st.sampled_from([16, 400, 20_000, 4_000_000]),
    st.sampled_from([0, 3, 40]), st.sampled_from([(32, 32, 8, 4), (8, 16, 2, 1), (16, 12, 4, 2)]),
)  # fmt: skip
def test_equal_to_the_cycle_stepped_oracle(
    configuration: tuple[str, int], seed: int, spread: int, slack: int, queues: tuple[int, int, int, int]
) -> None:
    name, ranks = configuration
    device = load_command_device(name)
    device = device.with_organisation(ranks=ranks) if ranks > 1 else device
    read, write, bank, cap = queues
    controls = ControllerSettings(
        read_queue=read, write_queue=write, bank_queue=bank, hit_cap=cap, drain_high=write, drain_low=write // 4
    )
    mapping = (None, list(device.mappings)[-1])[seed % 2]
    controller = Controller(device, controls, mapping=mapping)
    assert_oracle(controller, random_requests(seed, count=150, device=device, spread=spread, slack=slack))


def assert_oracle(controller: Controller, requests: Requests) -> None:
    run = controller.run(requests)
    oracle = run_oracle(controller.device, controller.mapping, requests, controller.settings)
    found = (run.cycles, run.last_accept_cycle, run.activations, run.precharges, run.refreshes, run.closed_cycles)
    counts = oracle.counts
    assert found == (
        oracle.cycles, oracle.last_accept, counts["ACT"], counts["PRE"], counts["REF"], oracle.closed_cycles,
    )  # fmt: skip
    assert (run.reads, run.writes, run.merged) == (counts["RD"], counts["WR"], counts["merged"])
    assert run.read_row_hits + run.write_row_hits == counts["row hits"]
    assert round(run.mean_read_latency_cycles * run.read_requests) == oracle.latency


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(CONFIGURATIONS), st.integers(0, 2**32 - 1), st.integers(0, 1), st.sampled_from([(32, 8), (4, 2)]),
    st.sampled_from([0.0, 0.01]),
)  # fmt: skip
def test_runs_of_hits_are_equal_to_the_cycle_stepped_oracle(
    configuration: tuple[str, int], seed: int, mapping: int, queues: tuple[int, int], write_share: float
) -> None:
    """Full queues of row hits, which the kernel shortens: bursts of neighbouring or evenly spaced lines, few writes."""
    name, ranks = configuration
    device = load_command_device(name)
    device = device.with_organisation(ranks=ranks) if ranks > 1 else device
    rng, count = np.random.default_rng(seed), 300
    starts = np.repeat(rng.integers(0, device.organisation.capacity_bytes // 128, 3), count // 3)
    lines = starts + np.tile(np.arange(count // 3), 3) * np.repeat(rng.choice([1, 1, 2, 4], 3), count // 3)
    controls = ControllerSettings(read_queue=queues[0], bank_queue=queues[1])
    controller = Controller(device, controls, mapping=(None, list(device.mappings)[-1])[mapping])
    assert_oracle(controller, Requests(lines * 64, rng.random(count) < write_share))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DEVICES), st.integers(0, 2**32 - 1), st.sampled_from([16, 20_000]), st.sampled_from([0, 7]),
    st.lists(st.integers(0, 400), max_size=4),
)  # fmt: skip
def test_splitting_a_batch_changes_nothing(name: str, seed: int, spread: int, slack: int, cuts: list[int]) -> None:
    device = load_command_device(name)
    requests = random_requests(seed, count=400, device=device, spread=spread, slack=slack)
    whole, parts = Controller(device).open(tags=400), Controller(device).open(tags=400)
    whole.push(requests, tag_step=1)
    edges = [0, *sorted(cuts), 400]
    for first, after in itertools.pairwise(edges):
        piece = Requests(requests.addresses[first:after], requests.is_write[first:after], requests.cycles[first:after])
        parts.push(piece, first_tag=min(first, 399), tag_step=1)
    np.testing.assert_array_equal(whole.state, parts.state)
    assert whole.finish() == parts.finish()
    np.testing.assert_array_equal(whole.completions(), parts.completions())
    assert (whole.completions() > requests.cycles).all()


PROGRAM = """
import json, sys
import numpy as np
from nestling.accel.dram import load_command_device
from nestling.sim.dram import Controller
from nestling.traces.requests import Requests
lines = np.random.default_rng(3).integers(0, 5000, 250)
requests = Requests(lines * 64, lines % 3 == 0, np.arange(250) * 4)
out = []
for name in ("ddr4_2400_x8", "hbm2_8ch"):
    dram = Controller(load_command_device(name)).open()
    dram.push(requests)
    served = dram.serve(1200, 1 << 20, 1000)
    run = dram.finish()
    out.append([served, run.cycles, run.activations, run.precharges, run.read_row_hits, run.closed_cycles])
print(json.dumps(out))
"""


def test_plain_python_gives_the_same_numbers() -> None:
    """Also catches a compiled callee that is older than its source."""

    def run(disabled: str) -> object:
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True, timeout=300
        )
        return json.loads(done.stdout)

    assert run("0") == run("1")
