"""Broken copies of a file, for the fuzz tests of every parser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

#: What a length or count field is overwritten with: the largest of each width, and varints that never end.
_INFLATED = (
    b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\xff" * 9 + b"\x01", b"\x80" * 12,
    b"\x80\x80\x80\x80\x08", b"\x00", b"\x00" * 8, b"999999999999999999",
)  # fmt: skip


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``count`` seeded variants of ``data``: flipped bits, replaced bytes, truncation, splices, inflated length fields."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        broken = data
        for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
            broken = _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](broken, rng)
        yield broken


def _at(data: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(data))) if data else 0


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        broken[_at(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def _replace_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    start, noise = _at(data, rng), rng.bytes(int(rng.integers(1, 9)))
    return data[:start] + noise + data[start + len(noise) :]


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _at(data, rng)]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece of the file once more, somewhere else, or cut out."""
    start, target = _at(data, rng), _at(data, rng)
    piece = data[start : start + int(rng.integers(1, 1 + max(1, len(data) // 4)))]
    if rng.random() < 1 / 2:
        return data[:target] + piece + data[target:]
    return data[:start] + data[start + len(piece) :]


def _inflate(data: bytes, rng: np.random.Generator) -> bytes:
    start, field = _at(data, rng), _INFLATED[int(rng.integers(len(_INFLATED)))]
    kept = start + (len(field) if rng.random() < 1 / 2 else 1)
    return data[:start] + field + data[kept:]


_MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip_bits, _replace_bytes, _truncate, _splice, _inflate,
)  # fmt: skip
