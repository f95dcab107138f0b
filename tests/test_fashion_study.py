"""The Fashion-MNIST study: its parts, their order, resumption, and the table that comes of them. Tiny data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from nestling.analysis.training_tables import record_frame, record_tables
from nestling.workloads import fashion_study
from nestling.workloads.bundled import FASHION_DENSITIES, fashion_layers
from nestling.workloads.errors import InputError
from nestling.workloads.fashion_record import COLUMNS, METHODS, FashionRecord
from nestling.workloads.fashion_study import Part, StudySettings, multiplication_share, parts_of, study_fashion
from nestling.workloads.training_record import Row

from .test_training import write_data

SETTINGS = StudySettings(epochs=1, batch=32)


def test_every_part_follows_the_one_it_needs() -> None:
    parts = parts_of(3)
    assert len(parts) == len(set(parts)) == 12
    for position, part in enumerate(parts):
        assert part.needs is None or part.needs in parts[:position]
    assert len({part.name for part in parts}) == 12


def test_the_share_of_multiplications_counts_where_a_weight_is_used() -> None:
    layers = [layer for layer in fashion_layers() if layer.has_weights]
    keep = {layer.name: np.zeros(layer.weight_shape, np.uint8) for layer in layers}
    keep["conv1"][0, 0, 0, 0] = 1  # one weight at 28 x 28 positions
    keep["fc"][3, :5] = 1  # five weights used once
    assert multiplication_share(keep) == pytest.approx((28 * 28 + 5) / 7_846_912)
    assert multiplication_share({name: np.ones_like(k) for name, k in keep.items()}) == 1.0


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="at least 1"):
        StudySettings(epochs=0)


def record(**at_15: float) -> FashionRecord:
    """Everything at 90 %, except what is given for the middle column."""
    cells = {name: {column: [0.9] for column in COLUMNS} for name in METHODS}
    for name, value in at_15.items():
        cells[name.replace("_", " ")]["15%"] = [value]
    return FashionRecord([0], [Row("levels", name, "1", 1.0, "0.1", cells[name]) for name in METHODS], {})


def test_claims_follow_the_figures() -> None:
    found = record(nested=0.889, independent=0.9).claims()
    assert [claim.holds for claim in found] == [True, True, False, True, False]
    assert found[2].measured == 1.1
    rows = record().rows
    rows[METHODS.index("post-hoc threshold")].cells["15%"][0] = 0.2
    assert record().claims()[-1].measured == 0.0
    assert FashionRecord([0], rows, {}).claims()[-1].measured == 70.0


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Folder of the data, folder of the study, its record."""
    pytest.importorskip("torch")
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("study")
    write_data(data, train=96, test=40)
    return data, folder, study_fashion(folder, seeds=[5], settings=SETTINGS, data=data)


def test_the_table_has_every_baseline_and_says_what_was_run(studied) -> None:
    _, _, found = studied
    assert [row.method for row in found.rows] == list(METHODS)
    assert [list(row.cells) for row in found.rows] == [
        ["100%"], list(COLUMNS), list(COLUMNS), list(COLUMNS), list(COLUMNS[1:]), list(COLUMNS[1:]),
    ]  # fmt: skip
    assert [row.epochs for row in found.rows] == ["1", "4 x (1 + 1)", "1 + 1", "1 + 1", "3 x (1 + 1)", "3 x (2 + 2)"]
    # nested: one start and an epoch of four levels; independent: one start and four runs; scratch: a start for each run.
    assert [row.passes for row in found.rows] == [1, 5, 2, 5, 6, 12]
    assert [row.rate for row in found.rows] == ["0.1"] + ["0.1, 0.002"] * 5
    assert found.settings["train_images"] == 96
    independent, cut = found.row("levels", "independent"), found.row("levels", "post-hoc threshold")
    assert independent.cells["100%"] == cut.cells["100%"]


def test_an_interrupted_study_goes_on_where_it_was(studied, monkeypatch) -> None:
    data, folder, found = studied
    with monkeypatch.context() as patch:
        patch.setattr(fashion_study, "run_part", lambda part, **_: pytest.fail(f"{part} is run again"))
        assert study_fashion(folder, seeds=[5], settings=SETTINGS, data=data) == found
    lost = folder / "parts" / "seed5-scratch-E-15.json"
    before = json.loads(lost.read_text())["result"]["cells"]
    lost.unlink()
    heard: list[tuple[str, int, int]] = []
    study_fashion(folder, seeds=[5], settings=SETTINGS, data=data, report=lambda *what: heard.append(what))
    assert heard == [("seed5-scratch-E-15", 12, 12)]
    assert json.loads(lost.read_text())["result"]["cells"] == before


def test_a_stopped_study_says_what_it_has(studied, tmp_path) -> None:
    data, folder, found = studied
    shutil.copytree(folder / "parts", tmp_path / "parts")
    (tmp_path / "parts" / "seed5-scratch-B-5.json").unlink()
    seeds, never = [5, 6], 0.0
    stopped = study_fashion(tmp_path, seeds=seeds, settings=SETTINGS, data=data, stop_after_s=never)
    assert [row.method for row in stopped.rows] == list(METHODS[:-1])
    assert stopped.rows == found.rows[:-1]
    assert "scratch-B: finished for 0 of 2 seeds; the same command goes on with it" in stopped.notes
    table = next(record_tables(stopped))
    assert "scratch-E (1 seed)" in table.columns[0].cells
    assert len(record_frame(stopped)) == sum(len(row.cells) for row in stopped.rows)
    with pytest.raises(InputError, match="nothing is finished of seed 6"):
        study_fashion(tmp_path, seeds=[6], settings=SETTINGS, data=data, stop_after_s=never, workers=2)


def test_other_settings_are_not_mixed_in(studied) -> None:
    data, folder, _ = studied
    with pytest.raises(InputError, match="part of a run with other settings"):
        study_fashion(folder, seeds=[5], settings=StudySettings(epochs=2, batch=32), data=data)
    with pytest.raises(InputError, match="at least one seed"):
        study_fashion(folder, seeds=[], data=data)


def test_scratch_stays_inside_the_masks_of_nested(studied) -> None:
    data, folder, _ = studied
    nested = fashion_study.load_network(folder / "parts" / "seed5-nested.safetensors")
    part = Part(5, "scratch-E", 2)
    _, epochs, network = fashion_study._train(part, fashion_study.load_arrays(data), nested, SETTINGS)
    assert epochs == (1, 1)
    for name, weights in network.weights.items():
        np.testing.assert_array_equal(weights.mask(0), nested.weights[name].mask(2))
    assert network.densities[0] == pytest.approx(FASHION_DENSITIES[2], abs=1e-4)


@pytest.mark.long
def test_several_workers_give_the_same_record(studied, tmp_path) -> None:
    data, _, found = studied
    parallel = study_fashion(tmp_path, seeds=[5], settings=SETTINGS, data=data, workers=2)
    assert parallel.rows == found.rows


def test_the_bundled_record_says_what_it_has() -> None:
    found = FashionRecord.read()
    assert len(found.seeds) >= 3
    assert [row.method for row in found.rows] == list(METHODS)
    assert found.settings["train_images"] == 60_000
    for row in found.rows:
        for values in row.cells.values():
            missing = f"{row.method}: finished for {len(values)} of {len(found.seeds)} seeds"
            assert len(values) == len(found.seeds) or any(note.startswith(missing) for note in found.notes)
            np.testing.assert_allclose(np.array(values) * 10_000, np.round(np.array(values) * 10_000), atol=1e-6)
