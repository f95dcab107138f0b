"""Kernels find a folder: the usual ones if they can be written, else a temporary one with a word to the user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nestling.analysis import compiled_cache


def test_nothing_changes_where_a_folder_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new" / "folder"))
    assert compiled_cache.ensure_kernel_cache() == ""
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "new" / "folder")


def test_a_temporary_folder_where_none_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(file))
    monkeypatch.setattr(compiled_cache, "_folders", lambda: [file, file / "below"])
    assert "compiled anew in every run" in compiled_cache.ensure_kernel_cache()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.is_dir()
    assert folder != file


def test_folders_without_permission_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled_cache.ensure_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] != str(tmp_path)


def test_the_usual_folders_are_those_of_numba(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert [folder.name for folder in compiled_cache._folders()] == ["__pycache__", "numba"]
    assert compiled_cache._folders()[1] == tmp_path / "numba"
