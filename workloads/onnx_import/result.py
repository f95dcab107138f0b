"""What an import hands over: the network, what it could not represent, what it assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..network import Network


@dataclass(frozen=True, kw_only=True)
class UnsupportedOperator:
    """Operators of one type that no layer stands for.

    ``macs`` of all of them together, None where the file does not say; ``macs_share`` of the network's total with them;
    ``bytes``: tensors read and written once at one byte per element, None if a shape is unknown; ``bytes_share`` of the
    bytes of all operators without products.
    """

    operator: str
    count: int
    macs: int | None
    macs_share: float | None
    bytes: int | None
    bytes_share: float | None
    reason: str

    def __str__(self) -> str:
        macs = "an unknown share of the MACs" if self.macs_share is None else f"{self.macs_share:.2%} of the MACs"
        moved = (
            "an unknown share of the bytes moved"
            if self.bytes_share is None
            else f"{self.bytes_share:.2%} of the bytes moved"
        )
        return f"unsupported operator {self.operator} ({self.count} times): {macs}, {moved}; {self.reason}"


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportedNetwork:
    """``network`` has one level, the file's own zeros; no weights where their file is absent (shape-only). Its ``notes`` are
    ours and one per unsupported operator.

    ``weight_bits``: per layer whose weights the file stores as integers, their width. ``notes``: every assumption made.
    """

    network: Network
    unsupported: tuple[UnsupportedOperator, ...] = ()
    notes: tuple[str, ...] = ()
    weight_bits: Mapping[str, int] = field(default_factory=dict)
