"""The host CPU as this machine measures it: peaks, caches and kernel costs, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from .....accel import host_cpu as model
from .....accel.host_cpu import CacheLevel, HostCpu
from .....accel.strict import Quantity
from ..kept import kept_file, write_kept
from ..planes import LANES, aligned
from . import host_costs, peaks_kernel, synthetic, work
from .host_costs import Progress, kernel_costs, measured_crossover

#: Runs of each peak; the best counts.
REPEATS = 9
#: Bytes that one run of a bandwidth touches at least.
RUN_BYTES = 2 << 20
#: Bytes of the array that stands for memory: several times the last cache, within these bounds.
MEMORY_BYTES = (64 << 20, 256 << 20)
#: Where the operating system does not tell: sizes that most x86-64 and Arm server cores reach.
ASSUMED_CACHES = (("L1", 32 << 10), ("L2", 512 << 10), ("L3", 8 << 20))
_MULTIPLIES = 500
_SAMPLES = 200
_SYSTEM_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def host_cpu(
    kernels: Iterable[str],
    *,
    crossover: bool = False,
    fresh: bool = False,
    progress: Progress = lambda done, total: None,
    folder: Path | None = None,
) -> tuple[HostCpu, bool]:
    """This machine, with the costs of ``kernels`` at least (beside names that no kernel has); measures what is missing.

    ``crossover``: with its crossover density, too, which no prediction needs and which takes two seconds more. ``fresh``:
    measure all of it again, as after a measurement on a busy machine. ``folder``: where measurements are kept; default:
    the user's cache folder. The second value tells whether new ones could be written there. A first call takes a few
    seconds.
    """
    file = kept_file(f"host-{_model_key()}", folder)
    known = None if fresh else _read(file)
    host = known or _peaks()
    missing = set(kernels) - set(host.kernels)
    if missing:
        found = kernel_costs(missing, host, progress=progress)
        host = host.model_copy(update={"kernels": host.kernels | found})
    if crossover and host.crossover_density is None:
        met = _here(measured_crossover(), "a synthetic product of 256 x 256 by 196 positions")
        host = host.model_copy(update={"crossover_density": met})
    return host, host is known or write_kept(file, host.model_dump_json(indent=1))


def _model_key() -> str:
    """A short name of the model that the costs belong to: costs of one model mean nothing to another."""
    sources = [inspect.getsource(module).encode() for module in (model, host_costs, synthetic, work)]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:8]


def _read(file: Path) -> HostCpu | None:
    try:
        return HostCpu.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None  # nothing measured, or a damaged file: it is written anew


def _peaks() -> HostCpu:
    """Everything but the kernels and the crossover."""
    sizes, source = cache_sizes()
    levels = [_level(name, size, source) for name, size in sizes]
    low, high = MEMORY_BYTES
    levels.append(_level("memory", None, source, touched=min(high, max(low, 4 * sizes[-1][1]))))
    return HostCpu(
        name=processor(),
        multiply_add_flop_per_s=_here(multiply_add_peak(), "multiply-adds with operands in the first-level cache"),
        caches=tuple(levels),
        kernels_source="measured here: least CPU time of synthetic layers, costs by non-negative least squares",
    )


def _level(name: str, size: int | None, source: str, *, touched: int | None = None) -> CacheLevel:
    bytes_used = touched or (size or 0) // 2
    verified = not source.startswith("assumed")
    return CacheLevel(
        name=name,
        bytes=None if size is None else Quantity(value=size, source=source, verified=verified),
        read_bytes_per_s=_here(bandwidth(peaks_kernel.read, bytes_used), f"reading {bytes_used >> 10} KiB"),
        write_bytes_per_s=_here(bandwidth(peaks_kernel.write, bytes_used), f"writing {bytes_used >> 10} KiB"),
    )


def _here(value: float, how: str) -> Quantity:
    return Quantity(value=value, source=f"measured here: {how}", verified=True)


def multiply_add_peak() -> float:
    """FLOP per second of one thread, two per multiply-add."""
    x, out = aligned(peaks_kernel.OPERAND_BYTES // 4), aligned(LANES * peaks_kernel.VECTORS)
    return 2 * _MULTIPLIES * x.size / _least(lambda: peaks_kernel.multiply(_MULTIPLIES, x, out))


def peak_share(host: HostCpu) -> float:
    """What of the measured multiply-add peak is there now: the median over a few milliseconds, 1 on an idle machine."""
    x, out = aligned(peaks_kernel.OPERAND_BYTES // 4), aligned(LANES * peaks_kernel.VECTORS)
    times = []
    for _ in range(_SAMPLES):
        start = time.thread_time()
        peaks_kernel.multiply(_MULTIPLIES, x, out)
        times.append(time.thread_time() - start)
    return float(2 * _MULTIPLIES * x.size / np.median(times)) / host.multiply_add_flop_per_s.value


def bandwidth(kernel: Any, size: int) -> float:
    """Bytes per second at which one thread goes through an array of about ``size`` bytes again and again."""
    step = LANES * peaks_kernel.VECTORS
    x, out = aligned(max(1, size // (4 * step)) * step), aligned(step)
    x[:] = 1
    times = max(1, RUN_BYTES // x.nbytes)
    return times * x.nbytes / _least(lambda: kernel(times, x, out))


def _least(run: Callable[[], Any]) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times)


def cache_sizes(folder: Path = _SYSTEM_CACHES) -> tuple[list[tuple[str, int]], str]:
    """Name and bytes of every cache for data, smallest first, and who says so."""
    found: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((index / part).read_text().strip() for part in ("type", "level", "size"))
            if kind in ("Data", "Unified") and size.endswith("K"):
                found[f"L{level}"] = int(size[:-1]) << 10
        except (OSError, ValueError):
            continue
    sizes = [found[name] for name in sorted(found)]
    if found and sizes == sorted(set(sizes)):
        return sorted(found.items()), "the operating system"
    return list(ASSUMED_CACHES), "assumed: the operating system does not tell"


def processor() -> str:
    """The processor's name as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or os.name
