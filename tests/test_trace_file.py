"""The Parquet trace: what is written is what is read, and broken files are refused in one line."""

import numpy as np
import pandas as pd
import pytest
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.traces.trace_file import read_trace, write_trace
from nestling.workloads.errors import InputError
from nestling.workloads.synthetic import with_synthetic_levels
from nestling.workloads.zoo import build


@pytest.fixture(scope="module")
def trace():
    network = with_synthetic_levels(build("gat_cora"), (0.5, 0.1), seed=3)
    return lower(network, activations={"gat1.W": Activations(0.25, 2, np.arange(64, dtype=np.int64))})


def test_round_trip(trace, tmp_path):
    path = tmp_path / "t.parquet"
    write_trace(path, trace)
    again = read_trace(path)
    assert again.digest() == trace.digest()
    assert [x.layer.name for x in again.layers] == [x.layer.name for x in trace.layers]
    assert again.data_movement == trace.data_movement
    for ours, theirs in zip(trace.layers, again.layers, strict=True):
        assert {k: v.tolist() for k, v in ours.storage.items()} == {k: v.tolist() for k, v in theirs.storage.items()}
    assert list(tmp_path.iterdir()) == [path]


def test_opens_in_pandas(trace, tmp_path):
    write_trace(tmp_path / "t.parquet", trace)
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert table["name"].tolist() == [x.layer.name for x in trace.layers]
    assert table["nonzeros"][0].tolist() == trace.layers[0].nonzeros.tolist()


@pytest.mark.parametrize("cut", [0, 1, 10, 0.5, 0.99])
def test_truncated_file(trace, tmp_path, cut):
    path = tmp_path / "t.parquet"
    write_trace(path, trace)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if cut < 1 else cut])
    with pytest.raises(InputError):
        read_trace(path)


def test_flipped_bytes_never_escape_as_other_errors(trace, tmp_path):
    path = tmp_path / "t.parquet"
    write_trace(path, trace)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        broken = bytearray(data)
        for position in rng.integers(0, len(data), size=3):
            broken[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            read_trace(path)
        except InputError:
            refused += 1
    assert refused > 0


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a trace"):
        read_trace(tmp_path / "other.parquet")
