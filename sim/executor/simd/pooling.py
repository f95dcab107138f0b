"""Pooling layers on planes: windows through phase planes, whole maps directly."""

from __future__ import annotations

import numpy as np

from ....workloads.layers import Layer
from . import packing_kernel, pooling_kernel
from .phases import phases_of, pools_whole_maps
from .planes import Floats, PlaneLayout
from .product import phase_layout
from .team import Call, call


class Pooling:
    """One maxpool or avgpool layer. Padding never wins a maximum; in a mean it counts as zeros."""

    def __init__(self, layer: Layer, source: PlaneLayout, target: PlaneLayout) -> None:
        self.layer, self.source, self.target = layer, source, target
        self.phases = phases_of(layer)
        self.average = layer.op == "avgpool"
        in_place = pools_whole_maps(layer) or layer.stride in pooling_kernel.KERNELS
        self.planes = None if in_place else phase_layout(layer, target, self.phases)

    def calls(self, x: Floats, out: Floats, scratch: Floats | None) -> list[Call]:
        """The kernel calls that pool ``x`` into ``out``; ``scratch``: a buffer of ``planes``, where there are any."""
        layer, target, channels = self.layer, self.target.dimensions, self.layer.C
        factor = np.float32(1 / (layer.R * layer.S) if self.average else 0)
        if not pools_whole_maps(layer) and layer.stride in pooling_kernel.KERNELS:
            window = (layer.R, layer.S, layer.padding, layer.dilation)
            kernel = pooling_kernel.KERNELS[layer.stride]
            return [call(kernel, channels, x, self.source.dimensions, out, target, window, factor)]
        if self.planes is None or scratch is None:
            return [call(packing_kernel.pool_maps, channels, x, self.source.dimensions, out, target, factor)]
        planes, phases = self.planes, self.phases
        fill = np.float32(0 if self.average else -np.inf)
        grid = (planes.channels, layer.P, layer.Q, *planes.dimensions[3:])
        packing = (x, self.source.dimensions, scratch, grid, phases.first, layer.stride, tuple(phases.reach), fill)
        step = 4 * planes.stride * len(phases.first)
        taps = phases.taps_in(planes)
        return [
            call(packing_kernel.pack_phases, channels, *packing),
            call(packing_kernel.pool, channels, scratch, taps, step, out, target, self.target.masks(1), factor),
        ]
