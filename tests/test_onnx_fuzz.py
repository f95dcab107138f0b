"""Broken ONNX files: a network or one InputError, in less than two seconds each, whatever the bytes are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.onnx_import import load_onnx

from .fuzzing import mutations
from .onnx_cases import DATA, LIGHT

#: Convolutions with normalisation, recurrence, small operators with many attributes, weights made by operators.
SEEDS = [DATA / "residual_bn.onnx", DATA / "lstm.onnx", DATA / "decoder.onnx", LIGHT / "light_squeezenet.onnx"]
LONGEST_S = 2.0


def survives(path: Path, content: bytes) -> bool:
    """Whether the file was refused; fails the test for any other error, and for a late answer."""
    path.write_bytes(content)
    problems: tuple[str, ...] | None = None
    begin = time.process_time()
    try:
        load_onnx(path)
    except InputError as error:
        problems = error.problems
    assert time.process_time() - begin < LONGEST_S
    assert problems is None or all(problem.startswith(str(path)) for problem in problems)
    return problems is not None


@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_300_broken_files(tmp_path: Path, seed: Path) -> None:
    refused = [survives(tmp_path / "broken.onnx", content) for content in mutations(seed.read_bytes(), 75, seed=1)]
    assert sum(refused) > 30  # the mutations do break things


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS, ids=lambda path: path.stem)
def test_10000_broken_files(tmp_path: Path, seed: Path) -> None:
    for content in mutations(seed.read_bytes(), 2500, seed=2):
        survives(tmp_path / "broken.onnx", content)


def test_mutations_are_deterministic_and_differ() -> None:
    data = bytes(range(256)) * 4
    first, again = list(mutations(data, 50, seed=3)), list(mutations(data, 50, seed=3))
    assert first == again
    assert len(set(first)) > 45
    assert list(mutations(b"", 20, seed=0))  # an empty file does not stop it
