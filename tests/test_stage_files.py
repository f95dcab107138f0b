"""Finished parts of a long run: kept, found again, and never mixed with those of another run."""

from __future__ import annotations

import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.stage_files import StageFiles

IDENTITY = {"settings": {"epochs": 2, "rates": (0.1, 0.2)}, "versions": {"python": "3"}}


def test_a_part_is_found_again(tmp_path) -> None:
    StageFiles(tmp_path / "new", IDENTITY).store("seed0", {"value": 0.1 + 0.2})
    again = StageFiles(tmp_path / "new", dict(IDENTITY))
    assert again.load("seed0") == {"value": 0.1 + 0.2}  # to the last bit
    assert again.load("seed1") is None


def test_without_a_folder_nothing_is_kept() -> None:
    files = StageFiles(None, IDENTITY)
    files.store("seed0", {"value": 1})
    assert files.load("seed0") is None


@pytest.mark.parametrize(
    ("change", "named"), [({"versions": {}}, "other versions;"), ({"settings": 1, "new": 2}, "other new, settings;")]
)
def test_parts_of_another_run_are_refused(tmp_path, change, named) -> None:
    StageFiles(tmp_path, IDENTITY).store("seed0", {})
    with pytest.raises(InputError, match=named):
        StageFiles(tmp_path, IDENTITY | change).load("seed0")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": {}}', '{"identity": {}, "result": 3}'])
def test_damaged_files_are_input_errors(tmp_path, text) -> None:
    (tmp_path / "seed0.json").write_text(text)
    with pytest.raises(InputError, match=r"seed0.json: not a finished part .* delete it"):
        StageFiles(tmp_path, IDENTITY).load("seed0")
