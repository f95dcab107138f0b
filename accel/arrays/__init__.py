"""PE-array models: one module per array, one entry here; the key is the design file's ``array.kind``."""

from . import (
    cambricon_x,
    diannao,
    dual_side,
    eyeriss,
    eyeriss_v2,
    nm_lanes,
    pragmatic,
    scnn,
    sigma,
    smartdeal,
    systolic,
    tensor_core,
)
from .plan import ArrayKind, LayerPlan
from .smartdeal_operands import SmartDealArray

ARRAYS: dict[str, ArrayKind] = {
    "cambricon_x": ArrayKind(cambricon_x.CambriconXArray, cambricon_x.plans),
    "diannao": ArrayKind(diannao.DianNaoArray, diannao.plans),
    "dual_side": ArrayKind(dual_side.DualSideArray, dual_side.plans),
    "eyeriss": ArrayKind(eyeriss.EyerissArray, eyeriss.plans),
    "eyeriss_v2": ArrayKind(eyeriss_v2.EyerissV2Array, eyeriss_v2.plans),
    "nm_lanes": ArrayKind(nm_lanes.NMLanesArray, nm_lanes.plans, memories=("banks",)),
    "pragmatic": ArrayKind(pragmatic.PragmaticArray, pragmatic.plans),
    "scnn": ArrayKind(scnn.SCNNArray, scnn.plans, memories=("input_rams", "weight_fifos", "accumulators")),
    "sigma": ArrayKind(sigma.SigmaArray, sigma.plans),
    "smartdeal": ArrayKind(SmartDealArray, smartdeal.plans),
    "systolic": ArrayKind(systolic.SystolicArray, systolic.plans),
    "tensor_core": ArrayKind(tensor_core.TensorCoreArray, tensor_core.plans),
}

__all__ = ["ARRAYS", "ArrayKind", "LayerPlan"]
