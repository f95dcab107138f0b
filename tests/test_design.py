"""Design files: the built-ins are complete and sourced; a broken file lists every mistake at once, whatever it holds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays import ARRAYS
from nestling.accel.design import DESIGN_FOLDER, DESIGNS, Design, load_design
from nestling.traces.formats import FORMATS
from nestling.traces.formats.coefficients import COEFFICIENT_FORMATS
from nestling.workloads.errors import InputError

LANES, SYSTOLIC = ((DESIGN_FOLDER / f"{name}.yaml").read_text() for name in ("nm-lanes-16x8", "systolic-16x16"))


def problems(folder: Path, text: str) -> list[str]:
    file = folder / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_design(file)
    return [p.removeprefix(f"{file}:") for p in caught.value.problems]


# --- built-ins -------------------------------------------------------------------------------------------------------


def test_the_list_of_designs_is_the_folder() -> None:
    assert sorted(DESIGNS) == sorted(path.stem for path in DESIGN_FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", DESIGNS)
def test_built_in_designs_load_and_say_where_numbers_come_from(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    quantities = dict(design.quantities())
    assert {"nominal_voltage_v", "dram.bandwidth_bytes_per_s", "energies.mac_pj"} <= set(quantities)
    for path, quantity in quantities.items():
        assert len(quantity.source.split()) >= 3, path
    for point in design.operating_points:
        assert len(point.source.split()) >= 3
    unverified = design.unverified()
    stated = [getattr(q, "published", q) for q in quantities.values()]  # before scaling to the design's node
    assert len(unverified) == sum(not q.verified for q in stated) + sum(not p.verified for p in design.operating_points)
    assert design.point() == max(design.operating_points, key=lambda p: p.clock_hz)
    assert design.description
    assert design == load_design(DESIGN_FOLDER / f"{name}.yaml")


def test_every_array_kind_has_a_design_and_every_format_is_allowed() -> None:
    assert {load_design(name).array.kind for name in DESIGNS} == set(ARRAYS)
    assert set(get_args(Design.model_fields["weight_format"].annotation)) == {*FORMATS, *COEFFICIENT_FORMATS}


@pytest.mark.parametrize("name", DESIGNS)
def test_file_name_and_name_inside_agree(name: str) -> None:
    assert f"\nname: {name}\n" in (DESIGN_FOLDER / f"{name}.yaml").read_text()


# --- names and paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("systolic-16x61", "unknown accelerator 'systolic-16x61'; did you mean 'systolic-16x16'"),
        ("zzz", "or a path to a .yaml design file"),
        ("x" * 5000, "unknown accelerator"),
        ("a\0b", "unknown accelerator"),
        ("none.yaml", "none.yaml: no such file"),
        (".", "cannot be read"),
        ("", "unknown accelerator ''"),
    ],
)
def test_names_that_are_no_design(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_design(name)


def test_unknown_operating_points() -> None:
    with pytest.raises(InputError, match="operating point of design 'nm-lanes-16x8' 'lwo'; did you mean 'low'"):
        load_design("nm-lanes-16x8").point("lwo")


# --- broken files ----------------------------------------------------------------------------------------------------


def test_every_mistake_at_once_in_order_of_lines(tmp_path: Path) -> None:
    text = (
        LANES.replace("node_nm: 45", "node_nm: 7")
        .replace("  rows: 16 ", "  rows: -16 ")
        .replace("operand_feed: broadcast", "operand_feed: broadcasting")
        .replace("weight_format: level_ordered", "weight_format: level_orderd")
        .replace("  mac_pj:", "  mac_pJ:")
        .replace("clock_hz: 192.0e6", "clock_hz: 0")
    )
    found = problems(tmp_path, text)
    lines = text.splitlines()
    expected = {
        "node_nm: found 7": "node_nm",
        "rows: found -16": "  rows:",
        "operand_feed: found 'broadcasting'": "  operand_feed",
        "did you mean 'level_ordered'": "weight_format",
        "energies.mac_pJ: unknown key; allowed: ": "  mac_pJ",
        "missing key 'mac_pj' in 'energies'": "energies",
        "clock_hz: found 0": "  - {name: low",
    }  # fmt: skip
    assert len(found) == len(expected)
    for message, start in expected.items():
        number = next(i for i, line in enumerate(lines, 1) if line.startswith(start))
        assert any(message in p and p.startswith(f"{number}: ") for p in found), (message, found)
    numbers = [int(p.split(":")[0]) for p in found]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: nm_lanes", "kind: nm_lane", "nm_lane"),
        ("lanes: 2 ", "lanes: 9 ", "lanes = 9 exceeds group = 8: the extra lanes could never be used"),
        ("name: mid", "name: low", "operating points must have different names, found low, low, nominal, high"),
        ("value: 12.8e9", "value: 0", "nominal_voltage_v and dram.bandwidth_bytes_per_s must be greater than 0"),
        ("value: 1.0", "value: 0", "nominal_voltage_v and dram.bandwidth_bytes_per_s must be greater than 0"),
        ("value: 12.8e9", "value: -1", "dram.bandwidth_bytes_per_s.value: found -1"),
        ("value: 12.8e9", "value: .nan", "found nan; input should be a finite number"),
        ("value: 12.8e9", "value: fast", "found 'fast'"),
        ("source: same table, 8-bit MAC gated", "source: ''", "energies.mac_gated_pj.source: found ''"),
        ("name: nm-lanes-16x8", "name: a b", "name: found 'a b'"),
        ("voltage_v: 0.80", "voltage_v: 80", "operating_points[0].voltage_v: found 80"),
        ("bytes: 262144", "bytes: 262144, bytes: 1", "key given twice"),
        ("  banks:", "  bnks:", "needs memories.banks"),
    ],
)
def test_single_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert LANES.count(old) >= 1
    found = problems(tmp_path, LANES.replace(old, new, 1))
    assert any(message in p for p in found), found
    assert all(p.split(":")[0].isdigit() for p in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys with values, found nothing"),
        ("name: &a [*a]\n", "aliases"),
        ("&a\nname: *a\n", "aliases"),
        ("name: " + "[" * 900 + "]" * 900, "nested too deeply"),
        (SYSTOLIC + "\n---\n" + SYSTOLIC, "not YAML"),
        ("? [a, b]\n: 1\n" + SYSTOLIC, "keys should be strings"),
        ("\x00\x01", "not YAML"),
        (SYSTOLIC.replace("  value", "\tvalue", 1), "not YAML"),
        (SYSTOLIC.replace("rows: 16", "rows: !!python/object/apply:os.system [ls]"), "not YAML"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in p for p in problems(tmp_path, text))


def test_aliases_that_multiply(tmp_path: Path) -> None:
    """Nine levels of ten aliases would be 10^9 entries."""
    text = "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
    assert any("more than 10000 entries" in p for p in problems(tmp_path, text))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any character of a design file replaced: a design or an InputError with line numbers, nothing else."""
    file = tmp_path_factory.mktemp("damaged") / "mine.yaml"
    text = list(SYSTOLIC)
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(
            st.sampled_from(list("{}[]:,&*!|>%@`\"'#-0a\n\t ~.é"))
        )
    file.write_text("".join(text), encoding="utf-8")
    try:
        design = load_design(file)
    except InputError as error:
        found = error.problems
    else:
        assert design.array.kind == "systolic"
        return
    assert found
    assert all(p.startswith(f"{file}:") for p in found)
