"""The `nestling doctor` command: is this installation able to do its job?"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from ..workloads.errors import InputError
from .progress import available_threads

_PACKAGES = ("nestling", "numpy", "numba", "pandas", "matplotlib", "simpy", "pyarrow", "pydantic", "typer")


def print_doctor() -> bool:
    """Print one line per check; True if all of them pass."""
    table = Table(title="nestling doctor", show_header=False)
    good = True
    for name, check in _CHECKS.items():
        try:
            table.add_row("[green]ok[/green]", name, check())
        except (InputError, OSError, ImportError, RuntimeError) as error:
            good = False
            table.add_row("[red]no[/red]", name, str(error))
    Console().print(table)
    return good


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


def _machine() -> str:
    return f"Python {platform.python_version()} on {platform.machine()}, {available_threads()} processors"


def _kernels() -> str:
    from ..workloads.pattern_kernel import draw_keep

    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set: kernels run as plain Python, several hundred times slower"
    import numpy as np

    keep = draw_keep(100, np.array([50, 10]), np.uint64(1))
    if [int((keep > level).sum()) for level in (0, 1)] != [50, 10]:
        raise RuntimeError("a compiled kernel returned a wrong result; remove the __pycache__ folders and try again")
    return "compiled kernels run and their results are right"


def _vectors() -> str:
    from ..sim.executor.simd.features import describe

    return describe()


def _bundle() -> str:
    from ..workloads.bundled import load_bundled

    network, images, _ = load_bundled()
    return f"{network.name}: {network.levels} levels, {network.params:,} parameters, {len(images):,} test images"


def _designs() -> str:
    from ..accel.design import DESIGNS, load_design

    return ", ".join(load_design(name).name for name in DESIGNS)


def _training() -> str:
    return "PyTorch is installed" if "torch" in sys.modules or _has_torch() else "no PyTorch: `nestling train` is off"


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


_CHECKS: dict[str, Callable[[], str]] = {
    "versions": _versions,
    "machine": _machine,
    "kernels": _kernels,
    "vector kernels": _vectors,
    "bundled network": _bundle,
    "designs": _designs,
    "training": _training,
}
