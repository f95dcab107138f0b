"""Unit energies of a design file: from an energy reference table, at their own node, and every way to get them wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nestling.accel.design import DESIGN_FOLDER, Design, load_design
from nestling.accel.dram import DEVICE_FOLDER
from nestling.accel.energy import energy_by_component_j, leakage_w, unit_energies_pj
from nestling.accel.ert import read_ert_csv
from nestling.accel.technology import energy_scale
from nestling.analysis.validate import REFERENCE
from nestling.workloads.errors import InputError

STC = (DESIGN_FOLDER / "stc-2-4.yaml").read_text()
SYSTOLIC = (DESIGN_FOLDER / "systolic-16x16.yaml").read_text()
TABLE = """
ERT:
  version: "0.4"
  tables:
  - name: system.chip.PE[1..256].MAC[1..1]
    actions: [{name: mac_random, energy: 0.5608}, {name: mac_gated, energy: 0.01798}, {name: mac_reused, energy: 0.3}]
  - name: system.chip.PE[1..256].LRF[1..1]
    actions: [{name: read, energy: 0.072}, {name: write, energy: 0.072}, {name: leak, energy: 0.001}]
  - name: system.chip.PE[1..256].RF[1..1]
    actions: [{name: read, energy: 1.65889}, {name: write, energy: 1.67589}]
  - name: system.chip.SMEM[1..1]
    actions: [{name: read, energy: 285.71464}, {name: write, energy: 316.96744}]
  - name: system.DRAM[1..1]
    actions: [{name: read, energy: 512}, {name: write, energy: 512}]
"""
ENTRY = "{ert: tables/ERT.yaml, entry: %s}"
SMEM = (
    "read_pj_per_byte: {ert: tables/ERT.yaml, entry: SMEM.read, bits: 512}, "
    "write_pj_per_byte: {ert: tables/ERT.yaml, entry: SMEM.write, bits: 512}"
)


def replaced(text: str, key: str, value: str) -> str:
    """The block ``key`` of a design file, its value, source and verified lines, as one line with ``value``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == f"{key}:")
    indent = len(lines[start]) - len(lines[start].lstrip())
    end = next(
        i
        for i in range(start + 1, len(lines))
        if not lines[i].strip() or len(lines[i]) - len(lines[i].lstrip()) <= indent
    )
    return "\n".join([*lines[:start], f"{' ' * indent}{key}: {value}", *lines[end:]]) + "\n"


def from_table() -> str:
    """stc-2-4 with every energy taken from the table."""
    text = replaced(STC, "mac_pj", ENTRY % "MAC.mac_random")
    text = replaced(text, "mac_gated_pj", ENTRY % "MAC.mac_gated")
    text = replaced(text, "register_pj_per_byte", ENTRY.replace("}", ", bits: 8}") % "LRF.read")
    text = replaced(text, "operand_register", ENTRY.replace("}", ", component: registers}") % "LRF.write")
    for action in ("read", "write"):
        entry = ENTRY.replace("}", ", times: 4, component: pe_memory}") % f"RF.{action}"
        text = replaced(text, f"accumulator_{action}", entry)
        entry = ENTRY.replace("}", ", bits: 64}") % f"DRAM.{action}"
        text = replaced(text, f"{action}_pj_per_byte", entry)
    return text.replace("weights: {bytes: 131072, width_bits: 256", "weights: {bytes: 131072, width_bits: 256, " + SMEM)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Design]:
    """Reader of a design file's text; the table lies in a folder beside it."""

    def read(text: str, *, table: str = TABLE) -> Design:
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / "ERT.yaml").write_text(table)
        (tmp_path / "mine.yaml").write_text(text)
        return load_design(tmp_path / "mine.yaml")

    return read


# --- energy reference tables -----------------------------------------------------------------------------------------


def test_every_energy_from_a_table(
    load: Callable[..., Design], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path.parent)  # paths start at the design file, wherever the user stands
    design = load(from_table())
    built_in = load_design("stc-2-4")
    units, expected = unit_energies_pj(design), unit_energies_pj(built_in)
    for action in expected:
        if action.startswith("weight_buffer"):
            word_pj = 285.71464 if "read" in action else 316.96744
            assert units[action] == ("weight_buffer", pytest.approx(word_pj / 64, rel=1e-12))
        else:  # the design's numbers are those of this very table
            assert units[action] == (expected[action][0], pytest.approx(expected[action][1], rel=1e-12)), action
    assert leakage_w(design) == leakage_w(built_in)
    quantities = dict(design.quantities())
    source = quantities["energies.actions.accumulator_read"].source
    assert source == "energy reference table tables/ERT.yaml, system.chip.PE[1..256].RF[1..1].read, x 4"
    assert quantities["buffers.weights.read_pj_per_byte"].source.endswith("SMEM[1..1].read, 512 bits")
    assert all(quantities[name].verified for name in ("energies.mac_pj", "dram.read_pj_per_byte"))


def test_entries_that_are_not_used_are_listed(load: Callable[..., Design]) -> None:
    assert load(from_table()).notes() == [
        "in tables/ERT.yaml, but not used by this design: system.chip.PE[1..256].MAC[1..1] (mac_reused), "
        "system.chip.PE[1..256].LRF[1..1] (leak)"
    ]
    assert load_design("stc-2-4").notes() == []


def test_the_products_own_table_through_a_design(load: Callable[..., Design]) -> None:
    """The case study's table, written out as YAML, prices a design as it prices the suite."""
    name = "fig15_stc_related_setup/architecture_templates/HW_systems/ert_art/int8/STC-RF2x-24-bandwidth/ERT.yaml"
    published = read_ert_csv(REFERENCE / "technology" / "ert_45nm.csv")[name].components
    table = "ERT:\n  tables:\n" + "".join(
        f"  - name: {component}\n    actions:\n"
        + "".join(f"    - {{name: {a}, energy: {pj}}}\n" for a, pj in actions.items())
        for component, actions in published.items()
    )
    design = load(replaced(STC, "mac_pj", ENTRY % "MAC.mac_random"), table=table)
    assert design.energies.mac_pj.value == 0.5608
    counts = {"mac_computed": 1000}
    joules = [
        energy_by_component_j(counts, cycles=0, design=d, point=d.point()) for d in (design, load_design("stc-2-4"))
    ]
    assert joules[0] == joules[1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mac_pj", ENTRY % "MAC.mac_rnadom", "unknown action of 'MAC' in ERT.yaml 'mac_rnadom'; did you mean 'mac_random'"),
        ("mac_pj", ENTRY % "MCA.compute", "unknown component of ERT.yaml 'MCA'"),
        ("mac_pj", ENTRY % "MAC", "'MAC' is not COMPONENT.ACTION"),
        ("mac_pj", "{ert: ERT.yaml, entry: MAC.mac_random}", "ERT.yaml: no such file"),
        ("mac_pj", "{ert: tables/ERT.yaml}", "missing key 'entry'"),
        ("mac_pj", "{ert: tables/ERT.yaml, entry: MAC.read, value: 3}", "unknown key; allowed: entry, ert, node_nm, times"),
        ("mac_pj", "{ert: tables/ERT.yaml, entry: MAC.mac_random, bits: 8}", "mac_pj.bits: unknown key"),
        ("mac_pj", "{ert: tables/ERT.yaml, entry: MAC.mac_random, times: 0}", "mac_pj.times: found 0"),
        ("mac_pj", "{ert: tables/ERT.yaml, entry: MAC.mac_random, node_nm: 5}", "mac_pj.node_nm: found 5"),
        ("register_pj_per_byte", ENTRY % "LRF.read", "missing key 'bits' in 'energies.register_pj_per_byte'"),
        ("operand_register", ENTRY % "LRF.read", "missing key 'component'"),
        ("read_pj_per_byte", "{ert: tables/ERT.yaml, entry: DRAM.read, bits: 64, node_nm: 45}", "node_nm: unknown key"),
        ("mac_pj", "{value: 1}", "missing key 'source'"),
    ],
)  # fmt: skip
def test_entries_that_are_wrong(load: Callable[..., Design], key: str, value: str, message: str) -> None:
    text = replaced(STC, key, value)
    with pytest.raises(InputError) as caught:
        load(text)
    line = next(i for i, x in enumerate(text.splitlines(), 1) if x.strip().startswith(f"{key}: "))
    assert any(message in p and f"mine.yaml:{line}: " in p for p in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("energy: 0.5608", "energy: 0.5608, energy: 0.6"), "energy: key given twice"),
        (TABLE.replace("energy: 0.5608", "energy: null"), "energy 'None' is not a number"),
        (TABLE.replace("PE[1..256].RF", "PE[1..256].MAC"), "is listed twice"),
        ("l0: &a [x]\nERT: {tables: [*a, *a]}", "component 0 has no name"),
        ("ERT: &a {tables: [*a]}", "aliases"),
        ("nothing", "expected keys with values"),
        ("", "expected keys with values"),
    ],
)
def test_tables_that_are_wrong(load: Callable[..., Design], table: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(replaced(STC, "mac_pj", ENTRY % "MAC.mac_random"), table=table)


def test_a_mistake_in_a_table_is_one_mistake_per_place(load: Callable[..., Design]) -> None:
    text = replaced(STC, "mac_pj", ENTRY % "MAC.nothing")
    with pytest.raises(InputError) as caught:
        load(replaced(text, "mac_gated_pj", ENTRY % "nothing.mac_gated").replace("rows: 16", "rows: -1"))
    assert len(caught.value.problems) == 3


def test_a_device_file_lies_beside_the_design_file(load: Callable[..., Design], tmp_path: Path) -> None:
    start, end = SYSTOLIC.index("\ndram:"), SYSTOLIC.index("\nenergies:")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.yaml").write_text((DEVICE_FOLDER / "ddr4_2400_x8.yaml").read_text())
    design = load(f"{SYSTOLIC[:start]}\ndram: {{device: tables/mine.yaml}}\n{SYSTOLIC[end:]}")
    assert design.dram.peak_bytes_per_s == load_design("systolic-16x16").with_dram("ddr4_2400_x8").dram.peak_bytes_per_s
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load(f"{SYSTOLIC[:start]}\ndram: {{device: nowhere.yaml}}\n{SYSTOLIC[end:]}")


# --- buffers with stated energies ------------------------------------------------------------------------------------


def test_a_buffer_states_both_energies_or_none(load: Callable[..., Design]) -> None:
    stated = "{value: 2, source: a published macro, verified: true}"
    half = SYSTOLIC.replace("weights: {bytes: 262144,", f"weights: {{bytes: 262144, read_pj_per_byte: {stated},")
    with pytest.raises(InputError, match="read_pj_per_byte and write_pj_per_byte belong together"):
        load(half)
    design = load(half.replace("262144,", f"262144, write_pj_per_byte: {stated},", 1))
    assert unit_energies_pj(design)["weight_buffer_read_bytes"] == ("weight_buffer", 2)
    assert unit_energies_pj(design)["weight_buffer_write_bytes"] == ("weight_buffer", 2)
    assert "buffers.weights.read_pj_per_byte" in dict(design.quantities())


# --- their own node --------------------------------------------------------------------------------------------------


def test_an_energy_of_another_node_is_scaled_to_the_designs(load: Callable[..., Design]) -> None:
    text = SYSTOLIC.replace("value: 0.072\n", "value: 0.072\n    node_nm: 65\n")
    design = load(text)
    expected = 0.072 * energy_scale(65, 45, 1.0)
    assert design.energies.register_pj_per_byte.value == pytest.approx(expected)
    assert not design.energies.register_pj_per_byte.verified
    assert "scaled from 65 to 45 nm at 1 V" in design.energies.register_pj_per_byte.source
    assert design.energies.mac_pj == load_design("systolic-16x16").energies.mac_pj
    (note,) = design.notes()
    assert note.startswith("energies estimated for 45 nm: unit energies x 0.764 from 65 nm (Stillmaker and Baas 2017")
    same = load(SYSTOLIC.replace("value: 0.072\n", "value: 0.072\n    node_nm: 45\n"))
    assert same.energies.register_pj_per_byte.value == 0.072
    assert same.energies.register_pj_per_byte.verified
    assert same.notes() == []


def test_an_entry_of_a_table_may_state_its_node(load: Callable[..., Design]) -> None:
    entry = "{ert: tables/ERT.yaml, entry: MAC.mac_random, node_nm: 65}"
    design = load(replaced(STC, "mac_pj", entry))
    assert design.energies.mac_pj.value == pytest.approx(0.5608 * energy_scale(65, 45, 1.0))


def test_a_supply_outside_the_fits_matters_only_where_something_is_scaled(load: Callable[..., Design]) -> None:
    high = SYSTOLIC.replace("  value: 1.0\n", "  value: 1.8\n", 1)
    assert load(high).nominal_voltage_v.value == 1.8
    with pytest.raises(InputError, match=r"no energy scaling for a supply of 1\.8 V; allowed are 0\.6 to 1\.4 V"):
        load(high.replace("value: 0.072\n", "value: 0.072\n    node_nm: 65\n"))
