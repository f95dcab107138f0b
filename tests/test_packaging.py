"""What the distribution holds and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("workloads", "traces", "accel", "sim", "analysis")
#: Slow to import or not needed by everybody: no room may load them before they are used.
HEAVY = ("numba", "pandas", "matplotlib", "torch", "scipy", "simpy", "pyarrow", "jinja2")


def test_the_package_list_is_the_folders() -> None:
    folders = {p.parent for room in ROOMS for p in (ROOT / room).rglob("__init__.py")}
    expected = sorted("nestling." + ".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == expected


def test_every_folder_with_modules_is_a_package() -> None:
    with_modules = {p.parent for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    assert [folder for folder in with_modules if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_is_in_the_distribution() -> None:
    listed = PROJECT["tool"]["setuptools"]["package-data"]
    for room in ROOMS:
        base = ROOT / room
        held = {path for pattern in listed[f"nestling.{room}"] for path in base.glob(pattern)}
        files = {p for p in base.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".py"}
        assert sorted(str(p.relative_to(ROOT)) for p in files - held) == []
        assert (base / "py.typed").is_file()


def test_nestling_is_a_namespace_without_a_root_module() -> None:
    assert not (ROOT / "__init__.py").exists()
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"nestling": "."}


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_is_cheap(room: str) -> None:
    program = f"import sys, nestling.{room}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    ["workloads.network", "workloads.tables", "workloads.weights_file", "workloads.synthetic", "workloads.zoo"],
)
def test_networks_can_be_described_without_a_compiler(module: str) -> None:
    program = f"import sys, nestling.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_requirements_name_lowest_versions() -> None:
    optional = PROJECT["project"]["optional-dependencies"]
    for requirement in [*PROJECT["project"]["dependencies"], *optional["train"], *optional["test"]]:
        assert ">=" in requirement, requirement
    assert not any(requirement.startswith("torch") for requirement in PROJECT["project"]["dependencies"])
