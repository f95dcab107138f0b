"""Threads that follow one program: order, results, failures, more threads than processors, no work between runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

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


def test_a_step_without_tasks_is_passed() -> None:
    steps, x, _ = doublings(2, 4)
    empty = steps[0]._replace(tasks=np.zeros(2, np.int64))
    program, team = Program([empty, steps[0], empty, steps[1], empty], 3), Team(3)
    program.rewind()
    team.together(program.run)
    np.testing.assert_array_equal(x, np.float32(4))


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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal; processes in the background are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals of POSIX threads")
def test_an_interrupt_waits_for_every_thread(interruptible: None) -> None:
    team, ended, main = Team(2), [], threading.get_ident()

    def slow(thread: int) -> None:
        if thread == 1:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)
        ended.append(thread)

    for _ in range(3):
        ended.clear()
        with pytest.raises(KeyboardInterrupt):
            team.together(slow)
        assert 1 in ended
    ended.clear()
    team.together(ended.append)
    assert sorted(ended) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are copied")
def test_a_forked_process_has_threads_of_its_own() -> None:
    team, ended = Team(2), []
    team.together(ended.append)
    child = os.fork()
    if not child:
        team.together(ended.append)
        os._exit(len(ended))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    team.together(ended.append)
    assert sorted(ended) == [0, 0, 1, 1]
