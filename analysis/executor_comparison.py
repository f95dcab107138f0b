"""`nestling bench executor`: our kernels beside what is installed, each table measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, TypeVar

from rich.markdown import Markdown

from ..sim.executor.simd.vectors_kernel import MACHINE
from ..workloads.errors import unknown_name
from . import bench_executor, bench_nested, bench_network, bench_rows, bench_startup
from .output import console, print_object
from .progress import Progress, silent

T = TypeVar("T")
#: Packages whose versions stand below the tables.
_COMPARED = ("numpy", "numba", "scipy", "mkl", "sparse-dot-mkl", "torch", "onnxruntime", "openvino")
#: Variables that numerical libraries read once, when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Measured(NamedTuple):
    """One table: rows as dataclasses, and the same in markdown."""

    title: str
    rows: Sequence[Any]
    markdown: str


def _products(*, peers: bool) -> Measured:
    rows, missing = bench_executor.compare(patterns=tuple(bench_executor.PATTERNS), peers=peers, progress=silent)
    title = "Our kernels: speed-up, geometric mean over the layers [least-largest], one thread"
    return Measured(title, rows, bench_executor.markdown(rows, missing))


def _network(*, peers: bool, threads: int = 1) -> Measured:
    del peers
    rows = bench_network.network_rows(threads=threads, progress=silent)
    title = "A whole network, magnitude-pruned random weights" + ("" if threads == 1 else f", {threads} threads")
    return Measured(title, rows, bench_network.markdown(rows, threads=threads))


def _rows(*, peers: bool) -> Measured:
    rows, missing = bench_rows.rows_bench(peers=peers, progress=silent)
    title = "One vector and eight, 4096 x 2048, one thread: speed-up, median of pairs"
    return Measured(title, rows, bench_rows.markdown(rows, missing))


def _nested(*, peers: bool) -> Measured:
    del peers
    rows = bench_nested.nested_costs(progress=silent)
    title = "A level of the nested store against a private copy of it; a step from the sparser level against the level"
    return Measured(title, rows, bench_nested.markdown(rows))


def _startup(*, peers: bool) -> Measured:
    del peers
    rows = bench_startup.startup_rows(progress=silent)
    return Measured("Start-up", rows, bench_startup.markdown(rows))


#: What can be measured, in the order of the README's tables.
TABLES: Mapping[str, Callable[..., Measured]] = {
    "products": _products,
    "network": _network,
    "two-threads": partial(_network, threads=2),
    "rows": _rows,
    "nested": _nested,
    "start-up": _startup,
}


def run_executor_bench(names: Sequence[str], *, peers: bool, progress: Progress) -> dict[str, Measured]:
    """The tables of ``names`` (all by default), one after the other; a quarter of an hour on a quiet machine.

    Raises
    ------
    InputError
        for a table that does not exist.
    """
    for name in names:
        if name not in TABLES:
            raise unknown_name("table of 'bench executor'", name, TABLES)
    wanted = list(names or TABLES)
    found = {}
    with one_thread():
        for done, name in enumerate(wanted, start=1):
            found[name] = _apart(TABLES[name], peers)
            progress("bench executor", done, len(wanted))
    return found


def print_executor_bench(found: Mapping[str, Measured], *, as_markdown: bool, as_json: bool) -> None:
    """The tables for the terminal, as markdown, or as JSON."""
    if as_json:
        print_object({name: [asdict(row) for row in table.rows] for name, table in found.items()})
    elif as_markdown:
        console().print(markdown(found), markup=False, highlight=False, soft_wrap=True)
    else:
        console().print(Markdown(markdown(found)))


def markdown(found: Mapping[str, Measured]) -> str:
    """All tables with their titles, and what they were measured with."""
    tables = [f"**{table.title}**\n\n{table.markdown}" for table in found.values()]
    return "\n\n".join([*tables, _measured_with()])


def _measured_with() -> str:
    """The processor and the versions of what was compared."""
    installed = {}
    for name in _COMPARED:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    libraries = ", ".join(f"{name} {number}" for name, number in installed.items())
    return f"Measured with {libraries}; processor '{MACHINE[1]}' as LLVM names it."


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started inside load their libraries with one thread each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _apart(work: Callable[..., T], peers: bool) -> T:
    """Run ``work`` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, peers=peers).result()
