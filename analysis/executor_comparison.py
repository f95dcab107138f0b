"""`nestling bench executor`: our kernels beside what is installed, measured in a process with one thread per library."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from rich.table import Table

from .bench_executor import PATTERNS, Comparison, compare, geometric_means, markdown
from .bench_network import NetworkRow, network_rows
from .bench_network import markdown as network_markdown
from .output import console, print_object
from .progress import Progress

T = TypeVar("T")
#: Variables that numerical libraries read once, when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_executor_bench(*, peers: bool, progress: Progress) -> tuple[list[Comparison], list[str], list[NetworkRow]]:
    """Products at every pattern, peers that are missing, and whole networks; five to ten minutes on a quiet machine."""
    rows: list[Comparison] = []
    missing: set[str] = set()
    with one_thread():
        for done, pattern in enumerate(PATTERNS, start=1):
            found, absent = _apart(_compare, pattern, peers)
            rows += found
            missing |= set(absent)
            progress("bench executor", done, len(PATTERNS) + 1)
        networks = _apart(_networks)
    progress("bench executor", len(PATTERNS) + 1, len(PATTERNS) + 1)
    return rows, sorted(missing), networks


def print_executor_bench(
    found: tuple[list[Comparison], list[str], list[NetworkRow]], *, as_markdown: bool, as_json: bool
) -> None:
    """The comparison as tables, as the README's markdown, or as JSON."""
    rows, missing, networks = found
    if as_json:
        print_object({"rows": [asdict(x) for x in rows], "missing": missing, "networks": [asdict(x) for x in networks]})
    elif as_markdown:
        text = f"{markdown(rows, missing)}\n\n{network_markdown(networks)}"
        console().print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        _print_tables(rows, missing, networks)


def _print_tables(rows: list[Comparison], missing: list[str], networks: list[NetworkRow]) -> None:
    means = geometric_means(rows)
    peers = sorted({peer for found in means.values() for peer in found})
    table = Table(title="speed-up of our kernels, geometric mean (least to largest), one thread")
    for heading in ("density", *peers):
        table.add_column(heading)
    for pattern, found in means.items():
        cells = (f"{found[p][0]:.2f} [{found[p][1]:.2f}-{found[p][2]:.2f}]" if p in found else "-" for p in peers)
        table.add_row(pattern, *cells)
    console().print(table)
    whole = Table(title="ResNet-50, one image, one thread")
    for heading in ("level", "ours, CPU ms", "ONNX Runtime dense, CPU ms", "speed-up"):
        whole.add_column(heading)
    for row in networks:
        peer, speedup = ("-", "-") if row.peer_ms is None else (f"{row.peer_ms:.1f}", f"{row.speedup:.2f}")
        whole.add_row(row.name, f"{row.ours_ms:.1f}", peer, speedup)
    console().print(whole)
    if missing:
        console().print(f"Not installed, not compared: {', '.join(missing)}")


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


def _apart(work: Callable[..., T], *arguments: Any) -> T:
    """Run ``work`` in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _compare(pattern: str, peers: bool) -> tuple[list[Comparison], list[str]]:
    return compare(patterns=(pattern,), peers=peers, progress=lambda stage, done, total: None)


def _networks() -> list[NetworkRow]:
    return network_rows(progress=lambda stage, done, total: None)
