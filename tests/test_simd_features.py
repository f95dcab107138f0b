"""The paths a machine has, from LLVM's feature strings; every reduced kernel carries the vector module's revision."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from nestling.sim.executor.simd import features
from nestling.sim.executor.simd.reduced import amx_kernel, reduced_kernel, words_blocks_kernel
from nestling.sim.executor.simd.vectors_kernel import _INTRINSICS, COMPILES, REVISION

from .simd_assembly import SAPPHIRE_RAPIDS

pytestmark = pytest.mark.skipif(not COMPILES, reason="without the compiler there are no paths")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", ("portable",)),
        ("+avx2,+fma,-avx512f", ("portable", "avx2")),
        ("+avx2", ("portable",)),
        ("+avx512f,+avx512bw,+avx512vl,+avx2,+fma,+avx512bf16", ("portable", "avx2", "avx512", "avx512_bf16")),
        (SAPPHIRE_RAPIDS["NUMBA_CPU_FEATURES"], tuple(features.PATHS)),
    ],
)
def test_paths_follow_from_the_features(flags: str, expected: tuple[str, ...]) -> None:
    assert features.paths(("x86_64", "some", flags)) == expected
    assert features.paths(("aarch64", "some", flags)) == ("portable",)


def test_this_machine_is_described() -> None:
    shown = features.describe()
    assert all((name in shown.split("; not")[0]) == features.has(name) for name in features.PATHS)


def doctor(**environment: str) -> str:
    script = "from nestling.analysis.doctor import _CHECKS; print(_CHECKS['vector kernels']())"
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, check=True, env=os.environ | environment, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_doctor_names_the_paths_of_the_processor_compiled_for() -> None:
    assert doctor(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+fma").startswith("portable, avx2; not avx512,")
    assert doctor(**SAPPHIRE_RAPIDS) == f"{', '.join(features.PATHS)} (sapphirerapids)\n"
    assert "switched off" in doctor(NUMBA_DISABLE_JIT="1")


def test_every_kernel_carries_the_revision_of_its_intrinsics() -> None:
    assert {"reduced/formats_kernel.py", "reduced/words_kernel.py"} <= set(_INTRINSICS)
    tables = (reduced_kernel.KERNELS, words_blocks_kernel.KERNELS, amx_kernel.KERNELS)
    kernels = [reduced_kernel.pick, *(kernel for table in tables for kernel in table.values())]
    assert len(kernels) == 1 + 4 * 7 + 3 * 7 + 3
    for kernel in kernels:
        assert REVISION in [cell.cell_contents for cell in kernel.py_func.__closure__], kernel
