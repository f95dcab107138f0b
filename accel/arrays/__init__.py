"""PE-array models: one module per array, one entry here; the key is the design file's ``array.kind``."""

from . import nm_lanes, systolic
from .plan import ArrayKind, LayerPlan

ARRAYS: dict[str, ArrayKind] = {
    "nm_lanes": ArrayKind(nm_lanes.NMLanesArray, nm_lanes.plans, memories=("banks",)),
    "systolic": ArrayKind(systolic.SystolicArray, systolic.plans),
}

__all__ = ["ARRAYS", "ArrayKind", "LayerPlan"]
