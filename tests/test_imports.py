"""Borders that import-linter cannot state: numba only in kernel modules, which import nothing else of ours."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("workloads", "traces", "accel", "sim", "analysis")
#: What a module that defines intrinsics (code for LLVM) may import beside those, and what two of them need of the machine.
INTRINSICS = {"llvmlite"}
MACHINE = {"vectors_kernel.py": {"hashlib", "pathlib", "platform"}, "machine_kernel.py": {"platform"}}
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    """Absolute module names and relative imports (with their dots) of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_numba_stays_in_kernels_and_kernels_stay_alone(path):
    names = list(imported(path))
    is_kernel = "kernel" in path.stem
    uses_numba = any(name.split(".")[0] == "numba" for name in names)
    builds_on_kernel = is_kernel and any("kernel" in name for name in names)
    assert uses_numba or builds_on_kernel if is_kernel else not uses_numba
    if is_kernel:
        allowed = {
            "__future__",
            "numpy",
            "numba",
            "collections",
            "typing",
            "math",
            ".geometry",
            *(INTRINSICS if "numba.extending" in names or any("vectors_kernel" in name for name in names) else ()),
            *MACHINE.get(path.name, ()),
        }  # named tuples of sizes
        foreign = {n for n in names if n.split(".")[0] not in allowed and n not in allowed and "kernel" not in n}
        assert not foreign
    assert not any(name.split(".")[0] == "nestling" for name in names), "use relative imports inside the package"
