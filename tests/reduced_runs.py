"""Running a product of any number format on a case, and reading its output from the planes."""

from __future__ import annotations

from typing import Any

import numpy as np
from nestling.sim.executor.simd.reduced.int8_planes import Requantise, byte_view, new_bytes, new_sums
from nestling.sim.executor.simd.team import Team

from .byte_cases import ByteCase
from .simd_cases import Case, buffer_of, only_interior

Array = np.ndarray


def run_floats(product: Any, case: Case, *, level: int, threads: int = 1) -> Array:
    """Output (K, P, Q) of a product from float32 planes to float32 planes; halos must stay zero."""
    x, out = buffer_of(product.source, case.x), product.target.new()
    if product.packs:
        phases = product.planes.new()
        product.packing(x, phases).run(0)
        x = phases
    residual = None if case.residual is None else buffer_of(product.target, case.residual)
    clamp = np.float32(case.low), np.float32(case.high)
    works = [product.new_work() for _ in range(threads)]
    common = {"bias": case.bias, "clamp": clamp, "residual": residual, "works": works}
    Team(threads).run(product.call(x, out, level=level, **common))
    assert only_interior(product.target, out)
    return np.array(product.target.view(out))


def run_bytes(
    product: Any, case: ByteCase, *, level: int, requantise: Requantise | None = None, threads: int = 1
) -> Array:
    """Output (K, P, Q) of a product from int8 planes; halos must stay at the zero point."""
    x = new_bytes(product.source, case.zero)
    byte_view(product.source, x)[:] = case.x
    if product.packs:
        phases = new_bytes(product.planes, case.zero)
        product.packing(x, phases).run(0)
        x = phases
    zero = 0 if requantise is None else requantise.zero
    out = new_sums(product.target) if requantise is None else new_bytes(product.target, zero)
    works = [product.new_work() for _ in range(threads)]
    Team(threads).run(product.call(x, out, level=level, bias=case.bias, requantise=requantise, works=works))
    found = np.array(byte_view(product.target, out))
    byte_view(product.target, out)[:] = zero
    assert (out == zero).all()
    return found
