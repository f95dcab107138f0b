"""Kernels made ready: progress while they compile, calls without a look at types, caches that cannot be written or shared."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nestling.sim.executor import simd
from nestling.sim.executor.simd.loading import Loaded, bound, load_kernels
from nestling.sim.executor.simd.rows.fully_connected import RowProduct
from nestling.sim.executor.simd.team import Call, call
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from nestling.workloads.nesting import from_ranking
from numba import njit

pytestmark = pytest.mark.skipif(not COMPILES, reason="nothing is compiled")
FOLDER = Path(simd.__file__).parent
SCRIPT = """
import sys
import numpy as np
from nestling.sim.executor.simd.rows.fully_connected import RowProduct
from nestling.sim.executor.simd.loading import load_kernels
from nestling.workloads.nesting import from_ranking
values = np.arange(1, 61, dtype='f').reshape(4, 15)
product = RowProduct(from_ranking(values, values, (0.5,)), formats=('index',))
product.inputs[:] = np.arange(15)
calls = product.calls(0, np.zeros(4, 'f'), (np.float32(-np.inf), np.float32(np.inf)))
loaded = load_kernels(calls)
for call in calls:
    call.tasks[0] = 0
    call.run(0)
sys.stdout.write(f'{loaded.compiled} {product.outputs.tolist()}')
"""
VALUES = np.arange(1, 61, dtype=np.float32).reshape(4, 15)
EXPECTED = str((np.where(VALUES > 30, VALUES, 0) @ np.arange(15.0)).tolist())


def started(cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_compile_at_once_and_a_third_finds_the_result(tmp_path: Path) -> None:
    both = [started(tmp_path), started(tmp_path)]
    assert [process.communicate(timeout=300)[0].split(" ", 1)[1] for process in both] == [EXPECTED] * 2
    assert started(tmp_path).communicate(timeout=300)[0] == f"0 {EXPECTED}"


def test_a_cache_that_cannot_be_written_changes_no_result(tmp_path: Path) -> None:
    file = tmp_path / "no folder"
    file.write_text("in the way")
    assert started(file).communicate(timeout=300)[0].split(" ", 1)[1] == EXPECTED


def kernels_in(value: object) -> list[Any]:
    """The compiled functions among a module's variables, those in dictionaries included."""
    if isinstance(value, dict):
        return [kernel for each in value.values() for kernel in kernels_in(each)]
    return [value] if hasattr(value, "py_func") else []


@pytest.mark.parametrize("module", sorted(FOLDER.rglob("*kernel*.py")), ids=lambda path: path.stem)
def test_closures_hold_nothing_that_differs_between_processes(module: Path) -> None:
    """Numba's cache is keyed by a kernel's closure. An intrinsic there has another identity in every process: each would
    compile the kernel again, and leave one more file."""
    loaded = importlib.import_module(".".join((simd.__name__, *module.relative_to(FOLDER).with_suffix("").parts)))
    kernels = [kernel for value in vars(loaded).values() for kernel in kernels_in(value)]
    for kernel in kernels:
        held = [cell.cell_contents for cell in kernel.py_func.__closure__ or ()]
        assert all(isinstance(value, int | float | str | tuple) for value in held), (kernel, held)


def test_progress_counts_new_kernels_only_and_no_task_is_run() -> None:
    def plain(tasks: np.ndarray, out: np.ndarray) -> None:
        while tasks[0] < tasks[1]:
            out[tasks[0]] += 1
            tasks[0] += 1

    kernels = [njit(plain), njit(plain)]
    out, other = np.zeros(3), np.zeros(3, np.int64)
    calls = [call(kernels[0], 3, out), call(kernels[1], 3, out), call(kernels[0], 3, out), call(kernels[0], 3, other)]
    steps: list[object] = [*calls, print]
    shown: list[tuple[int, int]] = []
    assert load_kernels(steps, lambda done, total: shown.append((done, total))) == Loaded(3, 3)
    assert shown == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert not out.any()
    assert load_kernels(steps, lambda done, total: shown.append((done, total))) == Loaded(0, 0)
    assert len(shown) == 4


def test_bound_calls_give_the_same_bits() -> None:
    values = np.random.default_rng(0).standard_normal((20, 100)).astype(np.float32)
    product = RowProduct(from_ranking(values, values, (0.5, 0.1)))
    product.inputs[:] = values[0]
    calls = product.calls(0, np.ones(20, np.float32), (np.float32(0), np.float32(9)))
    outputs = []
    for each in (calls, [bound(one) for one in calls]):
        for one in each:
            one.tasks[0] = 0
            one.run(0)
        outputs.append(product.outputs.copy())
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert bound(calls[0]).kernel is not calls[0].kernel
    assert bound(print) is print
    unknown = Call(njit(lambda tasks: None), np.zeros(2, np.int64), ())
    assert bound(unknown) is unknown
