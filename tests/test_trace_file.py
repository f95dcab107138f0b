"""The Parquet trace: what is written is what is read, in other people's readers too; broken files are refused."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nestling.accel.design import load_design
from nestling.sim.simulate import simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations, Trace
from nestling.traces.trace_file import StoredLayers, read_trace, write_trace
from nestling.traces.trace_schema import MAX_LAYER_WEIGHTS, row_of
from nestling.workloads.errors import InputError
from nestling.workloads.layers import linear
from nestling.workloads.network import INPUT, Network
from nestling.workloads.synthetic import with_synthetic_levels
from nestling.workloads.zoo import build

from .fuzzing import mutations
from .spine_cases import matmul

#: The writer's options that the reader relies on.
PLAIN = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}


@pytest.fixture(scope="module")
def trace() -> Trace:
    network = with_synthetic_levels(build("gat_cora"), (0.5, 0.1), seed=3)
    sample = np.arange(-50, 14, dtype=np.int16).reshape(1, 1, 1, 64)
    return lower(network, activations={"gat0.W": Activations(0.25, 2, np.arange(1433, dtype=np.int64), sample)})


@pytest.fixture(scope="module")
def path(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trace") / "t.parquet"
    write_trace(file, trace)
    return file


def read_all(path: Path) -> Trace:
    """Everything in the file, masks included."""
    trace = read_trace(path)
    return replace(trace, layers=tuple(trace.layers))


def test_round_trip(trace: Trace, path: Path) -> None:
    again = read_trace(path)
    assert isinstance(again.layers, StoredLayers)
    assert again.digest() == trace.digest()
    assert again.data_movement == trace.data_movement
    assert (again.network, again.source, again.levels) == (trace.network, trace.source, trace.levels)
    np.testing.assert_array_equal(again.weight_densities, trace.weight_densities)
    for ours, theirs in zip(trace.layers, again.layers, strict=True):
        assert {k: v.tolist() for k, v in ours.storage.items()} == {k: v.tolist() for k, v in theirs.storage.items()}
        assert ours.keep is None if theirs.keep is None else np.array_equal(ours.keep, theirs.keep)  # type: ignore[arg-type]
        assert ours.measured == theirs.measured
    assert list(path.parent.iterdir()) == [path]


def test_sums_need_no_masks(trace: Trace, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = read_trace(path)
    monkeypatch.setattr(StoredLayers, "__getitem__", lambda *_: pytest.fail("masks were read"))
    for level in range(2):
        assert again.macs(level) == trace.macs(level)
        assert again.weight_bytes("csr", level) == trace.weight_bytes("csr", level)


def test_layers_are_a_sequence(trace: Trace, path: Path) -> None:
    layers = read_trace(path).layers
    assert [x.layer.name for x in layers[1:3]] == [x.layer.name for x in trace.layers[1:3]]
    assert layers[-1].layer.name == trace.layers[-1].layer.name
    with pytest.raises(IndexError):
        layers[len(layers)]
    assert read_trace(path).layer("gat1.W").digest() == trace.layer("gat1.W").digest()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("dram", [None, "lpddr4_3200_x32_lockstep"])
def test_a_stored_trace_simulates_as_one_in_memory(trace: Trace, path: Path, workers: int, dram: str | None) -> None:
    design = load_design("nm-lanes-16x8")
    design = design if dram is None else design.with_dram(dram)
    ours, theirs = simulate(trace, design), simulate(read_trace(path), design, workers=workers)
    assert ours.trace_digest == theirs.trace_digest
    assert ours.warnings == theirs.warnings
    for a, b in zip(ours.levels, theirs.levels, strict=True):
        assert [vars(x) for x in a.layers] == [vars(x) for x in b.layers]
    assert ours.timeline is not None
    assert theirs.timeline is not None
    np.testing.assert_array_equal(ours.timeline.events.stored, theirs.timeline.events.stored)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 15, 16, 255])
def test_level_counts(levels: int, tmp_path: Path) -> None:
    network = Network("n", (linear("a", INPUT, features_in=37, features_out=11),))
    densities = [1 - i / (2 * levels) for i in range(levels)]
    write_trace(tmp_path / "t", lower(with_synthetic_levels(network, densities), formats=["csr"]))
    layer = read_trace(tmp_path / "t").layers[0]
    assert layer.nonzeros.tolist() == [round(d * 407) for d in densities]


# --- other readers ---------------------------------------------------------------------------------------------------


def unpacked(cell: bytes, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """A keep map as the README says it is to be read."""
    entries = (np.frombuffer(cell, "u1")[:, None] >> np.arange(0, 8, bits)) & (2**bits - 1)
    return entries.reshape(-1)[: shape[0] * shape[1]].reshape(shape)


def test_opens_in_pandas(trace: Trace, path: Path) -> None:
    table = pd.read_parquet(path)
    assert table["name"].tolist() == [x.layer.name for x in trace.layers]
    for row, layer in zip(table.itertuples(), trace.layers, strict=True):
        assert row.nonzeros.tolist() == layer.nonzeros.tolist()
        if layer.keep is not None:
            keep = unpacked(row.keep, row.keep_bits, (row.gemm_b * row.gemm_n, row.gemm_k))
            np.testing.assert_array_equal(keep, layer.keep)


def test_opens_in_polars(trace: Trace, path: Path) -> None:
    kept = pl.scan_parquet(path).select("name", "gemm_m", "repeat", pl.col("nonzeros").list.get(1).alias("kept"))
    macs = kept.select((pl.col("kept") * pl.col("gemm_m") * pl.col("repeat")).sum()).collect().item()
    assert macs == trace.macs(1)
    cells = pl.read_parquet(path)
    row = cells.row(by_predicate=pl.col("name") == "gat1.W", named=True)
    keep = unpacked(row["keep"], row["keep_bits"], (row["gemm_b"] * row["gemm_n"], row["gemm_k"]))
    np.testing.assert_array_equal(keep, trace.layer("gat1.W").keep)  # type: ignore[arg-type]


def test_opens_in_duckdb(trace: Trace, path: Path) -> None:
    sums = (
        "sum(nonzeros[1] * gemm_m * repeat)::BIGINT, sum(bytes_csr[2] + bias_bytes) FILTER (keep IS NOT NULL)::BIGINT"
    )
    macs, stored = duckdb.sql(f"SELECT {sums} FROM '{path}'").fetchall()[0]
    assert (macs, stored) == (trace.macs(0), trace.weight_bytes("csr", 1))
    bits = duckdb.sql(
        f"SELECT keep, keep_bits, gemm_b * gemm_n, gemm_k FROM '{path}' WHERE name = 'gat1.W'"
    ).fetchall()[0]
    np.testing.assert_array_equal(unpacked(bits[0], bits[1], bits[2:]), trace.layer("gat1.W").keep)  # type: ignore[arg-type]


# --- bad files -------------------------------------------------------------------------------------------------------


def changed(path: Path, out: Path, **columns: object) -> Path:
    """The file with other values in the first row, written by the same writer options."""
    table = pq.read_table(path)
    with pq.ParquetWriter(out, table.schema, **PLAIN) as writer:
        for number, row in enumerate(table.to_pylist()):
            new = row | (columns if number == 0 else {})
            writer.write_table(pa.Table.from_pylist([new], schema=table.schema))
    return out


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"nonzeros": [3, 4]}, "do not shrink by level"),
        ({"nonzeros": [1 << 40, 4]}, r"1099511627776, 4\] non-zeros of"),
        ({"nonzeros": None}, "do not shrink by level"),
        ({"nonzeros": [5, 4]}, "non-zeros do not match the keep map"),
        ({"op": "convolution"}, "unknown operator 'convolution'"),
        ({"name": None}, "a layer has no name"),
        ({"gemm_k": None}, "garbled"),
        ({"gemm_m": 1 << 40}, "output positions; at most"),
        ({"gemm_n": 1 << 40}, "weights; at most"),
        ({"repeat": 1 << 60}, "repeats; at most"),
        ({"C": 1 << 60}, "input elements; at most"),
        ({"keep": b"\0\1"}, "keep map has 2 bytes"),
        ({"keep": None}, "without a keep map"),
        ({"keep_bits": 8}, "keep_bits outside"),
        ({"measured": False}, "measured and captured"),
        ({"tap_nonzeros": b"\0" * 7}, "garbled"),
        ({"tap_nonzeros": b"\0" * 8}, "captured activations must be"),
        ({"sample_shape": [5, -1, 3]}, "garbled"),
        ({"weight_bits": 33}, "weight_bits"),
        ({"activation_density": float("nan")}, "activation density"),
        ({"bytes_csr": [4]}, "not one size per level"),
        ({"name": "x" * 100_000}, "would grow from"),
        ({"keep": bytes(100 << 20)}, "would grow from"),
    ],
)
def test_contradictions(path: Path, tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_all(changed(path, tmp_path / "bad", **columns))
    assert all(problem.startswith(f"{tmp_path / 'bad'}: ") for problem in caught.value.problems)


@pytest.mark.parametrize("cut", [0, 1, 10, 0.5, 0.99])
def test_truncated_file(path: Path, tmp_path: Path, cut: float) -> None:
    data = path.read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(cut * len(data)) if cut < 1 else int(cut)])
    with pytest.raises(InputError):
        read_all(tmp_path / "cut")


def test_a_flipped_bit_of_a_mask_is_noticed(path: Path, tmp_path: Path) -> None:
    """A mask whose counts stay the same is told from the right one by its page's checksum."""
    data = path.read_bytes()
    index = pq.read_schema(path).names.index("keep")
    start = pq.read_metadata(path).row_group(0).column(index).data_page_offset
    for position in range(start + 100, start + 2000, 97):
        broken = bytearray(data)
        broken[position] ^= 16
        (tmp_path / "flip").write_bytes(broken)
        with pytest.raises(InputError, match="could not verify page integrity"):
            read_trace(tmp_path / "flip").layers[0]


def test_missing_and_foreign_files(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a trace"):
        read_trace(tmp_path / "other.parquet")
    table = pq.read_table(path)
    for version in (b'{"schema": 1}', b'{"schema": 3}', b"[2]"):
        pq.write_table(table.replace_schema_metadata({b"nestling": version}), tmp_path / "version", **PLAIN)
        with pytest.raises(InputError, match="this version reads 2; write it again with `nestling lower`"):
            read_trace(tmp_path / "version")
    pq.write_table(table, tmp_path / "rewritten")
    with pytest.raises(InputError, match="6 rows in 1 row groups; a trace has one row in each"):
        read_trace(tmp_path / "rewritten")
    pq.write_table(table, tmp_path / "rewritten", row_group_size=1)
    with pytest.raises(InputError, match="is not stored as a trace's columns are"):
        read_trace(tmp_path / "rewritten")
    pq.write_table(table.drop_columns(["gemm_k"]), tmp_path / "fewer", row_group_size=1, **PLAIN)
    with pytest.raises(InputError, match="columns are not those"):
        read_trace(tmp_path / "fewer")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b'"levels": 2', b'"levels": 0', "levels = 0"),
        (b'"levels": 2', b'"levels": true', "levels = True"),
        (b'"levels": 2', b'"levels": 3', "weight_densities must be 3 numbers"),
        (b'"network": "', b'"network": 7, "n": "', "must be texts"),
        (b'"data_movement": [', b'"data_movement": [5, ', "data_movement must be"),
        (b'"schema": 2', b'"schema": ' + b"[" * 100_000, "not a trace"),
    ],
)
def test_headers(path: Path, tmp_path: Path, key: bytes, value: bytes, message: str) -> None:
    table = pq.read_table(path)
    header = table.schema.metadata[b"nestling"]
    assert key in header
    pq.write_table(table.replace_schema_metadata({b"nestling": header.replace(key, value)}), tmp_path / "bad")
    with pytest.raises(InputError, match=message):
        read_trace(tmp_path / "bad")


def test_a_file_that_changes_under_the_reader(trace: Trace, tmp_path: Path) -> None:
    write_trace(tmp_path / "t", trace)
    opened = read_trace(tmp_path / "t")
    write_trace(tmp_path / "t", replace(trace, network="another"))
    with pytest.raises(InputError, match="changed while it was being read"):
        opened.layers[0]


def test_a_layer_too_large_for_a_file() -> None:
    huge = linear("huge", INPUT, features_in=1 << 16, features_out=(1 << 14) + 1)
    shell = lower(Network("n", (linear("a", INPUT, features_in=2, features_out=2),))).layers[0]
    fake = replace(shell, levels=1)
    object.__setattr__(fake, "layer", huge)  # its masks would take a GiB
    with pytest.raises(InputError, match=f"holds up to {MAX_LAYER_WEIGHTS:,} per layer"):
        row_of(fake)


def fuzz(path: Path, folder: Path, count: int) -> None:
    """Every broken copy is refused in our words, within two seconds, or reads as what was written."""
    data, digest, slowest = path.read_bytes(), read_trace(path).digest(), 0.0
    for number, broken in enumerate(mutations(data, count, seed=count)):
        (folder / "broken").write_bytes(broken)
        start = time.perf_counter()
        try:
            found = read_all(folder / "broken").digest()
        except InputError:
            found = digest
        slowest = max(slowest, time.perf_counter() - start)
        assert found == digest, f"mutation {number} of seed {count} was read as another trace"
    assert slowest < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # KiB


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, one with captured activations, one without weights."""
    layers = (linear("a", INPUT, features_in=40, features_out=30, rows=3), matmul(2, 3, 4, 5))
    network = with_synthetic_levels(Network("small", layers), (0.5, 0.1))
    captured = Activations(0.25, 2, np.full(40, 3, np.int64), np.ones((2, 1, 3, 40), np.int16))
    file = tmp_path_factory.mktemp("small") / "t.parquet"
    write_trace(file, lower(network, activations={"a": captured}, formats=["csr"]))
    return file


def test_fuzz(small: Path, tmp_path: Path) -> None:
    fuzz(small, tmp_path, 300)


@pytest.mark.long
def test_fuzz_at_length(small: Path, tmp_path: Path) -> None:
    fuzz(small, tmp_path, 10_000)
