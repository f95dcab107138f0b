"""Request streams: equal to the reference catalogue by CRC-32, by name and by parameters."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import numpy as np
import pytest
from nestling.analysis.validate import REFERENCE
from nestling.traces.dram_streams import KINDS, build, parse_parameters, splitmix64, stream, uniform
from nestling.traces.requests import Requests
from nestling.workloads.errors import InputError

with (Path(REFERENCE) / "dram" / "traces.csv").open() as _file:
    CATALOGUE = list(csv.DictReader(_file))


def crc(requests: Requests) -> str:
    return f"{zlib.crc32((requests.addresses | requests.is_write).astype('<u8').tobytes()):08x}"


@pytest.mark.parametrize("row", CATALOGUE, ids=lambda row: str(row["trace"]))
def test_catalogue(row: dict[str, str]) -> None:
    by_name = stream(row["trace"])
    assert crc(by_name) == row["crc32_le_u64"]
    assert crc(build(row["kind"], parse_parameters(row["params"]))) == row["crc32_le_u64"]
    assert (by_name.reads, by_name.writes) == (int(row["reads"]), int(row["writes"]))


def test_splitmix64_against_its_definition() -> None:
    mask = (1 << 64) - 1

    def one(seed: int, index: int) -> int:
        x = (seed + index + 1) * 0x9E3779B97F4A7C15 & mask
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    assert splitmix64(77, 5).tolist() == [one(77, i) for i in range(5)]
    assert one(0, 0) == 0xE220A8397B1DCDAF  # the published first output of seed 0
    numbers = uniform(3, 20000)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("name", "lines", "writes"),
    [
        ("seqR_512KiB", 8192, 0), ("mix4s_128B_al", 65536, 16384), ("mix3r_64B_st", 65535, 0),
        ("tile_32k16k16k_al", 61440, 15360), ("strideW_4096", 16384, 16384), ("gath_1of8", 32768, 0),
    ],
)  # fmt: skip
def test_names_beyond_the_catalogue(name: str, lines: int, writes: int) -> None:
    requests = stream(name)
    assert (len(requests), requests.writes) == (lines, writes)


def test_gathers_ascend_and_keep_the_density() -> None:
    requests = stream("gath_d33")
    assert (np.diff(requests.addresses) > 0).all()
    assert abs(len(requests) / 262144 - 0.33) < 0.01


def test_unknown_streams() -> None:
    with pytest.raises(InputError, match="unknown stream 'seq'"):
        stream("seq")
    with pytest.raises(InputError, match="unknown kind of stream 'tile'; did you mean 'tiles'"):
        build("tile", {})
    with pytest.raises(InputError, match=r"stream of kind 'seq': .*'bytes'"):
        build("seq", {"bytes": 3})
    with pytest.raises(InputError, match="'nbytes' is not 'name=value'"):
        parse_parameters("nbytes")
    assert parse_parameters("a=1 b=0.5 c=RW") == {"a": 1, "b": 0.5, "c": "RW"}
    assert set(KINDS) == {row["kind"] for row in CATALOGUE}
