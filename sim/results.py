"""What a simulation returns: exact counts per layer and level, energy as a view, and where it all came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from ..accel.arrays import LayerPlan
from ..accel.design import Design, OperatingPoint
from .pipeline import CycleSplit, TileEvents


@dataclass(frozen=True, kw_only=True)
class DramTotals:
    """What a command-level DRAM did for a layer or a level; all counts are exact and add up.

    ``reads`` and ``writes``: column commands; ``row_hits``: those that found their row open. ``merged``: accesses that posted
    or pending ones answered. ``bytes_moved``: whole lines asked for, both directions. ``seconds``: the layers' time, on which
    the achieved bandwidth is based. ``energy_j``: by command, with background and interface. ``flat_energy_j``: what
    SmartExchange's 100 pJ/byte would charge for the same bytes.
    """

    activations: int
    reads: int
    writes: int
    merged: int
    refreshes: int
    row_hits: int
    bytes_moved: int
    seconds: float
    energy_j: Mapping[str, float]
    flat_energy_j: float

    @property
    def row_hit_rate(self) -> float:
        columns = self.reads + self.writes
        return self.row_hits / columns if columns else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Achieved bandwidth."""
        return self.bytes_moved / self.seconds if self.seconds else 0.0

    def __add__(self, other: DramTotals) -> DramTotals:
        energy = {name: joules + other.energy_j[name] for name, joules in self.energy_j.items()}
        counts = ("activations", "reads", "writes", "merged", "refreshes", "row_hits", "bytes_moved")
        return DramTotals(
            **{name: getattr(self, name) + getattr(other, name) for name in counts},
            seconds=self.seconds + other.seconds,
            energy_j=energy,
            flat_energy_j=self.flat_energy_j + other.flat_energy_j,
        )


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One layer at one level on one design.

    ``cycles`` and ``counts`` include all repeats and are exact int. ``utilisation``: share of all multiplier-cycles of the
    layer, stalls included, that serve effectual MACs (both operands non-zero); the lane of a bit-serial array spends one per
    term. ``energy_j``: component -> joules. ``dram``: only with a command-level DRAM. ``patterns``: dense MACs by the weight
    pattern they run in, only where an array takes structured weights.
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
    dram: DramTotals | None = None
    patterns: Mapping[str, int] = field(default_factory=dict)

    @property
    def idle_share(self) -> float:
        """Share of the multiplier-cycles of the layer's compute steps in which a multiplier starts nothing."""
        return self.counts["pe_idle"] / max(1, self.counts["pe_slots"])


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
    def dram(self) -> DramTotals | None:
        """Sum over the layers; None with a flat DRAM."""
        parts = [layer.dram for layer in self.layers if layer.dram is not None]
        return reduce(add, parts) if parts else None

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
