"""The same kernels compiled for other processors, without the compiler, after edits, and with the processor's modes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor.simd import kept, machine_kernel
from nestling.sim.executor.simd.vectors_kernel import COMPILES, LANES, MACHINE, REVISION
from nestling.workloads.bundled import load_bundled

X86 = platform.machine().lower() in ("x86_64", "amd64")
SCRIPT = """
import sys
import numpy as np
from nestling.sim.executor.simd.network import PlaneNetwork
from nestling.workloads.bundled import FASHION_SCALE, load_bundled
network, pixels, _ = load_bundled()
image = pixels[3][None].astype(np.float32) * np.float32(FASHION_SCALE)
features, logits = [], []
for level in range(2):
    runner = PlaneNetwork(network)
    logits.append(runner.run(image.astype(np.float32), level))
    features.append(runner.tensor(network.layers[-1].sources[0]).reshape(-1).copy())
np.savez(sys.argv[1], features=np.stack(features), logits=np.stack(logits))
"""


def outputs(folder: Path, **environment: str) -> tuple[np.ndarray, np.ndarray]:
    """Features before the last layer, and logits, of one bundled image at two levels, computed by a fresh process."""
    file = folder / "out.npz"
    subprocess.run([sys.executable, "-c", SCRIPT, file], check=True, env=os.environ | environment, timeout=300)
    found = np.load(file)
    return found["features"], found["logits"]


@pytest.mark.long
@pytest.mark.skipif(not (X86 and COMPILES), reason="names of x86 processors")
@pytest.mark.parametrize(
    "processor", [{"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}, {"NUMBA_CPU_NAME": "generic"}]
)
def test_other_processors_give_the_same_bits(tmp_path: Path, processor: dict[str, str]) -> None:
    """AVX2 (two registers per vector) and plain SSE2, where a fused multiply-add is a library call.

    The fully connected layer takes another format without permutes, whose sums have another order: two sums of n products
    and a bias differ by at most 2 (n + 2) 2**-24 of their magnitudes' sum (Higham, section 3.1).
    """
    features, logits = outputs(tmp_path, **processor)
    expected, others = outputs(tmp_path)
    np.testing.assert_array_equal(features, expected)
    network = load_bundled()[0]
    last = network.layers[-1].name
    for level in range(2):
        weights = np.abs(network.weights[last].dense(level).reshape(logits.shape[1], -1))
        size = weights @ np.abs(features[level]) + np.abs(network.biases[last][level])
        assert (np.abs(logits - others)[level] <= 2 * (weights.shape[1] + 2) * 2.0**-24 * size).all()


def test_without_the_compiler_the_network_says_so() -> None:
    script = (
        "from nestling.sim.executor.simd.network import unsupported\n"
        "from nestling.workloads.bundled import load_bundled\n"
        "print(unsupported(load_bundled()[0]))"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, env=environment, timeout=120, capture_output=True, text=True
    )
    assert "the compiler is switched off (NUMBA_DISABLE_JIT)" in shown.stdout


@pytest.mark.skipif(not COMPILES, reason="nothing is compiled")
def test_every_kernel_carries_the_revision_of_the_vector_module() -> None:
    """Numba's cache knows a kernel's own file and closure only: a stale kernel would survive an edit of the vectors."""
    from nestling.sim.executor.simd import (
        dense_kernel,
        direct_kernel,
        gate_kernel,
        packing_kernel,
        pooling_kernel,
        program_kernel,
        rebuild_kernel,
        windowed_kernel,
    )
    from nestling.sim.executor.simd.host import peaks_kernel
    from nestling.sim.executor.simd.rows import rows_kernel

    modules = (dense_kernel, direct_kernel, pooling_kernel, rows_kernel, windowed_kernel)
    kernels = [kernel for module in modules for kernel in module.KERNELS.values()]
    for module in (gate_kernel, packing_kernel, peaks_kernel, program_kernel, rebuild_kernel):
        compiled = [value for value in vars(module).values() if hasattr(value, "py_func")]
        kernels += [one for one in compiled if "inline" not in one.targetoptions]  # those are part of their callers
    assert len(kernels) == (1 + 2 + 2) * 7 + 2 + 2 + 17
    for kernel in kernels:
        held = [cell.cell_contents for cell in kernel.py_func.__closure__]
        assert REVISION in held, kernel


def test_the_measured_table_depends_on_processor_versions_and_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.environment_key()
    assert kept.environment_key() == before
    assert len(MACHINE) == 3
    monkeypatch.setattr(kept, "MACHINE", ("x86_64", "another", "+avx2"))
    other = kept.environment_key()
    monkeypatch.setattr(kept, "_kernel_sources", lambda: ["changed"])
    assert len({before, other, kept.environment_key()}) == 3


@pytest.mark.skipif(not (X86 and COMPILES), reason="the register of x86")
def test_the_floating_point_mode_is_put_back() -> None:
    from numba import njit

    @njit
    def modes(x: np.ndarray) -> tuple[np.float32, np.float32]:
        state = machine_kernel.flush_denormals()
        flushed = x[0] * x[1]
        machine_kernel.restore(state)
        return flushed, x[0] * x[1]

    tiny = np.array([1e-30, 1e-10], np.float32)
    assert modes(tiny)[1] != 0
    assert np.float32(1e-30) * np.float32(1e-10) != 0
    assert LANES == 16


@pytest.mark.skipif(not X86, reason="XDG folders")
def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.cache_folder() == tmp_path / "nestling"
