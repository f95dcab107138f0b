"""Traces at scale: decoders of 0.1, 1 and 7 billion weights, lowered and simulated in processes of their own.

Figures are what the operating system accounts to the process: wall and CPU seconds (start-up included) and peak memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..traces.lowering import Lowering
from ..traces.resumable import lower_to_file
from ..workloads.errors import InputError
from ..workloads.synthetic import SyntheticLevels
from ..workloads.zoo import build
from .bench import BenchRow
from .progress import available_threads

#: Billions of weights, roughly -> parameters of the decoder (:mod:`nestling.workloads.zoo`).
SIZES: dict[str, dict[str, int]] = {
    "0.1 B": {"layers": 12, "width": 768, "inner": 2048},
    "1 B": {"layers": 18, "width": 2048, "inner": 5632},
    "7 B": {},
}
LARGEST = "7 B"
_LEVELS = (0.5, 0.25, 0.13)
_DESIGN = "nm-lanes-16x8"
#: Bars of the project: seconds and GiB for the largest decoder; seconds and MB for ResNet-50.
_LARGE_SECONDS, _PEAK_GIB, _RESNET_SECONDS, _RESNET_MB = 300.0, 4.0, 2.0, 8.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process took; ``peak_bytes``: largest resident set."""

    wall_s: float
    cpu_s: float
    peak_bytes: int

    def __add__(self, other: Usage) -> Usage:
        """Both, one after the other."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Usage(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, peak)


def trace_rows(*, large: bool = False) -> list[BenchRow]:
    """ResNet-50's trace file, and the scaling over decoders; ``large``: with 7 billion weights, which takes minutes.

    Raises
    ------
    InputError
        where the operating system does not account a child process's memory.
    """
    if not hasattr(os, "wait4"):
        raise InputError("the trace benchmark needs an operating system with wait4 (Linux, macOS)")
    rows, cost_per_weight = _resnet50_rows(), {}
    for name, parameters in SIZES.items():
        if name != LARGEST or large:
            found, cost_per_weight[name] = _decoder_rows(name, parameters)
            rows += found
    *_, smaller, larger = cost_per_weight
    growth = (
        cost_per_weight[larger] / cost_per_weight[smaller]
    )  # at most 1: what a process costs at its start wears off
    return [*rows, BenchRow(f"CPU s per weight, {larger} over {smaller}", growth, 1.0, growth, "ratio")]


def _resnet50_rows() -> list[BenchRow]:
    what = "trace of ResNet-50 x 3 levels"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.parquet"
        usage = _measured(["lower", "resnet50", *_levels(), "-o", str(path)])
        size = path.stat().st_size / 1e6
        path.unlink()
        seconds = []
        for _ in range(4):  # the first one loads the compiled kernels
            start = time.perf_counter()
            network = build("resnet50")
            lowering = Lowering(network=network, pattern=SyntheticLevels(network, _LEVELS, 0))
            lower_to_file(path, lowering, workers=available_threads())
            seconds.append(time.perf_counter() - start)
            path.unlink()
    warm = statistics.median(seconds[1:])
    return [
        BenchRow(f"{what}, warm", warm, _RESNET_SECONDS, warm / _RESNET_SECONDS, "s wall"),
        BenchRow(f"{what}, cold process", usage.wall_s, _RESNET_SECONDS, usage.wall_s / _RESNET_SECONDS, "s wall"),
        BenchRow(f"{what}, cold process", usage.cpu_s, None, None, "CPU s"),
        BenchRow(f"{what}, file", size, _RESNET_MB, size / _RESNET_MB, "MB"),
    ]


def _decoder_rows(name: str, parameters: dict[str, int]) -> tuple[list[BenchRow], float]:
    """The rows of one decoder, and its CPU seconds per weight."""
    weights = SyntheticLevels(build("llama_7b", **parameters), _LEVELS).weights
    settings = [text for key, value in parameters.items() for text in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.parquet"
        lowered = _measured(["lower", "llama_7b", *settings, *_levels(), "-o", str(path)])
        simulated = _measured(["simulate", str(path), "-a", _DESIGN, "--json"])
        size = path.stat().st_size / 1e6
    both = lowered + simulated
    peak, bar = both.peak_bytes / 2**30, _LARGE_SECONDS if name == LARGEST else None
    what = f"decoder of {name} weights x 3 levels"
    rows = [
        BenchRow(f"{what}: lower", lowered.wall_s, None, None, "s wall"),
        BenchRow(f"{what}: simulate", simulated.wall_s, None, None, "s wall"),
        BenchRow(f"{what}: both", both.wall_s, bar, both.wall_s / bar if bar else None, "s wall"),
        BenchRow(f"{what}: both", both.cpu_s, None, None, "CPU s"),
        BenchRow(f"{what}: both", weights / both.cpu_s, None, None, "weights/CPU s"),
        BenchRow(f"{what}: peak memory", peak, _PEAK_GIB, peak / _PEAK_GIB, "GiB"),
        BenchRow(f"{what}: trace file", size, None, None, "MB"),
    ]
    return rows, both.cpu_s / weights


def _levels() -> list[str]:
    return ["--levels", ",".join(map(str, _LEVELS))]


def _measured(arguments: Sequence[str]) -> Usage:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from nestling.analysis.cli import main; main()", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"nestling {' '.join(arguments)} ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return Usage(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)
