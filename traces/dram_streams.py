"""Request streams for comparing DRAM models: sequential, interleaved, tiled, strided, random, gathered, N:M.

A stream is named after what it does, and every stream can be built from its name (:func:`stream`): ``seqR_4MiB``,
``mix3s_256B_st``, ``tile_8k2k2k_al``, ``strideW_1024``, ``randRW25``, ``gath_d10_blk256``, ``gath_2of4``. Or it is given by
its kind and parameters (:func:`build`). Random numbers are SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) used as a counter,
so a stream depends on its seed alone, not on a library's version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..workloads.errors import InputError, unknown_name
from .requests import LINE_BYTES, Requests

KIB, MIB = 1 << 10, 1 << 20
#: Distance of the starts of two streams, and what "staggered" (``_st``) adds to it so that they use different banks.
STREAM_GAP_BYTES, STAGGER_BYTES = 64 * MIB, 42 * KIB
FOOTPRINT_LINES = 1 << 18
Parameters = Mapping[str, int | float | str]


def splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """``count`` 64-bit numbers: SplitMix64 started at ``seed`` times its increment."""
    increment = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = np.uint64(seed) * increment + np.arange(1, count + 1, dtype=np.uint64) * increment
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def uniform(seed: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1): the upper 53 bits of :func:`splitmix64`."""
    return (splitmix64(seed, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _lines(lines: NDArray[np.int64], write: NDArray[np.bool_] | bool = False) -> Requests:
    return Requests(lines * LINE_BYTES, np.broadcast_to(np.asarray(write, np.bool_), lines.shape))


def sequential(*, nbytes: int, write: int = 0, base: int = 0) -> Requests:
    """``nbytes`` from ``base`` on, line by line."""
    return _lines(base // LINE_BYTES + np.arange(nbytes // LINE_BYTES), bool(write))


def interleaved(*, total_lines: int, burst: int, rw: str, skew: int, gap: int = STREAM_GAP_BYTES) -> Requests:
    """One sequential stream per letter of ``rw`` (R or W), taking turns of ``burst`` bytes; whole rounds only."""
    burst_lines = burst // LINE_BYTES
    turns = np.arange(total_lines // (len(rw) * burst_lines))[:, None, None]
    starts = np.arange(len(rw))[None, :, None] * ((gap + skew) // LINE_BYTES)
    lines = starts + turns * burst_lines + np.arange(burst_lines)
    writes = np.array([letter == "W" for letter in rw])[None, :, None]
    return _lines(lines.ravel(), np.broadcast_to(writes, lines.shape).ravel())


def tiles(*, rounds: int, wb: int, ib: int, ob: int, skew: int, gap: int = STREAM_GAP_BYTES) -> Requests:
    """What a double-buffered array moves: per round read ``wb`` and ``ib`` bytes, write ``ob``, each tensor contiguous."""
    sizes = np.array([wb, ib, ob]) // LINE_BYTES
    stride = (gap + skew) // LINE_BYTES
    parts = [tensor * stride + turn * sizes[tensor] + np.arange(sizes[tensor])
             for turn in range(rounds) for tensor in range(3)]  # fmt: skip
    writes = np.tile(np.repeat([False, False, True], sizes), rounds)
    return _lines(np.concatenate(parts), writes)


def strided(*, n: int, stride: int, write: int = 0) -> Requests:
    """``n`` lines at multiples of ``stride`` bytes."""
    return _lines(np.arange(n) * (stride // LINE_BYTES), bool(write))


def scattered(*, n: int, log2_lines: int, seed: int, wfrac: float) -> Requests:
    """``n`` lines anywhere in 2**log2_lines, each a write with probability ``wfrac``."""
    lines = (splitmix64(seed, n) >> np.uint64(64 - log2_lines)).astype(np.int64)
    return _lines(lines, uniform(seed + 1000, n) < wfrac)


def gathered(*, footprint_lines: int, density: float, seed: int, block_lines: int = 1) -> Requests:
    """Ascending reads of blocks of lines, each block of the footprint kept with probability ``density``."""
    kept = np.flatnonzero(uniform(seed, footprint_lines // block_lines) < density)
    return _lines((kept[:, None] * block_lines + np.arange(block_lines)).ravel())


def n_of_m(*, footprint_lines: int, n: int, m: int, seed: int) -> Requests:
    """Ascending reads of ``n`` of every ``m`` consecutive lines: those with the smallest random keys."""
    groups = footprint_lines // m
    order = np.argsort(splitmix64(seed, groups * m).reshape(groups, m), axis=1, kind="stable")
    lines = np.arange(groups)[:, None] * m + np.sort(order[:, :n], axis=1)
    return _lines(lines.ravel())


#: Kinds by the names that catalogues of streams use.
KINDS: dict[str, Callable[..., Requests]] = {
    "seq": sequential, "streams": interleaved, "tiles": tiles, "strided": strided, "rand": scattered,
    "gather": gathered, "nm": n_of_m,
}  # fmt: skip
_RANDOM_SEEDS = {"R": 101, "W": 102, "RW50": 103, "RW25": 104}
_N_OF_M_SEEDS = {(1, 4): 401, (2, 4): 402, (2, 8): 403}
_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": 1 << 30}


def build(kind: str, parameters: Parameters) -> Requests:
    """A stream from its kind (a key of :data:`KINDS`) and parameters.

    Raises
    ------
    InputError
        for an unknown kind or parameters that the kind does not take.
    """
    if kind not in KINDS:
        raise unknown_name("kind of stream", kind, KINDS)
    try:
        return KINDS[kind](**parameters)
    except TypeError as error:
        raise InputError(f"stream of kind '{kind}': {error}") from None


def parse_parameters(text: str) -> dict[str, int | float | str]:
    """``nbytes=64 rw=RW density=0.5`` as a dictionary; numbers become numbers."""
    found: dict[str, int | float | str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"stream parameters '{text}': '{word}' is not 'name=value'")
        found[key] = int(value) if re.fullmatch(r"-?\d+", value) else _number_or_text(value)
    return found


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def stream(name: str) -> Requests:
    """A stream from its name; random streams get the seeds of the reference catalogue, a function of the name.

    Raises
    ------
    InputError
        for a name that no pattern fits.
    """
    for pattern, parse in _NAMES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            kind, parameters = parse(match)
            return build(kind, parameters)
    raise InputError(
        f"unknown stream '{name}'. Examples: seqR_4MiB, mix3s_256B_st, tile_8k2k2k_st, strideW_1024, randRW25, "
        "gath_d10_blk256, gath_2of4"
    )


def _skew(match: re.Match[str]) -> int:
    return STAGGER_BYTES if match["place"] == "st" else 0


def _parse_seq(match: re.Match[str]) -> tuple[str, Parameters]:
    return "seq", {"nbytes": int(match["size"]) * _UNITS[match["unit"]], "write": int(match["rw"] == "W")}


def _parse_mix(match: re.Match[str]) -> tuple[str, Parameters]:
    count = int(match["count"])
    rw = "R" * count if match["kind"] == "r" else "R" * (count - 1) + "W"
    return "streams", {"total_lines": 65536, "burst": int(match["burst"]), "rw": rw, "skew": _skew(match)}


def _parse_tile(match: re.Match[str]) -> tuple[str, Parameters]:
    wb, ib, ob = (int(match[k]) * KIB for k in ("wb", "ib", "ob"))
    rounds = 40 * 96 * KIB // (wb + ib + ob)  # the catalogue's tile streams all move 3840 KiB
    return "tiles", {"rounds": rounds, "wb": wb, "ib": ib, "ob": ob, "skew": _skew(match)}


def _parse_stride(match: re.Match[str]) -> tuple[str, Parameters]:
    return "strided", {"n": 16384, "stride": int(match["stride"]), "write": int(match["rw"] == "W")}


def _parse_rand(match: re.Match[str]) -> tuple[str, Parameters]:
    share = {"R": 0.0, "W": 1.0}.get(match["rw"], int(match["percent"] or 0) / 100)
    key = match["rw"] + (match["percent"] or "")
    return "rand", {"n": 65536, "log2_lines": 22, "seed": _RANDOM_SEEDS.get(key, 101), "wfrac": share}


def _parse_gather(match: re.Match[str]) -> tuple[str, Parameters]:
    percent, block = int(match["percent"]), int(match["block"] or LINE_BYTES) // LINE_BYTES
    seed = 200 + percent if match["block"] is None else 300 + percent + block
    return "gather", {
        "footprint_lines": FOOTPRINT_LINES, "density": percent / 100, "seed": seed, "block_lines": block,
    }  # fmt: skip


def _parse_n_of_m(match: re.Match[str]) -> tuple[str, Parameters]:
    n, m = int(match["n"]), int(match["m"])
    return "nm", {"footprint_lines": FOOTPRINT_LINES, "n": n, "m": m, "seed": _N_OF_M_SEEDS.get((n, m), 401)}


_NAMES: tuple[tuple[str, Callable[[re.Match[str]], tuple[str, Parameters]]], ...] = (
    (r"seq(?P<rw>[RW])_(?P<size>\d+)(?P<unit>[KMG]iB)", _parse_seq),
    (r"mix(?P<count>\d+)(?P<kind>[sr])_(?P<burst>\d+)B_(?P<place>al|st)", _parse_mix),
    (r"tile_(?P<wb>\d+)k(?P<ib>\d+)k(?P<ob>\d+)k_(?P<place>al|st)", _parse_tile),
    (r"stride(?P<rw>[RW])_(?P<stride>\d+)", _parse_stride),
    (r"rand(?P<rw>RW|R|W)(?P<percent>\d+)?", _parse_rand),
    (r"gath_d(?P<percent>\d+)(?:_blk(?P<block>\d+))?", _parse_gather),
    (r"gath_(?P<n>\d+)of(?P<m>\d+)", _parse_n_of_m),
)
