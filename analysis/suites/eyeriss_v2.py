"""Suite `eyeriss-v2`: cycles of one PE on real masks, to the cycle, and what uniform densities make of the same layers.

The barrier of 16 PEs needs the masks themselves, which the reference does not carry (`exact_vs_uniform.csv` gives the
results): the suite reproduces the ideal and uniform estimates and the error of the latter; the barrier model itself is
checked against an independent formulation in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...accel.arrays.eyeriss_v2 import single_pe_cycles, skipped_computes, uniform_cycles
from ...accel.ert import EnergyTable, read_ert_csv
from ...workloads.errors import InputError
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import real, whole

_PE_COLUMNS = ("layer", "C", "M", "E", "F", "density_I_spec", "density_W_spec", "ground_truth_cycles")
_NNZ_COLUMNS = ("layer", "channel", "nnz_iacts", "nnz_weights")
_UNIFORM_COLUMNS = ("layer", "effectual_macs", "ideal16", "uniform16", "exact16_barrier_per_pixel")
_ERT = "fig12_eyerissv2_pe_setup/ert_art/ERT.yaml"
_PES = 16  # of exact_vs_uniform.csv

#: Layer -> channel counts, int64 (channels, 2): non-zero inputs, non-zero weights.
Channels = dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]


def checks(folder: Path) -> Iterator[Check]:
    """PE cycles, skipped products and MAC energy per layer; ideal and uniform estimates of 16 PEs."""
    channels = read_channels(folder / "eyeriss_v2" / "channel_nnz.csv")
    path = folder / "eyeriss_v2" / "pe_cycles.csv"
    rows = {row["layer"]: row for row in read_rows(path, _PE_COLUMNS)}
    table = _energies(folder / "technology" / "ert_45nm.csv")
    for layer, row in rows.items():
        if layer not in channels:
            raise InputError(f"{path}: layer {layer} has no channel counts in channel_nnz.csv")
        yield from _pe_checks(row, channels[layer], table, path=path)
    yield from _uniform_checks(folder / "eyeriss_v2" / "exact_vs_uniform.csv", rows, channels)


def read_channels(path: Path) -> Channels:
    """Non-zero inputs and weights of every channel, by layer."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in read_rows(path, _NNZ_COLUMNS):
        counts = (whole(row, "nnz_iacts", path=path), whole(row, "nnz_weights", path=path))
        found.setdefault(row["layer"], []).append(counts)
    return {layer: np.array(counts, dtype=np.int64) for layer, counts in found.items()}


def _energies(path: Path) -> EnergyTable:
    tables = read_ert_csv(path)
    if _ERT not in tables:
        raise InputError(f"{path}: no table '{_ERT}'")
    return tables[_ERT]


def _pe_checks(
    row: dict[str, str], counts: np.ndarray[tuple[int, int], np.dtype[np.int64]], table: EnergyTable, *, path: Path
) -> Iterator[Check]:
    layer, expected = row["layer"], whole(row, "ground_truth_cycles", path=path)
    features = whole(row, "M", path=path)
    cycles = single_pe_cycles(counts[:, 0], counts[:, 1])
    skipped = skipped_computes(int(counts[:, 0].sum()), features=features, cycles=cycles)
    yield Check(layer, "one PE", "cycles", cycles, expected)
    if row.get("actual_data_skipped"):
        theirs = whole(row, "actual_data_skipped", path=path)
        yield Check(layer, "one PE", "skipped computes", skipped, theirs)
        mac, skip = table.energy_pj("MAC", "mac_random"), table.energy_pj("MAC", "mac_skipped")
        yield Check(layer, "one PE", "MAC energy", cycles * mac + skipped * skip, expected * mac + theirs * skip)
    if row.get("uniform_cycles"):
        estimate = round(_uniform(row, path=path))
        theirs = whole(row, "uniform_cycles", path=path)
        yield Check(layer, "one PE", "uniform estimate", estimate, theirs)


def _uniform_checks(path: Path, rows: dict[str, dict[str, str]], channels: Channels) -> Iterator[Check]:
    for row in read_rows(path, _UNIFORM_COLUMNS):
        layer = row["layer"]
        effectual = whole(row, "effectual_macs", path=path)
        if layer in channels:
            found = single_pe_cycles(channels[layer][:, 0], channels[layer][:, 1])
            yield Check(layer, "16 PEs", "effectual MACs", found, effectual)
        yield Check(layer, "16 PEs", "ideal cycles", round(effectual / _PES), whole(row, "ideal16", path=path))
        if layer not in rows:
            continue  # the densities of the uniform model stand in pe_cycles.csv
        estimate = round(_uniform(rows[layer], path=path, pes=_PES))
        yield Check(layer, "16 PEs", "uniform cycles", estimate, whole(row, "uniform16", path=path))
        if row.get("uniform_err_vs_barrier_pixel_pct"):
            error = 100 * (estimate / max(1, whole(row, "exact16_barrier_per_pixel", path=path)) - 1)
            expected = real(row, "uniform_err_vs_barrier_pixel_pct", path=path)
            yield Check(layer, "16 PEs", "error of the uniform model", round(error, 2), expected)


def _uniform(row: dict[str, str], *, path: Path, pes: int = 1) -> float:
    sizes = [whole(row, name, path=path) for name in ("C", "M", "E", "F")]
    densities = [real(row, column, path=path) for column in ("density_I_spec", "density_W_spec")]
    macs = int(np.prod(sizes, dtype=np.int64))
    return uniform_cycles(macs, input_density=densities[0], weight_density=densities[1], pes=pes)


SUITE = Suite(
    name="eyeriss-v2",
    title="Eyeriss v2 PE on the masks of sparse MobileNet-0.5 (Sparseloop MICRO'22 ground truth)",
    checks=checks,
    bars=(
        Bar(quantity="cycles", exact=1.0),
        Bar(quantity="skipped computes", exact=1.0),
        Bar(quantity="MAC energy", max=1e-9),
        Bar(quantity="effectual MACs", exact=1.0),
        Bar(quantity="ideal cycles", exact=1.0),
        Bar(quantity="uniform cycles", exact=1.0),
        Bar(quantity="error of the uniform model", exact=1.0),
        Bar(quantity="uniform estimate"),
    ),
)
