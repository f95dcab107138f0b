"""Names of nodes and layers: as in the file where they are unique, and fit to be file names."""

from __future__ import annotations

import re

import onnx

from ..network import INPUT

_UNFIT = re.compile(r"[^A-Za-z0-9_.\-]+")
_LONGEST = 100


class NodeNames:
    """Gives each node a name of its own: the file's, with '/' as '.'; else operator and running number."""

    def __init__(self) -> None:
        self._used = {INPUT}
        self._count = 0

    def name(self, node: onnx.NodeProto) -> str:
        stated = _UNFIT.sub("_", node.name.strip("/").replace("/", ".")).strip(".")[:_LONGEST]
        name = stated
        while not name or name in self._used:
            self._count += 1
            name = f"{_UNFIT.sub('_', node.op_type)[:_LONGEST]}_{self._count}"
        self._used.add(name)
        return name
