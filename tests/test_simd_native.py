"""Kernel calls by address: every kind of argument arrives as it was given, per thread, and a failing kernel is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.sim.executor.simd.native import natives
from nestling.sim.executor.simd.program import Program
from nestling.sim.executor.simd.team import Call, Team, call
from nestling.sim.executor.simd.vectors_kernel import COMPILES
from numba import njit

pytestmark = pytest.mark.skipif(not COMPILES, reason="there is no machine code without the compiler")


@njit(nogil=True)
def record(tasks, found, matrix, mixed, single, double, truth, few, thread):  # type: ignore[no-untyped-def]
    """Write everything that can be told of the arguments to ``found``, if nobody has."""
    if tasks[0] == tasks[1]:
        return
    inner, count = mixed
    offsets, values = inner
    found[0] = matrix.shape[0] + 100 * matrix.shape[1] + 10_000 * matrix.strides[0]
    found[1] = matrix.sum()
    found[2] = count
    found[3] = (offsets * values).sum()
    found[4] = single
    found[5] = double
    found[6] = 1 if truth else -1
    found[7] = few[0] * 10 + few[1]
    found[8] = thread[0]
    tasks[0] = tasks[1]


@njit(nogil=True)
def divide(tasks, out, by):  # type: ignore[no-untyped-def]
    """Fail where ``by`` is 0."""
    tasks[0] = tasks[1]
    out[0] = 1 // by[0]


@njit(nogil=True)
def ignore(tasks, number):  # type: ignore[no-untyped-def]
    """Nothing."""
    tasks[0] = tasks[1]


sizes = st.integers(0, 5)


@settings(deadline=None)  # the first example compiles
@given(rows=sizes, columns=sizes, count=st.integers(-(2**40), 2**40), truth=st.booleans(), seed=st.integers(0, 99))
def test_arguments_arrive_as_in_a_call_from_python(rows: int, columns: int, count: int, truth: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    offsets, values = random.integers(0, 2**16, 7).astype(np.uint16), random.normal(size=7).astype(np.float32)
    numbers = (np.float32(random.normal()), float(random.normal()), truth, (3, int(random.integers(9))))
    arguments = (random.normal(size=(rows, columns)), ((offsets, values), count), *numbers)
    expected, found = np.zeros(9), np.zeros(9)
    record(np.array([0, 1]), expected, *arguments, np.array([7]))
    step = call(record, 1, found, *arguments, extras=[(np.array([5]),), (np.array([7]),)])
    follow(step, thread=1)
    np.testing.assert_array_equal(found, expected)


def follow(step: Call, *, thread: int) -> None:
    """Run a step in a program of two threads, as the one that is asked for and then as the other."""
    program = Program([step], 2)
    program.rewind()
    program.run(thread)
    program.run(1 - thread)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_failing_kernel_is_named_and_the_next_run_works(threads: int) -> None:
    out, by = np.zeros(1), np.zeros(1, np.int64)
    by[0] = 2
    steps = [call(divide, 1, out, by), call(divide, 1, np.zeros(1), by[:1]), call(divide, 1, np.zeros(1), by)]
    program, team = Program(steps, threads), Team(threads)
    for divisor in (0, 1, 0, 2):
        by[0] = divisor
        program.rewind()
        if divisor:
            team.together(program.run)
            assert out[0] == 1 // divisor
        else:
            with pytest.raises(RuntimeError, match=r"kernel '.*divide' failed in step 0"):
                team.together(program.run)


def test_arguments_stay_where_they_are_for_every_thread() -> None:
    one, other = natives(call(divide, 1, np.zeros(1), np.ones(1, np.int64)), 2)
    assert one.numbers[2] == one.parts.ctypes.data != other.numbers[2]
    assert one.numbers[:2] == other.numbers[:2]


def test_what_is_no_number_is_refused() -> None:
    step = call(ignore, 1, 1 + 2j)
    with pytest.raises(TypeError, match="arrays, numbers and tuples of them, not complex128"):
        natives(step, 1)
