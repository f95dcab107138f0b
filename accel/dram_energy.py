"""Energies and closed forms of a command device: what one command costs, and what no controller can beat."""

from __future__ import annotations

from dataclasses import dataclass

from .dram import CommandDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnergies:
    """Energies of one rank of one channel in pJ: per command, per access, and per clock cycle of background."""

    act_pj: float
    read_pj: float
    write_pj: float
    refresh_pj: float
    io_read_pj: float
    io_write_pj: float
    open_pj_per_cycle: float
    closed_pj_per_cycle: float
    open_power_down_pj_per_cycle: float
    closed_power_down_pj_per_cycle: float


def command_energies(device: CommandDevice) -> CommandEnergies:
    """Energies from the supply currents (DRAMsim3 configuration.cc; Micron TN-41-01 for the method).

    JEDEC measures IDD0 over one ACT-PRE cycle of tRC. The device stands open for tRAS (IDD3N) and closed for tRP (IDD2N)
    of it and pays that as background anyway, so ACT and its PRE cost the difference
    ``V (IDD0 tRC - IDD3N tRAS - IDD2N tRP)``. Bursts draw IDD4R or IDD4W for BL/2 cycles and refresh IDD5 for tRFC, both
    above IDD3N. mA x V x ns = pJ, times the devices of a rank. Background: IDD3N while a bank is open, else IDD2N (IDD3P
    and IDD2P in power-down).
    """
    t, i, organisation = device.timing, device.currents, device.organisation
    scale = i.VDD_V * t.tCK_ns * organisation.devices_per_rank
    access_bits = 8 * organisation.access_bytes
    return CommandEnergies(
        act_pj=scale * (i.IDD0_mA * t.tRC - i.IDD3N_mA * t.tRAS - i.IDD2N_mA * t.tRP),
        read_pj=scale * (i.IDD4R_mA - i.IDD3N_mA) * organisation.burst_cycles,
        write_pj=scale * (i.IDD4W_mA - i.IDD3N_mA) * organisation.burst_cycles,
        refresh_pj=scale * (i.IDD5_mA - i.IDD3N_mA) * t.tRFC,
        io_read_pj=access_bits * device.io.read_pj_per_bit,
        io_write_pj=access_bits * device.io.write_pj_per_bit,
        open_pj_per_cycle=scale * i.IDD3N_mA,
        closed_pj_per_cycle=scale * i.IDD2N_mA,
        open_power_down_pj_per_cycle=scale * i.IDD3P_mA,
        closed_power_down_pj_per_cycle=scale * i.IDD2P_mA,
    )


def clock_hz(device: CommandDevice) -> float:
    """DRAM clock in Hz."""
    return 1e9 / device.timing.tCK_ns


def unloaded_read_cycles(device: CommandDevice) -> int:
    """Acceptance to last data beat of one read into a closed bank: one cycle in the queue, then tRCD + CL + BL/2."""
    return 1 + device.timing.tRCDRD + device.timing.CL + device.organisation.burst_cycles


def peak_bytes_per_cycle(device: CommandDevice) -> float:
    """Bytes per clock cycle of all data buses (two transfers a cycle)."""
    return 2 * device.organisation.bus_width_bits / 8 * device.organisation.channels


def peak_bytes_per_s(device: CommandDevice) -> float:
    return peak_bytes_per_cycle(device) * clock_hz(device)


def refresh_limited_fraction(device: CommandDevice) -> float:
    """Share of time left by all-bank refresh: each tREFI loses tRP (closing) and tRFC of every rank in turn."""
    t = device.timing
    return 1 - (t.tRP + t.tRFC) / t.tREFI


def activation_limited_bytes_per_cycle(device: CommandDevice, *, bytes_per_row: int) -> float:
    """Upper bound for accesses that use ``bytes_per_row`` of each opened row: four ACT per tFAW, one per tRRD, per rank."""
    t, organisation = device.timing, device.organisation
    cycles_per_act = max(t.tFAW / 4, t.tRRD_S if organisation.bank_groups > 1 else t.tRRD_L)
    rate = organisation.channels * organisation.ranks * bytes_per_row / cycles_per_act
    return min(peak_bytes_per_cycle(device), rate)
