"""What a simulation returns: exact counts per layer and level, energy as a view, and where it all came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..accel.arrays import LayerPlan
from ..accel.design import Design, OperatingPoint
from .pipeline import CycleSplit, TileEvents


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One layer at one level on one design.

    ``cycles`` and ``counts`` include all repeats and are exact int. ``utilisation``: effectual multiply-accumulates per
    multiplier-cycle of the whole layer. ``energy_j``: component -> joules.
    """

    layer: str
    op: str
    level: int
    cycles: int
    split: CycleSplit
    counts: Mapping[str, int]
    energy_j: Mapping[str, float]
    utilisation: float
    tiles: int
    weight_bytes: int
    compulsory_bytes: int


@dataclass(frozen=True, eq=False)
class LevelResult:
    """All layers of one level, run one after the other (no overlap between layers)."""

    level: int
    density: float
    weight_bytes: int
    macs: int
    layers: Sequence[LayerResult]
    clock_hz: float

    @property
    def cycles(self) -> int:
        return sum(layer.cycles for layer in self.layers)

    @property
    def latency_s(self) -> float:
        return self.cycles / self.clock_hz

    @property
    def energy_by_component_j(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for layer in self.layers:
            for component, joules in layer.energy_j.items():
                totals[component] = totals.get(component, 0.0) + joules
        return totals

    @property
    def energy_j(self) -> float:
        return sum(self.energy_by_component_j.values())

    @property
    def split(self) -> CycleSplit:
        fields = CycleSplit.__dataclass_fields__
        return CycleSplit(**{name: sum(getattr(x.split, name) for x in self.layers) for name in fields})


@dataclass(frozen=True, eq=False)
class Timeline:
    """Tile events of one layer at one level, for a picture."""

    layer: str
    level: int
    plan: LayerPlan
    events: TileEvents


@dataclass(frozen=True, eq=False)
class Result:
    """A trace on a design at an operating point.

    ``warnings``: everything a reader must know before believing a number; never empty by accident.
    """

    network: str
    design: Design
    point: OperatingPoint
    levels: Sequence[LevelResult]
    trace_digest: str
    timeline: Timeline | None = None
    warnings: Sequence[str] = field(default_factory=tuple)
