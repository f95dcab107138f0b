"""Energy reference tables: the three forms, means over arguments, names, and malformed files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nestling.accel.ert import ErtFiles, read_ert, read_ert_csv
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

FULL = """
ERT:
  version: 0.3
  tables:
  - name: system.SM.SMEM
    actions:
    - {name: read, arguments: null, energy: 285.71464}
    - {name: write, arguments: null, energy: 316.96744}
  - name: system.PE[0..3].spad
    actions:
    - name: read
      arguments: {address_delta: 0, data_delta: 0}
      energy: 1
    - name: read
      arguments: {address_delta: 1, data_delta: 1}
      energy: 2.5
"""
SUMMARY = """
ERT_summary:
  version: 0.3
  table_summary:
  - name: system.PE[0..3].spad
    actions:
    - {name: read, average_energy: 1.75, max_energy: 2.5, min_energy: 1}
    - {name: idle, energy: 0.5}
    primitive_estimation(s):
    - {name: spad, estimator: Aladdin_table}
"""


def written(folder: Path, text: str, name: str = "ERT.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_both_yaml_forms_agree_on_the_mean_over_arguments(tmp_path: Path) -> None:
    full, summary = read_ert(written(tmp_path, FULL)), read_ert(written(tmp_path, SUMMARY, "ERT_summary.yaml"))
    assert full.energy_pj("system.PE[0..3].spad", "read") == 1.75 == summary.energy_pj("spad", "read")
    assert summary.energy_pj("spad", "idle") == 0.5


def test_names_of_version_0_4_end_with_a_range(tmp_path: Path) -> None:
    text = """
ERT:
  version: "0.4"
  tables:
  - {name: "system.chip.MAC[1..16]", actions: [{name: compute, arguments: {}, energy: 0.5}, {name: leak, energy: 0.01}]}
  - {name: "system.chip.buffer.SRAM[1..1]", actions: [{name: read, energy: 8}]}
"""
    table = read_ert(written(tmp_path, text))
    for name in ("MAC", "chip.MAC", "MAC[1..16]", "system.chip.MAC", "system.chip.MAC[1..16]"):
        assert table.energy_pj(name, "compute") == 0.5
    assert table.energy_pj("buffer.SRAM", "read") == 8
    for name in ("AC", "hip.MAC", "chip", "MAC[1..16].compute"):  # ends at a name, not inside one
        with pytest.raises(InputError, match="unknown component"):
            table.energy_pj(name, "compute")


def test_what_a_design_uses_and_what_it_leaves(tmp_path: Path) -> None:
    written(tmp_path, FULL)
    files = ErtFiles(tmp_path)
    assert files.unused() == {}
    assert files.lookup("ERT.yaml", "SMEM.read") == (285.71464, "system.SM.SMEM.read")
    assert files.lookup("ERT.yaml", "system.PE[0..3].spad.read") == (1.75, "system.PE[0..3].spad.read")
    assert files.unused() == {"ERT.yaml": ["system.SM.SMEM (write)"]}
    with pytest.raises(InputError, match=r"'SMEM' is not COMPONENT\.ACTION"):
        files.lookup("ERT.yaml", "SMEM")
    with pytest.raises(InputError, match=r"unknown action of 'SMEM' in ERT\.yaml 'raed'; did you mean 'read'"):
        files.lookup("ERT.yaml", "SMEM.raed")


def test_the_products_own_csv() -> None:
    tables = read_ert_csv(REFERENCE / "technology" / "ert_45nm.csv")
    stc = tables[
        "fig15_stc_related_setup/architecture_templates/HW_systems/ert_art/int8/STC-RF2x-24-bandwidth/ERT.yaml"
    ]
    assert stc.energy_pj("MAC", "mac_random") == 0.5608
    assert stc.component("LRF") == "system.SM.Subpartition[0..3].PE[0..255].LRF"
    v2 = tables["fig12_eyerissv2_pe_setup/ert_art/ERT.yaml"]
    assert v2.energy_pj("psum_spad", "read") == pytest.approx(0.1665425)  # 0.16654 in the published summary


def test_an_unset_energy_is_no_zero(tmp_path: Path) -> None:
    path = written(tmp_path, "file,component,action,energy_pJ,arguments\na,x,read,,\na,x,write,3,\n", "t.csv")
    table = read_ert_csv(path)["a"]
    assert table.energy_pj("x", "write") == 3
    with pytest.raises(InputError, match="unknown action of 'x' in a 'read'"):
        table.energy_pj("x", "read")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected keys with values"),
        ("a: 1", "expected a mapping with 'ERT' or 'ERT_summary'"),
        ("ERT: {version: 0.3}", "ERT has no list 'tables'"),
        ("ERT: 7", "ERT has no list 'tables'"),
        ("ERT: {tables: []}", "the energy reference table is empty"),
        ("ERT: {tables: [{actions: []}]}", "component 0 has no name"),
        ("ERT: {tables: [{name: x}]}", "component 'x' has no list of actions"),
        ("ERT: {tables: [{name: x, actions: [{energy: 1}]}]}", "component 'x' has an action without a name"),
        ("ERT: {tables: [{name: x, actions: [{name: read}]}]}", "x read: energy 'None' is not a number"),
        ("ERT: {tables: [{name: x, actions: [{name: read, energy: -1}]}]}", "must be a finite number"),
        ("ERT: {tables: [{name: x, actions: [{name: read, energy: .nan}]}]}", "must be a finite number"),
        ("ERT: {tables: [", "not YAML"),
        ("ERT: {tables: [], tables: []}", "ERT.tables: key given twice"),
        ("ERT: {tables: [{name: x, name: y, actions: []}]}", "ERT.tables[0].name: key given twice"),
        ("ERT: {tables: [{name: x, actions: []}, {name: x, actions: []}]}", "component 'x' is listed twice"),
        ("ERT: &a {tables: [*a]}", "aliases"),
        ("ERT: " + "[" * 900 + "]" * 900, "nested too deeply"),
        ("ERT: !!python/object/apply:os.system [ls]", "not YAML"),
    ],
)
def test_malformed_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_ert(written(tmp_path, text))


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_ert(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="no such file"):
        read_ert_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match="columns action, energy_pJ are missing"):
        read_ert_csv(written(tmp_path, "file,component\na,b\n", "t.csv"))
    with pytest.raises(InputError, match="no row"):
        read_ert_csv(written(tmp_path, "file,component,action,energy_pJ\n", "t.csv"))
    with pytest.raises(InputError, match="energy 'x' is not a number"):
        read_ert_csv(written(tmp_path, "file,component,action,energy_pJ\na,b,read,x\n", "t.csv"))


def test_ambiguous_and_unknown_components(tmp_path: Path) -> None:
    text = "ERT: {tables: [{name: a.RF, actions: [{name: read, energy: 1}]}, {name: b.RF, actions: []}]}"
    table = read_ert(written(tmp_path, text.replace("actions: []", "actions: [{name: read, energy: 2}]")))
    with pytest.raises(InputError, match=r"'RF' may mean a\.RF, b\.RF"):
        table.energy_pj("RF", "read")
    with pytest.raises(InputError, match=r"did you mean 'a\.RF'"):
        table.energy_pj("a.RG", "read")


def test_aliases_that_multiply(tmp_path: Path) -> None:
    """Nine levels of ten aliases would be 10^9 entries."""
    text = "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
    with pytest.raises(InputError, match="more than 200000 entries, aliases"):
        read_ert(written(tmp_path, text + "ERT: {tables: *l9}"))


def test_a_table_far_larger_than_a_design_file_is_read(tmp_path: Path) -> None:
    actions = ", ".join(f"{{name: read, arguments: {{a: {i}}}, energy: {i}}}" for i in range(3001))
    table = read_ert(written(tmp_path, f"ERT: {{tables: [{{name: x, actions: [{actions}]}}]}}"))
    assert table.energy_pj("x", "read") == 1500
