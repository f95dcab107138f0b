"""Lowering into a file: the same bytes as in memory, for any number of workers, and however often it was interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nestling.traces.lowering import Lowering, lower
from nestling.traces.parallel import in_order
from nestling.traces.resumable import lower_to_file
from nestling.traces.trace import Activations
from nestling.traces.trace_file import read_trace, write_trace
from nestling.workloads.errors import InputError
from nestling.workloads.synthetic import SyntheticLevels, with_synthetic_levels
from nestling.workloads.zoo import build

from .spine_cases import mixed_network

SMALL = {"layers": 2, "width": 128, "inner": 256, "vocabulary": 300, "tokens": 4}
DENSITIES = (0.5, 0.25, 0.13)


def streamed(seed: int = 0, **parameters: int) -> Lowering:
    network = build("llama_7b", **(SMALL | parameters))
    return Lowering(network=network, pattern=SyntheticLevels(network, DENSITIES, seed))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "t"
    assert lower_to_file(path, streamed()) == 0
    assert list(path.parent.iterdir()) == [path]
    return path.read_bytes()


def test_equal_to_the_trace_in_memory(whole: bytes, tmp_path: Path) -> None:
    network = with_synthetic_levels(build("llama_7b", **SMALL), DENSITIES)
    write_trace(tmp_path / "t", lower(network))
    assert (tmp_path / "t").read_bytes() == whole


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_change_nothing(whole: bytes, tmp_path: Path, workers: int) -> None:
    seen: list[str] = []
    lower_to_file(tmp_path / "t", streamed(), workers=workers, progress=seen.append)
    assert (tmp_path / "t").read_bytes() == whole
    assert seen == [layer.name for layer in streamed().products]


def test_networks_with_weights_of_their_own(tmp_path: Path) -> None:
    captured = {"stem": Activations(0.1, 2, np.arange(27, dtype=np.int64))}
    lower_to_file(tmp_path / "t", Lowering(network=mixed_network(), activations=captured, weight_bits=6))
    assert read_trace(tmp_path / "t").digest() == lower(mixed_network(), activations=captured, weight_bits=6).digest()


class _Stop(Exception):
    """What stops a run in the middle."""


def interrupted(path: Path, after: int, lowering: Lowering) -> None:
    seen: list[str] = []

    def progress(name: str) -> None:
        seen.append(name)
        if len(seen) == after:
            raise _Stop

    with pytest.raises(_Stop):
        lower_to_file(path, lowering, progress=progress)


def test_an_interrupted_run_goes_on(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t"
    for after in (1, 3, 8):
        interrupted(path, after, streamed())
    assert not path.exists()
    assert lower_to_file(path, streamed()) == 8
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_that_is_cut_off_is_made_anew(whole: bytes, tmp_path: Path) -> None:
    interrupted(tmp_path / "t", 4, streamed())
    part = tmp_path / "t.parts" / "000002.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    (tmp_path / "t.parts" / "000003.99999").write_bytes(b"a draft")
    assert lower_to_file(tmp_path / "t", streamed()) == 3
    assert (tmp_path / "t").read_bytes() == whole


@pytest.mark.parametrize(
    "other",
    [
        streamed(seed=1),
        streamed(tokens=5),
        replace(streamed(), weight_bits=4),
        replace(streamed(), activation_bits=16),
        replace(streamed(), formats=("csr",)),
        replace(streamed(), activations={"lm_head": Activations(0.5)}),
        Lowering(network=build("llama_7b", **SMALL)),
        Lowering(network=(n := build("llama_7b", **SMALL)), pattern=SyntheticLevels(n, (0.5, 0.25, 0.12))),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, other: Lowering) -> None:
    interrupted(tmp_path / "t", 2, streamed())
    with pytest.raises(InputError, match=r"t.parts: holds an unfinished trace of other inputs .*; remove the folder"):
        lower_to_file(tmp_path / "t", other)


def test_weights_and_captured_activations_are_inputs() -> None:
    plain = Lowering(network=mixed_network())
    others = [
        Lowering(network=mixed_network(seed=4)),
        *(
            Lowering(network=mixed_network(), activations={"stem": Activations(0.1, 2, np.full(27, n, np.int64))})
            for n in (3, 4)
        ),
    ]
    assert plain.digest() == Lowering(network=mixed_network()).digest()
    assert len({x.digest() for x in (plain, *others)}) == 4


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "t.parts").mkdir()
    (tmp_path / "t.parts" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no unfinished trace"):
        lower_to_file(tmp_path / "t", streamed())
    assert (tmp_path / "t.parts" / "letter.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        lower_to_file(tmp_path / "file" / "t", streamed())


def test_killed_and_started_again(tmp_path: Path) -> None:
    """kill -9 in the middle, from outside, on the command line."""
    size = SMALL | {"layers": 10, "width": 256}
    settings = [f"--set={name}={value}" for name, value in size.items()]
    program = [sys.executable, "-c", "from nestling.analysis.cli import main; main()"]
    command = [*program, "lower", "llama_7b", *settings, "--levels=0.5,0.25,0.13", "-o", str(tmp_path / "t")]
    killed = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    parts = tmp_path / "t.parts"
    while len(list(parts.glob("0*.parquet"))) < 5 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    again = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    found = int(again.stderr.split()[0])
    assert found >= 5
    assert f"{found} of {9 * 10 + 1} layers were there from an interrupted run" in again.stderr
    lower_to_file(tmp_path / "undisturbed", streamed(**size))
    assert (tmp_path / "t").read_bytes() == (tmp_path / "undisturbed").read_bytes()


def test_answers_in_order_and_errors_as_they_are() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    for workers in (1, 2, 4):
        assert list(in_order(slow_first, range(9), workers=workers)) == [n * n for n in range(9)]
        with pytest.raises(ZeroDivisionError):
            list(in_order(lambda n: 1 // (n - 3), range(9), workers=workers))
    with pytest.raises(InputError, match="workers = 0; at least 1 is needed"):
        list(in_order(slow_first, range(2), workers=0))
