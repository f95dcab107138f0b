"""Kernels compiled, not run, for another processor: the assembly that a fresh process makes of one call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Features of Intel's Sapphire Rapids that kernels look at.
SAPPHIRE_RAPIDS = {
    "NUMBA_CPU_NAME": "sapphirerapids",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,+avx512bf16,+avx512fp16,"
    "+amx-tile,+amx-bf16,+amx-int8",
}
_SCRIPT = """
import numpy as np
from numba import typeof
from nestling.sim.executor.simd.planes import PlaneLayout
from nestling.workloads.layers import conv
from nestling.workloads.nesting import NestedWeights
layer = conv("c", "input", C=64, H=2, W=64, K=32, R=1)
layouts = PlaneLayout(64, 2, 64, 0), PlaneLayout(32, 2, 64, 0)
weights = NestedWeights(values=np.ones(layer.weight_shape, "f"), keep=np.ones(layer.weight_shape, np.uint8), levels=1)
bias = np.zeros(32, np.float32)
{product}
call = product.call(layouts[0].new(), layouts[1].new(), level=0, bias=bias, works=[product.new_work()])
call.kernel.compile(tuple(typeof(argument) for argument in (call.tasks, *call.arguments, *call.extras[0])))
print(next(iter(call.kernel.inspect_asm().values())))
"""


def assembly(product: str, cache: Path, environment: dict[str, str]) -> list[str]:
    """Instructions of the kernel behind ``product.call``; ``product``: statements that make it from ``layer``,
    ``weights`` and ``layouts``."""
    shown = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(product=product)],
        check=True,
        env=os.environ | environment | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return shown.stdout.splitlines()
