"""Which kernel paths the processor that is compiled for has: the host's, or what NUMBA_CPU_NAME and _FEATURES say."""

from __future__ import annotations

import platform

from .vectors_kernel import COMPILES, MACHINE

#: Path -> the LLVM features it needs, fewest first. A kernel without its path takes a slower form with the same meaning.
PATHS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512vl"),
    "avx512_bf16": ("avx512bf16",),
    "avx512_vnni": ("avx512vnni",),
    "avx512_fp16": ("avx512fp16",),
    "amx_bf16": ("amx-tile", "amx-bf16"),
}
_X86 = ("x86_64", "amd64")


def paths(machine: tuple[str, str, str] = MACHINE) -> tuple[str, ...]:
    """Paths of a machine (architecture, processor, LLVM feature string), in the order of :data:`PATHS`; none without the
    compiler."""
    if not COMPILES:
        return ()
    if machine[0].lower() not in _X86:
        return ("portable",)
    found = set(machine[2].split(","))
    return tuple(name for name, needed in PATHS.items() if all(f"+{feature}" in found for feature in needed))


def has(path: str) -> bool:
    """True if this machine has a path of :data:`PATHS`."""
    return path in paths()


def describe() -> str:
    """One line for people: the paths, those that are missing, and the processor they are compiled for."""
    found = paths()
    if not found:
        return "the compiler is switched off (NUMBA_DISABLE_JIT): no vector kernels"
    missing = [name for name in PATHS if name not in found]
    without = f"; not {', '.join(missing)}" if missing else ""
    return f"{', '.join(found)}{without} ({MACHINE[1] or platform.machine()})"
