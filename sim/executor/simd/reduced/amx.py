"""What AMX needs from the system: permission to use the tiles, and their shapes."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: x86-64 system call arch_prctl, its request for a state component, and the component of tile data (Linux,
#: Documentation/arch/x86/xstate.rst).
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18
#: Rows of a tile and bytes per row.
TILE_ROWS, TILE_BYTES = 16, 64


@cache
def allow_tiles() -> bool:
    """Ask Linux once for the use of AMX tiles in this process; False where they cannot be had."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0)


def tile_configuration(tiles: int) -> NDArray[np.uint8]:
    """The 64 bytes of LDTILECFG for ``tiles`` whole tiles of 16 rows by 64 bytes.

    Palette 1 at byte 0, bytes per row of tile i as uint16 at 16 + 2 i, rows of tile i at 48 + i (Intel Software
    Developer's Manual, volume 2, LDTILECFG).
    """
    made = np.zeros(64, np.uint8)
    made[0] = 1
    made[16:32].view("<u2")[:tiles] = TILE_BYTES
    made[48 : 48 + tiles] = TILE_ROWS
    return made
