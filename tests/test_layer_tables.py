"""The reference tables of the built-in networks against their published totals, and tables that somebody broke."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.layers import CONV_OPS, WINDOW_OPS
from nestling.workloads.network import INPUT
from nestling.workloads.tables import load_table

TABLES = Path(__file__).parent / "data" / "layer_tables"
TOTALS = {row["model"]: row for row in csv.DictReader((TABLES / "TOTALS.csv").open(encoding="utf-8"))}


def test_the_25_networks_and_their_totals_are_complete() -> None:
    assert len(TOTALS) == 25
    assert {path.stem for path in TABLES.glob("*.csv")} == {*TOTALS, "TOTALS"}


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_totals_to_the_last_digit(name: str) -> None:
    network, row = load_table(TABLES / f"{name}.csv"), TOTALS[name]
    layers = network.layers
    found = {
        "rows": len(layers),
        "mac_layers": sum(x.gemm is not None for x in layers),
        "w_params": sum(x.weight_params for x in layers),
        "b_params": sum(x.bias_params for x in layers),
        "norm_params": sum(x.norm_params for x in layers),
        "params": network.params,
        "macs": network.macs,
        "dynamic_macs": sum(x.macs for x in layers if x.gemm is not None and not x.has_weights),
    }
    assert found == {key: int(row[key]) for key in found}


@pytest.mark.parametrize("name", sorted(TOTALS))
def test_rows_agree_with_the_file_and_with_each_other(name: str) -> None:
    network = load_table(TABLES / f"{name}.csv")
    rows = list(csv.DictReader((TABLES / f"{name}.csv").open(encoding="utf-8")))
    assert [x.name for x in network.layers] == [row["name"] for row in rows]
    seen = {INPUT}
    for layer, row in zip(network.layers, rows, strict=True):
        assert layer.macs == int(row["macs"] or 0)
        assert set(layer.sources) <= seen
        seen.add(layer.name)
        if layer.op in CONV_OPS:
            height = (layer.H + 2 * layer.padding - layer.dilation * (layer.R - 1) - 1) // layer.stride + 1
            assert height == layer.P
            assert layer.gemm is not None
            assert layer.gemm.m * layer.gemm.b * layer.gemm.n == layer.P * layer.Q * layer.K
        if layer.op not in WINDOW_OPS:
            assert (layer.R, layer.S) == (1, 1)
        if layer.gemm is not None and layer.has_weights and layer.weight_params:
            assert layer.weight_params == layer.gemm.b * layer.gemm.n * layer.gemm.k


# --- broken tables ---------------------------------------------------------------------------------------------------

LINES = (TABLES / "resnet18.csv").read_text(encoding="utf-8").splitlines()
COLUMNS = LINES[0].split(",")


def with_field(line: int, column: str, value: str) -> str:
    """The ResNet-18 table with one field replaced; lines count from 1 as in an editor."""
    fields = LINES[line - 1].split(",")
    fields[COLUMNS.index(column)] = value
    return "\n".join([*LINES[: line - 1], ",".join(fields), *LINES[line:]])


def problems(tmp_path: Path, text: str | bytes) -> tuple[str, ...]:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_table(path)
    return tuple(p.removeprefix(f"{path}: ") for p in caught.value.problems)


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (2, "C", "three", "line 2: C = 'three' is not a whole number"),
        (2, "stride", "2.0", "line 2: stride = '2.0' is not a whole number"),
        (3, "gemm_k", "-1", "line 3: gemm_k = -1 is outside 0..2^62"),
        (3, "H", "9" * 30, f"line 3: H = {'9' * 30} is outside 0..2^62"),
        (3, "K", "1" * 5000, "is not a whole number"),
        (2, "op", "convolution", "line 2: layer 'conv1': unknown operator 'convolution'; did you mean"),
        (2, "act", "rely", "line 2: layer 'conv1': unknown activation 'rely'; did you mean 'relu'"),
        (2, "P", "111", "line 2: layer 'conv1': P = 111, but the output size formula gives 112"),
        (2, "macs", "1", "line 2: layer 'conv1': macs = 1, but repeat*b*m*n*k = 118013952"),
        (2, "gemm_m", "1", "GEMM view (1, 1, 64, 147) does not follow from the dimensions"),
        (2, "w_params", "7", "w_params = 7, but the weights have 9408 elements"),
        (2, "groups", "2", "groups = 2 does not divide C = 3 and K = 64"),
    ],
)
def test_broken_fields_name_line_and_column(tmp_path: Path, line: int, column: str, value: str, message: str) -> None:
    found = problems(tmp_path, with_field(line, column, value))
    assert any(message in problem and problem.startswith(f"line {line}: ") for problem in found)


def test_every_broken_line_is_reported(tmp_path: Path) -> None:
    lines = list(LINES)
    lines[3] = lines[3].replace(",conv,", ",cnv,")
    lines[7] = "7,short"
    lines[9] += ",1,2"
    found = problems(tmp_path, "\n".join(lines))
    assert [p.split(":")[0] for p in found] == ["line 4", "line 8", "line 10"]
    assert found[1] == "line 8: the row does not have one field per column of the first line"
    assert found[2] == found[1].replace("8", "10")


def test_graph_mistakes(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, with_field(4, "src", "nowhere"))
    assert "reads 'nowhere', which no earlier layer produces" in found


def test_missing_columns(tmp_path: Path) -> None:
    text = "\n".join([LINES[0].replace(",stride,", ",strid,").replace(",macs,", ",mac,"), *LINES[1:]])
    assert problems(tmp_path, text) == ("line 1: columns stride, macs are missing",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: columns name, op"),
        ((LINES[0] + "\n").encode(), "it has no layers"),
        (b"\xff\xfe\x00", "not a readable text file"),
        (("\n".join(LINES) + "\n0," + "x" * 200_000).encode(), f"line {len(LINES) + 1}: not CSV"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    assert any(message in p for p in problems(tmp_path, content))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="not a regular file"):
        load_table(tmp_path)


def test_a_spreadsheets_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    shifted = "\n".join(line.split(",", 1)[1] for line in LINES)  # 'name' comes first, behind the mark
    (tmp_path / "t.csv").write_text(shifted, encoding="utf-8-sig")
    assert load_table(tmp_path / "t.csv").macs == int(TOTALS["resnet18"]["macs"])
