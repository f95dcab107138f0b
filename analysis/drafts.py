"""Results appear in a folder complete or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..workloads.errors import InputError


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """An empty folder to write files into; at the end of the block they move to ``folder``, unless the block raised.

    Raises
    ------
    InputError
        if the folder is a file or cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; a folder is needed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            draft = Path(temporary)
            yield draft
            for file in sorted(draft.iterdir()):
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror or error})") from None
