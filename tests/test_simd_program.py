"""Threads that follow one program: order, results, failures, more threads than processors, no work between runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from nestling.sim.executor.simd import packing_kernel
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.sim.executor.simd.program import Program
from nestling.sim.executor.simd.team import Call, Team, call
from nestling.sim.executor.simd.vectors_kernel import COMPILES

pytestmark = pytest.mark.skipif(not COMPILES, reason="intrinsics have no plain Python form")


def doublings(count: int, channels: int) -> tuple[list[Call], np.ndarray, PlaneLayout]:
    """Calls that each double a tensor in place, and the tensor."""
    layout = PlaneLayout(channels, 3, 20, 0)
    x = layout.new()
    layout.view(x)[:] = 1
    infinite = np.float32(-np.inf), np.float32(np.inf)
    steps = [call(packing_kernel.add, channels, x, x, x, layout.dimensions, layout.masks(1), *infinite)] * count
    return steps, layout.view(x), layout


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("channels", [1, 2, 7, 64])
def test_every_step_waits_for_the_one_before(threads: int, channels: int) -> None:
    steps, x, _ = doublings(40, channels)
    program, team = Program(steps, threads), Team(threads)
    for _ in range(5):
        x[:] = 1
        program.rewind()
        team.together(program.run)
        np.testing.assert_array_equal(x, np.float32(2.0**40))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_plain_functions_run_once_and_in_order(threads: int) -> None:
    doubling, x, _ = doublings(1, 3)
    seen: list[float] = []

    def look() -> None:
        time.sleep(1e-3)  # longer than kernels wait
        seen.append(float(x[0, 0, 0]))

    steps: list[Call | Callable[[], None]] = [look, *doubling, look, *doubling, *doubling, look]
    program, team = Program(steps, threads), Team(threads)
    for _ in range(3):
        x[:] = 1
        seen.clear()
        program.rewind()
        team.together(program.run)
        assert seen == [1, 2, 8]


def test_a_step_without_tasks_is_passed() -> None:
    steps, x, _ = doublings(2, 4)
    empty = steps[0]._replace(tasks=np.zeros(2, np.int64))
    program, team = Program([empty, steps[0], empty, steps[1], empty], 3), Team(3)
    program.rewind()
    team.together(program.run)
    np.testing.assert_array_equal(x, np.float32(4))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_failure_ends_every_thread_and_the_next_run_works(threads: int) -> None:
    steps, x, _ = doublings(10, 3)
    broken = [True]

    def fails() -> None:
        if broken[0]:
            raise RuntimeError("broken")

    program, team = Program([*steps, fails, *steps], threads), Team(threads)
    program.rewind()
    with pytest.raises(RuntimeError, match="broken"):
        team.together(program.run)
    np.testing.assert_array_equal(x, np.float32(2.0**10))
    broken[0] = False
    x[:] = 1
    program.rewind()
    team.together(program.run)
    np.testing.assert_array_equal(x, np.float32(2.0**20))


def test_idle_threads_use_no_processor_time() -> None:
    steps, _, _ = doublings(3, 4)
    program, team = Program(steps, 4), Team(4)
    program.rewind()
    team.together(program.run)
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.05


def test_threads_end_with_their_team() -> None:
    before = set(threading.enumerate())
    team = Team(6)
    started = set(threading.enumerate()) - before
    assert len(started) == 5
    del team
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()
