"""Keep maps packed into 1, 2, 4 or 8 bits per weight, and back.

Weight i stands in byte i // (8 / bits), at bits (i mod (8 / bits)) * bits upwards: the first weight in the lowest bits. The
last byte is filled up with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def keep_bits(levels: int) -> int:
    """Bits per weight: the smallest of 1, 2, 4, 8 that holds 0..levels, so that no weight straddles two bytes."""
    return next(bits for bits in (1, 2, 4, 8) if levels < 1 << bits)


def packed_bytes(weights: int, bits: int) -> int:
    """Bytes of ``weights`` packed weights."""
    return -(-weights * bits // 8)


def pack_keep(keep: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """``keep`` (any shape, row by row; entries below 2**bits) as bytes, uint8 (packed bytes,)."""
    flat, per_byte = np.ascontiguousarray(keep).reshape(-1), 8 // bits
    whole = flat.size // per_byte
    places = flat[: whole * per_byte].reshape(whole, per_byte)
    out = np.zeros(packed_bytes(flat.size, bits), dtype=np.uint8)
    for place in range(per_byte):
        out[:whole] |= places[:, place] << np.uint8(place * bits)
    for place, entry in enumerate(flat[whole * per_byte :].tolist()):
        out[whole] |= np.uint8(entry << (place * bits))
    return out


def unpack_keep(data: NDArray[np.uint8], bits: int, weights: int) -> NDArray[np.uint8]:
    """The first ``weights`` entries of packed ``data``, uint8 (weights,).

    Raises
    ------
    ValueError
        if ``data`` holds fewer.
    """
    if data.size < packed_bytes(weights, bits):
        raise ValueError(f"{data.size} bytes hold fewer than {weights} weights of {bits} bits")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    entries = (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8((1 << bits) - 1)
    # All weights of a byte are looked up at once: one table entry is as wide as they are.
    table = np.ascontiguousarray(entries).view(f"u{shifts.size}").reshape(-1)
    return table[data].view(np.uint8)[:weights]
