"""The registry of sparsifiers."""

from __future__ import annotations

from ..errors import unknown_name
from .block import Block
from .block_punched import BlockPunched
from .channel import Channel, Filter
from .magnitude import Magnitude
from .nm import NM
from .obc import OBC
from .pattern import Pattern
from .sparsifier import Sparsifier

#: Name -> method with its default parameters; other parameters: pass an object, for example ``OBC(damping=0.1)``.
METHODS: dict[str, Sparsifier] = {
    "magnitude": Magnitude(),
    "nm": NM(),
    "block": Block(),
    "block_punched": BlockPunched(),
    "pattern": Pattern(),
    "filter": Filter(),
    "channel": Channel(),
    "obc": OBC(),
    "obc_nm": OBC(granularity="nm"),
    "obc_block": OBC(granularity="block"),
}


def find_method(name: str) -> Sparsifier:
    """The registered method of that name; InputError with the nearest match if there is none."""
    if name not in METHODS:
        raise unknown_name("sparsifier", name, METHODS)
    return METHODS[name]
