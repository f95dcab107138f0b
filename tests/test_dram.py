"""DRAM devices and runs: files, mappings, energies, closed forms, golden rows, the open interface, power-down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.dram import (
    DEVICE_FOLDER,
    DEVICES,
    CommandDevice,
    FlatDevice,
    load_command_device,
    load_device,
)
from nestling.accel.dram_energy import (
    activation_limited_bytes_per_cycle,
    command_energies,
    peak_bytes_per_cycle,
    refresh_limited_fraction,
    unloaded_read_cycles,
)
from nestling.accel.dram_mapping import FIELDS
from nestling.sim.dram import Controller, ControllerSettings
from nestling.traces.dram_streams import scattered, sequential
from nestling.traces.requests import Requests
from nestling.workloads.errors import InputError

COMMAND_DEVICES = tuple(name for name in DEVICES if isinstance(load_device(name), CommandDevice))


def edited(tmp_path: Path, *changes: tuple[str, str], name: str = "ddr4_2400_x8") -> Path:
    text = (DEVICE_FOLDER / f"{name}.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return file


def test_registry_is_the_folder() -> None:
    assert sorted(DEVICES) == sorted(file.stem for file in DEVICE_FOLDER.glob("*.yaml"))
    for name in DEVICES:
        assert load_device(name).name == name


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown DRAM device 'ddr4_2400_x9'; did you mean 'ddr4_2400_x8'"):
        load_device("ddr4_2400_x9")
    with pytest.raises(InputError, match="'hbm_7pj_per_bit' is flat"):
        load_command_device("hbm_7pj_per_bit")
    device = load_command_device("ddr4_2400_x8")
    with pytest.raises(InputError, match="did you mean 'bank_group_interleaved'"):
        device.mapping("bank_group_interleave")


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # pJ of ACT, RD, WR, REF and mW open, closed: reference README, section 3
        ("ddr4_2400_x8", (3450.1, 2932.2, 2549.8, 692738, 412.8, 326.4)),
        ("ddr4_2400_x16", (8242.9, 3123.5, 2884.4, 389874, 225.6, 163.2)),
        ("ddr3_1600_x8", (10651.5, 3996, 3996, 733320, 550.8, 388.8)),
        ("lpddr4_3200_x16", (1204.7, 1347.5, 990, 22386, 37.0, 33.3)),
        ("hbm2", (828, 804, 1068, 60840, 66, 48)),
    ],
)
def test_command_energies(name: str, expected: tuple[float, ...]) -> None:
    device = load_command_device(name)
    e, ns = command_energies(device), device.timing.tCK_ns
    found = (
        e.act_pj, e.read_pj, e.write_pj, e.refresh_pj, e.open_pj_per_cycle / ns, e.closed_pj_per_cycle / ns,
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=2e-3)


def test_interface_energy_of_lpddr4() -> None:
    e = command_energies(load_command_device("lpddr4_3200_x16"))
    assert (e.io_read_pj, e.io_write_pj) == pytest.approx((825.0, 302.5))


def test_all_mistakes_of_a_device_file(tmp_path: Path) -> None:
    file = edited(
        tmp_path,
        ("tRC: 56", "tRC: 50"), ("rows: 65536", "rows: 65000"), ("tREFI: 9360", "tREFI: 400"),
        ("IDD4R_mA: 135", "IDD4R_mA: 13.5"), ("tFAW: 26", "tFAW: many"), ("  CWL: 12\n", ""), ("kind:", "colour: red\nkind:"),
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_device(file)
    text = str(caught.value)
    assert len(caught.value.problems) == 7
    for part in (
        "tRC: found 50; must be at least tRAS + tRP = 56", "rows: found 65000; must be a power of two",
        "tREFI: found 400; must be at least tRFC + tRP = 437", "IDD4R_mA: found 13.5; must not be below IDD3N_mA = 43",
        "tFAW: found 'many'", "missing key 'CWL'", "colour: unknown key",
    ):  # fmt: skip
        assert part in text
    assert all(problem.startswith(f"{file}:") for problem in caught.value.problems)


def test_bad_mappings_in_a_file_and_by_hand(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"default: address mapping 'co bg ba ra ch': 0 bits for 'ro' .row., the device"
    ):
        load_device(edited(tmp_path, ("default: co bg ba ra ch ro", "default: co bg ba ra ch")))
    with pytest.raises(InputError, match="did you mean 'default'"):
        load_device(edited(tmp_path, ("default_mapping: default", "default_mapping: defualt")))
    device = load_command_device("ddr4_2400_x8")
    for text, part in (
        ("bg2 co7 ba2 ro15", "15 bits for 'ro' (row), the device has 16"),
        ("bg2 co7 ba2 ro16 co1", "8 bits for 'co' (column), the device has 7"),
        ("bg2 cl7 ba2 ro16", "unknown address field 'cl' (did you mean 'co'?). Needed: fields from"),
        (
            "Row16 bank2, co7 BG2",
            "field 'Row' (did you mean 'ro'?); unknown address field 'bank' (did you mean 'ba'?); unknown",
        ),
        ("bg2 co7 ba2 x!! ro16", "unknown address field 'x'. Needed: fields from the lowest address bit on"),
        ("co7bg2ba2ro16", "Allowed: bank_group_interleaved, default; or fields from the lowest address bit on"),
        ("", "Allowed: bank_group_interleaved, default; or fields"),
        ("bg2 co7 ba2 ro16 ch1", "1 bits for 'ch' (channel), the device has 0"),
    ):
        with pytest.raises(InputError) as caught:
            device.mapping(text)
        assert part in str(caught.value)
        example = str(caught.value).split("such as '")[1].split("'")[0]
        assert device.mapping(example).address_bits == device.mapping().address_bits


@settings(max_examples=40, deadline=None)
@given(st.permutations(["bg1", "bg1", "co3", "co4", "ba2", "ro16"]), st.integers(0, 2**27 - 1))
def test_every_address_bit_belongs_to_one_field(parts: list[str], line: int) -> None:
    mapping = load_command_device("ddr4_2400_x8").mapping(" ".join(parts))
    address = np.array([line * 64])
    back = 0
    for segment in mapping.segments:
        value = int(mapping.decode(address, segment.field)[0])
        back |= (value >> segment.field_low & ((1 << segment.bits) - 1)) << segment.low
    assert back == line * 64
    assert mapping.address_bits == 33
    assert set(FIELDS) >= {segment.field for segment in mapping.segments}


def test_other_numbers_of_channels_and_ranks() -> None:
    device = load_command_device("hbm2").with_organisation(channels=4, ranks=2)
    assert peak_bytes_per_cycle(device) == 4 * 32
    assert str(device.mapping()) == "co5 ch2 ba2 bg2 ra1 ro15"
    with pytest.raises(InputError, match="power of two"):
        device.with_organisation(channels=3)


@pytest.mark.parametrize("name", COMMAND_DEVICES)
def test_unloaded_read_latency(name: str) -> None:
    device = load_command_device(name)
    assert Controller(device).open().serve(0, 4096, device.organisation.access_bytes) == unloaded_read_cycles(device)
    assert Controller(device).open().serve(100, 4096, 1) == 100 + unloaded_read_cycles(device)


@pytest.mark.parametrize("name", COMMAND_DEVICES)
def test_streams_reach_the_refresh_limited_peak(name: str) -> None:
    device = load_command_device(name)
    interleaved = [m for m in ("line_interleaved", "bank_group_interleaved", "default") if m in device.mappings]
    mapping = interleaved[0] if device.organisation.channels > 1 else interleaved[-2 if len(interleaved) > 1 else 0]
    run = Controller(device, mapping=mapping).run(sequential(nbytes=4 << 20))
    rate = run.read_bytes / run.cycles / peak_bytes_per_cycle(device)
    assert 0.95 * refresh_limited_fraction(device) < rate <= refresh_limited_fraction(device) + 0.003


@pytest.mark.parametrize("name", ["ddr4_2400_x8", "ddr4_2400_x16", "ddr3_1600_x8", "hbm2"])
def test_random_accesses_are_limited_by_activations(name: str) -> None:
    device = load_command_device(name)
    bound = activation_limited_bytes_per_cycle(device, bytes_per_row=64)
    run = Controller(device).run(scattered(n=20000, log2_lines=22, seed=5, wfrac=0.0))
    share = run.read_bytes / run.cycles / bound / refresh_limited_fraction(device)
    assert 0.9 < share < 1.02  # a few requests find their row open


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(COMMAND_DEVICES), st.integers(0, 1000), st.integers(1, 30))
def test_conservation_and_arrival_bound(name: str, seed: int, gap: int) -> None:
    device = load_command_device(name)
    requests = scattered(n=300, log2_lines=12, seed=seed, wfrac=0.3)
    slow = Controller(device).run(requests, arrival=np.arange(300, dtype=np.int64) * gap)
    split = 64 // device.organisation.access_bytes
    assert slow.reads + slow.writes + slow.merged == slow.requests == 300 * split
    assert slow.cycles >= 299 * gap + 1
    ranks = device.organisation.ranks * device.organisation.channels
    assert slow.open_cycles + slow.closed_cycles == slow.cycles * ranks
    assert slow.read_row_hits + slow.write_row_hits <= slow.reads + slow.writes
    assert slow.activations - slow.precharges <= ranks * 16
    assert slow.total_energy_pj == pytest.approx(sum(slow.energy_pj.values()))


def test_serve_in_closed_loop() -> None:
    device = load_command_device("ddr4_2400_x8")
    dram = Controller(device, mapping="bank_group_interleaved").open(tags=2)
    first = dram.serve(0, 0, 4096)
    assert 64 * 4 < first < 64 * 4 + 60  # 64 lines at one per 4 cycles, and the latency
    assert dram.serve(first, 1 << 20, 64, True) == first + 1  # a write is posted
    again = dram.serve(first + 1, 1 << 20, 64)
    assert again == first + 2  # the write buffer answers
    dram.start(again, 8192, 640, is_write=False, tag=1)
    assert dram.wait(1) > again
    assert dram.serve(5000, 0, 0) == 5000
    run = dram.finish()
    assert (run.reads, run.writes, run.merged) == (64 + 10, 1, 1)
    flat = load_device("smartexchange_100pj_per_byte")
    assert isinstance(flat, FlatDevice)
    assert run.flat_energy_pj(flat) == 100 * 64 * (64 + 10 + 2)
    assert flat.seconds(1_000_000) == pytest.approx(1e6 / 19.2e9)


def test_requests_beyond_the_device_and_wrong_tags() -> None:
    dram = Controller(load_command_device("hbm2")).open()
    capacity = 1 << 30
    with pytest.raises(InputError, match=r"2 of 3 addresses lie beyond hbm2 .* the first is 0x40000000"):
        dram.push(Requests(np.array([0, capacity, capacity + 64]), np.zeros(3, np.bool_)))
    with pytest.raises(InputError, match="beyond hbm2"):
        dram.serve(0, capacity - 64, 128)
    with pytest.raises(InputError, match="opened with 1"):
        dram.start(0, 0, 64, is_write=False, tag=1)
    assert dram.finish().requests == 0


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(InputError) as caught:
        ControllerSettings(read_queue=0, bank_queue=9, drain_high=40, requests_per_cycle=0, power_down_after=-1)
    assert len(caught.value.problems) == 5


def test_deeper_bank_queues_do_not_hurt_conflicting_streams() -> None:
    device = load_command_device("ddr4_2400_x8")
    lines = np.stack([np.arange(4096), np.arange(4096) + (1 << 20)], axis=1).ravel()
    requests = Requests(lines * 64, np.zeros(8192, np.bool_))
    cycles = [Controller(device, ControllerSettings(bank_queue=depth)).run(requests).cycles for depth in (1, 2, 8)]
    assert cycles[0] >= cycles[1] > 2 * cycles[2]


def test_power_down_saves_background_energy_and_costs_its_exit() -> None:
    device = load_command_device("lpddr4_3200_x16")
    requests = Requests(np.arange(50) * 64, np.zeros(50, np.bool_), np.arange(50) * 2000)
    awake = Controller(device).run(requests)
    asleep = Controller(device, ControllerSettings(power_down_after=100)).run(requests)
    assert awake.power_down_open_cycles == awake.power_down_closed_cycles == 0
    down = asleep.power_down_open_cycles + asleep.power_down_closed_cycles
    assert 0.8 * asleep.cycles < down < asleep.cycles
    assert asleep.total_energy_pj < 0.6 * awake.total_energy_pj
    waited = asleep.mean_read_latency_cycles - awake.mean_read_latency_cycles
    assert 0 < waited <= device.timing.tXP
    assert (asleep.reads, asleep.refreshes) == (awake.reads, awake.refreshes)


def test_two_ranks_raise_the_activation_limit() -> None:
    device = load_command_device("ddr4_2400_x8")
    requests = scattered(n=20000, log2_lines=22, seed=7, wfrac=0.0)
    one = Controller(device).run(requests)
    two = Controller(device.with_organisation(ranks=2)).run(requests)
    assert two.cycles < 0.8 * one.cycles
    assert two.refreshes == pytest.approx(2 * two.cycles / device.timing.tREFI, abs=2)
