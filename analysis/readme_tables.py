"""Measured tables as markdown, and their place in a README: only the command that measures them writes there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..workloads.errors import InputError
from .bench import BenchRow

#: What ends a block; it begins with ``<!-- `` and the command's name.
_END = "<!-- end -->"


def write_block(readme: Path, command: str, text: str) -> None:
    """Replace what stands between ``<!-- COMMAND -->`` and the next ``<!-- end -->`` by ``text``.

    Raises
    ------
    InputError
        if the file cannot be read or written, or does not have that block once.
    """
    before, place = _found(readme, command)
    block = f"<!-- {command} -->\n\n{text}\n\n{_END}"
    try:
        readme.write_text(before[: place.start()] + block + before[place.end() :], encoding="utf-8")
    except OSError as error:
        raise InputError(f"--readme {readme}: cannot be written ({error.strerror})") from None


def check_block(readme: Path | None, command: str, parts: Sequence[str]) -> None:
    """Before anything is measured: is there a block, and will all of it be measured?

    Raises
    ------
    InputError
        as :func:`write_block`, and if only ``parts`` of what the command measures were asked for.
    """
    if readme is not None:
        _found(readme, command)
        if parts:
            raise InputError(f"--readme {readme}: the block holds all of '{command}', not only {', '.join(parts)}")


def _found(readme: Path, command: str) -> tuple[str, re.Match[str]]:
    first = f"<!-- {command} -->"
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--readme {readme}: cannot be read ({error})") from None
    # A block that lost its end must not swallow the next one.
    place = re.search(f"{re.escape(first)}((?!<!-- ).)*{re.escape(_END)}", text, re.DOTALL)
    if text.count(first) != 1 or place is None:
        raise InputError(f"--readme {readme}: needs one line {first} and behind it a line {_END}")
    return text, place


def bench_markdown(rows: Sequence[BenchRow]) -> str:
    """The rows of `nestling bench`."""
    lines = ["| measurement | ours | peer or bar | ratio | unit |", "| --- | ---: | ---: | ---: | --- |"]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append(f"| {row.name} | {_figure(row.ours)} | {_figure(row.peer)} | {ratio} | {row.unit} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.3g}".replace("e+0", "e")
