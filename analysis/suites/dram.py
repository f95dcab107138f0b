"""Suite `dram`: the DRAM controller and its energies against DRAMsim3 runs (cycles, energy, activations)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...accel.dram import CommandDevice, load_command_device
from ...accel.dram_energy import peak_bytes_per_cycle
from ...sim.dram import Controller, DramRun
from ...traces.dram_streams import build, parse_parameters, stream
from ...traces.requests import Requests, throttled
from ...workloads.errors import InputError, unknown_name
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite, Summary, summarise
from .tables import whole

_COLUMNS = ("config", "trace", "throttle", "lines", "cycles", "n_act", "e_core_total_pJ")
#: Reference configuration -> device, mapping, ranks.
CONFIGURATIONS = {
    "d4x8_def": ("ddr4_2400_x8", "default", 1),
    "d4x8_bgi": ("ddr4_2400_x8", "bank_group_interleaved", 1),
    "d4x8_2rank": ("ddr4_2400_x8", "default", 2),
    "d4x16_def": ("ddr4_2400_x16", "default", 1),
    "d4x16_bgi": ("ddr4_2400_x16", "bank_group_interleaved", 1),
    "d3x8_def": ("ddr3_1600_x8", "default", 1),
    "lp4x16": ("lpddr4_3200_x16", "default", 1),
    "lp4x32g": ("lpddr4_3200_x32_lockstep", "default", 1),
    "hbm2_1ch": ("hbm2", "default", 1),
    "hbm2_1ch_bgi": ("hbm2", "bank_group_interleaved", 1),
    "hbm2_8ch_def": ("hbm2_8ch", "default", 1),
    "hbm2_8ch_li": ("hbm2_8ch", "line_interleaved", 1),
}
_GROUPS = (
    (r"(seq|tile)", "streams"),
    (r"gath", "gathers"),
    (r"mix.*_al$", "mixes, aligned"),
    (r"mix", "mixes"),
    (r"stride", "strides"),
    (r"rand", "random"),
)
ALIGNED, THROTTLED = "mixes, aligned", "throttled"
GROUPS = tuple(dict.fromkeys((*(group for _, group in _GROUPS), "other", THROTTLED)))


@dataclass(frozen=True, slots=True)
class RowResult:
    """One reference row recomputed; ``expected_*`` are the reference's values. Errors are signed fractions."""

    config: str
    trace: str
    throttle: float
    group: str
    run: DramRun
    expected_cycles: int
    expected_energy_pj: float
    expected_activations: int

    @property
    def name(self) -> str:
        return f"{self.config} {self.trace} {self.throttle:g}"

    @property
    def cycles_error(self) -> float:
        return self.run.cycles / self.expected_cycles - 1

    @property
    def energy_error(self) -> float:
        return self.run.core_energy_pj / self.expected_energy_pj - 1

    @property
    def activations_error(self) -> float:
        return self.run.activations / self.expected_activations - 1 if self.expected_activations else 0.0


def rows(reference_dir: Path) -> Iterator[RowResult]:
    """Every row of ``reference_dir/dram/dramsim3.csv``, recomputed.

    Raises
    ------
    InputError
        for an unknown configuration, an unknown stream, a stream of another length than the reference's, or a value
        that is no number.
    """
    path = reference_dir / "dram" / "dramsim3.csv"
    table = read_rows(path, _COLUMNS)
    catalogue = _catalogue(reference_dir / "dram" / "traces.csv")
    controllers: dict[str, Controller] = {}
    cached = lru_cache(maxsize=64)(lambda name: requests_of(name, catalogue))
    for row in table:
        config = row["config"]
        if config not in controllers:
            controllers[config] = configuration(config)
        requests = cached(row["trace"])
        if len(requests) != whole(row, "lines", path=path):
            raise InputError(f"{path}: stream '{row['trace']}' has {len(requests)} lines here, {row['lines']} there")
        yield _recompute(row, requests, controller=controllers[config], path=path)


def _recompute(row: Mapping[str, str], requests: Requests, *, controller: Controller, path: Path) -> RowResult:
    fraction = _number(row["throttle"], column="throttle", path=path)
    if fraction:
        peak = peak_bytes_per_cycle(controller.device)
        requests = throttled(requests, fraction=fraction, peak_bytes_per_cycle=peak)
    return RowResult(
        config=row["config"],
        trace=row["trace"],
        throttle=fraction,
        group=THROTTLED if fraction else group_of(row["trace"]),
        run=controller.run(requests),
        expected_cycles=whole(dict(row), "cycles", path=path),
        expected_energy_pj=_number(row["e_core_total_pJ"], column="e_core_total_pJ", path=path),
        expected_activations=whole(dict(row), "n_act", path=path),
    )


def configuration(name: str) -> Controller:
    """The controller of a reference configuration."""
    if name not in CONFIGURATIONS:
        raise unknown_name("DRAM configuration", name, CONFIGURATIONS)
    device_name, mapping, ranks = CONFIGURATIONS[name]
    device: CommandDevice = load_command_device(device_name)
    return Controller(device if ranks == 1 else device.with_organisation(ranks=ranks), mapping=mapping)


def group_of(trace: str) -> str:
    """Group of streams that a stream's name belongs to."""
    return next((group for pattern, group in _GROUPS if re.match(pattern, trace)), "other")


def requests_of(name: str, catalogue: Mapping[str, tuple[str, str]]) -> Requests:
    """A stream by the catalogue's kind and parameters, or, where it is not listed, by its name alone."""
    if name in catalogue:
        kind, parameters = catalogue[name]
        return build(kind, parse_parameters(parameters))
    return stream(name)


def _catalogue(path: Path) -> dict[str, tuple[str, str]]:
    if not path.exists():
        return {}
    return {row["trace"]: (row["kind"], row["params"]) for row in read_rows(path, ("trace", "kind", "params"))}


def _number(text: str, *, column: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: {column} = '{text}' is not a number") from None


def checks(folder: Path) -> Iterator[Check]:
    """Cycles, energy and activations of every row, by group of streams."""
    for result in rows(folder):
        for quantity, found, expected in (
            ("cycles", result.run.cycles, result.expected_cycles),
            ("energy", result.run.core_energy_pj, result.expected_energy_pj),
            ("activations", result.run.activations, result.expected_activations),
        ):
            yield Check(result.name, result.group, quantity, found, expected)


def statistics(results: list[RowResult]) -> dict[tuple[str, str], dict[str, Summary]]:
    """Errors of cycles, energy and activations per (configuration, group of streams)."""
    gathered: dict[tuple[str, str], list[RowResult]] = {}
    for result in results:
        gathered.setdefault((result.config, result.group), []).append(result)
    return {
        key: {
            "cycles": summarise([Check(r.name, r.group, "", r.run.cycles, r.expected_cycles) for r in some]),
            "energy": summarise([Check(r.name, r.group, "", r.run.core_energy_pj, r.expected_energy_pj) for r in some]),
            "activations": summarise(
                [Check(r.name, r.group, "", r.run.activations, r.expected_activations) for r in some]
            ),
        }
        for key, some in gathered.items()
    }


_SMOOTH = tuple(group for group in GROUPS if group != ALIGNED)
SUITE = Suite(
    name="dram",
    title="DRAM controller and energies against DRAMsim3",
    checks=checks,
    bars=(
        Bar("cycles", mean=0.005, p95=0.025),
        Bar("cycles", _SMOOTH, max=0.06),
        Bar("cycles", (ALIGNED,), max=0.10),
        Bar("cycles", (THROTTLED,), max=0.01),
        Bar("energy", mean=0.0025, max=0.03),
        Bar("activations", _SMOOTH, mean=0.02),
    ),
)
