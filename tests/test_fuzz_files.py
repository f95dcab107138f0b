"""Mutated weight files, descriptions and tables: a network or one readable error, soon, in little memory.

300 mutations per parser in the everyday run, 10,000 in the long one (`-m long`).
"""

from __future__ import annotations

import gc
import json
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.exported import load_exported
from nestling.workloads.keep_tensors import load_keep_file
from nestling.workloads.layer_json import layer_to_json
from nestling.workloads.level_check import check_nested
from nestling.workloads.network import Network
from nestling.workloads.scale_sim_table import load_scale_sim_table, scale_sim_topology
from nestling.workloads.table_writer import layer_table
from nestling.workloads.tables import load_table
from nestling.workloads.weights_file import load_network, save_network
from nestling.workloads.zoo import build
from safetensors.numpy import save_file

from .fuzzing import mutations
from .spine_cases import mixed_network
from .test_keep_tensors import by_name

QUICK, LONG = 300, 10_000
#: Seconds that one input may take.
MAX_SECONDS = 2.0
#: Bytes of memory that reading one of these small files may take.
MAX_BYTES = 1 << 28

EXPORTED = Path(__file__).parent / "data" / "exported" / "plain"
Reader = Callable[[Path], object]


def levels_file(folder: Path) -> Path:
    save_network(folder / "net.safetensors", mixed_network())
    return folder / "net.safetensors"


def keep_file(folder: Path) -> Path:
    network = mixed_network()
    header = json.dumps({"layers": [layer_to_json(layer) for layer in network.layers]})
    save_file(by_name(network), folder / "net.safetensors", metadata={"nestling": header})
    return folder / "net.safetensors"


def exported_json(folder: Path) -> Path:
    shutil.copy(EXPORTED.with_suffix(".safetensors"), folder)
    return Path(shutil.copy(EXPORTED.with_suffix(".json"), folder))


def exported_tensors(folder: Path) -> Path:
    exported_json(folder)
    return folder / "plain.safetensors"


def own_table(folder: Path) -> Path:
    (folder / "net.csv").write_text(layer_table(build("alexnet_caffe")))
    return folder / "net.csv"


def topology(folder: Path) -> Path:
    header, *rows = scale_sim_topology(build("resnet18").layers)[0].splitlines()
    lines = [f"{header} Sparsity,", *(f"{row}{'2:4' if index % 2 else ''}," for index, row in enumerate(rows))]
    (folder / "net.csv").write_text("\n".join(lines))
    return folder / "net.csv"


#: Parser -> (writes a good file into a folder and returns the one to break, reads it).
PARSERS: dict[str, tuple[Callable[[Path], Path], Reader]] = {
    "levels": (levels_file, load_network),
    "keep": (keep_file, load_keep_file),
    "levels-compared": (keep_file, lambda path: check_nested([path, path])),
    "exported-json": (exported_json, load_exported),
    "exported-tensors": (exported_tensors, lambda path: load_exported(path.with_suffix(".json"))),
    "table": (own_table, load_table),
    "topology": (topology, lambda path: load_scale_sim_table(path, padding="file", groups="none")),
}


def read_or_refuse(read: Reader, path: Path) -> bool:
    """True if the file was refused, with messages of one line each, in time and memory."""
    tracemalloc.start()
    start = time.perf_counter()
    problems: tuple[str, ...] | None = None
    try:
        read(path)
    except InputError as error:
        problems = error.problems
    finally:
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < MAX_SECONDS
    assert peak < MAX_BYTES
    assert problems is None or all(problem and len(problem.splitlines()) == 1 for problem in problems)
    return problems is not None


def fuzz(parser: str, folder: Path, count: int, seed: int) -> None:
    write, read = PARSERS[parser]
    path = write(folder)
    assert not read_or_refuse(read, path)
    good = path.read_bytes()
    gc.disable()  # a collection in the middle of one read would be counted as its time
    try:
        refused = 0
        for broken in mutations(good, count, seed):
            path.write_bytes(broken)
            refused += read_or_refuse(read, path)
    finally:
        gc.enable()
    assert refused > count // 10  # the mutations do reach the parser


@pytest.mark.parametrize("parser", PARSERS)
def test_a_few_hundred_mutations(parser: str, tmp_path: Path) -> None:
    fuzz(parser, tmp_path, QUICK, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("parser", PARSERS)
def test_ten_thousand_mutations(parser: str, tmp_path: Path) -> None:
    fuzz(parser, tmp_path, LONG, seed=2)


# --- claims that no small file can keep ------------------------------------------------------------------------------


def safetensors_with(header: dict[str, object], payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", (1 << 64) - 1) + b"{}",
        safetensors_with({"w.weight": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}),
        safetensors_with({"w.weight": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        safetensors_with({"w.weight": {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]}}),
        safetensors_with({"w.weight": {"dtype": "F32", "shape": [1] * 200, "data_offsets": [0, 4]}}, b"\0" * 4),
        safetensors_with({"w.weight": {"dtype": "BF16", "shape": [1, 1], "data_offsets": [0, 2]}}, b"\0" * 2),
        safetensors_with({"__metadata__": {"nestling": "[" * 200_000}}),
    ],
)  # fmt: skip
def test_headers_that_claim_terabytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    for _, read in (PARSERS["levels"], PARSERS["keep"], PARSERS["levels-compared"]):
        assert read_or_refuse(read, path)


@pytest.mark.parametrize("size", [1_000_000_000, 1 << 40, 10**30])
def test_descriptions_of_a_billion_rows(size: int, tmp_path: Path) -> None:
    path = exported_json(tmp_path)
    document = json.loads(path.read_text())
    for layer in document["layers"]:
        if "gemm" in layer:
            layer["gemm"][1] = size
    document["layers"].append({"name": "big", "op": "add", "C": size, "sources": ["fc"]})
    document["layers"].append({"name": "bigger", "op": "matmul", "gemm": [size, size, size, size], "sources": ["fc"]})
    path.write_text(json.dumps(document))
    assert read_or_refuse(load_exported, path)


def test_tables_with_absurd_cells(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    good = layer_table(Network("n", build("alexnet").layers[:1]))
    for text in (good + '"' + "x" * 200_000, good.replace(",3,", f",{10**4000},"), good + "\0" * 1000, '"\n' * 10_000):
        path.write_text(text)
        assert read_or_refuse(load_table, path)
    for text in ("Layer,M,N,K\nx," + "9" * 5000 + ",1,1", "Layer,M,N,K\n" + '"' * 100_001, "Layer,M,N,K\nx,1,1,1\0"):
        path.write_text(text)
        assert read_or_refuse(load_scale_sim_table, path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "opened",)  # type: ignore[return-value]

    import pickle

    for name in ("net.safetensors", "net.json", "net.csv"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    for read, name in (
        (load_network, "net.safetensors"),
        (load_keep_file, "net.safetensors"),
        (load_exported, "net.json"),
        (load_table, "net.csv"),
        (load_scale_sim_table, "net.csv"),
    ):
        assert read_or_refuse(read, tmp_path / name)
    assert not (tmp_path / "opened").exists()
