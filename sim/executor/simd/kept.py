"""What this machine measured, kept from one process to the next: files of the user's cache folder.

A file's name says what its content depends on: processor, its features, the versions of NumPy, Numba and llvmlite, and the
source of the kernels and of what lays out their operands. A new version measures anew; nothing is stale. Files are replaced
as a whole, damaged ones ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from ....workloads.weights_file import write_atomically
from .vectors_kernel import MACHINE

T = TypeVar("T")
#: Modules beside the kernels that decide what a kernel reads, and thereby what a measured choice means.
_LAYOUT_MODULES = ("phases.py", "planes.py", "product.py", "streams.py", "structure.py")


def kept_file(kind: str, folder: Path | None = None) -> Path:
    """The file for measurements of one kind. ``folder``: default the user's cache folder; it need neither exist nor be
    writable."""
    return (folder or cache_folder()) / f"{kind}-{environment_key()}.json"


def read_table(file: Path, value: Callable[[Any], T]) -> dict[str, T]:
    """A table by name; empty if there is none, or a damaged or older one: the next measurement writes it anew.

    ``value``: makes an entry of what JSON has; ValueError or TypeError for anything that is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {key: value(entry) for key, entry in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # the last: lists nested by the thousand
        return {}


def write_table(file: Path, table: Mapping[str, T], value: Callable[[Any], T]) -> bool:
    """Keep a table, beside what other processes have kept since it was read; ``value``: see :func:`read_table`, see also
    :func:`write_kept`."""
    return write_kept(file, json.dumps({**read_table(file, value), **table}))


def write_kept(file: Path, content: str) -> bool:
    """Replace the file as a whole, so that a reader never sees half of it; False if it could not be written."""
    try:
        write_atomically(file, content.encode())
    except OSError:
        return False
    return True


def environment_key() -> str:
    """A short name of everything that times depend on beside what is run."""
    parts = (*MACHINE, *(version(name) for name in ("numpy", "numba", "llvmlite")), *_kernel_sources())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _kernel_sources() -> list[str]:
    folder = Path(__file__).parent
    found = [*sorted(folder.rglob("*kernel*.py")), *(folder / name for name in _LAYOUT_MODULES)]
    return [path.read_text(encoding="utf-8") for path in found]


def cache_folder() -> Path:
    """The user's cache folder of this program (XDG base directories; %LOCALAPPDATA% on Windows). An empty variable is none.
    Without a home folder: one below the null device, from which nothing is read and where nothing can be written."""
    windows = sys.platform == "win32"
    base = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
    if base:
        return Path(base) / "nestling"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.devnull)
    return (home if windows else home / ".cache") / "nestling"
