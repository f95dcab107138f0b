"""A folder for compiled kernels, wherever there is none: Numba refuses to load a cached kernel without one."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path


def ensure_kernel_cache() -> str:
    """Let kernels be kept in a temporary folder if neither this program's folder nor the user's cache can be written.

    Returns what the user should know, or an empty text. Must run before the first kernel is imported.
    """
    if any(_writable(folder) for folder in _folders()):
        return ""
    folder = tempfile.mkdtemp(prefix="nestling-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder
    return "no cache folder can be written: kernels are compiled anew in every run (set NUMBA_CACHE_DIR to keep them)"


def _folders() -> list[Path]:
    """Where Numba looks: the folder that the user names, beside the kernels, the user's cache."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    rooms = Path(__file__).parent.parent
    return [*([Path(named)] if named else []), rooms / "sim" / "__pycache__", home / "numba"]


def _writable(folder: Path) -> bool:
    """True if the folder, or the nearest one above it that exists, can be written."""
    for each in (folder, *folder.parents):
        if each.exists():
            return each.is_dir() and os.access(each, os.W_OK | os.X_OK)
    return False
