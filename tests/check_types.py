"""Type-check the package under its import name: mypy cannot follow the editable install's mapping, so it gets a copy.

Run as ``python -m tests.check_types`` from the repository's root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOMS = ("workloads", "traces", "accel", "sim", "analysis")


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        for room in ROOMS:
            shutil.copytree(root / room, Path(folder) / "nestling" / room)
        command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), "-p", "nestling"]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
