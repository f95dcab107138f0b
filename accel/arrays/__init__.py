"""PE-array models: one module per array, one entry here; the key is the design file's ``array.kind``."""

from .nm_lanes import plans as nm_lanes
from .plan import ArrayModel, LayerPlan
from .systolic import plans as systolic

ARRAYS: dict[str, ArrayModel] = {"nm_lanes": nm_lanes, "systolic": systolic}

__all__ = ["ARRAYS", "ArrayModel", "LayerPlan"]
