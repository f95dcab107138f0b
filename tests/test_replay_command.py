"""`nestling replay`: ZigZag's tables and per-layer files, its own totals, and files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nestling.accel.zigzag import energy_by_memory, read_accelerator, read_layer, replay
from nestling.analysis.replay_command import replay_files
from nestling.analysis.suites.zigzag import read_layers
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

from .test_cli import call

ACCELERATOR = REFERENCE / "zigzag" / "simple16.yaml"
RESULTS = REFERENCE / "zigzag" / "resnet18_simple16.csv"
DIRECTIONS = ("RD_OUT_TO_LOW", "RD_OUT_TO_HIGH", "WR_IN_BY_LOW", "WR_IN_BY_HIGH")
#: A layer of 2 x 3 MACs: the accesses differ in every place, so that a swap shows.
COUNTS = {
    "O": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]],
    "W": [[13, 0, 0, 14], [15, 0, 0, 16], [17, 0, 0, 0]],
    "I": [[18.5, 0, 0, 19], [20, 0, 0, 0]],
}


def evaluation(form: str) -> dict[str, Any]:
    """What ZigZag writes for a layer, in one of the forms its versions have."""

    def moved(counts: list[float]) -> Any:
        low, high, by_low, by_high = counts
        if form == "text":
            return f"4waydatamoving (rd /\\: {high}, wr V: {by_high}, rd V: {low}, wr /\\: {by_low})"
        if form == "arrows":
            return f"4WayDataMoving(rd ↑: {high}, wr ↓: {by_high}, rd ↓: {low}, wr ↑: {by_low})"
        prefix, case = ("DataDirection.", str.upper) if form == "enum" else ("", str.lower)
        return {prefix + case(name): count for name, count in zip(DIRECTIONS, counts, strict=True)}

    accesses = {operand: [moved(counts) for counts in levels] for operand, levels in COUNTS.items()}
    layer = {"loop_dimensions": {"K": 2, "OX": 3}, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}
    outputs = {"memory": {"word_accesses": accesses}, "energy": {"energy_total": 1000.0}}
    return {"outputs": outputs, "inputs": {"layer": layer}}


def written(folder: Path, data: Any, name: str = "conv_complete.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_the_reference_network() -> None:
    """ResNet-18 on simple16: 5.3935 mJ in total, and every layer as ZigZag states it."""
    rows = replay_files(ACCELERATOR, [RESULTS])
    assert len(rows) == 21
    assert sum(row["energy_j"] for row in rows) == pytest.approx(5.3935e-3, rel=1e-5)
    for row in rows:
        assert row["energy_j"] == pytest.approx(row["stated_j"], rel=1e-12)
        assert sum(row["memory_j"].values()) + row["mac_j"] == pytest.approx(row["energy_j"], rel=1e-12)
        assert sum(row["level_j"].values()) == pytest.approx(sum(row["memory_j"].values()), rel=1e-12)


@pytest.mark.parametrize("form", ["text", "arrows", "enum", "keys"])
def test_the_forms_of_zigzags_own_files_agree(tmp_path: Path, form: str) -> None:
    layer = read_layer(written(tmp_path, evaluation(form)))
    assert (layer.name, layer.macs, layer.stated_pj) == ("conv", 6, 1000)
    expected = {
        (operand, level, direction): count
        for operand, levels in COUNTS.items()
        for level, counts in enumerate(levels)
        for direction, count in zip(DIRECTIONS, counts, strict=True)
    }
    assert layer.accesses == expected


def test_the_energy_of_a_memory_by_hand(tmp_path: Path) -> None:
    """The SRAM is level 1 of outputs and weights and level 0 of inputs; DRAM costs 512 pJ either way."""
    accelerator = read_accelerator(ACCELERATOR)
    layer = read_layer(written(tmp_path, evaluation("keys")))
    found = energy_by_memory(accelerator, replay(accelerator, macs=layer.macs, accesses=layer.accesses))
    reads, writes = (5 + 6) + 15 + 18.5, (7 + 8) + 16 + 19
    assert found["sram_256KB"] == pytest.approx(reads * 285.71464 + writes * 316.96744)
    assert found["dram"] == 512 * (9 + 10 + 11 + 12 + 17 + 20)
    assert found["reg_O_2B"] == pytest.approx(0.144 * (1 + 2 + 3 + 4))
    assert found["reg_W_1B"] == pytest.approx(0.072 * (13 + 14))


#: out/TPU-custom-layer_LayerNode_0_complete.json of KULeuven-MICAS/zigzag (commit d1e8652), the parts that are read, and the
#: costs its accelerator has there: energies per level divided by accesses.
ZIGZAGS_OWN = {
    "O": ["rd /\\: 16.0, wr V: 0, rd V: 0, wr /\\: 32.0", "rd /\\: 0.125, wr V: 0, rd V: 0, wr /\\: 0.5",
          "rd /\\: 0, wr V: 0, rd V: 0, wr /\\: 4.0"],
    "I": ["rd /\\: 0, wr V: 0.125, rd V: 1.0, wr /\\: 0", "rd /\\: 0, wr V: 0, rd V: 4.0, wr /\\: 0"],
    "W": ["rd /\\: 0, wr V: 32.0, rd V: 32.0, wr /\\: 0", "rd /\\: 0, wr V: 0, rd V: 4.0, wr /\\: 0"],
}  # fmt: skip
ZIGZAGS_TPU = """
name: TPU_like
memories:
  rf_128B: {size: 1024, r_cost: 0.095, w_cost: 0.095, operands: [I2]}
  rf_2B: {size: 16, r_cost: 0.021, w_cost: 0.021, operands: [O]}
  sram_2MB: {size: 16777216, r_cost: 416.16, w_cost: 378.4, operands: [I1, O]}
  dram: {size: 10000000000, r_cost: 700, w_cost: 750, operands: [I1, I2, O]}
operational_array: {unit_energy: 0.04, dimensions: [D1, D2], sizes: [32, 32]}
"""


def test_a_file_that_zigzag_wrote(tmp_path: Path) -> None:
    accesses = {operand: [f"4waydatamoving ({text})" for text in levels] for operand, levels in ZIGZAGS_OWN.items()}
    layer = {"loop_dimensions": {"B": 1, "OX": 32}, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}
    outputs = {"memory": {"word_accesses": accesses}, "energy": {"energy_total": 9313.048}}
    path = written(tmp_path, {"outputs": outputs, "inputs": {"layer": layer}})
    (row,) = replay_files(written(tmp_path, ZIGZAGS_TPU, "tpu.yaml"), [path])
    assert row["energy_j"] == pytest.approx(9313.048e-12, rel=1e-12) == row["stated_j"]
    assert row["mac_j"] == pytest.approx(1.28e-12)
    stated = {"O0": 1.008, "O1": 241.22, "O2": 3000, "I0": 463.46, "I1": 2800, "W0": 6.08, "W1": 2800}
    assert row["level_j"] == {level: pytest.approx(pj * 1e-12) for level, pj in stated.items()}


def test_other_costs_give_another_energy(tmp_path: Path) -> None:
    cheaper = written(tmp_path, ACCELERATOR.read_text().replace("cost: 512", "cost: 256"), "cheaper.yaml")
    before, after = replay_files(ACCELERATOR, [RESULTS]), replay_files(cheaper, [RESULTS])
    for a, b in zip(before, after, strict=True):
        assert b["memory_j"]["dram"] == pytest.approx(a["memory_j"]["dram"] / 2)
        assert a["energy_j"] - b["energy_j"] == pytest.approx(a["memory_j"]["dram"] / 2)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_table_and_json(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    own = written(tmp_path, evaluation("text"))
    status, out, _ = run("replay", ACCELERATOR, RESULTS)
    assert status == 0
    total = next(line for line in out.splitlines() if "total" in line)
    assert "5,393" in total
    assert "none" in total
    status, out, _ = run("replay", ACCELERATOR, own, RESULTS, "--json")
    layers = json.loads(out)["layers"]
    assert status == 0
    assert [layers[0]["layer"], len(layers)] == ["conv", 22]
    status, out, _ = run("replay", ACCELERATOR, own)
    assert status == 0
    assert " %" in next(line for line in out.splitlines() if "conv" in line)  # 1000 pJ were not its energy


def test_a_table_without_totals(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    table = written(tmp_path, "layer,macs,acc_O0_RD_OUT_TO_LOW\na,0,1\n", "t.csv")
    assert [layer.stated_pj for layer in read_layers(table)] == [None]
    status, out, _ = run("replay", ACCELERATOR, table)
    assert status == 0
    assert "-" in next(line for line in out.splitlines() if "total" in line)


# --- files that are wrong --------------------------------------------------------------------------------------------


def damaged(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = evaluation("keys")
    part: Any = data
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return data


ACCESSES = ("outputs", "memory", "word_accesses")
LAYER = ("inputs", "layer")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        ("\x00", "not a readable JSON file"),
        ("[]", "no section outputs.memory.word_accesses"),
        ({"outputs": 3}, "no section outputs.memory.word_accesses"),
        (damaged(LAYER, [0, 1, 2]), "no section inputs.layer.loop_dimensions"),
        (damaged((*LAYER, "loop_dimensions"), {"K": 0}), "sizes are whole numbers above 0"),
        (damaged((*LAYER, "loop_dimensions"), {"K": "2"}), "sizes are whole numbers above 0"),
        (damaged((*LAYER, "memory_operand_links"), {"O": "O", "W": "I2"}), "operand 'I' is linked to none of I1, I2, O"),
        (damaged((*ACCESSES, "O"), 3), "operand 'O' is linked to none of I1, I2, O, or has no levels"),
        (damaged((*ACCESSES, "O"), [3]), "word_accesses.O[0]: expected counts of RD_OUT_TO_LOW"),
        (damaged((*ACCESSES, "O"), [{"rd_out_to_low": 3}]), "word_accesses.O[0]: expected counts of RD_OUT_TO_LOW"),
        (damaged((*ACCESSES, "O"), [dict.fromkeys(DIRECTIONS, "x")]), "word_accesses.O[0]: 'x' is not a number"),
        (damaged((*ACCESSES, "O"), [dict.fromkeys(DIRECTIONS, float("nan"))]), "word_accesses.O[0]: nan is not finite"),
        (damaged((*ACCESSES, "O"), [dict.fromkeys(DIRECTIONS, -1)]), "conv: simple16: -1.0 accesses of O0"),
        (damaged((*ACCESSES, "I"), [dict.fromkeys(DIRECTIONS, 1)] * 3), "conv: simple16: no accesses 'I2"),
        (damaged(("outputs", "energy"), None), "no section outputs.energy"),
    ],
)  # fmt: skip
def test_layer_files_that_are_wrong(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        replay_files(ACCELERATOR, [written(tmp_path, data)])
    assert message in str(caught.value)


def test_files_that_are_missing_or_empty(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    for accelerator, results in ((tmp_path / "no.yaml", RESULTS), (ACCELERATOR, tmp_path / "no.json"),
                                 (ACCELERATOR, tmp_path / "no.csv")):  # fmt: skip
        status, _, err = run("replay", accelerator, results)
        assert status == 2
        assert "no such file" in err
    empty = written(tmp_path, "layer,macs,acc_O0_RD_OUT_TO_LOW\n", "empty.csv")
    status, _, err = run("replay", ACCELERATOR, empty)
    assert status == 2
    assert "empty.csv: no layer" in err
