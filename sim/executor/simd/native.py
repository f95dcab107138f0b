"""A kernel call as numbers, to be called without the interpreter: where the function is, and where its arguments are."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import native_kernel
from .loading import argument_types, load_kernels
from .team import Call

_caller = cache(native_kernel.make_caller)


class Native(NamedTuple):
    """``numbers``: int64 addresses (caller, kernel, arguments); ``parts``: the arguments, which must stay where they are."""

    numbers: tuple[int, int, int]
    parts: NDArray[np.uint64]


def natives(call: Call, threads: int) -> list[Native]:
    """The call of each thread. The arrays among its arguments must live and stay where they are as long as these are used."""
    load_kernels([call])
    kinds = argument_types(call)
    compiled = call.kernel.overloads[kinds]
    kernel = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    caller, expected = _caller(compiled.target_context, compiled.signature.return_type, kinds)
    found = []
    for thread in range(threads):
        given = (call.tasks, *call.arguments, *(call.extras[thread] if call.extras else ()))
        values = [part for value, kind in zip(given, kinds, strict=True) for part in native_kernel.parts(value, kind)]
        parts = np.zeros(len(values), np.uint64)
        for at, (value, kind) in enumerate(zip(values, expected, strict=True)):
            parts[at : at + 1].view(kind)[0] = value
        found.append(Native((caller.address, kernel, parts.ctypes.data), parts))
    return found
