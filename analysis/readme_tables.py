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
    first = f"<!-- {command} -->"
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(_END)}", re.DOTALL)
    try:
        before = readme.read_text(encoding="utf-8")
        if before.count(first) != 1 or pattern.search(before) is None:
            raise InputError(f"--readme {readme}: needs one line {first} and behind it a line {_END}")
        readme.write_text(pattern.sub(lambda _: f"{first}\n\n{text}\n\n{_END}", before), encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--readme {readme}: cannot be read and written ({error})") from None


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
