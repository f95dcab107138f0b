"""Suite `tensor-core`: dense, 2:4, flexible 2:M and dual-side sparse cores on ResNet-50 GEMMs (Sparseloop, MICRO 2022).

Energy is action counts (:mod:`accel.arrays.tensor_core_gemm`) x the case study's energy reference tables. Rows with both
operands compressed and the dual-side core are reported, as are DSTC's published latencies. What a uniform-density model makes
of real matrices (ExTensor) is quoted from the tables: the errors follow from the reported times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...accel.arrays.dual_side import DualSideArray, expected_gemm_cycles, expected_latency
from ...accel.arrays.tensor_core_gemm import GemmRun, Mode, TensorCore, best_mapping, pattern_for_density, price
from ...accel.ert import EnergyTable, read_ert_csv
from ...accel.loopnest import ceil_div
from ...workloads.errors import InputError, unknown_name
from ...workloads.text_files import read_rows
from .suite import Bar, Check, Suite
from .tables import real, whole

_COLUMNS = ("design", "M", "K", "N", "input_density", "weight_density", "cycles", "energy_uJ")
_ERT_FILE = "fig15_stc_related_setup/architecture_templates/HW_systems/ert_art/int8/{}/ERT.yaml"
#: First word of a design's name -> (group, weight patterns, inputs compressed).
_CORES: dict[str, tuple[str, Mode, bool]] = {
    "TC": ("dense", "dense", False),
    "STC": ("2:4", "stc_2_4", False),
    "STC_flexible": ("two of M", "flexible_2_m", False),
    "STC_flexible_dualCompress": ("both compressed", "flexible_2_m", True),
}
_DUAL_SIDE = "DSTC"
_SMEM_WORD_BYTES, _METADATA_WORD_BYTES, _DRAM_WORD_BYTES = 64, 8, 8
#: The dense core of the case study writes DRAM at half the rate.
_DENSE_CORE = TensorCore(dram_write_bytes_per_cycle=16)
#: DSTC as the case study builds it (16 x 16 multipliers per partition), and for its published latencies 8 x 16 in a 32 x 32
#: tile (recalled from the paper, not verified).
_DSTC = DualSideArray(
    kind="dual_side", partitions_high=2, partitions_wide=2, tile_rows=32, tile_columns=64, quantum_rows=16,
    quantum_columns=16, reduction_tile=128, smem_bytes_per_cycle=42, weight_bits=8, activation_bits=8,
    accumulator_bits=32,
)  # fmt: skip
_DSTC_ACCUMULATORS = 2048
_DSTC_PADDING = {0.3333: 48}  # the case study pads the reduction as for 2:6
_PUBLISHED_TILE, _PUBLISHED_QUANTUM = (32, 32), (8, 16)


def checks(folder: Path) -> Iterator[Check]:
    """Cycles and energy of every GEMM, then DSTC's latencies and ExTensor's modelling errors."""
    tables = read_ert_csv(folder / "technology" / "ert_45nm.csv")
    path = folder / "nm_tensor_core" / "stc_dstc_resnet50_int8.csv"
    for number, row in enumerate(read_rows(path, _COLUMNS)):
        yield from _gemm_checks(f"row {number}", row, tables, path=path)
    yield from _latency_checks(folder / "nm_tensor_core" / "dstc_latency.csv")
    yield from _extensor_checks(folder / "nm_tensor_core" / "extensor_actual_vs_uniform.csv")


def gemm_run(row: dict[str, str], *, path: Path) -> GemmRun:
    """The GEMM and core of one reference row."""
    core = row["design"].partition("-")[0]
    if core not in _CORES:
        raise unknown_name(f"design in {path}", core, [*_CORES, _DUAL_SIDE])
    _, mode, compressed = _CORES[core]
    density = 1.0 if mode == "dense" else real(row, "weight_density", path=path)
    index = "run_length" if row["design"].endswith("RLE") else "coordinate"
    return GemmRun(
        core=_DENSE_CORE if mode == "dense" else TensorCore(),
        rows=whole(row, "M", path=path),
        reduction=whole(row, "K", path=path),
        columns=whole(row, "N", path=path),
        pattern=pattern_for_density(mode, density, index="run_length" if index == "run_length" else "coordinate"),
        compressed_inputs=compressed,
        input_density=real(row, "input_density", path=path),
    )


def unit_energies_pj(table: EnergyTable) -> dict[str, float]:
    """Picojoules per action of :mod:`tensor_core_gemm` from an energy reference table (wide words, per byte)."""
    return {
        "mac": table.energy_pj("MAC", "mac_random"),
        "lrf": table.energy_pj("LRF", "read"),
        "lrf_metadata": table.energy_pj("LRF", "metadata_read"),
        "rf_read": table.energy_pj("RF", "read"),
        "rf_write": table.energy_pj("RF", "write"),
        "smem_read": table.energy_pj("SMEM", "read") / _SMEM_WORD_BYTES,
        "smem_write": table.energy_pj("SMEM", "write") / _SMEM_WORD_BYTES,
        "smem_metadata_read": table.energy_pj("SMEM", "metadata_read") / _METADATA_WORD_BYTES,
        "smem_metadata_write": table.energy_pj("SMEM", "metadata_write") / _METADATA_WORD_BYTES,
        "dram_read": table.energy_pj("DRAM", "read") / _DRAM_WORD_BYTES,
        "dram_write": table.energy_pj("DRAM", "write") / _DRAM_WORD_BYTES,
    }


def _gemm_checks(name: str, row: dict[str, str], tables: Mapping[str, EnergyTable], *, path: Path) -> Iterator[Check]:
    cycles = whole(row, "cycles", path=path)
    if row["design"].startswith(_DUAL_SIDE):
        yield Check(name, "dual-side", "cycles", _dual_side_cycles(row, path=path), cycles)
        return
    run, file = gemm_run(row, path=path), _ERT_FILE.format(row["design"])
    if file not in tables:
        raise InputError(f"{path}: ert_45nm.csv has no table '{file}'")
    group, _, _ = _CORES[row["design"].partition("-")[0]]
    units = unit_energies_pj(tables[file])
    result = best_mapping(run, units)
    yield Check(name, group, "cycles", result.cycles, cycles)
    digits = len(row["energy_uJ"].partition(".")[2])
    energy = round(price(result, units) * 1e-6, digits)
    yield Check(name, group, "energy", energy, real(row, "energy_uJ", path=path))


def _dual_side_cycles(row: dict[str, str], *, path: Path) -> int:
    density = real(row, "weight_density", path=path)
    padding = _DSTC_PADDING.get(density, 1)
    reduction = ceil_div(whole(row, "K", path=path), padding) * padding
    shape = (whole(row, "M", path=path), reduction, whole(row, "N", path=path))
    inputs = real(row, "input_density", path=path)
    return expected_gemm_cycles(shape, (density, inputs), accumulators=_DSTC_ACCUMULATORS, array=_DSTC)


def _latency_checks(path: Path) -> Iterator[Check]:
    for row in read_rows(path, ("A_density", "B_density", "normalised")):
        densities = [real(row, column, path=path) for column in ("A_density", "B_density")]
        found = expected_latency(*densities, tile=_PUBLISHED_TILE, quantum=_PUBLISHED_QUANTUM)
        name = f"DSTC {row['A_density']} x {row['B_density']}"
        yield Check(name, "dual-side", "normalised latency", found, real(row, "normalised", path=path))


def _extensor_checks(path: Path) -> Iterator[Check]:
    """Errors in percent, from the reported times; rows the uniform model could not finish have none."""
    columns = ("matrix", "extensor_reported_ns", "teaal_actual_data_ns", "sparseloop_uniform_ns", "sparseloop_err_pct")
    for row in read_rows(path, columns):
        reported = real(row, "extensor_reported_ns", path=path)
        if reported <= 0:
            raise InputError(f"{path}: extensor_reported_ns = {reported} must be positive")
        for quantity, column, error in (
            ("error on actual data", "teaal_actual_data_ns", "teaal_err_pct"),
            ("error of a uniform model", "sparseloop_uniform_ns", "sparseloop_err_pct"),
        ):
            if row.get(error):
                found = round(100 * (real(row, column, path=path) / reported - 1), 2)
                yield Check(row["matrix"], "ExTensor", quantity, found, real(row, error, path=path))


_EXACT = ("dense", "2:4", "two of M")
SUITE = Suite(
    name="tensor-core",
    title="2:4, flexible 2:M and dual-side sparse tensor cores on ResNet-50 (Sparseloop MICRO'22, DSTC ISCA'21)",
    checks=checks,
    bars=(
        Bar(quantity="cycles", groups=_EXACT, exact=1.0),
        Bar(quantity="energy", groups=_EXACT, max=0.01),
        Bar(quantity="cycles", groups=("both compressed",)),
        Bar(quantity="energy", groups=("both compressed",)),
        Bar(quantity="cycles", groups=("dual-side",)),
        Bar(quantity="normalised latency"),
        Bar(quantity="error on actual data"),
        Bar(quantity="error of a uniform model"),
    ),
)
