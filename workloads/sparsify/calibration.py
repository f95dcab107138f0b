"""Calibration data of a network: what each layer's inputs were."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import unknown_name
from .hessian import Hessian, hessian_of

#: Layer name -> input vectors (samples, k), (samples, groups, k) for grouped layers, or the Hessian gathered from them.
#: The columns are ordered like the weights: (C/groups, R, S); a convolution has one sample per output position.
Calibration = Mapping[str, NDArray[np.floating] | Hessian]


def hessian_for(calibration: Calibration, name: str, *, groups: int = 1) -> Hessian:
    """The Hessian of layer ``name``; InputError if there are no inputs for it."""
    if name not in calibration:
        raise unknown_name("layer with calibration inputs", name, calibration)
    entry = calibration[name]
    return entry if isinstance(entry, Hessian) else hessian_of(entry, groups=groups)
