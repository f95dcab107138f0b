"""Mistakes in YAML files: all of them at once, each with its line, the value found and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from nestling.accel.yaml_errors import load_validated, parse_validated
from nestling.workloads.errors import InputError
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Buffer(Strict):
    size_bytes: int = Field(gt=0)
    read_pj: float = Field(gt=0)


class Square(Strict):
    kind: Literal["square"]
    side: int


class Circle(Strict):
    kind: Literal["circle"]
    radius: int

    @field_validator("radius")
    @classmethod
    def _check(cls, radius: int) -> int:
        if radius % 2:
            raise ValueError(f"radius is {radius}, must be even\nradius is {radius}, odd radii are not built")
        return radius


class Design(Strict):
    name: str
    dataflow: Literal["weight_stationary", "output_stationary"]
    buffers: dict[str, Buffer]
    shapes: list[Annotated[Square | Circle, Field(discriminator="kind")]] = []
    spare: Buffer | None = None


GOOD = """\
name: tiny
dataflow: weight_stationary
buffers:
  weights: {size_bytes: 1024, read_pj: 1e-3}
shapes:
  - {kind: square, side: 2}
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        parse_validated(text, Design, name="tiny.yaml")
    return caught.value.problems


def test_good_file_and_yaml_1_2_numbers(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(GOOD)
    design = load_validated(file, Design)
    assert design.buffers["weights"].read_pj == 1e-3
    assert design.shapes == [Square(kind="square", side=2)]


def test_all_mistakes_at_once_in_order_of_lines() -> None:
    text = GOOD.replace("weight_stationary", "weight_stationery").replace("1024", "-4").replace("side", "sid")
    text += "nmae: x\nname: again\n"
    found = problems(text)
    assert [p.split(":")[1] for p in found] == ["2", "4", "6", "6", "7", "8"]
    assert "found 'weight_stationery'" in found[0]
    assert "did you mean 'weight_stationary'?" in found[0]
    assert "buffers.weights.size_bytes: found -4; input should be greater than 0" in found[1]
    assert any("missing key 'side' in 'shapes[0]'" in p for p in found)
    assert any("shapes[0].sid: unknown key; allowed: kind, side; did you mean 'side'?" in p for p in found)
    assert found[4] == (
        "tiny.yaml:7: nmae: unknown key; allowed: buffers, dataflow, name, shapes, spare; did you mean 'name'?"
    )
    assert found[5] == "tiny.yaml:8: name: key given twice (first in line 1)"


def test_duplicate_keys_are_found_at_every_depth() -> None:
    text = GOOD.replace("read_pj: 1e-3", "read_pj: 1e-3, read_pj: 2") + "shapes: []\n"
    assert problems(text) == (
        "tiny.yaml:4: buffers.weights.read_pj: key given twice (first in line 4)",
        "tiny.yaml:7: shapes: key given twice (first in line 5)",
    )


def test_keys_of_optional_model() -> None:
    (found, *_) = problems(GOOD + "spare: {size_byte: 1, size_bytes: 2, read_pj: 1}\n")
    assert found.startswith("tiny.yaml:7: spare.size_byte: unknown key; allowed: read_pj, size_bytes;")


def test_own_checks_may_report_several_lines() -> None:
    text = GOOD.replace("{kind: square, side: 2}", "{kind: circle, radius: 3}")
    assert problems(text) == (
        "tiny.yaml:6: shapes[0].radius: radius is 3, must be even",
        "tiny.yaml:6: shapes[0].radius: radius is 3, odd radii are not built",
    )


def test_missing_key_at_the_root() -> None:
    assert problems("name: x\nbuffers: {}\n") == ("tiny.yaml:1: missing key 'dataflow'",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tiny.yaml:1: expected keys with values, found nothing"),
        ("- a\n- b\n", "tiny.yaml:1: expected keys with values, found ['a', 'b']"),
        ("name: x\n  bad: [1\n", "tiny.yaml:2: not YAML: "),
        ("name: !!python/object:os.system x\n", "tiny.yaml:1: not YAML: "),
    ],
)
def test_not_a_document(text: str, message: str) -> None:
    (found,) = problems(text)
    assert found.startswith(message)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(GOOD)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(InputError, match=r"tinny\.yaml: no such file; did you mean 'tiny\.yaml'\?"):
        load_validated(tmp_path / "tinny.yaml", Design)
    with pytest.raises(InputError, match=r"no such file \(nor a folder"):
        load_validated(tmp_path / "none" / "tiny.yaml", Design)
    with pytest.raises(InputError, match="not UTF-8 text"):
        load_validated(tmp_path / "latin.yaml", Design)
    with pytest.raises(InputError, match="cannot be read"):
        load_validated(tmp_path, Design)
