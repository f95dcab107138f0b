"""Results of the finished parts of a long run, one JSON file each: an interruption loses no more than the part it hits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .weights_file import write_atomically


class StageFiles:
    """Files ``<part>.json`` in ``folder``; without a folder nothing is kept and nothing found.

    ``identity`` says what decides the results (settings, versions): it stands in every file, so that parts of runs which
    differ in it are never put into one table.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(dict(identity)))

    def load(self, part: str) -> dict[str, Any] | None:
        """What ``store`` was given for ``part``; None if it has not been run.

        Raises
        ------
        InputError
            if the file cannot be read, or holds a part of a run with another identity.
        """
        if self.folder is None:
            return None
        path = self.folder / f"{part}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            identity, result = content["identity"], dict(content["result"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a finished part of a run ({error}); delete it to run it again") from error
        if identity != self._identity:
            keys = sorted(identity.keys() | self._identity.keys())
            other = [k for k in keys if identity.get(k) != self._identity.get(k)]
            raise InputError(
                f"{path} is part of a run with other {', '.join(other)}; delete it or choose another folder"
            )
        return result

    def store(self, part: str, result: Mapping[str, Any]) -> None:
        """Keep the result of ``part``, a mapping that JSON can hold."""
        if self.folder is None:
            return
        text = json.dumps({"identity": self._identity, "result": dict(result)}, indent=1)
        write_atomically(self.folder / f"{part}.json", (text + "\n").encode())
