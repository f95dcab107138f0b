"""Speed of the SmartDeal decomposition, beside the same steps in NumPy and LAPACK, one matrix after the other."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import numpy as np

from ..workloads.smartdeal.decomposition import MAX_RESTARTS, RCOND, DecompositionOptions, decompose
from ..workloads.smartdeal.lapack import decompose_one
from ..workloads.smartdeal.slicing import slicing_of
from ..workloads.zoo import build

#: Standard deviation of the weights: He initialisation of ResNet-50's layers lies between 0.01 and 0.06.
_SIGMA = 0.02
_SAMPLE = 300
_KIBI = 1024.0


def smartdeal_rows() -> Iterator[tuple[str, float, float | None, str]]:
    """(name, ours, peer or bar, unit): matrices per CPU second against NumPy, and all of ResNet-50 in seconds."""
    rng = np.random.default_rng(0)
    options = DecompositionOptions()
    matrices = rng.normal(0, _SIGMA, (_SAMPLE, 192, 3))
    decompose(matrices[:2], options, threads=1)
    start = time.process_time()
    decompose(matrices, options, threads=1)
    middle = time.process_time()
    for matrix in matrices:
        decompose_one(matrix, options, (0.0, RCOND, MAX_RESTARTS))
    end = time.process_time()
    yield "SmartDeal 192x3 matrices", _SAMPLE / (middle - start), _SAMPLE / (end - middle), "matrices/CPU s"
    begin, count = time.perf_counter(), 0
    for layer in build("resnet50").layers:
        if layer.has_weights:
            slicing = slicing_of(layer.weight_shape)
            decompose(slicing.cut(rng.normal(0, _SIGMA, layer.weight_shape)), options)
            count += slicing.matrices
    yield f"SmartDeal of ResNet-50 ({count:,} matrices)", time.perf_counter() - begin, 60.0, "s wall"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIBI / _KIBI
    yield "peak memory of this process", peak, 2.0, "GiB"
